"""Features and retraining: the counts rule, the sources, the scale of features, closed forms, the head's training."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lt_utils.data import datasets
from lt_utils.data.datasets import ImageData
from lt_utils.data.longtail import class_counts
from lt_utils.diffusion.feature_diffusion import GaussianDenoiser, Standardiser, load_generator, train_feature_diffusion
from lt_utils.diffusion.generate import sample
from lt_utils.diffusion.ldmlr import train_published
from lt_utils.diffusion.schedules import cosine_schedule
from lt_utils.errors import CourseError
from lt_utils.features.augmentation import (
    CONTROLS,
    MORE_CONTROLS,
    amounts_to_labels,
    class_gaussian,
    from_generator,
    index_thirds,
    mixed_with_head,
    ratio_amounts,
    repeated_real,
    topup_amounts,
    translated,
)
from lt_utils.features.encoding import Encoded, encode_data, encode_published, load_or_train
from lt_utils.features.retraining import result_rows, retrain_head
from lt_utils.features.statistics import class_means, class_spread, nearest_distance, relative_length, shared_covariance
from lt_utils.models.feature_denoisers import ResidualMLP
from lt_utils.models.heads import LinearHead
from lt_utils.models.resnet import ResNet
from lt_utils.recognition import encoders
from lt_utils.runs.folder import Run
from lt_utils.training import checkpoints

CIFAR10_LT10 = class_counts(5000, 10, 10)
CIFAR10_LT100 = class_counts(5000, 10, 100)
CIFAR100_LT10 = class_counts(500, 100, 10)
CIFAR100_LT100 = class_counts(500, 100, 100)


@pytest.fixture
def blobs():
    """Three Gaussian classes of 300, 60 and 8 features in four dimensions, with a test set and a linear head."""
    torch.manual_seed(0)
    counts, centre = [300, 60, 8], torch.tensor([[3.0, 0, 0, 1], [0, 3, 0, 1], [0, 0, 3, 1]])
    labels, test = amounts_to_labels(counts), amounts_to_labels([50] * 3)
    train = centre[labels] + torch.randn(len(labels), 4)
    held = centre[test] + torch.randn(len(test), 4)
    head = LinearHead(4, 3)
    return Encoded(train, labels, held, test, head(held).detach(), head, counts)


# ------------------------------------------------------------------------------------------------------------ how many
@pytest.mark.parametrize(
    ("counts", "totals"),
    [
        (CIFAR10_LT100, (2480, 2173, 252, 55)),
        (CIFAR10_LT10, (4085, 2837, 852, 396)),
        (CIFAR100_LT100, (2262, 1745, 352, 165)),
        (CIFAR100_LT10, (3912, 2374, 1051, 487)),
    ],
)
def test_the_published_rule_gives_the_published_totals(counts, totals):
    assert tuple(sum(ratio_amounts(counts, 0.2, group)) for group in ("all", "many", "medium", "few")) == totals


def test_groups_by_class_number_are_those_of_the_published_code():
    ten, hundred = index_thirds(10), index_thirds(100)
    assert [members[0] for members in ten.values()] == [0, 4, 7]
    assert [(members[0], members[-1]) for members in hundred.values()] == [(0, 33), (34, 66), (67, 99)]
    assert sum(ten.values(), []) == list(range(10))


def test_amounts_round_half_to_even_and_never_fall_below_five():
    assert ratio_amounts([65, 62, 10], 0.1) == [6, 6, 5]
    assert ratio_amounts([250, 50, 10], 0.2, "few", groups="counts") == [0, 0, 5]


@pytest.mark.parametrize(
    ("counts", "group", "groups", "others"),
    [
        ([250, 50, 30], "few", "counts", "all, many, medium"),
        ([250, 110, 10], "medium", "counts", "all, many, few"),
        ([250, 10], "medium", "thirds", "all, many, few"),
    ],
)
def test_a_group_without_a_class_is_refused_and_never_adds_nothing(counts, group, groups, others):
    with pytest.raises(CourseError, match=f"The group '{group}' has no class here.*: take one of {others}[.]"):
        ratio_amounts(counts, 0.2, group, groups)


def test_top_up_fills_every_class():
    assert topup_amounts([10, 7, 2]) == [0, 3, 8]
    assert topup_amounts([10, 7, 2], size=8) == [0, 1, 6]
    assert sum(topup_amounts(CIFAR10_LT100)) == 50_000 - 12_406


def test_wrong_group_rule_or_ratio_is_refused():
    with pytest.raises(CourseError, match="Unknown group 'tail'.*few"):
        ratio_amounts([10, 5], 0.2, "tail")
    with pytest.raises(CourseError, match="Unknown rule"):
        ratio_amounts([10, 5], 0.2, groups="index")
    with pytest.raises(CourseError, match="negative"):
        ratio_amounts([10, 5], -1)


# ------------------------------------------------------------------------------------------------------------- sources
@pytest.mark.parametrize("name", CONTROLS)
def test_a_source_gives_what_was_asked_for_and_depends_on_its_seed(name, blobs):
    source, amounts = CONTROLS[name], [0, 5, 40]
    features, labels = source(blobs.train, blobs.train_labels, amounts, seed=1)
    assert features.shape == (len(labels), 4)
    assert features.isfinite().all()
    if name == "No generation":
        assert len(features) == 0
        return
    assert torch.bincount(labels, minlength=3).tolist() == amounts
    again, other = (source(blobs.train, blobs.train_labels, amounts, seed=seed)[0] for seed in (1, 2))
    assert torch.equal(features, again)
    assert not torch.equal(features, other)


def test_resampled_features_are_real_ones_of_their_own_class_and_all_occur(blobs):
    shuffled = torch.randperm(len(blobs.train), generator=torch.Generator().manual_seed(0))
    real, real_labels = blobs.train[shuffled], blobs.train_labels[shuffled]
    features, labels = CONTROLS["Resampled real"](real, real_labels, [20, 20, 400], seed=0)
    for c in range(3):
        assert (nearest_distance(features[labels == c], real[real_labels == c]) < 1e-3).all()
    assert len(features[labels == 2].unique(dim=0)) == 8


def test_a_generator_is_a_source_that_repeats_beyond_its_limit():
    generator = SimpleNamespace(generate=lambda labels, seed, omega: labels[:, None] + torch.tensor([0.0, seed, omega]))
    features, labels = from_generator(generator, limit=3, omega=0.5)(torch.zeros(2, 3), None, [2, 7], seed=4)
    assert labels.tolist() == [0, 0] + [1] * 7
    assert torch.equal(features, labels[:, None] + torch.tensor([0.0, 4, 0.5]))
    unlimited, _ = from_generator(generator, omega=0.5)(torch.zeros(2, 3), None, [2, 7], seed=4)
    assert torch.equal(unlimited, features)


@pytest.mark.parametrize("amounts", [[0, 20, 400], [500, 0, 3]])
def test_repeated_features_all_occur_equally_often(amounts, blobs):
    shuffled = torch.randperm(len(blobs.train), generator=torch.Generator().manual_seed(0))
    real, real_labels = blobs.train[shuffled], blobs.train_labels[shuffled]
    features, labels = repeated_real(real, real_labels, amounts, seed=0)
    times = (features[:, None] == real[None]).all(2).sum(0)
    for c, amount in enumerate(amounts):
        own, each = times[real_labels == c], amount // int((real_labels == c).sum())
        assert own.sum() == amount == (labels == c).sum()
        assert own.min() >= each and own.max() <= each + 1


@pytest.mark.parametrize("name", [name for name in MORE_CONTROLS if name not in ("No generation", "Uniform noise")])
def test_taking_from_a_class_without_features_is_refused(name, blobs):
    source, few = MORE_CONTROLS[name], (blobs.train[:300], blobs.train_labels[:300])
    with pytest.raises(CourseError, match="Class 2 has no real feature"):
        source(*few, [0, 0, 5])
    assert source(*few, [5, 0, 0])[0].isfinite().all()  # one that is not asked for does no harm


@pytest.mark.parametrize("own", [0.0, 0.5, 1.0])
def test_class_gaussians_have_the_mean_and_covariance_they_promise(own, blobs):
    features, labels = class_gaussian(blobs.train, blobs.train_labels, [0, 60_000, 0], seed=0, own=own)
    real = blobs.train[blobs.train_labels == 1]
    pooled = shared_covariance(blobs.train, blobs.train_labels, 3)
    assert torch.allclose(features.mean(0), real.mean(0), atol=0.03)
    assert torch.allclose(features.T.cov(), (1 - own) * pooled + own * real.T.cov(), atol=0.05)


@pytest.mark.parametrize("directions", [1, 3])
def test_class_gaussians_of_collapsed_features_have_their_few_directions(directions):
    """512 dimensions that change along one or three directions alone: float32 has no Cholesky factor of their covariance."""
    torch.manual_seed(0)
    labels = amounts_to_labels([900, 100])
    basis = torch.linalg.qr(torch.randn(512, directions)).Q
    real = 3 + labels[:, None] + 20 * torch.randn(1000, directions) @ basis.T
    for name in ("Class Gaussian", "Own Gaussian", "Wide Gaussian"):
        made, _ = MORE_CONTROLS[name](real, labels, [0, 4000], seed=0)
        centred, width = made - real[labels == 1].mean(0), 1.5 if name == "Wide Gaussian" else 1
        assert made.dtype == torch.float32
        own = labels == 1 if name == "Own Gaussian" else labels >= 0
        spread = ((real - class_means(real, labels, 2)[labels])[own] @ basis).square().sum(1).mean().sqrt()
        assert (centred @ basis).square().sum(1).mean().sqrt() == pytest.approx(float(width * spread), rel=0.05), name
        assert (centred - centred @ basis @ basis.T).norm(dim=1).max() < 0.1 * spread, name


@pytest.mark.parametrize("name", ["Class Gaussian", "Own Gaussian", "Wide Gaussian"])
def test_a_gaussian_of_features_that_are_not_finite_is_refused(name, blobs):
    blobs.train[7, 2] = torch.nan
    with pytest.raises(CourseError, match="not finite numbers"):
        MORE_CONTROLS[name](blobs.train, blobs.train_labels, [0, 0, 5])


def test_a_wide_gaussian_is_wider_around_the_same_means(blobs):
    amounts = [0, 5, 900]
    usual, labels = class_gaussian(blobs.train, blobs.train_labels, amounts, seed=2)
    wide, same = MORE_CONTROLS["Wide Gaussian"](blobs.train, blobs.train_labels, amounts, seed=2)
    means = class_means(blobs.train, blobs.train_labels, 3)[labels]
    assert torch.equal(labels, same)
    torch.testing.assert_close(wide - means, 1.5 * (usual - means), atol=1e-5, rtol=1e-5)


def test_uniform_noise_fills_the_unit_cube():
    features, _ = CONTROLS["Uniform noise"](torch.zeros(2, 3), torch.tensor([0, 1]), [4000, 0], seed=0)
    assert 0 <= features.min() < 0.01 and 0.99 < features.max() <= 1
    assert torch.allclose(features.var(0), torch.full((3,), 1 / 12), atol=0.005)


# ---------------------------------------------------------------------------------------------------------- statistics
def test_standardiser_and_its_inverse():
    torch.manual_seed(0)
    features = torch.rand(500, 6) * torch.tensor([1.0, 10, 0.1, 5, 2, 0]) + 3
    scale = Standardiser.fit(features)
    x = scale(features)
    assert torch.allclose(x.mean(0), torch.zeros(6), atol=1e-4)
    assert torch.allclose(x[:, :5].std(0, correction=0), torch.ones(5), atol=1e-4)
    assert x.isfinite().all() and torch.allclose(scale.inverse(x), features, atol=1e-5)


def test_class_statistics_against_a_loop(blobs):
    means = class_means(blobs.train, blobs.train_labels, 3)
    spread = class_spread(blobs.train, blobs.train_labels, 3)
    for c in range(3):
        part = blobs.train[blobs.train_labels == c]
        assert torch.allclose(means[c], part.mean(0), atol=1e-5)
        assert torch.allclose(spread[c].square(), part.var(0, correction=0).sum(), rtol=1e-4)
    assert class_means(blobs.train, blobs.train_labels, 4)[3].isnan().all()


def test_relative_length_of_means_that_are_half_as_long():
    torch.manual_seed(0)
    reference = torch.randn(5, 8)
    centre = reference.mean(0)
    assert torch.allclose(relative_length(reference, reference), torch.ones(5), atol=1e-6)
    assert torch.allclose(relative_length(centre + (reference - centre) / 2, reference), torch.full((5,), 0.5))


def test_nearest_distance_leaves_out_the_feature_itself():
    points = torch.tensor([[0.0, 0], [3, 4], [0, 1]])
    assert nearest_distance(points, points).tolist() == [0, 0, 0]
    assert torch.allclose(nearest_distance(points, points, same=True), torch.tensor([1, 18**0.5, 1]))


# ----------------------------------------------------------------------------------------------------------- generator
def test_ddim_with_the_exact_denoiser_gives_the_gaussian_back():
    torch.manual_seed(0)
    mix = torch.randn(5, 5) / 2
    means, covariance = torch.randn(2, 5), mix @ mix.T + 0.1 * torch.eye(5)
    schedule = cosine_schedule()
    exact = GaussianDenoiser(means, covariance, schedule)
    drawn = sample(
        exact, schedule, torch.ones(20_000, dtype=torch.long), (5,), objective="x0", steps=200, batch_size=20_000
    )
    assert torch.allclose(drawn.mean(0), means[1], atol=0.04)
    assert torch.allclose(drawn.T.cov(), covariance, atol=0.06)


def test_a_trained_generator_places_its_classes_and_is_loaded_as_it_was(tmp_path, blobs):
    made = train_feature_diffusion(blobs.train, blobs.train_labels, 3, steps=250, width=48, blocks=2, batch_size=128)
    labels = amounts_to_labels([400, 400, 0])
    drawn = made.generate(labels, steps=20)
    means, real = class_means(drawn, labels, 3)[:2], class_means(blobs.train, blobs.train_labels, 3)[:2]
    assert (means - real).norm(dim=1).max() < 0.8  # the two classes are 4.2 apart
    assert (
        class_spread(drawn, labels, 3)[:2] / class_spread(blobs.train, blobs.train_labels, 3)[:2] - 1
    ).abs().max() < 0.3
    made.save(tmp_path / "generator.safetensors", seed=0)
    again = load_generator(tmp_path / "generator.safetensors")
    assert torch.allclose(again.generate(labels, steps=5, seed=3), made.generate(labels, steps=5, seed=3), atol=1e-5)
    assert made.generate(labels[:0]).shape == (0, 4)


@pytest.mark.parametrize("label", [-1, 3, 7])
def test_a_label_that_is_no_class_is_not_trained_as_no_label(label, blobs):
    blobs.train_labels[5] = label
    with pytest.raises(
        CourseError, match=f"{label}; with 3 classes they must be in 0 .. 2" if label > 0 else "run from -1 to 2"
    ):
        train_feature_diffusion(blobs.train, blobs.train_labels, 3, steps=1, width=8, blocks=1)


def test_in_bfloat16_a_generator_trains_and_draws_nearly_the_same(tmp_path, blobs):
    options = dict(steps=250, width=48, blocks=2, batch_size=128)
    made = train_feature_diffusion(blobs.train, blobs.train_labels, 3, **options, precision="bf16")
    labels = amounts_to_labels([400, 400, 0])
    drawn = made.generate(labels, steps=20)
    assert drawn.dtype == torch.float32
    made.save(tmp_path / "generator.safetensors")
    assert torch.equal(load_generator(tmp_path / "generator.safetensors").generate(labels, steps=20), drawn)
    plainly = replace(made, precision="fp32").generate(labels, steps=20)
    assert 0 < (drawn - plainly).norm(dim=1).median() < 0.1  # the two classes are 4.2 apart
    real = class_means(blobs.train, blobs.train_labels, 3)[:2]
    assert (class_means(drawn, labels, 3)[:2] - real).norm(dim=1).max() < 0.8


def test_feature_training_goes_on_from_its_checkpoint(tmp_path, blobs):
    options = dict(steps=12, width=16, blocks=1, batch_size=64, checkpoint=tmp_path / "g.safetensors")
    first = train_feature_diffusion(blobs.train, blobs.train_labels, 3, **options)
    second = train_feature_diffusion(blobs.train, blobs.train_labels, 3, **options)
    for one, other in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("train", "size"), [(train_feature_diffusion, {"blocks": 1}), (train_published, {"mults": (1, 2)})]
)
def test_a_checkpoint_of_other_features_or_labels_is_refused(train, size, tmp_path, blobs):
    options = dict(steps=2, width=16, batch_size=64, checkpoint=tmp_path / "g.safetensors") | size
    train(blobs.train, blobs.train_labels, 3, **options)
    for features, labels in ((blobs.train + 1, blobs.train_labels), (blobs.train, 2 - blobs.train_labels)):
        with pytest.raises(CourseError, match="another training.*features"):
            train(features, labels, 3, **options)


def weights_of(blobs, labels=None, **options):
    """All weights of a generator after one short training on `blobs`, in a row."""
    options = dict(steps=3, width=16, blocks=1, batch_size=64) | options
    made = train_feature_diffusion(blobs.train, blobs.train_labels if labels is None else labels, 3, **options)
    return torch.cat([weight.flatten() for weight in made.model.parameters()])


def test_a_generator_holds_the_moving_average(blobs):
    """After one step the average, still warming up, is a tenth of the start and nine tenths of the last weights."""
    torch.manual_seed(0)
    start = torch.cat([weight.flatten() for weight in ResidualMLP(4, 3, 16, 1).parameters()])
    last = weights_of(blobs, steps=1, ema_decay=0.0)
    assert (last - start).abs().max() > 5e-4
    torch.testing.assert_close(weights_of(blobs, steps=1), 0.1 * start + 0.9 * last, atol=1e-6, rtol=0)


def test_label_dropout_hides_labels_from_the_training(blobs):
    """With every label dropped other labels train the same network; with none dropped, or the usual tenth, another one."""
    others = 2 - blobs.train_labels
    none, tenth, every = (weights_of(blobs, label_dropout=share) for share in (0.0, 0.1, 1.0))
    assert torch.equal(weights_of(blobs, others, label_dropout=1.0), every)
    assert not torch.allclose(weights_of(blobs, others, label_dropout=0.0), none, atol=1e-5)
    assert not torch.allclose(none, tenth, atol=1e-5) and not torch.allclose(tenth, every, atol=1e-5)


def test_guidance_drives_the_classes_of_a_generator_apart(blobs):
    made = train_feature_diffusion(blobs.train, blobs.train_labels, 3, steps=150, width=48, blocks=2, batch_size=128)
    labels = amounts_to_labels([200, 200, 0])
    apart = []
    for omega in (0.0, 1.0, 3.0):
        means = class_means(made.generate(labels, omega=omega, steps=10), labels, 3)
        apart.append((means[0] - means[1]).norm().item())
    assert apart[0] + 0.2 < apart[1] < apart[2] - 0.2, apart


def test_a_denoiser_without_scale_is_refused(tmp_path):
    checkpoints.save_model(tmp_path / "bare.safetensors", ResidualMLP(4, 3, 8, 1))
    with pytest.raises(CourseError, match="without the scale"):
        load_generator(tmp_path / "bare.safetensors")


# ---------------------------------------------------------------------------------------------------------- retraining
def test_retraining_starts_from_the_encoders_head_and_leaves_it_alone(blobs):
    before = blobs.head.weight.clone()
    still = retrain_head(blobs, blobs.train[:0], blobs.train_labels[:0], epochs=1, lr=0.0)
    moved = retrain_head(blobs, blobs.train[:0], blobs.train_labels[:0], epochs=150, batch_size=64, lr=1e-2)
    assert torch.equal(blobs.head.weight, before) and torch.equal(still.head.weight, before)
    assert moved.plain[-1] > 85 > still.plain[0]
    assert len(moved.plain) == len(moved.shifted) == 150


def test_retraining_equals_a_plain_loop_in_one_batch(blobs):
    """With all features in one batch the order does not matter: compare with Adam written out."""
    result = retrain_head(blobs, blobs.train[:0], blobs.train_labels[:0], epochs=3, batch_size=10_000)
    head = nn.Linear(4, 3)
    head.load_state_dict(blobs.head.state_dict())
    first, second = [torch.zeros_like(p) for p in head.parameters()], [torch.zeros_like(p) for p in head.parameters()]
    for k in range(1, 4):
        loss = nn.functional.cross_entropy(head(blobs.train), blobs.train_labels)
        gradients = torch.autograd.grad(loss, list(head.parameters()))
        with torch.no_grad():
            for p, gradient, m, v in zip(head.parameters(), gradients, first, second, strict=True):
                gradient = gradient + 1e-5 * p
                m.mul_(0.9).add_(0.1 * gradient)
                v.mul_(0.999).add_(0.001 * gradient.square())
                p -= 1e-3 * (m / (1 - 0.9**k)) / ((v / (1 - 0.999**k)).sqrt() + 1e-8)
    assert torch.allclose(result.head.weight, head.weight, atol=1e-5)


def test_added_features_are_trained_on_with_their_labels(blobs):
    """Many features of class 2 where class 0 lives, and of class 1 where class 2 lives, turn the head at both places."""
    places = torch.tensor([[3.0, 0, 0, 1], [0, 0, 3, 1]])
    added = (places.repeat_interleave(1000, dim=0), torch.tensor([2, 1]).repeat_interleave(1000))
    options = dict(epochs=40, batch_size=512, lr=0.03)
    without = retrain_head(blobs, blobs.train[:0], blobs.train_labels[:0], **options).head(places)
    with_added = retrain_head(blobs, *added, **options).head(places)
    assert without.argmax(1).tolist() == [0, 2]
    assert with_added.argmax(1).tolist() == [2, 1]


def test_the_seed_decides_the_result(blobs):
    added = CONTROLS["Resampled real"](blobs.train, blobs.train_labels, [0, 0, 50])
    first, again, other = (
        retrain_head(blobs, *added, epochs=2, batch_size=64, seed=seed).head.weight for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_rows_report_the_last_epoch_and_beside_it_the_best(blobs):
    result = retrain_head(blobs, blobs.train[:0], blobs.train_labels[:0], epochs=5, batch_size=64, lr=0.05)
    plain, shifted = result_rows(result, blobs, method="No generation", seed=0)
    assert (plain["test"], shifted["test"]) == ("plain", "label shift")
    assert plain["accuracy"] == pytest.approx(result.plain[-1], abs=0.01)
    assert shifted["accuracy"] == pytest.approx(result.shifted[-1], abs=0.01)
    assert plain["best_test_epoch"] == pytest.approx(max(result.plain), abs=0.01)
    assert {"method", "seed", "accuracy", "many", "medium", "few", "ece"} <= plain.keys()


def test_encoding_a_data_set(blobs):
    data = datasets.load().long_tailed(counts=[12, 10, 8, 8, 6, 6, 4, 4, 2, 2])
    torch.manual_seed(0)
    model = ResNet(10, 1, 8, 4, mean=(0.3,), std=(0.35,)).eval()
    encoded = encode_data(model, data)
    assert encoded.train.shape == (62, 16) and (encoded.train >= 0).all()
    assert encoded.counts == data.counts and encoded.dim == 16 and encoded.num_classes == 10
    assert torch.allclose(encoded.head(encoded.test), encoded.test_logits, atol=1e-5)
    assert encode_data(model, data).key == encoded.key != blobs.key


@pytest.mark.parametrize("classes", [10, 100], ids=["ten", "hundred"])
def test_a_published_encoder_gets_the_images_as_they_are(classes, monkeypatch, tmp_path):
    """Images of pure red: what reaches the network, in training and in test, and what is kept with the features."""
    model, shown = ResNet(classes, 3, 8, 4).eval(), []
    model.features = lambda images: shown.append(images) or torch.zeros(len(images), 16)
    monkeypatch.setattr("lt_utils.features.encoding.load_published_ldmlr", lambda *_: model)
    monkeypatch.setattr("lt_utils.features.encoding.device", lambda: torch.device("cpu"))
    red = torch.zeros(classes, 3, 8, 8, dtype=torch.uint8)
    red[:, 0] = 255
    labels = torch.arange(classes)
    data = ImageData("red", red, labels, red[:5], labels[:5], tuple(str(c) for c in range(classes)))
    encoded = encode_published(tmp_path / "weights.npz", data)
    assert [len(images) for images in shown] == [classes, 5]
    for images in (*shown, encoded.images.train_images / 255, encoded.images.test_images / 255):
        assert torch.equal(images, torch.tensor([1.0, 0, 0])[:, None, None].expand_as(images))


def test_where_an_encoder_came_from_is_told(tmp_path, monkeypatch):
    data = datasets.load().long_tailed(counts=[2] * 10)
    data = data.split(torch.arange(10), torch.arange(10, 20), "few")
    model = ResNet(10, 1, 8, 4, mean=(0.3,), std=(0.35,)).eval()
    monkeypatch.setattr(encoders, "train_encoder", lambda *_, **__: model)
    monkeypatch.setattr(encoders, "pretrained_encoder", lambda *_, **__: None)
    monkeypatch.setenv("LT_RUNS", str(tmp_path))
    assert load_or_train(data, 3)[1].endswith("trained here for 20 epochs: no run of notebook 03 was found")
    assert load_or_train(data, 3, method="logit-adjusted")[1].endswith("trained here for 20 epochs by logit-adjusted")
    earlier = Run(tmp_path / "lab" / "mine", "03_encoders", {})
    checkpoints.save_model(earlier.checkpoint("encoder-ce-seed0"), model)
    assert load_or_train(data, 0, earlier=earlier)[1] == "encoder of seed 0 loaded from lab/mine"
    told = load_or_train(data, 3, earlier=earlier)[1]
    assert told == "encoder of seed 3 trained here for 20 epochs: lab/mine holds no CE encoder of this seed"


def test_an_encoder_that_comes_with_the_course_is_taken_where_the_recipe_is_the_same():
    told = load_or_train(datasets.load().long_tailed(100), 2, epochs=15)[1]
    assert told == "encoder of seed 2: ce-seed2, which comes with the course"
    assert (
        encoders.pretrained_encoder(datasets.load().long_tailed(100), "logit-adjusted", epochs=15, depth=8, seed=2)
        is None
    )


# ------------------------------------------------------------------------------------------------------ more controls
def test_translated_features_carry_the_spread_of_larger_classes_around_the_own_mean(blobs):
    features, labels = blobs.train, blobs.train_labels
    added, added_labels = translated(features, labels, [0, 0, 4000], seed=1)
    means = class_means(features, labels, 3)
    assert torch.equal(added_labels, torch.full((4000,), 2))
    torch.testing.assert_close(added.mean(0), means[2], atol=0.08, rtol=0)
    # Each shift is that of a real feature of class 0 or 1 from its mean, exactly, and both classes lend some.
    shifts = added[:200] - means[2]
    lent = torch.cat([features[labels == c] - means[c] for c in (0, 1)])
    distance, at = torch.cdist(shifts, lent, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert distance.max() < 1e-4
    assert 0.3 < (at < 300).double().mean() < 0.7


def test_every_feature_of_a_head_class_displaced_once_gives_its_covariance_around_the_tails_mean():
    """f' = mean_tail + (f - mean_head) over all f of the head: exactly the tail's mean and the head's covariance."""
    generator = torch.Generator().manual_seed(4)
    head = 3 + torch.randn(30, 5, generator=generator, dtype=torch.float64) @ torch.diag(torch.arange(1.0, 6).double())
    tail = torch.randn(4, 5, generator=generator, dtype=torch.float64) - 2
    labels = torch.tensor([0] * 30 + [1] * 4)
    added, added_labels = translated(torch.cat([head, tail]), labels, [0, 2000], seed=0)
    centre, own = tail.mean(0), head - head.mean(0)
    distance, donor = torch.cdist(added - centre, own, compute_mode="donot_use_mm_for_euclid_dist").min(1)
    assert (added_labels == 1).all() and distance.max() < 1e-6
    first = torch.stack([added[donor == i][0] for i in range(30)])  # 2,000 draws have every donor; each is taken once
    torch.testing.assert_close(first.mean(0), centre, atol=1e-6, rtol=0)
    torch.testing.assert_close(first.T.cov(), head.T.cov(), atol=1e-5, rtol=0)
    assert not torch.allclose(first.T.cov(), tail.T.cov(), atol=1)


