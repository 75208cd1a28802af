"""Translation from head to tail: displacement, semantic directions, pushed images, edited features; pools and mixtures."""

import math
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lt_utils.data import datasets
from lt_utils.diffusion.feature_diffusion import FeatureGenerator, GaussianDenoiser, Standardiser
from lt_utils.diffusion.generate import edited, sample, walk
from lt_utils.diffusion.samplers import ddim, ddim_steps, guided
from lt_utils.diffusion.schedules import cosine_schedule
from lt_utils.diffusion.solvers import dpm_solver
from lt_utils.errors import CourseError
from lt_utils.features import pushing, translation
from lt_utils.features.augmentation import amounts_to_labels, repeated_real
from lt_utils.features.encoding import encode_data
from lt_utils.features.retraining import fit_head
from lt_utils.features.statistics import class_covariances, class_means
from lt_utils.features.views import Views
from lt_utils.models.pretrained import load_pretrained
from lt_utils.models.resnet import ResNet
from lt_utils.recognition.encoders import pretrained_encoder
from lt_utils.recognition.losses import label_shift
from lt_utils.recognition.semantic import isda_loss, semantic_margins

COUNTS = [300, 200, 60, 12]
CENTRES = torch.tensor([[0.0, 0, 0, 0, 0], [9, 0, 0, 0, 0], [8, 3, 0, 0, 0], [1, 1, 0, 0, 0]])


@pytest.fixture
def tail() -> tuple[torch.Tensor, torch.Tensor]:
    """Features [572, 5] of four classes with covariances of their own; class 3 lies beside 0, class 2 beside 1."""
    generator, labels = torch.Generator().manual_seed(0), amounts_to_labels(COUNTS)
    mixing = torch.randn(4, 5, 5, generator=generator) * 0.6
    noise = torch.randn(len(labels), 5, generator=generator)
    return CENTRES[labels] + torch.einsum("nd,nde->ne", noise, mixing[labels]), labels


@pytest.fixture(scope="module")
def schedule():
    return cosine_schedule(1000)


@pytest.fixture(scope="module")
def bundled():
    """The bundled long tail through an encoder that comes with the course."""
    data = datasets.load().long_tailed(100)
    return encode_data(pretrained_encoder(data, "ce-mixup", epochs=15, depth=8, seed=0)[0], data)


# ------------------------------------------------------------------------------------------------ acceptance: reading (b)


def test_displaced_features_have_the_mean_of_the_tail_and_the_covariance_of_the_head(tail):
    features, labels = tail
    whole = [0, 0, 0, COUNTS[0]]  # class 3 borrows from class 0: as many as that has, so each comes once
    moved, added = translation.displaced(features, labels, whole, seed=4)
    head = features[labels == 0]
    assert added.tolist() == [3] * COUNTS[0]
    assert (moved.mean(0) - features[labels == 3].mean(0)).abs().max() < 1e-5
    assert (moved.T.cov() - head.T.cov()).abs().max() < 1e-5
    twice, _ = translation.displaced(features, labels, [0, 0, 0, 2 * COUNTS[0]])
    assert (twice.mean(0) - features[labels == 3].mean(0)).abs().max() < 1e-5


def test_displacement_is_the_formula_feature_by_feature(tail):
    features, labels = tail
    amounts = [3, 0, 5, 7]
    chosen, targets = translation.donors(features, labels, amounts, seed=2)
    moved, added = translation.displaced(features, labels, amounts, seed=2)
    means = {c: features[labels == c].mean(0) for c in range(4)}
    assert targets.tolist() == added.tolist() == [0] * 3 + [2] * 5 + [3] * 7
    assert labels[chosen].tolist() == [0] * 3 + [1] * 5 + [0] * 7  # the nearest head; a head class lends to itself
    for f, i, c in zip(moved, chosen, added.tolist(), strict=True):
        assert torch.allclose(f, means[c] + features[i] - means[int(labels[i])], atol=1e-5)


