"""The experiment of lt_utils.cause in small: it runs to the end, resumes, and chooses nothing on the test set."""

import json
import re
from dataclasses import replace

import pytest
import torch

from lt_utils import cause, datasets, remedies
from lt_utils.metrics import mean_error


@pytest.fixture
def small(monkeypatch, tmp_path):
    """Main on 10 x 10 pixels, two-step heads and generators; returns main(test labels to roll) -> record, reference."""
    whole = datasets.load().long_tailed(counts=[104, 103, 22, 21, 20, 20, 12, 9, 7, 6])

    def main(roll: int = 0) -> tuple[dict, dict]:
        small = {name: getattr(whole, name)[:, :, 9:19, 9:19] for name in ("train_images", "test_images")}
        small["test_images"] = small["test_images"][::5]
        data = replace(whole, **small, test_labels=whole.test_labels[::5].roll(roll))
        monkeypatch.setattr(datasets, "load", lambda name: data)
        monkeypatch.setattr(datasets.ImageData, "long_tailed", lambda self, imbalance: self)
        arguments = ["--to", str(tmp_path / "run"), "--seeds", "2", "--epochs", "2", "--keep"]
        assert cause.main(arguments) == 0
        record = json.loads((tmp_path / "run" / "record.json").read_text())
        return record, json.loads((tmp_path / "notebooks" / "reference" / f"{cause.NAME}.json").read_text())

    monkeypatch.setattr(cause, "REPOSITORY", tmp_path)
    monkeypatch.setattr(remedies, "HEAD", dict(steps=2, batch=64, rate=0.01))
    monkeypatch.setattr(remedies, "GENERATOR", dict(steps=2, width=8, blocks=1))
    monkeypatch.setattr(remedies, "FED_STEPS", 2)
    monkeypatch.setattr(remedies, "SAMPLING", 2)
    monkeypatch.setattr(remedies, "REFIT_EVERY", 1)
    for module in (remedies, cause):
        monkeypatch.setattr(module, "VIEWS", {"clean": 1})
    return main


def test_it_runs_resumes_and_looks_at_no_test_label_to_choose(small, capsys):
    record, kept = small()
    capsys.readouterr()
    assert len(record["rows"]) == 2 * (2 + 14 + 4)  # two seeds: no training, frozen encoder, in training
    assert {row["n"] for row in kept["rows"]} == {2} and kept["rows"][1]["minus label shift"] == "+0.00 ± 0.00"
    assert [line["group"] for line in kept["ratios"]] == ["many", "medium", "few"]
    assert "chosen on the folds" in kept["note"] and kept["differences"] == record["facts"]["differences"]
    # Wrong test labels, everything else from the checkpoints: other accuracies, the same choices.
    (again, other), printed = small(roll=100), capsys.readouterr().out
    trained = [line for line in printed.splitlines() if re.search(r"(images|features|steps)/s", line)]
    assert not trained
    for column, same in (("accuracy", False), ("folds", True), ("width", True)):
        pair = [[row.get(column) for row in one["rows"]] for one in (record, again)]
        assert (pair[0] == pair[1]) is same, column
    chosen = [
        [(d["diffusion"], d["rival"]) for d in one["differences"] if d["rival chosen"] == "folds"]
        for one in (kept, other)
    ]
    assert chosen[0] == chosen[1] and len(chosen[0]) == 5


@pytest.mark.parametrize(("option", "value"), [("--seeds", "1"), ("--folds", "2")])
def test_too_few_for_an_error_or_a_choice_is_refused(tmp_path, capsys, option, value):
    assert cause.main(["--to", str(tmp_path), option, value]) == 2
    assert "or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value"),
    [("--data", "fashion-mnist-smal"), ("--imbalance", "0.5"), ("--folds", "11"), ("--epochs", "3")],
)
def test_a_mistake_is_refused_before_an_earlier_run_is_moved_aside(tmp_path, capsys, monkeypatch, option, value):
    monkeypatch.setattr(cause, "measure", lambda *_: pytest.fail("accepted"))
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "run.json").write_text('{"notebook": "of other parameters"}')
    assert cause.main(["--to", str(folder), option, value]) == 2
    assert capsys.readouterr().err.count("\n") == 1 and [path.name for path in tmp_path.iterdir()] == ["run"]


def test_ctrl_c_is_one_sentence(tmp_path, capsys, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(cause, "measure", stop)
    assert cause.main(["--to", str(tmp_path / "run")]) == 130
    assert capsys.readouterr().out.endswith("the same command goes on from here.\n")


def test_a_difference_has_both_its_errors():
    first, second = torch.rand(3, 400) < 0.7, torch.rand(3, 400) < 0.6
    found = cause.difference(first, second)
    by_seed = [100 * (a.double().mean() - b.double().mean()).item() for a, b in zip(first, second, strict=True)]
    assert (found["difference"], found["se"]) == tuple(round(value, 2) for value in mean_error(by_seed))
    # The same hundredth more of the images in every seed: no spread over seeds, that of a share of one percent over images.
    second = torch.zeros(3, 400)
    first = second.clone()
    first[:, :4] = 1
    assert cause.difference(first, second) == {"difference": 1.0, "se": 0.0, "se images": 0.5}
