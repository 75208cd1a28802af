"""Sampling into a folder: killed at any moment and run again, the same images; exact label schedules; sheets and arrays."""

import itertools
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from lt_utils import hashing
from lt_utils.diffusion.generate import balanced_labels, read_samples, sample_to
from lt_utils.diffusion.samplers import ancestral, ddim, guided
from lt_utils.diffusion.schedules import linear_schedule
from lt_utils.errors import CourseError
from lt_utils.models.unet import UNet
from lt_utils.training.loop import step_seed

SCHEDULE, SHAPE = linear_schedule(8, 1e-3, 0.3), (1, 8, 8)
LABELS = balanced_labels(12, 3)


def network(seed=0) -> UNet:
    torch.manual_seed(seed)
    model = UNet(1, 3, 8, (1, 2), (), 1, dropout=0.3)
    for weight in model.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=0.2)
    return model


def draw(folder, model=None, labels=LABELS, **options):
    options = dict(steps=4, omega=1.0, shard=4, as_bytes=False, objective="eps") | options
    return sample_to(folder, model or network(), SCHEDULE, labels, SHAPE, **options)


class Kill(BaseException):
    pass


@pytest.mark.parametrize("options", [{"eta": 0.7}, {"sampler": "fixedlarge"}, {"sampler": "fixedsmall", "clip": 1.0}])
@pytest.mark.parametrize("moment", [0, 2, 7])
def test_killed_at_any_moment_and_run_again_the_samples_are_the_same_bits(tmp_path, options, moment):
    whole, labels = draw(tmp_path / "whole", **options)
    assert torch.equal(labels, LABELS)
    model, calls = network(), itertools.count()

    def dies(*_):
        if next(calls) == moment:
            raise Kill

    handle = model.register_forward_pre_hook(dies)
    with pytest.raises(Kill):
        draw(tmp_path / "killed", model, **options)
    handle.remove()
    assert model.training  # as it was before
    again, _ = draw(tmp_path / "killed", model, **options)
    assert torch.equal(again, whole) and whole.std() > 0.1


