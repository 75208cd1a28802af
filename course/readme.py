"""The README's numbers and picture come from stored results: this writes them, and a test fails when they differ.

python -m course readme                     write README.md anew from notebooks/ and notebooks/reference/
python -m course readme --from runs/quick   first store what that batch measured as notebooks/reference/quick.json
"""

import argparse
import base64
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

from course.batch.plan import read_config
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY, read_json, write_json
from lt_utils.runs.folder import records
from lt_utils.viz.image_results import stored_tables
from lt_utils.viz.tables import MEASURES, average, made_with, markdown, reference_markdown, side_by_side

PICTURE = "00_start_here"  # its first picture is the whole course
SHOWN_FACTS = ("device", "threads", "commit", "versions")
SHOWN = (  # the references that the README shows; each is needed
    "quick",
    "published_ldmlr",
    "03_encoders_published",
    "03_encoders_own_cifar10",
    "03_encoders_own_cifar100",
    "06_class_balancing_diffusion_laptop",
    "08_classifier_retraining_cifar10",
    "08_classifier_retraining_cifar100",
)


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


def quick_table(summary: dict) -> str:
    """The recognition rows of the quick profile, mean ± std over seeds, and what they were measured on."""
    rows = [row for row in summary["rows"] if row["notebook"] == "03_encoders" and "accuracy" in row]
    rows += [row for row in summary["rows"] if row["notebook"] == "08_classifier_retraining" and in_main_table(row)]
    rows = [
        row | {"method": row["method"] + " (label shift)"} if row.get("test") == "label shift" else row for row in rows
    ]
    table = average(rows)
    for line in table:
        line["seeds"] = line.pop("n")
    seconds = sum(summary["seconds"].values())
    told = (
        f"{summary['device']}, threads in each notebook: {summary['threads']}, torch {summary['versions']['torch']}, "
        f"commit {str(summary['commit'])[:7]}, {summary['finished'][:10]}; the times of all notebooks add up to "
        f"{seconds / 60:.0f} minutes."
    )
    return markdown(table, ["method", *MEASURES, "seeds"]) + f"\n\n*{told}*"


def in_main_table(row: dict) -> bool:
    """Of notebook 08 the README shows the paper's recipe, last epoch, with label-shift compensation."""
    return row.get("test") == "label shift" and row.get("recipe") == "r=0.2 few"


def published_runs() -> dict[str, dict]:
    """The stored runs of notebook 08 on the published encoders, by the name of their data set."""
    names = {"CIFAR-10": "08_classifier_retraining_cifar10", "CIFAR-100": "08_classifier_retraining_cifar100"}
    return {shown: read_json(REPOSITORY / "notebooks" / "reference" / f"{name}.json") for shown, name in names.items()}


def _told(runs: dict[str, dict]) -> str:
    minutes = " and ".join(f"{record['seconds'] / 60:.0f}" for record in runs.values())
    return f"*Percent, {made_with(next(iter(runs.values())))}; the two runs took {minutes} minutes, side by side.*"


def retraining_table(runs: dict[str, dict]) -> str:
    """LDMLR's protocol beside its controls on the published encoders: last epoch, and the best epoch on the test set."""

    def named(epoch: str) -> Callable[[dict], str | None]:
        return lambda row: f"{row['test']}, {epoch}" if row["recipe"] in ("-", "r=0.2 few") else None

    lines, best = (
        side_by_side(runs, named("last")),
        side_by_side(runs, named("best"), "best_test_epoch"),
    )
    lines = [line | best.get(method, {}) for method, line in lines.items()]
    published = read_json(REPOSITORY / "notebooks" / "reference" / "published_ldmlr.json")["rows"]
    theirs = {(row["method"], row["data"], row["imbalance"]): row["accuracy"] for row in published}
    line = {"method": "as published (best of 400 epochs)"}
    for data, key in (("CIFAR-10", "cifar10"), ("CIFAR-100", "cifar100")):
        line[f"{data}, plain, best"] = theirs["CE + LDMLR", key, 100]
        line[f"{data}, label shift, best"] = theirs["Label shift + LDMLR", key, 100]
    tests = [f"{test}, {epoch}" for test in ("plain", "label shift") for epoch in ("last", "best")]
    columns = [f"{data}, {test}" for data in runs for test in tests]
    return markdown([*lines, line], ["method", *columns], digits=2) + "\n\n" + _told(runs)