def test_the_largest_class_lends_to_itself(blobs):
    added, _ = translated(blobs.train, blobs.train_labels, [50, 0, 0], seed=0)
    own = blobs.train[blobs.train_labels == 0]
    assert torch.cdist(added, own, compute_mode="donot_use_mm_for_euclid_dist").min(1).values.max() < 1e-4


def test_mixing_lies_between_an_own_feature_and_one_of_a_larger_class(blobs):
    features, labels = blobs.train, blobs.train_labels
    added, added_labels = mixed_with_head(features, labels, [0, 500, 500], seed=3)
    assert torch.equal(added_labels.bincount(), torch.tensor([0, 500, 500]))
    means = class_means(features, labels, 3)
    made = class_means(added, added_labels, 3)
    # E[s] = 3/4: class 1 borrows from class 0 alone, class 2 from both alike.
    torch.testing.assert_close(made[1], 0.75 * means[1] + 0.25 * means[0], atol=0.15, rtol=0)
    torch.testing.assert_close(made[2], 0.75 * means[2] + 0.125 * (means[0] + means[1]), atol=0.25, rtol=0)


def test_every_control_keeps_to_its_amounts_and_its_seed(blobs):
    for name, source in MORE_CONTROLS.items():
        amounts = [3, 0, 7]
        first, again, other = (source(blobs.train, blobs.train_labels, amounts, seed=s) for s in (0, 0, 1))
        wanted = [] if name == "No generation" else [0] * 3 + [2] * 7
        assert first[1].tolist() == wanted, name
        assert torch.equal(first[0], again[0]), name
        assert not wanted or not torch.equal(first[0], other[0]), name
