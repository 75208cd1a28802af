"""The README's numbers and picture come from stored results: this writes them, and a test fails when they differ.

python -m lt_utils.readme                     write README.md anew from notebooks/ and notebooks/reference/
python -m lt_utils.readme --from runs/quick   first store what that batch measured as notebooks/reference/quick.json
"""

import argparse
import base64
import json
import re
import sys
from pathlib import Path

from lt_utils.errors import CourseError
from lt_utils.files import read_json, write_json
from lt_utils.parameters import REPOSITORY
from lt_utils.tables import MEASURES, average, markdown, reference_markdown, with_spread

PICTURE = "00_start_here"  # its first picture is the whole course
TOLD = ("device", "threads", "commit", "versions")


def store(batch: Path, target: Path) -> Path:
    """Gather the records of a finished batch (runs/quick) into one file: rows, seconds of each notebook, device, commit.

    Raises CourseError if the folder holds no record.
    """
    records = [read_json(path) for path in sorted(batch.glob("*/*/record.json"))]
    if not records:
        raise CourseError(f"{batch} holds no finished run: `make run` makes runs/quick.")
    summary = {
        "title": "make run: the quick profile on the bundled data",
        "seconds": {record["notebook"]: record["seconds"] for record in records},
        "finished": max(record["finished"] for record in records),
        "rows": [{"notebook": record["notebook"], **row} for record in records for row in record["rows"]],
    }
    write_json(target, {**summary, **{key: records[-1].get(key) for key in TOLD}})
    return target


def quick_table(summary: dict) -> str:
    """The recognition rows of the quick profile, mean ± std over seeds, and what they were measured on."""
    rows = [row for row in summary["rows"] if row["notebook"] == "03_encoders" and "accuracy" in row]
    rows += [row for row in summary["rows"] if row["notebook"] == "08_classifier_retraining" and in_main_table(row)]
    for row in rows:
        row["method"] = row["method"] + (" (label shift)" if row.get("test") == "label shift" else "")
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


def retraining_table() -> str:
    """LDMLR beside its controls on the published CIFAR-10 encoder: last epoch, and the best epoch on the test set."""
    record = read_json(REPOSITORY / "notebooks" / "reference" / "08_classifier_retraining_official.json")
    rows = [with_spread(row) for row in record["rows"] if row["recipe"] in ("-", "r=0.2 few")]
    lines: dict[str, dict] = {}
    for row in rows:
        line = lines.setdefault(row["method"], {"method": row["method"]})
        line[f"{row['test']}, last epoch"] = row["accuracy"]
        line[f"{row['test']}, best test epoch"] = row.get("best_test_epoch")
    columns = [f"{test}, {epoch}" for test in ("plain", "label shift") for epoch in ("last epoch", "best test epoch")]
    published = read_json(REPOSITORY / "notebooks" / "reference" / "published_ldmlr.json")["rows"]
    plain, shifted = (
        next(
            row["accuracy"]
            for row in published
            if (row["method"], row["data"], row["imbalance"]) == (name, "cifar10", 100)
        )
        for name in ("CE + LDMLR", "Label shift + LDMLR")
    )
    told = (
        f"{record['title']}, 3 seeds: {record['device']}, commit {str(record['commit'])[:7]}, {record['finished'][:10]}. "
        f"Published for LDMLR, best test epoch: {plain} plain, {shifted} with label shift."
    )
    return markdown(list(lines.values()), ["method", *columns], digits=2) + f"\n\n*{told}*"


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
    """README.md with its generated parts written anew from the stored results."""
    summary = read_json(REPOSITORY / "notebooks" / "reference" / "quick.json")
    if summary is None:
        raise CourseError(
            "notebooks/reference/quick.json is missing: `python -m lt_utils.readme --from runs/quick` makes it."
        )
    readme = fill(readme, "quick results", quick_table(summary))
    encoders = reference_markdown("03_encoders_official", ["data", "method", *MEASURES, "published"])
    readme = fill(readme, "official encoders", encoders)
    return fill(readme, "official retraining", retraining_table())


def main() -> int:
    """The command line; exit status 0, or 2 with one sentence."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--from", dest="batch", type=Path, help="folder of a finished batch, such as runs/quick")
    arguments = parser.parse_args()
    try:
        if arguments.batch:
            store(arguments.batch, REPOSITORY / "notebooks" / "reference" / "quick.json")
        path = REPOSITORY / "README.md"
        path.write_text(text_from_records(path.read_text(encoding="utf-8")), encoding="utf-8")
        (REPOSITORY / "notebooks" / "reference" / "picture.png").write_bytes(picture())
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    print("README.md and notebooks/reference/picture.png hold what is stored.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
