"""Numbers and picture of README.md and RESULTS.md come from stored results: this writes them, and a test fails when they differ.

python -m course readme                     write both anew from notebooks/ and notebooks/reference/
python -m course readme --from runs/quick   first store what that batch measured as notebooks/reference/quick.json
"""

import base64
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from course import overview, paths
from course.batch.plan import read_config
from course.command import command
from course.reference import published_accuracy
from lt_utils.data.longtail import GROUPS
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY, read_json, write_json
from lt_utils.models.pretrained import pretrained_card, pretrained_names
from lt_utils.progress import duration
from lt_utils.runs.folder import records
from lt_utils.runs.parameters import read_notebook
from lt_utils.viz.image_results import stored_tables
from lt_utils.viz.tables import (
    MEASURES,
    REFERENCES,
    average,
    made_with,
    markdown,
    reference_markdown,
    side_by_side,
    with_spread,
)

PAGES = ("README.md", "RESULTS.md")
PICTURE = "00_start_here"  # its first picture is the whole course
SHOWN_FACTS = ("device", "threads", "commit", "versions")
SHOWN = (  # the references that the README shows; each is needed
    "quick",
    "published_ldmlr",
    "03_encoders_as_published",
    "03_encoders_own_cifar10",
    "03_encoders_own_cifar100",
    "06_class_balancing_diffusion_laptop",
    "08_classifier_retraining_cifar10",
    "08_classifier_retraining_cifar100",
    "08_classifier_retraining_own_cifar10",
    "08_classifier_retraining_own_cifar100",
    "09_feature_translation_cifar10",
    "09_feature_translation_cifar100",
    "09_feature_translation_balanced_softmax",
    "10_self_supervision_laptop",
    "11_vision_transformers_bundled",
    "11_vision_transformers_laptop_cifar10",
)
PUBLISHED_ENCODERS = {"CIFAR-10": "cifar10", "CIFAR-100": "cifar100"}


def store(batch: Path, target: Path) -> Path:
    """Gather the records of a finished batch (runs/quick) into one file: rows, seconds of each notebook, device, commit.

    Runs that were moved aside do not count. Raises CourseError unless the folder holds the whole quick profile alone.
    """
    found = records(batch)
    config = read_config(REPOSITORY / "config" / "quick.yaml")
    missing = config["notebooks"].keys() - {record.get("notebook") for record in found}
    if missing:
        raise CourseError(f"{batch} holds no finished run of {min(missing)}: `make run` makes runs/quick.")
    if any(not record.get("parameters", {}).get("RUN", "").startswith(f"{config['profile']}/") for record in found):
        raise CourseError(f"{batch} is no batch of config/quick.yaml alone: `make run` makes runs/quick.")
    summary = {
        "title": "make run: the quick profile on the bundled data",
        "seconds": {record["notebook"]: record["seconds"] for record in found},
        "finished": max(record["finished"] for record in found),
        "rows": [{"notebook": record["notebook"], **row} for record in found for row in record["rows"]],
    }
    write_json(target, {**summary, **{key: found[-1].get(key) for key in SHOWN_FACTS}})
    return target


def stored(name: str) -> dict:
    """A stored run (notebooks/reference/<name>.json). CourseError if it is missing."""
    record = read_json(REFERENCES / f"{name}.json")
    if "rows" not in (record or ()):
        raise CourseError(f"notebooks/reference/{name}.json is missing or broken: restore the file, or make it anew.")
    return record


def quick_table(summary: dict) -> str:
    """The recognition rows of the quick profile, mean ± std over seeds, and what they were measured on."""
    rows = [row for row in summary["rows"] if row["notebook"] == "03_encoders" and "accuracy" in row]
    retrained = [row for row in summary["rows"] if row["notebook"] == "08_classifier_retraining"]
    for row in retrained:  # the paper's recipe, last epoch, with label-shift compensation
        if row.get("test") == "label shift" and row.get("recipe") == "r=0.2 few":
            rows.append(row | {"method": f"{row['method']} (label shift)"})
    table = [line | {"seeds": line["n"]} for line in average(rows)]
    caption = (
        f"{summary['device']}, threads in each notebook: {summary['threads']}, torch {summary['versions']['torch']}, "
        f"commit {str(summary['commit'])[:7]}, {summary['finished'][:10]}; the times of all notebooks add up to "
        f"{sum(summary['seconds'].values()) / 60:.0f} minutes."
    )
    return markdown(table, ["method", *MEASURES, "seeds"]) + f"\n\n*{caption}*"


