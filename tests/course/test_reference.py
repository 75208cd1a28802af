"""What course.reference refuses to store as a reference; what it stores, tests/test_retraining.py checks."""

import json

import pytest

from course.reference import keep
from lt_utils.errors import CourseError

ROWS = [{"method": "CE", "seed": seed, "accuracy": 70.0 + seed} for seed in range(2)]


@pytest.fixture
def run(tmp_path):
    """Folder of a finished run of notebook 03."""
    record = {"notebook": "03_encoders", "parameters": {}, "rows": ROWS}
    (tmp_path / "record.json").write_text(json.dumps(record))
    return tmp_path


NAMES = ["08_classifier_retraining_cifar10", "../../../03_encoders", "03_encoders/b", "", "03_encoders_x.json", "a b"]


@pytest.mark.parametrize("name", NAMES)
def test_a_reference_is_named_after_its_notebook(run, name):
    with pytest.raises(CourseError, match="cannot be named .*: begin with 03_encoders"):
        keep(run, name, "toy", target=run / "reference")
    assert not (run / "reference").exists()
    assert keep(run, "03_encoders_toy", "toy", target=run / "reference").name == "03_encoders_toy.json"


def test_unknown_columns_and_unfinished_runs_are_refused(run):
    with pytest.raises(CourseError, match="Unknown column 'metod'. Did you mean 'method'"):
        keep(run, "03_encoders_toy", "toy", by=["metod"], target=run)
    with pytest.raises(CourseError, match="--published looks .* up by data"):
        keep(run, "03_encoders_toy", "toy", published=True, target=run)
    (run / "record.json").write_text("{}")
    with pytest.raises(CourseError, match="no finished run"):
        keep(run, "03_encoders_toy", "toy", target=run)
