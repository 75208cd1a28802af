"""experiments.masked_pretraining: every arm once, going on where it stopped, and differences that a second way confirms."""

import dataclasses
import json

import pytest
import torch
import yaml

from experiments import masked_pretraining as experiment
from lt_utils.data import datasets
from lt_utils.files import REPOSITORY, read_yaml

COURSE = REPOSITORY / "config" / "livt_reference.yaml"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folder of a tiny run, and the command that made it."""
    folder, load = tmp_path_factory.mktemp("masked"), datasets.load
    whole = load()
    test = torch.cat([(whole.test_labels == c).nonzero()[:20, 0] for c in range(10)])
    part = dataclasses.replace(whole, test_images=whole.test_images[test], test_labels=whole.test_labels[test])
    settings = read_yaml(COURSE)
    settings |= {"balanced": 20, "seeds": [0, 1], "losses": ["bal-ce", "bal-bce"]}
    settings["pretraining"] |= {"steps": 3}
    settings["finetuning"] |= {"steps": 4}
    settings |= {"equal": {"loss": "bal-bce", "steps": 6}, "resnet": {"epochs": 1}}
    (folder / "small.yaml").write_text(yaml.safe_dump(settings))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiment, "load", lambda name: part)
        command = ["--config", str(folder / "small.yaml"), "--folder", str(folder)]
        assert experiment.main(command) == 0
        first = json.loads((folder / f"{experiment.NAME}.json").read_text())
        assert experiment.main(command) == 0
    return first, json.loads((folder / f"{experiment.NAME}.json").read_text())


def test_a_second_run_reads_what_is_finished(made):
    first, second = made
    assert first["rows"] == second["rows"] and first["paired"] == second["paired"]


def test_every_arm_has_a_row_for_each_read_out_and_seed(made):
    arms = [tuple(row[key] for key in ("method", "start", "steps", "read-out", "seed")) for row in made[0]["rows"]]
    assert len(arms) == len(set(arms)) == 2 * 2 * (2 * 3 + 1 + 1)
    assert {row["start"] for row in made[0]["masked loss"]} == {"LT", "balanced"}
    assert all(0 < row[group] < 10 for row in made[0]["masked loss"] for group in ("many", "medium", "few"))


def test_differences_are_those_of_the_rows(made):
    content = made[0]

    def accuracies(start, steps, out, group, loss="bal-bce"):
        column = "accuracy" if group == "all" else group
        wanted = (f"ViT, {loss}", start, steps, out)
        rows = [r for r in content["rows"] if tuple(r[k] for k in ("method", "start", "steps", "read-out")) == wanted]
        return torch.tensor([row[column] for row in rows])

    arms = {
        "bal-bce: LT - scratch": (("LT", 4, "exact"), ("scratch", 4, "exact")),
        "bal-bce: balanced - LT": (("balanced", 4, "exact"), ("LT", 4, "exact")),
        "bal-bce, LT: exact - argmax": (("LT", 4, "exact"), ("LT", 4, "argmax")),
        "bal-bce: LT - scratch for as long": (("LT", 4, "exact"), ("scratch", 6, "exact")),
    }
    told = {row["pair"] for row in content["paired"]}
    assert arms.keys() <= told and {f"bal-bce - bal-ce, {start}" for start in ("scratch", "LT", "balanced")} <= told
    for row in content["paired"]:
        if row["pair"] == "bal-bce - bal-ce, LT":
            one, other = (accuracies("LT", 4, "exact", row["classes"], loss) for loss in ("bal-bce", "bal-ce"))
            assert row["difference"] == pytest.approx((one - other).mean().item(), abs=0.02)
        if row["pair"] in arms:
            one, other = (accuracies(*arm, row["classes"]) for arm in arms[row["pair"]])
            assert row["difference"] == pytest.approx((one - other).mean().item(), abs=0.02)
            assert row["error over seeds"] == pytest.approx(((one - other).std() / 2**0.5).item(), abs=0.02)
    assert {row["classes"] for row in content["paired"]} == {"all", "many", "medium", "few"}


def test_a_misspelt_loss_is_refused(tmp_path, capsys):
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(read_yaml(COURSE) | {"losses": ["balbce"]}))
    assert experiment.main(["--config", str(tmp_path / "wrong.yaml"), "--folder", str(tmp_path)]) == 2
    assert "Unknown loss 'balbce'" in capsys.readouterr().err
