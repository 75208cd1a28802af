"""Views through a frozen encoder, and heads fitted on them: what is drawn, what a loss means, what a start equals."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from lt_utils.data import datasets
from lt_utils.diffusion.feature_diffusion import Standardiser
from lt_utils.errors import CourseError
from lt_utils.features import retraining, views
from lt_utils.features.encoding import Encoded, encode_data
from lt_utils.features.views import Views, distance_to_test, encode_views, fair_sample, fair_split, join
from lt_utils.metrics.recognition import accuracy
from lt_utils.models.heads import CosineHead, LinearHead
from lt_utils.models.resnet import ResNet
from lt_utils.recognition.losses import label_shift, log_prior


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    """A random ResNet-8 and what it makes of a small long-tailed set."""
    torch.manual_seed(0)
    data = datasets.load().long_tailed(counts=[40, 30, 20, 15, 10, 8, 6, 5, 4, 3])
    return encode_data(ResNet(10, 1, 8, 8, mean=(0.3,), std=(0.3,)).eval(), data)


def plain_views(features, labels) -> Views:
    """One view of each image, none mixed."""
    return Views(features[None], labels, labels[None], torch.ones(1, len(labels)))


@pytest.fixture
def blobs() -> Encoded:
    """Three classes of 400, 80 and 10 features in four dimensions, a balanced test set and a trained-looking head."""
    torch.manual_seed(0)
    centre = torch.tensor([[3.0, 0, 0, 1], [0, 3, 0, 1], [0, 0, 3, 1]])
    counts = [400, 80, 10]
    labels, test = torch.arange(3).repeat_interleave(torch.tensor(counts)), torch.arange(3).repeat_interleave(100)
    train, held = centre[labels] + torch.randn(len(labels), 4), centre[test] + torch.randn(len(test), 4)
    head = LinearHead(4, 3)
    with torch.no_grad():
        head.weight.copy_(centre)
        head.bias.copy_(-centre.square().sum(1) / 2 + log_prior(counts))  # Bayes' rule for the imbalanced prior
        logits = head(held)
    return Encoded(train, labels, held, test, logits, head, counts)


# --------------------------------------------------------------------------------------------------------------- views
def test_a_clean_view_is_the_feature_of_the_image(encoded):
    clean = encode_views(encoded, "clean", 1)
    error = (clean.features[0] - encoded.train).norm() / encoded.train.norm()
    assert error < 0.02  # mixed precision
    assert torch.equal(clean.labels, encoded.train_labels)
    assert torch.equal(clean.share, torch.ones_like(clean.share))


@pytest.mark.parametrize("kind", ["weak", "strong", "mixed"])
def test_views_depend_on_seed_and_place_alone(encoded, kind):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first, again = encode_views(encoded, kind, 2), encode_views(encoded, kind, 1)
    assert torch.equal(torch.get_rng_state(), state)  # the caller's generator is left alone
    assert torch.equal(first.features[:1], again.features)
    assert not torch.equal(first.features[0], first.features[1])
    assert not torch.equal(first.features, encode_views(encoded, kind, 2, seed=1).features)


def test_mixed_views_lie_between_two_images_and_say_so(encoded):
    mixed = encode_views(encoded, "mixed", 2)
    assert ((mixed.share >= 0) & (mixed.share <= 1)).all()
    assert 0.3 < mixed.share.mean() < 0.7  # Beta(1/2, 1/2) has mean 1/2
    assert torch.equal(mixed.partner_labels[0].bincount(minlength=10), encoded.train_labels.bincount(minlength=10))
    with pytest.raises(CourseError, match="two classes"):
        mixed.flat  # noqa: B018


def test_views_are_kept_in_a_file_and_made_again_for_other_views(encoded, tmp_path, monkeypatch):
    path = tmp_path / "views.safetensors"
    made = encode_views(encoded, "weak", 2, path=path)
    monkeypatch.setattr(views, "_one_view", lambda *_: pytest.fail("should have been read"))
    read = encode_views(encoded, "weak", 2, path=path)
    assert all(torch.equal(a, b) for a, b in zip(vars(made).values(), vars(read).values(), strict=True))
    with pytest.raises(pytest.fail.Exception):
        encode_views(encoded, "weak", 2, seed=1, path=path)


def test_views_of_other_images_are_not_joined(encoded):
    one = encode_views(encoded, "clean", 1)
    assert len(join(one, one).features) == 2
    with pytest.raises(CourseError, match="same images"):
        join(one, Views(one.features[:, :5], one.labels[:5], one.partner_labels[:, :5], one.share[:, :5]))


@pytest.mark.parametrize(("kind", "count", "said"), [("string", 1, "strong"), ("weak", 0, "not 0")])
def test_wrong_views_are_refused(encoded, kind, count, said):
    with pytest.raises(CourseError, match=said):
        encode_views(encoded, kind, count)


def test_views_need_the_encoder(blobs):
    with pytest.raises(CourseError, match="without their encoder"):
        encode_views(blobs, "weak", 1)


def test_distance_to_test_reads_a_known_stretch(blobs):
    """Training features that are the test features, stretched by 2 around the mean of the class means, are told so."""
    centre = torch.stack([blobs.test[blobs.test_labels == c].mean(0) for c in range(3)]).mean(0)
    told = distance_to_test(centre + 2 * (blobs.test - centre), blobs.test_labels, blobs)
    for name, value in {"direction": 1.0, "length": 0.5, "spread": 0.5}.items():
        torch.testing.assert_close(told[name], torch.full((3,), value), atol=1e-4, rtol=0)


def test_distance_to_test_without_features_of_a_class_is_refused(blobs):
    some = blobs.test_labels != 1
    with pytest.raises(CourseError, match="Class 1 has no feature to compare with the test features"):
        distance_to_test(blobs.test[some], blobs.test_labels[some], blobs)


def test_a_fair_split_takes_as_many_test_images_of_each_class_as_training_has_at_most_half(blobs):
    sample, others = fair_split(blobs, seed=3)
    assert sorted([*sample.tolist(), *others.tolist()]) == list(range(len(blobs.test)))
    in_test = torch.bincount(blobs.test_labels).tolist()
    wanted = [min(n, m // 2) for n, m in zip(blobs.counts, in_test, strict=True)]
    assert torch.bincount(blobs.test_labels[sample]).tolist() == wanted and min(wanted) < max(wanted)
    assert torch.equal(sample, fair_split(blobs, seed=3)[0]) and not torch.equal(sample, fair_split(blobs, seed=4)[0])


def test_a_class_with_one_test_image_has_no_fair_sample(blobs):
    alone = replace(blobs, test=blobs.test[:201], test_labels=blobs.test_labels[:201])
    with pytest.raises(CourseError, match="Class 2 has fewer than two test images"):
        fair_split(alone)


def test_a_fair_sample_measures_what_noise_predicts(blobs):
    """n features of a round Gaussian with deviation 1, 3 apart: their spread is too small and their mean too long."""
    torch.manual_seed(0)
    classes, dim, n = 3, 4, 5
    labels = torch.arange(classes).repeat(4000)
    test = 3 * torch.eye(classes, dim)[labels] + torch.randn(len(labels), dim)
    told = fair_sample(
        replace(blobs, test=test, test_labels=labels, counts=[n] * classes),
        {"few": [0, 1], "all": [0, 1, 2]},
        draws=400,
    )
    # The squared spread is chi^2 with 4 (n - 1) = 16 degrees of freedom, over n; the mean of 1 / chi is known.
    assert told["spread"]["all"][0] == pytest.approx((4 * n / 2) ** 0.5 * math.gamma(7.5) / math.gamma(8), abs=0.03)
    # To second order in the noise s of a centred mean, relative to its length, 1 - (D - 2) s; here |m|^2 = 6, and 2/3 of
    # the noise of a mean, 1/n, stays around the average of three.
    assert told["length"]["all"][0] == pytest.approx(1 - (dim - 2) * (2 / 3 / n) / 6, abs=0.01)
    assert 0.9 < told["direction"]["few"][0] < 0.99 and told["length"]["few"][1] > told["length"]["all"][1] > 0


# ---------------------------------------------------------------------------------------------------------------- heads
def test_the_linear_start_gives_the_logits_of_label_shift(blobs):
    scale, prior = Standardiser.fit(blobs.train), log_prior(blobs.counts)
    head = retraining.StandardisedHead(scale, retraining.start_linear(blobs.head, scale, prior))
    torch.testing.assert_close(head(blobs.test), label_shift(blobs.test_logits, blobs.counts), atol=1e-4, rtol=1e-4)


def test_only_a_linear_head_can_be_the_start(blobs):
    with pytest.raises(CourseError, match="cosine"):
        retraining.start_linear(CosineHead(4, 3), Standardiser.fit(blobs.train))


def test_no_step_from_the_start_is_label_shift(blobs):
    own = plain_views(blobs.train, blobs.train_labels)
    for how, expected in (
        ({}, label_shift(blobs.test_logits, blobs.counts)),
        ({"start_tau": 0.0}, blobs.test_logits),
        ({"tau": 0.0, "start_tau": 1.0}, label_shift(blobs.test_logits, blobs.counts)),
    ):
        fitted = retraining.fit_head(own, blobs, steps=1, lr=0.0, **how)
        torch.testing.assert_close(fitted.head(blobs.test), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("kind", "rate", "below"), [("linear", 0.01, 2), ("cosine", 0.02, 20)])
def test_a_balanced_head_comes_near_bayes(blobs, kind, rate, below):
    """On Gaussian classes with equal covariance the balanced Bayes classifier is known: nearest class mean.

    The linear head starts from Bayes' rule for the imbalanced prior, three points below: only tau = 1 in the loss mends it.
    """
    bayes = accuracy(label_shift(blobs.test_logits, blobs.counts), blobs.test_labels)
    assert accuracy(blobs.test_logits, blobs.test_labels) < bayes - 2
    seen = plain_views(blobs.train, blobs.train_labels)
    start = {"start_tau": 0.0} if kind == "linear" else {}
    fitted = retraining.fit_head(seen, blobs, kind=kind, lr=rate, steps=300, batch_size=256, seed=1, **start)
    ours = accuracy(retraining.predict(fitted.head, blobs.test), blobs.test_labels)
    assert ours > bayes - below


def test_tau_moves_the_logits_by_the_log_prior(blobs):
    """Where the training data are separable by nothing (constant features) the balanced bias is flat, the plain one not."""
    flat = Encoded(
        torch.ones(490, 4),
        blobs.train_labels,
        blobs.test,
        blobs.test_labels,
        blobs.test_logits,
        blobs.head,
        blobs.counts,
    )
    ones = plain_views(flat.train, flat.train_labels)
    balanced, plain = (
        retraining.fit_head(ones, flat, tau=tau, steps=400, lr=0.03, batch_size=490).head(torch.ones(1, 4))[0]
        for tau in (1, 0)
    )
    torch.testing.assert_close(balanced.softmax(0), torch.full((3,), 1 / 3), atol=0.03, rtol=0)
    torch.testing.assert_close(plain.log_softmax(0), log_prior(blobs.counts), atol=0.15, rtol=0)


def test_added_features_are_trained_on(blobs):
    """A thousand features of class 2 where class 0 lives turn the head there."""
    place = torch.tensor([[3.0, 0, 0, 1]])
    added = (place.repeat(3000, 1), torch.full((3000,), 2))
    seen = plain_views(blobs.train, blobs.train_labels)
    without = retraining.fit_head(seen, blobs, tau=0.0, steps=400, batch_size=256, lr=0.03).head(place).argmax().item()
    with_added = (
        retraining.fit_head(seen, blobs, added=added, tau=0.0, steps=400, batch_size=256, lr=0.03)
        .head(place)
        .argmax()
        .item()
    )
    assert (without, with_added) == (0, 2)


def at_places(blobs, count: int) -> tuple[Encoded, torch.Tensor]:
    """`count` places, one dimension each, and an encoder's head of that size that says nothing yet."""
    head = LinearHead(count, 3)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return replace(blobs, head=head), torch.eye(count)