def ladder_table(runs: dict[str, dict]) -> str:
    """The matched comparison on the published encoders: every source of added features, on three kinds of views."""
    lines = side_by_side(
        runs, lambda row: row["views"] if (row["recipe"], row["test"]) == ("top-up", "plain") else None
    )
    columns = [f"{data}, {kind}" for data in runs for kind in ("clean", "weak", "strong")]
    return markdown(list(lines.values()), ["method", *columns], digits=2) + "\n\n" + _told(runs)


def helped_table(runs: dict[str, dict]) -> str:
    """What helps on the published encoders, between label shift and the bound."""

    def chosen(row: dict) -> str | None:
        baseline = row["method"] == "Label shift"
        return "accuracy" if baseline or row["recipe"] in ("ours", "bound") else None

    lines = side_by_side(runs, chosen)
    return (
        markdown(list(lines.values()), ["method", *(f"{data}, accuracy" for data in runs)], digits=2)
        + "\n\n"
        + _told(runs)
    )


def fill(text: str, name: str, content: str) -> str:
    """`text` with the part between `<!-- name -->` and `<!-- /name -->` replaced. CourseError if it has no such part."""
    pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.S)
    if not pattern.search(text):
        raise CourseError(
            f"README.md has no part between <!-- {name} --> and <!-- /{name} -->: put the two marks back."
        )
    return pattern.sub(lambda found: found[1] + content.strip() + "\n" + found[2], text)


def picture(notebook: str = PICTURE) -> bytes:
    """The first PNG that a stored notebook shows. CourseError if there is none."""
    path = REPOSITORY / "notebooks" / f"{notebook}.ipynb"
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            if "image/png" in output.get("data", {}):
                return base64.b64decode("".join(output["data"]["image/png"]))
    raise CourseError(f"{path.name} has no stored picture: run `make notebooks`.")


def text_from_records(readme: str) -> str:
    """README.md with its generated parts written anew from the stored results. CourseError if one of these is missing."""
    stored = {name: read_json(REPOSITORY / "notebooks" / "reference" / f"{name}.json") for name in SHOWN}
    for name, record in stored.items():
        if "rows" not in (record or ()):
            raise CourseError(
                f"notebooks/reference/{name}.json is missing or broken: restore the file, or make it anew."
            )
    readme = fill(readme, "quick results", quick_table(stored["quick"]))
    encoders = reference_markdown("03_encoders_published", ["data", "method", *MEASURES, "published"])
    readme = fill(readme, "published encoders", encoders)
    own = reference_markdown("03_encoders_own", ["data", "method", *MEASURES, "published"])
    readme = fill(readme, "own encoders", own)
    runs = published_runs()
    readme = fill(readme, "published retraining", retraining_table(runs))
    readme = fill(readme, "published methods", ladder_table(runs))
    readme = fill(readme, "published helped", helped_table(runs))
    return fill(readme, "generated images", stored_tables(stored["06_class_balancing_diffusion_laptop"]))


def main(arguments: list[str] | None = None) -> int:
    """The command line; exit status 0, or 2 with one sentence."""
    parser = argparse.ArgumentParser(prog="python -m course readme", description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="batch", type=Path, help="folder of a finished batch, such as runs/quick")
    chosen = parser.parse_args(arguments)
    try:
        if chosen.batch:
            store(chosen.batch, REPOSITORY / "notebooks" / "reference" / "quick.json")
        path = REPOSITORY / "README.md"
        path.write_text(text_from_records(path.read_text(encoding="utf-8")), encoding="utf-8")
        (REPOSITORY / "notebooks" / "reference" / "picture.png").write_bytes(picture())
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    except OSError as error:
        print(
            f"{error.filename} cannot be read or written ({error.strerror}): mend that and try again.", file=sys.stderr
        )
        return 2
    print("README.md and notebooks/reference/picture.png hold what is stored.")
    return 0