def test_matching_gives_the_covariance_of_the_tail(tail):
    features, labels = tail
    moved, _ = translation.displaced(features, labels, [0, 0, COUNTS[1], 0], match=True)
    wanted = class_covariances(features, labels, 4)[2]
    own = features[labels == 2].T.cov()
    assert (moved.mean(0) - features[labels == 2].mean(0)).abs().max() < 1e-5
    assert torch.allclose(moved.T.cov(), wanted, atol=1e-4)
    assert torch.allclose(moved.T.cov(), own, atol=0.5 * own.abs().max())  # 60 features of 5 numbers: mostly its own


def test_the_head_class_by_mean_cosine_prior_and_mixture(tail):
    features, labels = tail
    assert translation.head_classes(COUNTS) == [0, 1]  # more than 143, the average
    chosen = {rule: translation.head_shares(features, labels, 4, rule) for rule in translation.HEAD_RULES}
    assert chosen["mean"].argmax(1).tolist() == [0, 1, 1, 0]
    assert chosen["prior"].argmax(1).tolist() == [0, 1, 0, 0]
    means = class_means(features, labels, 4)
    centred = means - means.mean(0)
    by_hand = [max((0, 1), key=lambda h: F.cosine_similarity(centred[c], centred[h], dim=0)) for c in (2, 3)]
    assert chosen["cosine"].argmax(1).tolist() == [0, 1, *by_hand]
    near = [1 / float((means[2] - means[h]).square().sum()) for h in (0, 1)]
    assert torch.allclose(chosen["mixture"][2], torch.tensor([near[0], near[1], 0, 0]) / sum(near), atol=1e-5)
    index, targets = translation.donors(features, labels, [0, 0, 0, 160], seed=5)
    both, _ = translation.donors(features, labels, [0, 140, 140, 160], seed=5)
    assert len(index.unique()) == 160
    assert len(both[:280].unique()) == 200  # classes 1 and 2 share the 200 features of class 1: 80 of them come twice
    assert all(torch.allclose(shares.sum(1), torch.ones(4)) for shares in chosen.values())
    index, targets = translation.donors(features, labels, [0, 0, 100, 0], head="mixture")
    assert len(index) == len(targets) == 100
    assert (labels[index] == 1).sum() == round(100 * near[1] / sum(near))


def test_cosine_and_nearest_mean_can_differ():
    """Nearest to the tail (1, 0) is the head at (1, 2); in its direction lies the head at (9, 0)."""
    centres = torch.tensor([[9.0, 0.0], [1.0, 2.0], [-12.0, -2.0], [2.0, 0.0]])
    labels = amounts_to_labels([50, 50, 10, 10])
    features = centres[labels]
    assert translation.head_shares(features, labels, 4, "mean")[3].argmax() == 1
    assert translation.head_shares(features, labels, 4, "cosine")[3].argmax() == 0


# --------------------------------------------------------------------------------------------- semantic directions: ISDA


def test_semantic_samples_have_the_mean_and_the_widened_covariance_of_their_class(tail):
    features, labels = tail
    drawn, added = translation.semantic(features, labels, [0, 0, 60_000, 0], strength=0.5, trust=1.0)
    own = features[labels == 2]
    assert added.unique().tolist() == [2]
    assert (drawn.mean(0) - own.mean(0)).abs().max() < 0.05
    assert torch.allclose(drawn.T.cov(), own.T.cov(correction=0) + 0.5 * own.T.cov(), atol=0.15)
    same, _ = translation.semantic(features, labels, [0, 0, 120, 0], seed=3, strength=0.0)
    assert torch.equal(same, repeated_real(features, labels, [0, 0, 120, 0], seed=3)[0])


