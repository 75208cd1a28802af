"""Recipes: each trains what it says, resumes, gives back a finished network, and refuses unknown methods."""

from dataclasses import replace

import pytest
import torch

from lt_utils import recipes
from lt_utils.datasets import ImageData
from lt_utils.diffusion import cosine_schedule
from lt_utils.errors import CourseError
from lt_utils.heads import LinearHead, WCDASHead
from lt_utils.recipes import (
    METHODS,
    build_encoder,
    encoder_loss,
    to_bytes,
    to_signed,
    train_encoder,
    train_image_diffusion,
    train_judge,
)


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    monkeypatch.setattr(recipes, "device", lambda: torch.device("cpu"))


@pytest.fixture(scope="module")
def data():
    """Three classes that differ in brightness: 60, 24 and 6 training images of 8 x 8 pixels."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([0] * 60 + [1] * 24 + [2] * 6)
    noise = torch.randint(0, 60, (90, 1, 8, 8), generator=generator)
    images = (noise + 90 * labels.view(-1, 1, 1, 1)).byte()
    return ImageData("toy", images, labels, images[::3], labels[::3], ("dark", "grey", "bright"))


def test_signed_and_bytes_are_inverse():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    signed = to_signed(images)
    assert signed.min() == -1 and signed.max() == 1 and signed.dtype == torch.float32
    assert torch.equal(to_bytes(signed), images)
    assert to_bytes(torch.tensor([-3.0, 3.0, 0.0])).tolist() == [0, 255, 128]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_loss_and_its_head(method, data):
    model = build_encoder(data, method, width=4)
    assert type(model.head) is (WCDASHead if method == "wcdas" else LinearHead)
    index = torch.arange(90)
    torch.manual_seed(0)
    loss = encoder_loss(method, data, pad=1)(model, index)
    loss.backward()
    assert loss.isfinite() and all(weight.grad is not None for weight in model.parameters())


def test_the_losses_are_what_they_are_called(data):
    """On black images, which augmentation and mixup leave as they are."""
    flat = replace(data, train_images=torch.zeros_like(data.train_images))
    model = build_encoder(data, "ce", width=4, seed=1).eval()
    index = torch.arange(90)
    logits = model(torch.zeros(90, 1, 8, 8))
    plain = torch.nn.functional.cross_entropy(logits, flat.train_labels)
    prior = torch.tensor([60, 24, 6]).div(90).log()
    adjusted = torch.nn.functional.cross_entropy(logits + prior, flat.train_labels)
    assert encoder_loss("ce", flat)(model, index).item() == pytest.approx(plain.item(), rel=1e-5)
    assert encoder_loss("ce-mixup", flat)(model, index).item() == pytest.approx(plain.item(), rel=1e-5)
    assert encoder_loss("logit-adjusted", flat)(model, index).item() == pytest.approx(adjusted.item(), rel=1e-5)
    assert abs(plain - adjusted) > 1e-2


def test_unknown_methods_are_refused(data):
    with pytest.raises(CourseError, match="Unknown method 'label-shift'.*ce, ce-mixup, logit-adjusted, wcdas"):
        encoder_loss("label-shift", data)
    with pytest.raises(CourseError, match="Unknown method"):
        train_encoder(data, "mixup", epochs=1)


def test_build_encoder_normalises_by_the_data_and_repeats_with_its_seed(data):
    first, again, other = build_encoder(data, seed=3), build_encoder(data, seed=3), build_encoder(data, seed=4)
    pixels = data.train_images.double() / 255
    assert first.mean.item() == pytest.approx(pixels.mean().item(), rel=1e-6)
    assert first.std.item() == pytest.approx(pixels.std().item(), rel=1e-6)
    assert torch.equal(first.conv1.weight, again.conv1.weight) and not torch.equal(
        first.conv1.weight, other.conv1.weight
    )


def test_an_encoder_learns_and_is_loaded_the_next_time(data, tmp_path, capsys):
    options = dict(epochs=6, width=4, batch=32, checkpoint=tmp_path / "ce.safetensors")
    model = train_encoder(data, "ce", **options)
    assert not model.training
    right = model(data.test_images / 255).argmax(1) == data.test_labels
    assert right.double().mean() > 0.8
    again = train_encoder(data, "ce", **options)
    assert all(
        torch.equal(one, two) for one, two in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    with pytest.raises(CourseError, match="another training"):
        train_encoder(data, "ce", **options | dict(rate=0.01))
    with pytest.raises(CourseError, match="extra entry 'head.bias'"):
        train_encoder(data, "wcdas", **options)
    told = capsys.readouterr()
    assert "ce, seed 0" in told.out and not told.err


def test_the_judge_is_plain_cross_entropy_with_a_seed_of_its_own(data, monkeypatch):
    asked = {}
    monkeypatch.setattr(recipes, "train_encoder", lambda data, method, **options: asked.update(options, method=method))
    train_judge(data)
    assert asked["method"] == "ce" and asked["seed"] == 1000 and asked["label"] == "judge"


def test_image_diffusion_learns_resumes_and_gives_its_average(data, tmp_path, monkeypatch):
    options = dict(steps=12, width=8, blocks=1, batch=16, checkpoint=tmp_path / "ddpm.safetensors")
    seen = []
    keep = recipes.track

    def watch(loop, label):
        for step in keep(loop, label):
            seen.append(step)
            yield step

    monkeypatch.setattr(recipes, "track", watch)
    model = train_image_diffusion(data, cosine_schedule(100), **options)
    losses = seen[-1].losses
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())
    assert losses.isfinite().all() and losses[-4:].mean() < losses[:4].mean()
    again = train_image_diffusion(data, cosine_schedule(100), **options)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    other = train_image_diffusion(data, cosine_schedule(100), **options | dict(checkpoint=None, seed=1))
    assert not torch.equal(other.stem.weight, model.stem.weight)
    with pytest.raises(CourseError, match="Unknown objective 'noise'"):
        train_image_diffusion(data, cosine_schedule(100), **options | dict(checkpoint=None, objective="noise"))