def course_table(summary: dict) -> str:
    """The notebooks with a learner's minutes, optional ones included, and the seconds of each in the quick profile."""
    rows = []
    for number, (file, title, about) in overview.COURSE.items():
        if number in overview.built():
            seconds = summary["seconds"].get(file)
            row = {"": number, "notebook": f"[{title}](notebooks/{file}.ipynb)", "what it is about": about}
            row["to read"] = f"{sum(paths.minutes(number).values())} min"
            rows.append(row | {"to run": duration(seconds) if seconds else "–"})
    return markdown(rows)


def short_path() -> str:
    """The short path in one line: each notebook with its sections, and all minutes."""
    links = []
    for number, sections in paths.SHORT.items():
        file, chosen = overview.COURSE[number][0], " and ".join(map(str, sections))
        links.append(f"[{number}](notebooks/{file}.ipynb) section{'s' * (len(sections) > 1)} {chosen}")
    return f"{' · '.join(links)} ({paths.short_path()[-1]['minutes']} minutes)"


def by_test(row: dict) -> str | None:
    """LDMLR's protocol beside its controls: the paper's recipe, by the logits that are tested."""
    return row["test"] if row["recipe"] in ("-", "r=0.2 few") else None


def by_views(row: dict) -> str | None:
    """The matched comparison: every source of added features, by kind of views."""
    return row["views"] if (row["recipe"], row["test"]) == ("top-up", "plain") else None


def by_help(row: dict) -> str | None:
    """What helps, between label shift and the bound."""
    return "accuracy" if row["method"] == "Label shift" or row["recipe"] in ("ours", "bound") else None


def retraining_lines(runs: dict[str, dict]) -> list[dict]:
    """A line for each method, by test and epoch: the last, and the best on the test set. Below, what LDMLR published."""

    def named(epoch: str) -> Callable[[dict], str | None]:
        return lambda row: f"{by_test(row)}, {epoch}" if by_test(row) else None

    last, best = side_by_side(runs, named("last")), side_by_side(runs, named("best"), "best_test_epoch")
    theirs, line = published_accuracy(), {"method": "as published (best of 400 epochs)"}
    for name in runs:
        for method, test in (("CE + LDMLR", "plain"), ("Label shift + LDMLR", "label shift")):
            line[f"{name}, {test}, best"] = theirs[method, PUBLISHED_ENCODERS[name], 100]
    return [*(line | best.get(method, {}) for method, line in last.items()), line]


def retraining_table(
    runs: dict[str, dict], lines: Iterable[dict], columns: Sequence[str], beside: str = "side by side"
) -> str:
    """Runs of notebook 08 side by side, the same columns for each of them, what they were measured with and beside what."""
    minutes = " and ".join(f"{record['seconds'] / 60:.0f}" for record in runs.values())
    names = ["method", *(f"{name}, {column}" for name in runs for column in columns)]
    caption = f"*Percent, {made_with(next(iter(runs.values())))}; the two runs took {minutes} minutes, {beside}.*"
    return markdown(list(lines), names, digits=2) + f"\n\n{caption}"


def generators_table() -> str:
    """The trained generators that come with the course, from their cards: samples of every class, with guidance 1."""
    cards = [pretrained_card(name) for name in pretrained_names()]
    generators, rows = [card for card in cards if "omega 1" in card["measures"]], []
    for card in generators:
        groups, row = card["measures"]["omega 1"], {"generator": card["name"], "steps": card["steps"]}
        row |= {f"label accuracy, {group} %": groups[group]["label_accuracy"] for group in ("all", *GROUPS)}
        row["kernel distance x 1000"] = next(1000 * v for key, v in groups["all"].items() if key.startswith("kd"))
        rows.append(row | {"distance ratio, few": groups["few"]["memorisation"]})
    judge = pretrained_card("judge")["measures"]["accuracy_on_test_images"]
    devices, commits = (dict.fromkeys(card[key] for card in generators) for key in ("device", "commit"))
    made = f"The judge gets {judge:.1f} % of real test images right; {', '.join(devices)}, commits "
    made += f"{', '.join(commit[:7] for commit in commits)}."
    return f"{markdown(rows)}\n\n*{made}*"


def ranked_table(record: dict, *columns: str) -> str:
    """A stored run averaged over three seeds, highest accuracy first: "method", `columns` and the measures; rows without "ece",
    those of a sweep, are left out."""
    whole = [with_spread(row) for row in record["rows"] if "ece" in row]
    lines = sorted(whole, key=lambda line: line["accuracy"], reverse=True)
    return f"{markdown(lines, ['method', *columns, *MEASURES])}\n\n*Percent, three seeds, {made_with(record)}.*"


def all_ranked(runs: dict[str, dict], counts: Callable[[dict], bool], beside: str = "side by side") -> str:
    """The rows of notebook 08 or 09 that count, accuracy of every method on each data set, the first one's highest first."""

    def column(row: dict) -> str | None:
        return "accuracy" if counts(row) else None

    first = f"{next(iter(runs))}, accuracy"
    lines = sorted(side_by_side(runs, column).values(), key=lambda line: line[first], reverse=True)
    return retraining_table(runs, lines, ("accuracy",), beside)