def test_every_view_and_every_added_feature_is_drawn_with_its_own_label(blobs):
    """Three views of images of class 0 and 1, and added features of class 2 and 1: eight places, each of one class."""
    data, places = at_places(blobs, 8)
    labels = torch.tensor([0, 1]).repeat(30)
    features = torch.stack([places[2 * view + labels] for view in range(3)])
    own = Views(features, labels, labels.expand(3, -1), torch.ones(3, 60))
    added = (places[6:].repeat(30, 1), torch.tensor([2, 1]).repeat(30))
    head = retraining.fit_head(own, data, added=added, tau=0.0, steps=150, batch_size=60, lr=0.05).head
    said = head(places).softmax(1)[range(8), [0, 1, 0, 1, 0, 1, 2, 1]]
    assert said.min() > 0.95, said


def test_mixed_views_have_partners_and_shares_of_their_own(blobs):
    """Two mixed views of images of class 0 and 1, beside added features: at each place the head says its own mixture."""
    data, places = at_places(blobs, 5)
    labels = torch.tensor([0, 1]).repeat(30)
    features = torch.stack([places[2 * view + labels] for view in range(2)])
    partners = torch.stack([1 - labels, torch.full((60,), 2)])  # in view 0 the other class, in view 1 class 2
    share = torch.tensor([0.8, 0.4])[:, None].expand(2, 60)
    added = (places[4:].repeat(30, 1), torch.full((30,), 2))
    mixed = Views(features, labels, partners, share)
    head = retraining.fit_head(mixed, data, added=added, tau=0.0, steps=200, batch_size=90, lr=0.05).head
    expected = torch.tensor([[0.8, 0.2, 0], [0.2, 0.8, 0], [0.4, 0, 0.6], [0, 0.4, 0.6], [0, 0, 1]])
    torch.testing.assert_close(head(places).softmax(1), expected, atol=0.06, rtol=0)


