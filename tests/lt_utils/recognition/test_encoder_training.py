"""Recipes: each trains what it says, resumes, gives back a finished network, and refuses unknown methods."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
import yaml

from lt_utils.data import augmentation
from lt_utils.data.augmentation import to_bytes, to_signed
from lt_utils.diffusion import image_diffusion
from lt_utils.diffusion.image_diffusion import train_image_diffusion
from lt_utils.diffusion.schedules import cosine_schedule, linear_schedule
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY
from lt_utils.models.heads import LinearHead, SharpCosineHead, WCDASHead
from lt_utils.recognition import encoders, losses
from lt_utils.recognition.encoders import METHODS, RECIPES, build_encoder, encoder_loss, train_encoder, train_judge
from lt_utils.recognition.sampling import class_aware_order
from lt_utils.recognition.two_stage import HEAD_RECIPE, finetune_head
from lt_utils.runs.parameters import declared, notebook_path
from lt_utils.training import checkpoints, devices, loop
from lt_utils.training.lr_schedules import multistep

pytestmark = pytest.mark.usefixtures("on_the_cpu")


def test_signed_and_bytes_are_inverse():
    images = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    signed = to_signed(images)
    assert signed.min() == -1 and signed.max() == 1 and signed.dtype == torch.float32
    assert torch.equal(to_bytes(signed), images)
    assert to_bytes(torch.tensor([-3.0, 3.0, 0.0])).tolist() == [0, 255, 128]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_loss_and_its_head(method, data):
    model = build_encoder(data, method, width=4)
    heads = {"wcdas": WCDASHead, "ldam": SharpCosineHead, "ldam-drw": SharpCosineHead}
    assert type(model.head) is heads.get(method, LinearHead)
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
    options = dict(epochs=6, width=4, batch_size=32, checkpoint=tmp_path / "ce.safetensors")
    model = train_encoder(data, "ce", **options)
    assert not model.training
    right = model(data.test_images / 255).argmax(1) == data.test_labels
    assert right.double().mean() > 0.8
    again = train_encoder(data, "ce", **options)
    assert all(
        torch.equal(one, two) for one, two in zip(model.state_dict().values(), again.state_dict().values(), strict=True)
    )
    with pytest.raises(CourseError, match="another training"):
        train_encoder(data, "ce", **options | dict(lr=0.01))
    with pytest.raises(CourseError, match="another training .recipe"):
        train_encoder(data, "wcdas", **options)
    told = capsys.readouterr()
    assert "ce, seed 0" in told.out and not told.err


def weights(model):
    return torch.cat([value.flatten().float() for value in model.state_dict().values()])


def last_facts(path):
    return checkpoints.load(path)[1]


def test_ldmlrs_recipe_makes_the_same_draws_for_ever(data, tmp_path):
    """A second writing of CE with mixup, step by step: long trainings under way must go on exactly as they began."""
    model = build_encoder(data, "ce-mixup", depth=8, width=4, seed=5)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    found = []
    model.train()
    for k in range(4):  # two epochs of two steps
        torch.manual_seed(5 * 10_000_019 + k)
        order = torch.randperm(90, generator=torch.Generator().manual_seed(5 * 10_000_019 + k // 2))
        index = order[:64] if k % 2 == 0 else order[64:]
        optimizer.param_groups[0]["lr"] = 0.1 * (1.0, 1.0, 0.1, 0.01)[k]
        with devices.autocast(torch.device("cpu")):
            images = augmentation.unit(augmentation.random_crop_flip(data.train_images[index], 1))
            weight = float(torch.distributions.Beta(0.5, 0.5).sample())
            partner = torch.randperm(len(index))
            z, y = model(torch.lerp(images[partner], images, weight)), data.train_labels[index]
            loss = weight * F.cross_entropy(z, y) + (1 - weight) * F.cross_entropy(z, y[partner])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    path = tmp_path / "ce.safetensors"
    trained = train_encoder(data, "ce-mixup", epochs=2, width=4, seed=5, lr_schedule=multistep, checkpoint=path)
    tensors, facts = checkpoints.load(path)
    assert tensors["losses"].tolist() == found and torch.equal(weights(trained), weights(model))
    facts = {name: value for name, value in facts.items() if name not in ("seconds", *checkpoints.NOTED_LATER)}
    assert facts.pop("recipe") == f"ce-mixup, augment weak, alpha 0.5, nesterov True, {data.key}"
    assert facts == dict(
        model="ResNet", n=90, steps=4, batch_size=64, seed=5, optimizer="SGD", lr=[0.1], weight_decay=[5e-4],
        lr_schedule="multistep", grad_clip=None, ema_decay=None, step=4,
    )  # fmt: skip


OPTIONS = [
    dict(augment="autoaugment"),
    dict(augment="strong"),
    dict(alpha=0.0),
    dict(alpha=0.2),
    dict(nesterov=False),
]


@pytest.mark.parametrize("option", OPTIONS, ids=str)
def test_each_option_changes_the_training_and_its_checkpoint(option, data, tmp_path):
    plain = dict(epochs=1, width=4, batch_size=32, checkpoint=tmp_path / "a.safetensors")
    usual = weights(train_encoder(data, "ce-mixup", **plain))
    changed = plain | option | dict(checkpoint=tmp_path / "b.safetensors")
    one = weights(train_encoder(data, "ce-mixup", **changed))
    two = weights(train_encoder(data, "ce-mixup", **changed | dict(checkpoint=None)))
    assert torch.equal(one, two) and not torch.equal(one, usual)
    with pytest.raises(CourseError, match="another training.*recipe"):
        train_encoder(data, "ce-mixup", **plain | option)
    with pytest.raises(CourseError, match="another training.*recipe"):
        train_encoder(data, "ce-mixup", **plain | dict(checkpoint=changed["checkpoint"]))


def test_a_resumed_training_with_options_is_the_uninterrupted_one(data, tmp_path, interrupted):
    options = dict(epochs=2, width=4, batch_size=32, augment="autoaugment", alpha=0.5, nesterov=False)
    whole = train_encoder(data, "logit-adjusted", **options)
    options["checkpoint"] = tmp_path / "x.safetensors"
    interrupted(2, lambda: train_encoder(data, "logit-adjusted", **options))
    assert last_facts(options["checkpoint"])["step"] == 2
    assert torch.equal(weights(train_encoder(data, "logit-adjusted", **options)), weights(whole))


@pytest.mark.parametrize("method", ["ce", "ce-mixup", "logit-adjusted"])
def test_without_a_partner_soft_labels_are_the_loss_of_hard_ones(method, data, monkeypatch):
    """lambda = 1: the mixed loss is the plain one of the same method, for logit adjustment logit_adjusted_loss."""
    monkeypatch.setattr(encoders, "mixup", lambda x, alpha: (x, torch.arange(len(x)).flip(0), 1.0))
    flat = replace(data, train_images=torch.zeros_like(data.train_images))
    model, index = build_encoder(data, "ce", width=4, seed=1).eval(), torch.arange(90)
    logits = model(torch.zeros(90, 1, 8, 8))
    hard = F.cross_entropy(logits, data.train_labels)
    if method == "logit-adjusted":
        hard = losses.logit_adjusted_loss(logits, data.train_labels, data.counts)
    assert encoder_loss(method, flat, alpha=0.5)(model, index).item() == pytest.approx(hard.item(), rel=1e-6)


def test_mixed_logit_adjustment_is_soft_label_cross_entropy_of_adjusted_logits(data, monkeypatch):
    partner, weight = torch.randperm(90, generator=torch.Generator().manual_seed(3)), 0.3
    monkeypatch.setattr(encoders, "mixup", lambda x, alpha: (x, partner, weight))
    flat = replace(data, train_images=torch.zeros_like(data.train_images))
    model = build_encoder(data, "ce", width=4, seed=1).eval()
    one_hot = F.one_hot(data.train_labels, 3).float()
    logits = model(torch.zeros(90, 1, 8, 8)) + torch.tensor([60, 24, 6]).div(90).log()
    soft = F.cross_entropy(logits, weight * one_hot + (1 - weight) * one_hot[partner])
    assert encoder_loss("logit-adjusted", flat, alpha=1.0)(model, torch.arange(90)).item() == pytest.approx(
        soft.item(), rel=1e-5
    )


def test_augmentation_and_mixup_are_those_asked_for(data, monkeypatch):
    seen = []
    for name in augmentation.AUGMENTATIONS:

        def view(images, pad, name=name):
            seen.append((name, pad))
            return images

        monkeypatch.setitem(augmentation.AUGMENTATIONS, name, view)
    monkeypatch.setattr(encoders, "mixup", lambda x, alpha: seen.append(alpha) or (x, torch.arange(len(x)), 1.0))
    model, index = build_encoder(data, "ce", width=4), torch.arange(4)
    for options in (dict(), dict(augment="autoaugment"), dict(augment="strong", alpha=0.2), dict(alpha=0)):
        for method in ("ce", "ce-mixup"):
            encoder_loss(method, data, 2, **options)(model, index)
    assert seen == [
        ("weak", 2), ("weak", 2), 0.5, ("autoaugment", 2), ("autoaugment", 2), 0.5,
        ("strong", 2), 0.2, ("strong", 2), 0.2, ("weak", 2), ("weak", 2),
    ]  # fmt: skip
    with pytest.raises(CourseError, match="Unknown augmentation 'cutmix'.*weak, autoaugment, strong"):
        encoder_loss("ce", data, augment="cutmix")
    with pytest.raises(CourseError, match="must be 0 .* or above, not -1"):
        encoder_loss("ce", data, alpha=-1)


# --------------------------------------------------------------------------------------------------- the second stage
def test_class_aware_order_visits_every_class_equally_and_every_image_in_turn():
    labels = torch.tensor([2] * 7 + [0] * 50 + [1] * 3)
    order = class_aware_order(labels, total=3 * 4 * 25, seed=1)
    drawn = labels[order]
    assert torch.bincount(drawn).tolist() == [100, 100, 100]
    visits = drawn.view(25, 3, 4)
    assert (visits == visits[:, :, :1]).all()  # four images of one class after the other
    assert (visits[:, :, 0].sort(1).values == torch.arange(3)).all()  # every round has every class
    assert len({tuple(row) for row in visits[:, :, 0].tolist()}) == 6  # in all orders
    for c, size in ((0, 50), (1, 3), (2, 7)):
        times = torch.bincount(order[drawn == c], minlength=60)[labels == c]
        assert times.min() == 100 // size and times.max() == math.ceil(100 / size)
    assert torch.equal(order, class_aware_order(labels, 300, seed=1))
    assert not torch.equal(order, class_aware_order(labels, 300, seed=2))
    assert len(class_aware_order(labels, 37)) == 37


def test_a_class_without_images_is_passed_over():
    assert class_aware_order(torch.tensor([0, 0, 3]), 16).sort().values.tolist()[8:] == [2] * 8


@pytest.fixture(scope="module")
def stage_one(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "device", lambda: torch.device("cpu"))
        return train_encoder(data, "wcdas", epochs=1, width=4, batch_size=32)


def test_the_second_stage_trains_the_head_alone(data, stage_one):
    before = {name: value.clone() for name, value in stage_one.state_dict().items()}
    tuned = finetune_head(stage_one, data, epochs=2, batch_size=32, lr=0.1)
    assert not tuned.training and all(weight.requires_grad for weight in tuned.parameters())
    for name, value in tuned.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("head."), name
    assert all(torch.equal(value, before[name]) for name, value in stage_one.state_dict().items())


def test_the_second_stage_sees_balanced_batches_and_resumes(data, stage_one, tmp_path, monkeypatch, interrupted):
    seen, keep = [], torch.nn.functional.cross_entropy

    def watch(logits, labels):
        seen.append(torch.bincount(labels, minlength=3).tolist())
        return keep(logits, labels)

    options = dict(epochs=2, batch_size=24, seed=3, checkpoint=tmp_path / "head.safetensors")
    with monkeypatch.context() as patch:
        patch.setattr(F, "cross_entropy", watch)
        whole = finetune_head(stage_one, data, **options | dict(checkpoint=None))
    assert seen == [[8, 8, 8]] * 6  # floor(90 / 24) = 3 steps an epoch
    interrupted(4, lambda: finetune_head(stage_one, data, **options))
    assert last_facts(options["checkpoint"])["step"] == 4
    assert torch.equal(weights(finetune_head(stage_one, data, **options)), weights(whole))
    with pytest.raises(CourseError, match="another training.*recipe"):
        finetune_head(stage_one, data, **options | dict(augment="weak"))


def test_the_second_stage_of_another_network_or_other_data_is_refused(data, stage_one, tmp_path):
    options = dict(epochs=1, batch_size=32, checkpoint=tmp_path / "head.safetensors")
    finetune_head(stage_one, data, **options)
    retrained = copy.deepcopy(stage_one)
    with torch.no_grad():
        retrained.conv1.weight.add_(0.1)
    darker = replace(data, train_images=data.train_images // 2)
    for model, images in ((retrained, data), (stage_one, darker)):
        with pytest.raises(CourseError, match="another training.*recipe"):
            finetune_head(model, images, **options)


@pytest.mark.parametrize("name", RECIPES)
def test_the_recipes_of_the_papers_train(name, data):
    quick = RECIPES[name] | dict(depth=8, width=4, epochs=1)
    assert RECIPES[name]["depth"] == 32 and not train_encoder(data, **quick).training


def test_the_full_scale_configurations_are_the_recipes():
    """config/*.yaml repeat them as parameters of notebook 03: they must stay the same numbers."""

    def given(name):
        text = (REPOSITORY / "config" / name).read_text(encoding="utf-8")
        return yaml.safe_load(text)["notebooks"]["03_encoders"]["parameters"]

    ce, wcdas, strong = RECIPES["ce"], RECIPES["wcdas"], RECIPES["strong"]
    names = dict(
        EPOCHS="epochs", BATCH="batch_size", RATE="lr", DECAY="weight_decay", AUGMENT="augment", NESTEROV="nesterov"
    )
    assert {f"WCDAS_{name}": wcdas[key] for name, key in names.items()}.items() <= given("cifar.yaml").items()
    assert given("cifar.yaml")["WCDAS_FINETUNE"] == HEAD_RECIPE["epochs"]
    assert given("cifar_strong.yaml")["STRONG_EPOCHS"] == strong["epochs"]
    for name in ("cifar.yaml", "cifar_strong.yaml"):
        assert {"EPOCHS": 200, "SCHEDULE": "multistep", "DEPTH": 32}.items() <= given(name).items()
    # What the notebook leaves at its defaults is LDMLR's.
    defaults = declared(notebook_path("03_encoders"))
    assert {names[name]: defaults[name] for name in ("BATCH", "RATE", "DECAY")}.items() <= ce.items()
    assert (ce["epochs"], ce["lr_schedule"], ce["depth"], wcdas["depth"], strong["depth"]) == (
        200,
        multistep,
        32,
        32,
        32,
    )


def test_the_judge_is_plain_cross_entropy_with_a_seed_of_its_own(data, monkeypatch):
    asked = {}
    monkeypatch.setattr(encoders, "train_encoder", lambda data, method, **options: asked.update(options, method=method))
    train_judge(data)
    assert asked["method"] == "ce" and asked["seed"] == 1000 and asked["title"] == "judge"


def test_image_diffusion_learns_resumes_and_gives_its_average(data, tmp_path, monkeypatch):
    options = dict(steps=12, width=8, blocks=1, batch_size=16, checkpoint=tmp_path / "ddpm.safetensors")
    seen = []
    keep = loop.track

    def watch(*arguments, **options):
        for step in keep(*arguments, **options):
            seen.append(step)
            yield step

    monkeypatch.setattr(loop, "track", watch)
    model = train_image_diffusion(data, cosine_schedule(100), **options)
    losses = seen[-1].losses
    assert not model.training and not any(weight.requires_grad for weight in model.parameters())
    assert losses.isfinite().all() and losses[-4:].mean() < losses[:4].mean()
    again = train_image_diffusion(data, cosine_schedule(100), **options)
    assert all(torch.equal(one, two) for one, two in zip(model.parameters(), again.parameters(), strict=True))
    other = train_image_diffusion(data, cosine_schedule(100), **options | dict(checkpoint=None, seed=1))
    assert not torch.equal(other.stem.weight, model.stem.weight)
    folded = train_image_diffusion(
        data, cosine_schedule(100), **options | dict(checkpoint=None, steps=1, mults=(1, 2), patch=2)
    )
    assert folded.config["patch"] == 2 and folded.stem.in_channels == 4 * model.stem.in_channels
    with pytest.raises(CourseError, match="Unknown objective 'noise'"):
        train_image_diffusion(data, cosine_schedule(100), **options | dict(checkpoint=None, objective="noise"))


def test_a_checkpoint_of_another_method_objective_schedule_or_data_is_refused(data, tmp_path):
    path = tmp_path / "ce.safetensors"
    train_encoder(data, "ce", epochs=1, width=4, checkpoint=path)
    other = replace(data, train_images=255 - data.train_images)
    for changed in ((data, "ce-mixup"), (data, "logit-adjusted"), (other, "ce")):
        with pytest.raises(CourseError, match="another training .recipe"):
            train_encoder(*changed, epochs=1, width=4, checkpoint=path)
    path, schedules = tmp_path / "ddpm.safetensors", (cosine_schedule(20), linear_schedule(20))
    small = dict(steps=1, width=8, mults=(1,), checkpoint=path)
    image_diffusion.train_image_diffusion(data, schedules[0], **small)
    for on, schedule, objective in (
        (data, schedules[1], "v"),
        (data, cosine_schedule(30), "v"),
        (data, schedules[0], "eps"),
        (other, schedules[0], "v"),
    ):
        with pytest.raises(CourseError, match="another training .recipe"):
            image_diffusion.train_image_diffusion(on, schedule, objective=objective, **small)