def test_isda_is_the_limit_of_many_samples(tail):
    """log E exp(cross-entropy) over draws of N(f, strength S_y): exact in the limit, and an upper bound of E cross-entropy."""
    features, labels = tail[0][[0, 301, 510, 565]].double(), torch.tensor([0, 1, 2, 3])
    weight, bias = (torch.randn(*s, generator=torch.Generator().manual_seed(1)).double() / 3 for s in ((4, 5), (4,)))
    covariances = class_covariances(tail[0].double(), tail[1], 4)
    margins = semantic_margins(weight, covariances)
    assert margins.diagonal().abs().max() == 0
    gaps = []
    for strength in (0.2, 0.1, 0.05):
        closed = [
            isda_loss(f[None] @ weight.T + bias, y[None], margins, strength)
            for f, y in zip(features, labels, strict=True)
        ]
        roots = torch.linalg.cholesky(strength * covariances)
        noise = torch.randn(200_000, 5, generator=torch.Generator().manual_seed(2)).double()
        drawn = torch.stack([features[i] + noise @ roots[i].T for i in range(4)])  # [4, M, 5]
        goal = labels[:, None].expand(4, 200_000).flatten()
        value = F.cross_entropy((drawn @ weight.T + bias).flatten(0, 1), goal, reduction="none").view(4, -1)
        limit = value.exp().mean(1).log()
        assert torch.allclose(torch.stack(closed), limit, atol=0.01)
        assert (torch.stack(closed) > value.mean(1) - 0.001).all()
        gaps.append(float((torch.stack(closed) - value.mean(1)).mean()))
    assert gaps[0] > 1.7 * gaps[1] > 1.7 * 1.7 * gaps[2]  # the bound becomes exact as the strength goes to 0


def test_isda_without_strength_is_cross_entropy_and_its_gradient_reaches_the_weights(tail):
    features, labels = tail
    weight = torch.randn(4, 5, requires_grad=True)
    margins = semantic_margins(weight, class_covariances(features, labels, 4))
    logits = features @ weight.T
    assert torch.allclose(isda_loss(logits, labels, margins, 0.0), F.cross_entropy(logits, labels))
    margins.sum().backward()
    assert weight.grad.abs().max() > 0


def test_the_strength_of_semantic_directions_grows_with_training(tail, monkeypatch):
    features, labels = tail
    seen = []

    def spy(logits, goal, margins, strength):
        seen.append(strength)
        return isda_loss(logits, goal, margins, strength)

    monkeypatch.setattr("lt_utils.features.retraining.isda_loss", spy)
    views = Views(features[None], labels, labels[None], torch.ones(1, len(labels)))
    head = nn.Linear(5, 4)
    encoded = SimpleNamespace(num_classes=4, counts=COUNTS, head=head, dim=5)
    fitted = fit_head(views, encoded, steps=4, semantic=0.8, seed=1)
    assert seen == pytest.approx([0.2, 0.4, 0.6, 0.8])
    plain = fit_head(views, encoded, steps=4, seed=1)
    assert not torch.equal(fitted.head.head.weight, plain.head.head.weight)
    with pytest.raises(CourseError, match="needs a linear head and no mixup"):
        fit_head(views, encoded, kind="cosine", semantic=0.5, steps=1)


# ------------------------------------------------------------------------------------------------- translation by diffusion


def test_a_walk_may_begin_at_a_middle_step(schedule):
    """With the exact denoiser of a Gaussian, DDIM from x_t arrives at m + sqrt(S / (a^2 S + s^2)) (x_t - a m)."""
    perfect = GaussianDenoiser(torch.tensor([[2.0]]), torch.tensor([[0.25]]), schedule)
    for t in (50, 300, 700):
        a, s = (float(one) for one in (schedule.alpha_bar[t].sqrt(), (1 - schedule.alpha_bar[t]).sqrt()))
        x_t = torch.linspace(-2, 2, 9)[:, None].double()
        predict = guided(perfect, schedule, torch.zeros(9, dtype=torch.long), "x0")
        exact = 2 + math.sqrt(0.25 / (a**2 * 0.25 + s**2)) * (x_t - 2 * a)
        assert (ddim(predict, schedule, x_t, steps=t + 1, start=t) - exact).abs().max() < 0.01
        assert (dpm_solver(predict, schedule, x_t, steps=40, start=t) - exact).abs().max() < 0.01
    assert ddim_steps(1000, 3, start=299) == [299, 199, 99]
    assert ddim_steps(1000, 4) == ddim_steps(1000, 4, start=999)