def test_soft_labels_of_mixed_views_are_learned(blobs):
    """Every view is an even mixture of class 0 and class 1 at one place: there the head must say half and half."""
    n = 50
    even = Views(
        torch.zeros(1, n, 4),
        torch.zeros(n, dtype=torch.long),
        torch.ones(1, n, dtype=torch.long),
        torch.full((1, n), 0.5),
    )
    fitted = retraining.fit_head(even, blobs, tau=0.0, steps=400, lr=0.05, batch_size=50)
    said = fitted.head(torch.zeros(1, 4)).softmax(1)[0]
    torch.testing.assert_close(said[:2], torch.tensor([0.5, 0.5]), atol=0.05, rtol=0)


def test_feature_mixup_mixes_labels_too(blobs):
    """Two classes at two points: halfway between them a head that saw mixed features must be unsure, and linear in between."""
    features = torch.tensor([[2.0, 0, 0, 0], [0, 2.0, 0, 0]]).repeat(100, 1)
    seen = plain_views(features, torch.tensor([0, 1]).repeat(100))
    heads = [
        retraining.fit_head(seen, blobs, tau=0.0, mixup=alpha, steps=400, batch_size=200, lr=0.05).head
        for alpha in (0.0, 1.0)
    ]
    at_class_0 = [head(features[:1]).softmax(1)[0, 0].item() for head in heads]
    assert at_class_0[0] > 0.995  # without mixing nothing speaks against certainty
    assert at_class_0[1] < 0.985  # uniform shares: points near a class were mostly, not purely, that class
    halfway = heads[1](features[:2].mean(0, keepdim=True)).softmax(1)[0]
    torch.testing.assert_close(halfway[:2], torch.tensor([0.5, 0.5]), atol=0.08, rtol=0)


