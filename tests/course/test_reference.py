"""What course.reference stores as a reference, and what it refuses."""

import json

import pytest

from course.reference import main, save_reference
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
        save_reference(run, name, "toy", target=run / "reference")
    assert not (run / "reference").exists()
    assert save_reference(run, "03_encoders_toy", "toy", target=run / "reference").name == "03_encoders_toy.json"


def test_unknown_columns_and_unfinished_runs_are_refused(run):
    with pytest.raises(CourseError, match="Unknown column 'metod'. Did you mean 'method'"):
        save_reference(run, "03_encoders_toy", "toy", by=["metod"], target=run)
    with pytest.raises(CourseError, match="--published looks .* up by data"):
        save_reference(run, "03_encoders_toy", "toy", published=True, target=run)
    (run / "record.json").write_text("{}")
    with pytest.raises(CourseError, match="no finished run"):
        save_reference(run, "03_encoders_toy", "toy", target=run)


def test_keeping_a_run_averages_seeds_and_drops_machine_paths(tmp_path):
    values = enumerate(zip((70.0, 72.0, 74.0), (0.0123, 0.0125, 0.0121), strict=True))
    rows = [{"method": "CE", "seed": s, "data": "toy", "accuracy": a, "kd": k} for s, (a, k) in values]
    useful = [{"filled": "nothing", "seed": s, "accuracy": a} for s, a in enumerate((50.0, 51.0))]
    record = {"parameters": {"ENCODER_FILE": "/some/where/enc.npz", "STEPS": 3}, "rows": rows, "device": "CPU"}
    record["facts"] = {"classifiers": useful, "paired": [], "masked loss": [{"start": "LT", "few": 0.5}]}
    (tmp_path / "record.json").write_text(json.dumps(record))
    stored = json.loads(
        save_reference(tmp_path, "08_x", "toy", by=["method"], target=tmp_path / "reference").read_text()
    )
    averaged = {"method": "CE", "n": 3, "accuracy": 72.0, "accuracy std": 2.0, "kd": 0.0123, "kd std": 0.0002}
    assert stored["rows"] == [averaged]
    assert stored["classifiers"] == [{"filled": "nothing", "n": 2, "accuracy": 50.5, "accuracy std": 0.71}]
    assert "paired" not in stored and stored["masked loss"] == record["facts"]["masked loss"]
    del record["facts"]["classifiers"], record["facts"]["paired"]
    record["facts"]["parameters_of_encoder"] = 464154
    record["rows"] = [{"method": m, "data": "cifar10", "imbalance": 100, "accuracy": 70.0} for m in ("CE", "Ours")]
    (tmp_path / "record.json").write_text(json.dumps(record))
    stored = json.loads(
        save_reference(tmp_path, "03_x", "toy", target=tmp_path / "reference", published=True).read_text()
    )
    assert [row["published"] for row in stored["rows"]] == [72.46, None]
    assert {row["parameters"] for row in stored["rows"]} == {464154}
    assert stored["parameters"] == {"ENCODER_FILE": "enc.npz", "STEPS": 3}
    with pytest.raises(CourseError, match="no finished run"):
        save_reference(tmp_path / "nowhere", "08_x", "toy")
    assert main([str(tmp_path / "nowhere"), "08_x", "toy"]) == 2