def test_edited_data_go_from_a_copy_to_a_draw(schedule):
    """Unit covariance: the result is a x + (1 - a) m + s eps, so at t = 0 x itself and at t = T - 1 what `sample` draws."""
    perfect = GaussianDenoiser(torch.tensor([[0.0, 0], [4, -3]]), torch.eye(2), schedule)
    x0, label = torch.tensor([[1.0, 1.0]]).repeat(500, 1), torch.ones(500, dtype=torch.long)
    noise = torch.randn(500, 2, generator=torch.Generator().manual_seed(7))
    for t in (0, 1, 200, 600):
        a, s = (float(one) for one in (schedule.alpha_bar[t].sqrt(), (1 - schedule.alpha_bar[t]).sqrt()))
        made = edited(perfect, schedule, x0, label, t, steps=50, objective="x0", seed=7)
        exact = a * x0 + (1 - a) * torch.tensor([4.0, -3.0]) + s * noise
        assert (made - exact).abs().max() < 0.05
    assert (edited(perfect, schedule, x0, label, 0, objective="x0") - x0).abs().max() < 0.05
    how = dict(objective="x0", steps=20, seed=7)
    drawn = sample(perfect, schedule, label, (2,), sampler="dpm-solver", **how)
    assert torch.allclose(edited(perfect, schedule, x0, label, 999, **how), drawn, atol=1e-3)


def test_edited_features_are_a_source(tail, schedule):
    features, labels = tail
    scale = Standardiser.fit(features)
    means = class_means(scale(features), labels, 4)
    model = guided_model(GaussianDenoiser(means, 0.2 * torch.eye(5), schedule))
    generator = FeatureGenerator(model, scale, schedule)
    source = translation.edited_features(generator, 999, limit=50, steps=30)
    made, added = source(features, labels, [0, 0, 0, 120], seed=1)
    assert made.shape == (120, 5)
    assert added.tolist() == [3] * 120
    assert len(made.unique(dim=0)) == 50
    assert (scale(made).mean(0) - means[3]).abs().max() < 0.3
    near = translation.edited_features(generator, 0)(features, labels, [0, 0, 0, 120], seed=1)[0]
    index, _ = translation.donors(features, labels, [0, 0, 0, 120], seed=1)
    assert sorted(near[:, 0].round(decimals=1).tolist()) == pytest.approx(
        sorted(features[index, 0].round(decimals=1).tolist()), abs=0.21
    )


def guided_model(perfect: GaussianDenoiser) -> nn.Module:
    """The exact denoiser, which says x_0, as a network with the objective v: v = (a x_t - x_0) / s."""

    class AsV(nn.Module):
        no_label = perfect.no_label

        def __init__(self) -> None:
            super().__init__()
            self.inner = perfect

        def forward(self, x, t, y):
            a, s = perfect.schedule.scales(t, x)
            return (a * x - self.inner(x, t, y)) / s

    return AsV()


# ----------------------------------------------------------------------------------------------------- pushed images (M2m)


def test_acceptance_by_class_counts():
    chance = pushing.head_acceptance([1000, 500, 10], beta=0.999)
    assert chance[2, 0] == pytest.approx(1 - 0.999**990)
    assert chance[2, 1] == pytest.approx(1 - 0.999**490)
    assert chance[0, 2] == chance[1, 1] == 0
    assert chance[2, 0] > chance[2, 1] > 0.3