def test_the_anchor_holds_the_head(blobs):
    seen = plain_views(blobs.train, blobs.train_labels)
    moved = []
    for anchor in (0.0, 10.0):
        fitted = retraining.fit_head(seen, blobs, tau=0.0, anchor=anchor, steps=100, batch_size=256)
        moved.append((fitted.head(blobs.test) - blobs.test_logits).abs().mean().item())
    assert moved[1] < 0.2 * moved[0]


def test_watch_notes_the_test_accuracy_and_changes_nothing(blobs):
    seen = plain_views(blobs.train, blobs.train_labels)
    quiet, watched = (retraining.fit_head(seen, blobs, steps=25, batch_size=64, watch=every) for every in (0, 10))
    assert watched.steps == [10, 20, 25] and quiet.steps == []
    assert watched.plain[-1] == accuracy(quiet.head(blobs.test), blobs.test_labels)


def test_averaged_predictions_are_probabilities_up_to_a_factor():
    z = torch.randn(5, 4)
    torch.testing.assert_close(retraining.averaged(z, z), z.log_softmax(1))
    flipped = retraining.averaged(z, z.flip(0))
    torch.testing.assert_close(flipped, (z.log_softmax(1) + z.flip(0).log_softmax(1)) / 2)


def test_statistics_estimated_again_are_those_of_the_batches(encoded):
    images = encoded.images.train_images.float() / 255
    model = encoded.encoder
    before = copy.deepcopy(model.state_dict())
    again = retraining.recalibrate_batchnorm(model, images.split(47))  # 141 images: three equal batches
    with torch.no_grad():
        stem = [model.conv1((part - model.mean) / model.std) for part in images.split(47)]
    torch.testing.assert_close(again.bn1.running_mean, torch.cat(stem).mean((0, 2, 3)), atol=1e-5, rtol=1e-4)
    variance = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in stem]).mean(0)
    torch.testing.assert_close(again.bn1.running_var, variance, atol=1e-6, rtol=1e-3)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert again.bn1.momentum == nn.BatchNorm2d(1).momentum and not again.training


def test_the_oracle_uses_test_labels(blobs):
    """A head whose bias is wrong for the test set, which only someone who saw the test labels can know, is put right."""
    biased = copy.deepcopy(blobs.head)
    with torch.no_grad():
        biased.bias += torch.tensor([0.0, 0.0, 3.0])
        logits = biased(blobs.test)
    data = Encoded(blobs.train, blobs.train_labels, blobs.test, blobs.test_labels, logits, biased, blobs.counts)
    start = accuracy(label_shift(logits, blobs.counts), blobs.test_labels)
    assert retraining.oracle_bound(data, anchor=0.0, steps=1000) > start + 3
