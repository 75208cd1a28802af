"""Files written before the package was moved into folders and its arguments renamed (commit d11d516) still load and go on."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from lt_utils.diffusion.feature_diffusion import load_generator
from lt_utils.errors import CourseError
from lt_utils.hashing import fingerprint
from lt_utils.models.resnet import ResNet
from lt_utils.models.unet import UNet
from lt_utils.runs.folder import find_run, records
from lt_utils.training.checkpoints import load_model
from lt_utils.training.ema import EMA
from lt_utils.training.loop import train
from lt_utils.training.lr_schedules import cosine

FOLDER = Path(__file__).parent / "earlier"
EXPECTED = json.loads((FOLDER / "expected.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("name", "kind"), [("resnet", ResNet), ("unet", UNet)])
def test_networks(name, kind):
    model, _ = load_model(FOLDER / f"{name}.safetensors", kind)
    assert fingerprint(model) == EXPECTED[name] and model.config["num_classes"] == 3


def test_a_feature_generator():
    generator = load_generator(FOLDER / "generator.safetensors")
    assert fingerprint(generator.model) == EXPECTED["generator"] and len(generator.schedule) == 50


def half_done(tmp_path, **changes):
    """The training that was stopped after step 5 of 12, started again: its model, average and losses."""
    torch.manual_seed(1)
    model, x, y = nn.Linear(5, 3), torch.randn(40, 5), torch.arange(40) % 3
    ema = EMA(model, 0.9)
    shutil.copy(FOLDER / "training.safetensors", tmp_path)
    how = dict(n=40, steps=12, batch_size=8, lr_schedule=cosine, seed=4, ema=ema, precision="fp32", grad_clip=0.5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=1e-3)
    loop = train(
        model,
        lambda model, index: nn.functional.cross_entropy(model(x[index]), y[index]),
        optimizer=optimizer,
        recipe="toy",
        checkpoint=tmp_path / "training.safetensors",
        **how | changes,
    )
    steps = list(loop)
    return model, ema, steps


def test_a_training_goes_on_where_it_was(tmp_path):
    model, ema, steps = half_done(tmp_path)
    assert steps[0].step == 6
    assert steps[-1].losses.tolist() == pytest.approx(EXPECTED["losses"], rel=1e-5)
    assert steps[-1].losses[:5].tolist() == EXPECTED["losses"][:5]


@pytest.mark.parametrize("change", [{"batch_size": 10}, {"grad_clip": None}, {"ema": None}])
def test_another_training_is_still_refused(tmp_path, change):
    with pytest.raises(CourseError, match=f"another training.*{next(iter(change))}"):
        half_done(tmp_path, **change)


def test_a_run_and_its_record(monkeypatch):
    monkeypatch.setenv("LT_RUNS", str(FOLDER / "runs"))
    (record,) = records(FOLDER / "runs")
    assert record["rows"][0]["accuracy"] == 61.5 and record["commit"].startswith("d11d516")
    found = find_run("03_encoders", {"DATASET": "toy", "IMBALANCE": 100, "SEED": 0}, key="ENCODERS")
    assert found.record == record