def test_one_push_is_one_normalised_gradient_step():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    images, origins, targets = 0.4 + 0.2 * torch.rand(5, 1, 4, 4), torch.zeros(5).long(), torch.ones(5).long()
    W = model[1].weight.detach()
    p = model(images).softmax(1)
    slope = p @ W - W[1] + 0.5 * W[0]  # of -log p_1 + 0.5 z_0, in closed form for a linear model
    pushed, _ = pushing.push_images(model, images, origins, targets, steps=1, step_size=0.1, sure=1.1, away=0.5)
    exact = images.flatten(1) - 0.1 * F.normalize(slope, dim=1)
    assert torch.allclose(pushed.flatten(1), exact, atol=1e-5)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_pushed_images_are_taken_for_the_tail_and_the_others_are_real(bundled):
    amounts = [0] * 7 + [12, 12, 12]
    made = pushing.pushed_images(bundled, bundled.encoder, amounts)
    images, targets, index, kept = made
    assert images.shape == (36, 1, 28, 28)
    assert 0 <= images.min() <= images.max() <= 1
    assert set(bundled.train_labels[index].tolist()) <= {0, 1, 2}
    assert kept.any()
    p = label_shift(bundled.encoder(images), bundled.counts).softmax(1).gather(1, targets[:, None])[:, 0]
    assert (p[kept] >= 0.4 - 1e-3).all()
    train = bundled.images.train_images.float() / 255
    for image, c in zip(images[~kept], targets[~kept], strict=True):
        same = (train - image).flatten(1).abs().amax(1) < 1e-6
        assert bundled.train_labels[same].tolist() == [c]
    still = pushing.pushed_images(bundled, bundled.encoder, amounts, steps=0)
    assert not still.kept.any()


# ------------------------------------------------------------------------------------------------- pools, and combinations


def test_a_pool_gives_its_features_equally_often(tail):
    features, labels = tail
    pool = torch.arange(20.0).view(4, 5)
    drawn, added = translation.from_pool(pool, torch.tensor([2, 2, 3, 3]))(features, labels, [0, 0, 3, 4], seed=0)
    assert added.tolist() == [2] * 3 + [3] * 4
    assert drawn[3:].unique(dim=0, return_counts=True)[1].tolist() == [2, 2]


def test_images_join_by_their_features(bundled):
    images = bundled.images.train_images[-10:]
    source = translation.from_images(images, torch.full((10,), 9), bundled)
    drawn, _ = source(bundled.train, bundled.train_labels, [0] * 9 + [10], seed=0)
    distance = torch.cdist(drawn, bundled.train[-10:]).amin(1)
    assert distance.max() < 0.05 * bundled.train[-10:].norm(dim=1).mean()  # bf16, where the processor has it


def test_sources_share_the_amounts(tail):
    features, labels = tail
    both = translation.together(translation.displaced, translation.semantic, repeated_real)
    drawn, added = both(features, labels, [0, 0, 7, 9], seed=0)
    assert torch.bincount(added, minlength=4).tolist() == [0, 0, 7, 9]
    first = translation.displaced(features, labels, [0, 0, 3, 3], seed=0)[0]
    assert torch.equal(drawn[:6], first)
    assert len(drawn) == 16


def test_a_source_for_some_classes_alone(tail):
    features, labels = tail
    pool = translation.from_pool(torch.full((2, 5), 77.0), torch.tensor([2, 3]))
    drawn, added = translation.for_classes(pool, [2, 3])(features, labels, [0, 40, 6, 5], seed=0)
    assert torch.bincount(added, minlength=4).tolist() == [0, 40, 6, 5]
    assert (drawn[(added == 2) | (added == 3)] == 77).all()
    assert torch.cdist(drawn[added == 1], features[labels == 1]).amin(1).max() < 0.02


def test_all_named_translations_fill_up(tail):
    features, labels = tail
    for name, source in translation.TRANSLATIONS.items():
        drawn, added = source(features, labels, [0, 100, 240, 288], seed=0)
        assert torch.bincount(added, minlength=4).tolist() == [0, 100, 240, 288], name
        assert drawn.shape == (628, 5)
        assert drawn.isfinite().all()


