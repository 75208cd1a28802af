"""Cross-fitting: what a fold holds, ratios and corrections in closed form, and an encoder fed with added features."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from experiments.feature_gap import crossfit, joint_training
from experiments.feature_gap.crossfit import (
    Ratios,
    corrected,
    corrected_views,
    fold_encoders,
    fold_of,
    unseen_ratios,
    widening,
)
from lt_utils.data import datasets
from lt_utils.errors import CourseError
from lt_utils.features.augmentation import amounts_to_labels, class_gaussian, resampled_real
from lt_utils.features.encoding import Encoded
from lt_utils.features.statistics import class_means
from lt_utils.features.views import Views
from lt_utils.models.heads import LinearHead
from lt_utils.models.resnet import encode
from lt_utils.recognition.encoders import build_encoder, encoder_loss, train_encoder
from lt_utils.training import checkpoints, loop

COUNTS = [160, 120, 60, 30, 12, 9]  # two classes of each group


@pytest.fixture(scope="module")
def tiny() -> datasets.ImageData:
    """A hundred bundled images, 10 x 10 pixels of each, in a long tail."""
    data = datasets.load().long_tailed(counts=[26, 18, 14, 11, 9, 7, 6, 4, 3, 3])
    small = {name: getattr(data, name)[:, :, 9:19, 9:19] for name in ("train_images", "test_images")}
    return datasets.ImageData(**{**vars(data), **small})


def seen_features(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(seed)
    labels = amounts_to_labels(COUNTS)
    return 3 * torch.randn(6, 5)[labels] + torch.randn(len(labels), 5), labels


def as_fold(seen, seen_labels, unseen, unseen_labels) -> tuple[Views, Encoded]:
    views = Views(seen[None], seen_labels, seen_labels[None], torch.ones(1, len(seen)))
    head = LinearHead(5, 6)
    return views, Encoded(seen, seen_labels, unseen, unseen_labels, unseen[:, :6], head, COUNTS)


# --------------------------------------------------------------------------------------------------------------- folds
@pytest.mark.parametrize("folds", [2, 3, 5])
def test_every_fold_holds_out_its_share_of_every_class(folds):
    labels = amounts_to_labels([100, 31, 10, 5])[torch.randperm(146, generator=torch.Generator().manual_seed(1))]
    fold = fold_of(labels, folds)
    for c, n in enumerate((100, 31, 10, 5)):
        held = torch.bincount(fold[labels == c], minlength=folds)
        assert held.min() == n // folds and held.max() == -(-n // folds)
    assert torch.equal(fold, fold_of(labels, folds)) and not torch.equal(fold, fold_of(labels, folds, seed=1))


@pytest.mark.parametrize(("counts", "folds", "said"), [([9, 2], 3, "Class 1 has 2 images"), ([9, 9], 1, "at least 2")])
def test_folds_that_cannot_be_are_refused(counts, folds, said):
    with pytest.raises(CourseError, match=said):
        fold_of(amounts_to_labels(counts), folds)


def test_fold_encoders_have_not_seen_what_they_hold_and_never_the_test_set(tiny, tmp_path, monkeypatch):
    given = []

    def untrained(data, method, *, seed, checkpoint, title, depth):
        given.append((data, checkpoint))
        return build_encoder(data, method, depth, 4, seed).eval()

    monkeypatch.setattr(crossfit, "train_encoder", untrained)
    found = fold_encoders(tiny, 3, folder=tmp_path, depth=8)
    fold = fold_of(tiny.train_labels, 3)
    for k, (one, (data, _)) in enumerate(zip(found, given, strict=True)):
        assert torch.equal(data.train_images, tiny.train_images[fold != k])
        assert torch.equal(data.test_images, tiny.train_images[fold == k])
        assert torch.equal(one.test_labels, tiny.train_labels[fold == k]) and len(one.test) == len(one.test_labels)
        assert sum(one.counts) == int((fold != k).sum()) and min(one.counts) >= 2
    assert len({path for _, path in given}) == 3


# -------------------------------------------------------------------------------------------------------------- ratios
def test_ratios_and_correction_undo_a_known_change():
    """Unseen features made from seen ones by a shorter mean and a wider spread, another for each group: exactly found
    again, and the correction leads from the seen to the unseen."""
    length = torch.tensor([0.9, 0.9, 0.7, 0.7, 0.5, 0.5])
    spread = torch.tensor([1.1, 1.1, 1.4, 1.4, 2.0, 2.0])
    folds = []
    for k in range(3):
        seen, labels = seen_features(k)
        m = class_means(seen, labels, 6)
        unseen = (m.mean(0) + length[:, None] * (m - m.mean(0)))[labels] + spread[labels, None] * (seen - m[labels])
        folds.append(as_fold(seen, labels, unseen, labels))
    ratios = unseen_ratios(folds, COUNTS)
    torch.testing.assert_close(ratios.length, length, atol=1e-5, rtol=0)
    torch.testing.assert_close(ratios.spread, spread, atol=1e-5, rtol=0)
    views, encoded = folds[0]
    torch.testing.assert_close(corrected_views(views, ratios).features[0], encoded.test, atol=1e-4, rtol=0)


def test_few_unseen_images_do_not_bias_the_ratios():
    """Seen and unseen from the same distribution, two of a class held out: 1 on average, although a mean of two images
    lies far out and their own spread around it is half."""
    found = []
    for k in range(300):
        seen, labels = seen_features(k)
        few = amounts_to_labels([2] * 6)
        torch.manual_seed(k)  # the same class centres as seen_features draws
        unseen = 3 * torch.randn(6, 5)[few] + torch.randn(1000, 5)[-12:]
        found.append(unseen_ratios([as_fold(seen, labels, unseen, few)], COUNTS))
    for name in ("length", "spread"):
        values = torch.stack([getattr(ratios, name) for ratios in found])
        assert (values.mean(0) - 1).abs().max() < 0.05, name


def test_a_group_without_two_held_out_images_is_refused():
    seen, labels = seen_features()
    once = torch.arange(6)
    with pytest.raises(CourseError, match="'many'"):
        unseen_ratios([as_fold(seen, labels, seen[:6], once)], COUNTS)


def test_corrected_features_have_the_length_and_spread_asked_for():
    """Also features that are not the real ones: a Gaussian of the real means, corrected, has the moved means."""
    real, labels = seen_features()
    means = class_means(real, labels, 6)
    drawn, drawn_labels = class_gaussian(real, labels, [4000] * 6, seed=3)
    ratios = Ratios(torch.full((6,), 0.6), torch.full((6,), 1.5))
    moved = corrected(drawn, drawn_labels, ratios, means)
    centre = means.mean(0)
    torch.testing.assert_close(class_means(moved, drawn_labels, 6), centre + 0.6 * (means - centre), atol=0.15, rtol=0)
    around = [(f - class_means(f, drawn_labels, 6)[drawn_labels]).square().sum() for f in (drawn, moved)]
    torch.testing.assert_close((around[1] / around[0]).sqrt(), torch.tensor(1.5), atol=1e-4, rtol=0)
    same = corrected(drawn, drawn_labels, Ratios(torch.ones(6), torch.ones(6)), means)
    torch.testing.assert_close(same, drawn, atol=1e-5, rtol=0)


def test_widening_leaves_means_and_many_classes_alone():
    ratios = widening(COUNTS, 1.5)
    assert ratios.spread.tolist() == [1, 1, 1.5, 1.5, 1.5, 1.5] and ratios.length.tolist() == [1] * 6


# ------------------------------------------------------------------------------------------------- while it is trained
def fed(tiny, source=resampled_real, **changes):
    return joint_training.train_jointly(
        tiny, source, **dict(dict(epochs=4, every=2, batch_size=32, name="test"), **changes)
    )


def test_added_features_reach_the_head_alone(tiny):
    model = joint_training.JointModel(build_encoder(tiny), 50)
    model.features.copy_(torch.rand_like(model.features))
    index, no_loss = torch.arange(20), lambda encoder, index: encoder.head.bias.sum() * 0
    joint_training.joint_loss(model, index, no_loss, 25).backward()
    assert all(parameter.grad is None for name, parameter in model.encoder.named_parameters() if "head" not in name)
    # 20 images and M / N = 2: 40 draws of the pool, twice their mean.
    torch.manual_seed(4)
    value = joint_training.joint_loss(model, index, no_loss, 25)
    torch.manual_seed(4)
    drawn = torch.randint(50, (40,))
    expected = 2 * F.cross_entropy(model.encoder.head(model.features[drawn]), model.labels[drawn])
    torch.testing.assert_close(value, expected)


def test_a_training_with_features_is_not_continued_on_other_data(tiny, tmp_path):
    fed(tiny, checkpoint=tmp_path / "fed.safetensors")
    inverted = datasets.ImageData(**{**vars(tiny), "train_images": 255 - tiny.train_images})
    with pytest.raises(CourseError, match="another training.*recipe"):
        fed(inverted, checkpoint=tmp_path / "fed.safetensors")


def test_with_nothing_from_the_pool_it_is_the_usual_training(tiny, monkeypatch):
    real_only = lambda model, index, real_loss, images: real_loss(model.encoder, index)  # noqa: E731
    monkeypatch.setattr(joint_training, "joint_loss", real_only)
    usual, ours = train_encoder(tiny, epochs=4, batch_size=32), fed(tiny)
    assert all(torch.equal(a, b) for a, b in zip(usual.state_dict().values(), ours.state_dict().values(), strict=True))


def test_the_source_sees_the_current_features_and_fills_up_the_classes(tiny):
    seen = []

    def source(features, labels, amounts, seed):
        seen.append((features.clone(), seed))
        assert [n + g for n, g in zip(tiny.counts, amounts, strict=True)] == [max(tiny.counts)] * 10
        torch.rand(7)  # draws of a source must not move those of the training
        return resampled_real(features, labels, amounts, seed)

    model = fed(tiny, source, epochs=5)
    assert [seed for _, seed in seen] == [2, 4]  # after epochs 2 and 4 of 5
    assert not torch.allclose(seen[0][0], seen[1][0])
    again = fed(tiny, epochs=5)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


def test_the_pool_is_made_in_full_precision_and_the_encoder_still_learns(tiny):
    model, given = joint_training.JointModel(build_encoder(tiny), 20), []
    exact, _ = encode(model.encoder, tiny.train_images)

    def source(features, *_, seed):
        given.append(features)
        return features[:20], torch.arange(20) % 10

    with torch.autocast("cpu", torch.bfloat16):
        joint_training.refresh_pool(model, tiny, source, [2] * 10, 0)
        value = joint_training.joint_loss(model, torch.arange(20), encoder_loss("ce", tiny, 1), 20)
    assert torch.equal(given[0], exact) and torch.equal(model.features, exact[:20])
    value.backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())


def test_it_resumes_to_the_same_encoder(tiny, tmp_path, monkeypatch):
    path, straight = tmp_path / "fed.safetensors", fed(tiny)
    with monkeypatch.context() as stopped:  # 4 steps an epoch: the pool was filled before step 9
        stopped.setattr(loop, "track", lambda steps, *_, **__: itertools.islice(steps, 10))
        fed(tiny, checkpoint=path)
    assert checkpoints.load(path)[1]["step"] == 10
    resumed = fed(tiny, checkpoint=path)
    pairs = zip(straight.state_dict().values(), resumed.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(CourseError, match="another training"):
        fed(tiny, checkpoint=path, name="other")


@pytest.mark.parametrize("every", [0, 4])
def test_a_source_that_is_never_used_is_refused(tiny, every):
    with pytest.raises(CourseError, match="fewer"):
        fed(tiny, every=every)
