"""The encoders that the authors of LDMLR published, evaluated by this package on the whole CIFAR test sets.

    python -m experiments.published_encoders FOLDER

FOLDER holds resnet32_cifar10_lt001.npz and resnet32_cifar100_lt001.npz, one array per entry of the published state;
cifar10 and cifar100 are prepared by data_prep. The result is written to notebooks/reference/03_encoders_as_published.json,
which notebook 03 shows beside its own numbers.
"""

import argparse
import sys
from datetime import UTC, datetime
from pathlib import Path

from course.command import first_line
from course.reference import beside_published
from lt_utils.data import datasets
from lt_utils.data.longtail import class_counts
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY, write_json
from lt_utils.metrics import recognition
from lt_utils.models import published, resnet
from lt_utils.recognition import losses
from lt_utils.runs.provenance import surroundings
from lt_utils.training.devices import device
from lt_utils.viz.tables import REFERENCES

WEIGHTS = {"cifar10": "resnet32_cifar10_lt001.npz", "cifar100": "resnet32_cifar100_lt001.npz"}
NOTE = (
    "These are the authors' published weights (last of 200 epochs, one seed), evaluated again by this course in "
    "float32; we did not train them. *published* is the authors' table: it agrees within 0.03 points, three test "
    "images. CE is cross-entropy with mixup. The CIFAR-10 encoder was trained on images with red and blue "
    "swapped. The WCDAS rows of the same table, 84.67 (CIFAR-10) and 50.95 (CIFAR-100), cannot be evaluated "
    "again: LDMLR published no weights for them."
)


def evaluate(folder: str | Path, name: str, swapped: bool = False) -> list[dict]:
    """Two rows, CE and Label shift, of the published ResNet-32 for `name` at imbalance factor 100; percent, last epoch.

    Args:
        folder: where the file WEIGHTS[name] lies.
        name: "cifar10" or "cifar100".
        swapped: give the images with red and blue swapped, to see what that costs.

    Raises CourseError if the weights or the data set are missing or do not fit.
    """
    path = Path(folder) / WEIGHTS[name]
    if not path.is_file():
        raise CourseError(f"There is no {path.name} in {folder}: give the folder of the published encoders.")
    data = datasets.load(name).to(device())
    model = published.load_published_ldmlr(path, data.num_classes).to(device())
    images = data.test_images[:, [2, 1, 0]] if swapped else data.test_images
    _, logits = resnet.encode(model, images)
    counts = class_counts(50_000 // data.num_classes, data.num_classes, imbalance=100)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    rows = []
    for method, values in (("CE", logits), ("Label shift", losses.label_shift(logits, counts))):
        measured = {"many": None, "medium": None, "few": None} | recognition.scores(values, data.test_labels, counts)
        row = {"method": method, "data": name, "imbalance": 100, "parameters": parameters}
        rows.append(row | {key: measured[key] for key in ("accuracy", "many", "medium", "few", "ece")})
    return beside_published(rows)


def record(folder: str | Path) -> dict:
    """All four rows with what they were measured on, in the form that `tables.show_reference` reads."""
    rows = [row for name in WEIGHTS for row in evaluate(folder, name)]
    return {
        "title": "The authors' ResNet-32, imbalance factor 100, 10,000 test images, evaluated again",
        **surroundings(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": rows,
        "note": NOTE,
    }


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0, or 2 when something is missing."""
    parser = argparse.ArgumentParser(prog="python -m experiments.published_encoders", description=first_line(__doc__))
    parser.add_argument("folder", type=Path, help="folder with " + " and ".join(WEIGHTS.values()))
    path = REFERENCES / "03_encoders_as_published.json"
    try:
        found = record(parser.parse_args(arguments).folder)
        write_json(path, found)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    for row in found["rows"]:
        print(f"{row['data']:9}{row['method']:12}{row['accuracy']:6.2f} (published {row['published']:.2f})")
    print(f"written to {path.relative_to(REPOSITORY)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