# ------------------------------------------------------------------------------------------------- bad input, one sentence


def test_balanced_data_have_no_head_class():
    labels = amounts_to_labels([20, 20, 20])
    with pytest.raises(CourseError, match="no head class to translate from"):
        translation.displaced(torch.randn(60, 4), labels, [0, 0, 5])


def test_a_class_of_one_image(tail):
    features, labels = tail
    keep = torch.cat([torch.arange(560), torch.tensor([571])])  # class 3 keeps one feature
    features, labels = features[keep], labels[keep]
    moved, _ = translation.displaced(features, labels, [0, 0, 0, COUNTS[0]])
    assert (moved.mean(0) - features[-1]).abs().max() < 1e-5  # it is its own centre
    for refused in ("Displacement, matched", "Semantic directions"):
        with pytest.raises(CourseError, match="Class 3 has 1 feature, too few for a covariance"):
            translation.TRANSLATIONS[refused](features, labels, [0, 0, 0, 5])


def test_a_class_that_was_never_seen(tail, schedule):
    features, labels = tail
    for name, source in translation.TRANSLATIONS.items():
        with pytest.raises(CourseError, match="Class 4 has no real feature"):
            source(features, labels, [0, 0, 0, 0, 5])
        assert name
    with pytest.raises(CourseError, match="nothing of class 3"):
        translation.from_pool(torch.zeros(2, 5), torch.tensor([2, 2]))(features, labels, [0, 0, 0, 1])
    perfect = GaussianDenoiser(torch.zeros(3, 2), torch.eye(2), schedule)
    with pytest.raises(CourseError, match="Label 7 is none of this network's 3 classes"):
        edited(perfect, schedule, torch.zeros(1, 2), torch.tensor([7]), 5, objective="x0")


def test_an_encoder_of_another_data_set(tail, bundled):
    colour = ResNet(10, 3, 8)
    foreign = replace(
        bundled, encoder=colour, images=replace(bundled.images, train_images=torch.zeros(2, 3, 32, 32).byte())
    )
    with pytest.raises(CourseError, match="it belongs to another data set"):
        translation.from_images(bundled.images.train_images[:2], torch.tensor([8, 9]), foreign)
    with pytest.raises(CourseError, match="come from another encoder"):
        translation.from_pool(torch.zeros(2, 64), torch.tensor([2, 3]))(*tail, [0, 0, 1, 1])
    with pytest.raises(CourseError, match="without their encoder"):
        translation.from_images(bundled.images.train_images[:2], torch.tensor([8, 9]), replace(bundled, encoder=None))
    with pytest.raises(CourseError, match="was trained on"):
        load_pretrained("regular-seed0", data=datasets.load().long_tailed(10))


def test_a_step_outside_the_schedule(schedule):
    perfect = GaussianDenoiser(torch.zeros(1, 2), torch.eye(2), schedule)
    for t in (-1, 1000):
        with pytest.raises(CourseError, match="outside the schedule: its steps are 0"):
            edited(perfect, schedule, torch.zeros(1, 2), torch.tensor([0]), t, objective="x0")
    with pytest.raises(CourseError, match="there are 11 steps, not 12"):
        ddim_steps(1000, 12, start=10)
    with pytest.raises(CourseError, match="begins with pure noise"):
        walk("fixedlarge", None, schedule, torch.zeros(1, 2), start=10)


def test_other_bad_input(tail):
    with pytest.raises(CourseError, match="Did you mean 'cosine'"):
        translation.displaced(*tail, [0, 0, 0, 3], head="cosin")
    with pytest.raises(CourseError, match="cannot be negative"):
        translation.semantic(*tail, [0, 0, 0, 3], strength=-1)
    with pytest.raises(CourseError, match="Nothing to combine"):
        translation.together()
