"""The published LDMLR encoders, evaluated by this package, give the published accuracies (needs CIFAR and the weights).

LT_DATA is the folder with cifar10.npz and cifar100.npz as data_prep makes them; LT_OFFICIAL is the folder with
resnet32_cifar10_lt001.npz and resnet32_cifar100_lt001.npz. Without them the evaluations are skipped.
"""

import json
import os
from functools import cache
from pathlib import Path

import pytest

from experiments import published_encoders
from lt_utils.files import REPOSITORY

TOLERANCE = 0.05  # percentage points, five of the 10,000 test images: ties and rounding
EXPECTED = {"cifar10": (72.49, 80.86), "cifar100": (41.28, 48.59)}


def missing() -> str:
    """What the evaluations still need, in one sentence; empty if everything is there."""
    for variable, files in (
        ("LT_DATA", [f"{name}.npz" for name in published_encoders.WEIGHTS]),
        ("LT_OFFICIAL", list(published_encoders.WEIGHTS.values())),
    ):
        folder = os.environ.get(variable)
        if not folder:
            return f"{variable} is not set; it names the folder with {' and '.join(files)}"
        for file in files:
            if not (Path(folder) / file).is_file():
                return f"{variable} is set, but there is no {file} in that folder"
    return ""


needs_files = pytest.mark.skipif(bool(missing()), reason=missing() or "everything is there")


@cache
def accuracies(name: str, swapped: bool = False) -> tuple[float, ...]:
    """Accuracy in percent on the whole test set: plain, and after label shift."""
    return tuple(row["accuracy"] for row in published_encoders.evaluate(os.environ["LT_OFFICIAL"], name, swapped))


@needs_files
@pytest.mark.parametrize("name", EXPECTED)
def test_published_encoders_give_the_published_accuracies(name):
    assert accuracies(name) == pytest.approx(EXPECTED[name], abs=TOLERANCE)


@needs_files
def test_with_the_other_channel_order_the_cifar10_encoder_loses():
    """It was trained on images with red and blue swapped; without the loader's swap it loses 16 and 11 points."""
    assert accuracies("cifar10", True) == pytest.approx((56.61, 69.35), abs=TOLERANCE)
    lost = [right - wrong for right, wrong in zip(accuracies("cifar10"), accuracies("cifar10", True), strict=True)]
    assert min(lost) > 10


def test_the_stored_reference_holds_these_numbers():
    stored = json.loads((REPOSITORY / "notebooks/reference/03_encoders_as_published.json").read_text(encoding="utf-8"))
    assert {"title", "device", "commit", "finished", "rows", "note"} <= stored.keys()
    found = {(row["data"], row["method"]): row for row in stored["rows"]}
    for name, values in EXPECTED.items():
        for method, value in zip(("CE", "Label shift"), values, strict=True):
            row = found[name, method]
            assert row["accuracy"] == pytest.approx(value, abs=TOLERANCE)
            assert row["published"] == pytest.approx(row["accuracy"], abs=TOLERANCE)
            assert row["parameters"] == {"cifar10": 464_154, "cifar100": 470_004}[name]


def test_missing_weights_are_told_in_a_sentence(tmp_path, capsys):
    assert published_encoders.main([str(tmp_path)]) == 2
    told = capsys.readouterr().err.strip()
    assert "resnet32_cifar10_lt001.npz" in told and "\n" not in told