SCRIPT = """
import sys, time
sys.path.insert(0, sys.argv[1])
from test_generate import *
model = network()
model.register_forward_pre_hook(lambda *_: time.sleep(0.05))
draw(sys.argv[2], model, shard=1)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_a_process_killed_by_the_system_goes_on_where_it_was(tmp_path):
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, os.path.dirname(__file__), str(folder)])
    deadline = time.monotonic() + 120
    while len(list(folder.glob("shard-*.safetensors"))) < 2 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    made = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.safetensors")}
    assert 2 <= len(made) < len(LABELS)
    images, _ = draw(folder, shard=1)
    assert torch.equal(images, draw(tmp_path / "whole", shard=1)[0])
    assert all((folder / name).stat().st_mtime_ns == moment for name, moment in made.items())  # nothing made twice


def test_samples_are_those_of_the_plain_samplers(tmp_path):
    """Shard 1, against the samplers of lt_utils.diffusion with the noise that the seed says."""
    model = network().eval()
    part = LABELS[4:8]
    for sampler, variance in (("ddim", None), ("fixedlarge", "beta"), ("fixedsmall", "posterior")):
        images, _ = draw(tmp_path / sampler, model, sampler=sampler, seed=5, clip=0.9, eta=0.3)
        start = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(step_seed(5, 2)))
        inner = torch.Generator().manual_seed(step_seed(5, 3))
        predict = guided(model, SCHEDULE, part, "eps", 1.0, 0.9)
        plain = ancestral(predict, SCHEDULE, start, variance, inner) if variance else ddim(
            predict, SCHEDULE, start, 4, 0.3, inner
        )  # fmt: skip
        assert torch.equal(images[4:8], plain.clamp(-1, 1))


def test_the_clip_switch_and_the_variances_matter(tmp_path):
    seen = [
        draw(tmp_path / str(number), sampler=sampler, clip=clip)[0]
        for number, (sampler, clip) in enumerate(itertools.product(("fixedlarge", "fixedsmall"), (None, 0.5)))
    ]
    assert all(not torch.equal(one, other) for one, other in itertools.combinations(seen, 2))
    assert seen[1].abs().max() <= 1 and (seen[1] - seen[0]).abs().mean() > 0.01


def test_dropout_does_not_act_in_samples(tmp_path):
    """A network left in training mode, its average or its copy: the same samples, twice (the original forgot this)."""
    model = network().train()
    first, _ = draw(tmp_path / "a", model)
    second, _ = draw(tmp_path / "b", model.eval())
    assert torch.equal(first, second) and not model.training


def test_seeds_and_shards_have_noise_of_their_own(tmp_path):
    same_label = torch.zeros(8, dtype=torch.long)
    first, _ = draw(tmp_path / "a", labels=same_label, shard=2)
    second, _ = draw(tmp_path / "b", labels=same_label, shard=2, seed=1)
    every = torch.cat([first, second]).flatten(1)
    assert len({tuple(row.tolist()) for row in every}) == 16


@pytest.mark.parametrize(
    "options", [{"omega": 2.0}, {"seed": 1}, {"steps": 5}, {"shard": 6}, {"sampler": "fixedlarge"}, {"as_bytes": True}]
)
def test_a_folder_with_other_samples_is_refused(tmp_path, options):
    draw(tmp_path)
    with pytest.raises(
        CourseError, match=f"made differently.*{'images' if 'as_bytes' in options else next(iter(options))}"
    ):
        draw(tmp_path, **options)
    assert len(draw(tmp_path)[0]) == 12


def test_another_model_and_other_labels_are_refused(tmp_path):
    draw(tmp_path)
    with pytest.raises(CourseError, match="made differently .model."):
        draw(tmp_path, network(1))
    for labels in (LABELS.flip(0), LABELS[:8]):
        with pytest.raises(CourseError, match="made differently .labels."):
            draw(tmp_path, labels=labels)
    more = draw(tmp_path, labels=balanced_labels(18, 3))[0]  # more of the same: goes on
    assert torch.equal(more[:12], draw(tmp_path / "again")[0]) and len(more) == 18


def test_a_damaged_shard_is_made_again_and_a_missing_one_is_noticed(tmp_path):
    whole, _ = draw(tmp_path)
    (tmp_path / "shard-00001.safetensors").write_bytes(b"cut short")
    assert torch.equal(draw(tmp_path)[0], whole)
    (tmp_path / "shard-00001.safetensors").unlink()
    with pytest.raises(CourseError, match="whole set of samples"):
        read_samples(tmp_path)
    with pytest.raises(CourseError, match="whole set of samples"):
        read_samples(tmp_path / "nothing")
    assert torch.equal(draw(tmp_path)[0], whole)


def test_stored_samples_say_how_they_were_made(tmp_path):
    model = network()
    images, labels = draw(tmp_path, model, as_bytes=True, notes={"labels": "balanced", "ema": False})
    again, same, facts = read_samples(tmp_path)
    assert images.dtype == torch.uint8 and torch.equal(again, images) and torch.equal(same, labels)
    assert facts["model"] == hashing.fingerprint(model) and facts["images"] == "uint8"
    assert facts["notes"] == {"labels": "balanced", "ema": False}
    assert (facts["sampler"], facts["steps"], facts["omega"], facts["seed"]) == ("ddim", 4, 1.0, 0)
    floats, _ = draw(tmp_path / "float", model)
    assert torch.equal(images, floats.add(1).mul(127.5).round().byte())


def test_unknown_samplers_are_refused(tmp_path):
    with pytest.raises(CourseError, match="Did you mean 'fixedlarge'"):
        draw(tmp_path, sampler="fixedlarg")


# -------------------------------------------------------------------------------------------------------------- labels
def test_balanced_labels_are_exact_in_every_stretch():
    labels = balanced_labels(50, 10)
    assert torch.bincount(labels).tolist() == [5] * 10 and labels[7:17].unique().numel() == 10
    with pytest.raises(CourseError, match="51 samples cannot be divided evenly among 10"):
        balanced_labels(51, 10)