def transformers_table(record: dict) -> str:
    """A stored run of transformers: both read-outs of each loss and start; of several lengths of fine-tuning the usual one."""
    steps = record["parameters"].get("finetuning", record["parameters"]).get("steps")
    lines: dict[tuple, dict] = {}
    rows = []
    for row in record["rows"]:
        if row["method"].startswith("ResNet"):
            rows.append(row)
        elif row.get("steps", steps) == steps:
            rows.append(row | {"method": f"ViT, {row['loss']}"})
    for line in average(rows, by=("method", "start", "read-out")):
        here = lines.setdefault((line["method"], line["start"]), {key: line[key] for key in ("method", "start")})
        if line["read-out"] == "argmax":
            here["argmax"] = line["accuracy"]
        else:
            here |= {"balanced read-out": line["accuracy"], **{group: line[group] for group in GROUPS if group in line}}
    return f"{markdown(list(lines.values()))}\n\n*Percent, {made_with(record)}, {record['seconds'] / 60:.0f} minutes.*"


def fill(text: str, name: str, content: str, page: str = "README.md") -> str:
    """`text` with the part between `<!-- name -->` and `<!-- /name -->` replaced. CourseError if it has no such part."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    if not pattern.search(text):
        raise CourseError(f"{page} has no part between <!-- {name} --> and <!-- /{name} -->: put the two marks back.")
    return pattern.sub(lambda found: found[1] + content.strip() + "\n" + found[2], text)


def picture(notebook: str = PICTURE) -> bytes:
    """The first PNG that a stored notebook shows. CourseError if there is none."""
    path = REPOSITORY / "notebooks" / f"{notebook}.ipynb"
    for cell in read_notebook(path)["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode("".join(output["data"]["image/png"]))
    raise CourseError(f"{path.name} has no stored picture: run `make notebooks`.")


def parts(page: str) -> dict[str, str]:
    """The generated parts of README.md or RESULTS.md, from the stored results. CourseError if one of these is missing."""
    records = {name: stored(name) for name in SHOWN}
    if page == "README.md":
        quick = records["quick"]
        return {"course": course_table(quick), "short path": short_path(), "quick results": quick_table(quick)}

    def on_both(run: str) -> dict[str, dict]:
        return {name: records[f"{run}_{data}"] for name, data in PUBLISHED_ENCODERS.items()}

    runs, own = on_both("08_classifier_retraining"), on_both("08_classifier_retraining_own")
    columns = ["data", "method", *MEASURES, "published"]
    tests = ("plain, last", "plain, best", "label shift, last", "label shift, best")
    return {
        "generated images": stored_tables(records["06_class_balancing_diffusion_laptop"]),
        "published encoders": reference_markdown("03_encoders_as_published", columns),
        "published retraining": retraining_table(runs, retraining_lines(runs), tests),
        "published methods": retraining_table(runs, side_by_side(runs, by_views).values(), ("clean", "weak", "strong")),
        "published helped": retraining_table(runs, side_by_side(runs, by_help).values(), ("accuracy",)),
        "own retraining": all_ranked(own, lambda row: row["recipe"] == "-" or bool(by_views(row)), "beside other work"),
        "trained generators": generators_table(),
        "own encoders": reference_markdown("03_encoders_own", columns),
        "translated features": all_ranked(on_both("09_feature_translation"), lambda row: "ece" in row),
        "translated after balanced softmax": ranked_table(records["09_feature_translation_balanced_softmax"]),
        "classical families": ranked_table(records["10_self_supervision_laptop"], "passes"),
        "transformers": transformers_table(records["11_vision_transformers_bundled"]),
        "transformers on CIFAR": transformers_table(records["11_vision_transformers_laptop_cifar10"]),
    }


def text_from_records(page: str, text: str) -> str:
    """The text of a page, README.md or RESULTS.md, with its generated parts written anew."""
    for name, content in parts(page).items():
        text = fill(text, name, content, page)
    return text


@command(
    "readme",
    __doc__,
    ("--from", dict(dest="batch", type=Path, help="folder of a finished batch, such as runs/quick")),
)
def main(batch: Path | None) -> int:
    """The command line; exit status 0, or 2 with one sentence."""
    if batch:
        store(batch, REFERENCES / "quick.json")
    texts = {page: (REPOSITORY / page).read_text(encoding="utf-8") for page in PAGES}
    for page, text in texts.items():
        (REPOSITORY / page).write_text(text_from_records(page, text), encoding="utf-8")
    (REFERENCES / "picture.png").write_bytes(picture())
    print("README.md, RESULTS.md and notebooks/reference/picture.png hold what is stored.")
    return 0
