"""Rules of a long tail in `train_encoder`: re-sampling, re-weighting, deferred, margins; and a start from another network."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lt_utils.errors import CourseError
from lt_utils.hashing import fingerprint
from lt_utils.models.heads import SharpCosineHead
from lt_utils.recognition import encoders
from lt_utils.recognition.encoders import METHODS, build_encoder, encoder_loss, encoder_recipe, train_encoder
from lt_utils.recognition.losses import class_weights
from lt_utils.recognition.sampling import deferred, in_order, resampled_order
from lt_utils.training import checkpoints
from lt_utils.training.loop import step_seed, train_to_end

pytestmark = pytest.mark.usefixtures("on_the_cpu")
COUNTS = [60, 24, 6]


def losses_of(path):
    return checkpoints.load(path)[0]["losses"]


# -------------------------------------------------------------------------------------------------------------------- re-sampling
@pytest.mark.parametrize("beta", [0, 0.9, 1])
def test_resampling_draws_each_class_as_often_as_its_images_and_their_weights_say(beta):
    labels = torch.tensor([2] * 7 + [0] * 50 + [1] * 3)
    order = resampled_order(labels, 60_000, beta, seed=1)
    n = torch.tensor([50.0, 3, 7])
    share = n * {0: torch.ones(3), 1: 1 / n}.get(beta, 0.1 / (1 - 0.9**n))
    drawn = torch.bincount(labels[order]) / 60_000
    assert drawn.tolist() == pytest.approx((share / share.sum()).tolist(), abs=0.008)  # 4 standard deviations
    within = torch.bincount(order, minlength=60)[labels == 0].double()
    assert within.std() < 1.5 * within.mean().sqrt()  # images of a class alike: Poisson
    assert torch.equal(order, resampled_order(labels, 60_000, beta, seed=1))
    assert not torch.equal(order, resampled_order(labels, 60_000, beta, seed=2))


def test_resampling_passes_over_a_class_without_images_and_refuses_a_wrong_beta():
    assert torch.bincount(torch.tensor([0, 0, 3])[resampled_order(torch.tensor([0, 0, 3]), 4000)])[3] > 1800
    with pytest.raises(CourseError, match="beta.*must be in 0..1, not 2"):
        resampled_order(torch.tensor([0, 1]), 4, beta=2)


def test_an_order_takes_the_place_of_the_loops_and_a_deferred_loss_comes_late():
    """Five steps of 4 of 18 images: the last batch of an epoch has 2."""
    seen, order = [], torch.arange(20).view(5, 4)
    model = torch.nn.Linear(1, 1)

    def note(name):
        def loss(model, index):
            seen.append((name, index.tolist()))
            return model.weight.sum()

        return loss

    loss = in_order(deferred(note("early"), note("late"), 3, seed=7), order, seed=7)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    train_to_end(model, loss, title="x", n=18, steps=5, batch_size=4, optimizer=optimizer, seed=7)
    expected = [order[k, : 2 if k == 4 else 4].tolist() for k in range(5)]
    assert seen == list(zip(["early"] * 3 + ["late"] * 2, expected, strict=True))


def test_rs_trains_on_balanced_batches(data, monkeypatch):
    seen, keep = [], F.cross_entropy
    monkeypatch.setattr(F, "cross_entropy", lambda z, y: seen.append(y) or keep(z, y))
    train_encoder(data, "rs", epochs=20, width=2, batch_size=60)
    assert [len(labels) for labels in seen] == [60, 30] * 20
    share = torch.bincount(torch.cat(seen)) / 1800
    assert share.tolist() == pytest.approx([1 / 3] * 3, abs=0.045)
    seen.clear()
    train_encoder(data, "ce", epochs=20, width=2, batch_size=60)
    assert torch.bincount(torch.cat(seen)).tolist() == [1200, 480, 120]


# -------------------------------------------------------------------------------------------------- weights and margins, and when
def by_hand(method, z, y):
    """The loss of a method on logits z, from torch alone; "late" as from 80 % of the training on."""
    margin = 15 * (torch.tensor(COUNTS).float() / 6) ** -0.25
    weights = class_weights(COUNTS)
    return {
        "rs": lambda: F.cross_entropy(z, y),
        "rw": lambda: F.cross_entropy(z, y, weight=weights),
        "drw": lambda: F.cross_entropy(z, y),
        "drw late": lambda: F.cross_entropy(z, y, weight=weights),
        "focal": lambda: ((1 - z.softmax(1)[range(len(y)), y]) * F.cross_entropy(z, y, reduction="none")).mean(),
        "ldam": lambda: F.cross_entropy(z - margin[y, None] * F.one_hot(y, 3), y),
        "ldam-drw": lambda: F.cross_entropy(z - margin[y, None] * F.one_hot(y, 3), y),
        "ldam-drw late": lambda: F.cross_entropy(z - margin[y, None] * F.one_hot(y, 3), y, weight=weights),
    }[method]()


@pytest.mark.parametrize("method", list(METHODS)[4:])
def test_the_new_methods_are_what_they_are_called_early_and_late(method, data):
    """On black images, which augmentation leaves as they are; step 79 of 100 is early, step 80 late."""
    flat = replace(data, train_images=torch.zeros_like(data.train_images))
    model, index = build_encoder(data, method, width=4, seed=1).eval(), torch.arange(90)
    loss, z = encoder_loss(method, flat, steps=100, batch_size=90, seed=3), model(torch.zeros(90, 1, 8, 8))
    for step, late in ((79, ""), (80, " late")):
        torch.manual_seed(step_seed(3, step))
        name = method + late if late and method.endswith("drw") else method
        y = data.train_labels
        if method == "rs":  # the labels that it draws
            y = y[resampled_order(y, 100 * 90, seed=3)[step * 90 : step * 90 + 90]]
        assert loss(model, index).item() == pytest.approx(by_hand(name, z, y).item(), rel=1e-5)


def test_ldam_has_a_cosine_head_of_scale_30_in_float32(data):
    model = build_encoder(data, "ldam", width=4)
    assert type(model.head) is SharpCosineHead and model.head.scale == 30 and model.config["head"] == "cosine-30"
    images = data.train_images / 255
    features = model.eval().features(images)
    expected = 30 * F.cosine_similarity(features[:, None], model.head.weight[None], dim=2)
    assert torch.allclose(model(images), expected, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        assert (model.head(features) - expected).abs().max() < 1e-4


def test_deferred_weights_change_the_last_fifth_alone_and_survive_an_interruption(data, tmp_path):
    for one, other in (("ce", "drw"), ("ldam", "ldam-drw")):
        options = dict(epochs=5, width=2, batch_size=45)  # 10 steps
        for method in (one, other):
            train_encoder(data, method, **options, checkpoint=tmp_path / f"{method}.safetensors")
        plain, late = (losses_of(tmp_path / f"{method}.safetensors") for method in (one, other))
        assert torch.equal(plain[:8], late[:8]) and (plain[8:] != late[8:]).all()


@pytest.mark.parametrize("method", list(METHODS)[4:])
def test_the_new_methods_learn_with_and_without_mixup_and_carry_their_name(method, data, tmp_path):
    path = tmp_path / "x.safetensors"
    model = train_encoder(data, method, epochs=8, width=4, batch_size=32, checkpoint=path)
    assert (model(data.test_images / 255).argmax(1) == data.test_labels).double().mean() > 0.7
    recipe = checkpoints.load(path)[1]["recipe"]
    assert recipe == f"{method}, augment weak, alpha 0, nesterov True, {data.key}"
    mixed = tmp_path / "mixed.safetensors"
    train_encoder(data, method, epochs=1, width=4, batch_size=32, alpha=0.5, checkpoint=mixed)
    assert losses_of(mixed).isfinite().all() and losses_of(mixed)[0] != losses_of(path)[0]


def test_a_class_without_images_is_refused_where_a_weight_is_needed(data):
    empty = replace(data, class_names=(*data.class_names, "none"))
    for method in ("rw", "drw", "ldam", "ldam-drw"):
        with pytest.raises(CourseError, match="Class 3 has no training image"):
            train_encoder(empty, method, epochs=1, width=2)
    assert not train_encoder(empty, "rs", epochs=1, width=2).training


# ------------------------------------------------------------------------------------------------- a start from another network
def test_fine_tuning_starts_from_the_body_of_another_network(data, tmp_path, monkeypatch):
    """Of a pretext task with four classes, trained on other images: its head is not taken, its statistics are."""
    pretext = replace(data, class_names=("0", "90", "180", "270"), train_images=255 - data.train_images)
    start = train_encoder(pretext, "ce", epochs=1, width=4, seed=5)
    began = {}
    with monkeypatch.context() as patch:
        patch.setattr(
            encoders, "train_to_end", lambda model, *_, **__: began.update(model.state_dict(), mean=model.mean)
        )
        train_encoder(data, "ce", epochs=1, width=4, seed=6, start=start)
    fresh = build_encoder(data, "ce", width=4, seed=6)
    assert torch.equal(began.pop("mean"), fresh.mean)  # the images to come decide how they are normalised
    for name, value in began.items():
        source = fresh if name.startswith("head.") else start
        assert torch.equal(value, source.state_dict()[name]), name

    options = dict(epochs=1, width=4, checkpoint=tmp_path / "tuned.safetensors")
    before = fingerprint(start)
    tuned = train_encoder(data, "ce", **options, start=start)
    assert fingerprint(start) == before and not torch.equal(tuned.conv1.weight, start.conv1.weight)
    assert train_encoder(data, "ce", **options, start=start).head.out_features == 3  # loaded, not refused
    recipe = checkpoints.load(options["checkpoint"])[1]["recipe"]
    assert recipe == f"ce, augment weak, alpha 0, nesterov True, {data.key}, from {fingerprint(start, 'head')[:12]}"
    moved = build_encoder(pretext, "ce", width=4)
    moved.load_state_dict(start.state_dict())
    moved.bn1.running_mean += 1
    for other in (dict(), dict(start=moved)):
        with pytest.raises(CourseError, match="another training.*recipe"):
            train_encoder(data, "ce", **options, **other)


def test_a_start_enters_the_recipe_of_a_card_only_if_there_is_one(data):
    start = build_encoder(data, "ce", width=4)
    plain, started = encoder_recipe(data, "rs", epochs=1), encoder_recipe(data, "rs", epochs=1, start=start)
    assert "start" not in plain and started == plain | {"start": fingerprint(start, "head")[:12]}


@pytest.mark.parametrize("other", [dict(depth=14), dict(width=8)])
def test_a_start_of_another_architecture_is_refused(other, data):
    start = build_encoder(data, "ce", **dict(depth=8, width=4) | other)
    with pytest.raises(CourseError, match="start has another architecture"):
        train_encoder(data, "ce", epochs=1, width=4, start=start)
    with pytest.raises(CourseError, match="start has another architecture"):
        train_encoder(data, "ce", epochs=1, width=4, start=torch.nn.Linear(2, 2))


def test_a_fingerprint_can_leave_out_the_head(data):
    model = build_encoder(data, "ce", width=4)
    whole, body = fingerprint(model), fingerprint(model, "head")
    with torch.no_grad():
        model.head.bias += 1
    assert fingerprint(model) != whole and fingerprint(model, "head") == body
    model.bn1.running_var += math.pi
    assert fingerprint(model, "head") != body
