"""Recall from number and similarity: closed forms against tables, simulations, scikit-learn and scipy."""

import math

import pytest
import torch
from scipy.stats import norm
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from lt_utils.data.datasets import load
from lt_utils.errors import CourseError
from lt_utils.features import similarity

# Recall of the tail in per cent, by d, for head-to-tail ratios 1, 10, 50, 100: computed beforehand, to a tenth of a point.
TABLE = {
    1: (69.1, 3.6, 0.0, 0.0),
    2: (84.1, 44.0, 17.0, 9.6),
    3: (93.3, 76.8, 57.8, 48.6),
    4: (97.7, 92.3, 84.7, 80.2),
    6: (99.9, 99.6, 99.1, 98.7),
}


def bells(distances, per_class, dim, seed=0):
    """Standard normal clouds [per_class, dim] whose means stand on the axes, all pairs sqrt(2) * distances[0] apart."""
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(len(distances) * per_class, dim, generator=random, dtype=torch.float64)
    labels = torch.arange(len(distances)).repeat_interleave(per_class)
    features[torch.arange(len(labels)), labels] += torch.tensor(distances, dtype=torch.float64)[labels]
    return features, labels


# --- two bells


@pytest.mark.parametrize("d", TABLE)
def test_table_of_the_closed_form(d):
    recall = 100 * similarity.two_class_recall(d, torch.tensor([1.0, 10, 50, 100]))
    assert (recall - torch.tensor(TABLE[d], dtype=torch.float64)).abs().max() < 0.05 + 1e-9


@pytest.mark.parametrize("d, ratio", [(0.7, 3.0), (2.0, 50.0), (4.0, 0.2)])
def test_closed_form_is_the_mass_beyond_the_point_where_both_weighted_densities_are_equal(d, ratio):
    low, high = -60.0, 60.0
    for _ in range(200):  # bisection on log(ratio * density of the head at 0) = log(density of the tail at d)
        middle = (low + high) / 2
        tail_wins = norm.logpdf(middle, d) > math.log(ratio) + norm.logpdf(middle, 0)
        low, high = (low, middle) if tail_wins else (middle, high)
    assert similarity.two_class_recall(d, ratio).item() == pytest.approx(norm.sf(low, d), abs=1e-9)


def test_an_equal_prior_leaves_the_first_term_and_no_rival_leaves_everything():
    assert similarity.two_class_recall(2.5, 1).item() == pytest.approx(norm.cdf(1.25))
    assert similarity.two_class_recall(math.inf, 100).item() == 1


@pytest.mark.parametrize("d, ratio", [(0, 10), (2, 0), (-1.0, 10), (2, -3), (math.nan, 10)])
def test_closed_form_refuses_what_is_not_above_0(d, ratio):
    with pytest.raises(CourseError, match="must be above 0"):
        similarity.two_class_recall(d, ratio)


# --- estimated means


@pytest.mark.parametrize("adjusted", [False, True])
@pytest.mark.parametrize(
    "d, n_head, n_tail, dim", [(3, 1000, 10, 64), (2, 200, 20, 16), (4, 500, 50, 128), (3, 30, 30, 64)]
)
def test_estimated_recall_is_that_of_a_simulation(d, n_head, n_tail, dim, adjusted):
    random = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, dim, generator=random, dtype=torch.float64)

    head, tail = draw(600) / n_head**0.5, draw(600) / n_tail**0.5  # the estimated means of 600 experiments
    tail[:, 0] += d
    x = draw(600, 100)
    x[..., 0] += d
    prior = 0 if adjusted else math.log(n_head / n_tail)
    score = (x - head[:, None]).square().sum(2) / 2 - (x - tail[:, None]).square().sum(2) / 2 - prior
    simulated = 100 * (score > 0).double().mean().item()
    assert 100 * similarity.estimated_recall(d, n_head, n_tail, dim, adjusted) == pytest.approx(simulated, abs=1.5)


def test_estimated_recall_with_endless_samples_is_the_closed_form():
    many = similarity.estimated_recall(3, 10**12, 10**10, 64)
    assert many == pytest.approx(similarity.two_class_recall(3, 100).item(), abs=1e-6)
    assert similarity.estimated_recall(3, 1000, 10, 64) == pytest.approx(0.203, abs=5e-4)
    assert similarity.estimated_recall(3, 1000, 10, 64, adjusted=True) == pytest.approx(0.633, abs=5e-4)


@pytest.mark.parametrize("wrong", [(0, 10, 10, 4), (3, 0, 10, 4), (3, 10, 0, 4), (3, 10, 10, 0), (math.nan, 10, 10, 4)])
def test_estimated_recall_refuses_empty_classes(wrong):
    with pytest.raises(CourseError, match="at least 1"):
        similarity.estimated_recall(*wrong)


# --- distances


def test_distances_of_bells_are_those_they_were_drawn_with():
    features, labels = bells((3.0, 3.0, 1.0), 4000, 5)
    d = similarity.class_distances(features, labels, 3)
    assert torch.equal(d, d.T) and d.diagonal().isinf().all()
    assert d[0, 1].item() == pytest.approx(math.sqrt(18), abs=0.08)
    assert d[0, 2].item() == pytest.approx(math.sqrt(10), abs=0.08)


def test_distances_do_not_change_when_features_are_stretched_and_turned():
    features, labels = bells((2.0, 2.0, 2.0), 200, 6)
    mix = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    other = similarity.class_distances(3 * features @ mix + 7, labels, 3)
    assert torch.allclose(similarity.class_distances(features, labels, 3), other, atol=1e-9)


def test_two_folds_do_not_flatter():
    """Classes that are the same: judged by the features it was fitted on, a direction in 50 dimensions seems to separate."""
    features, labels = bells((0.0, 0.0), 60, 50)
    flattered = LinearDiscriminantAnalysis(solver="lsqr").fit(features, labels)
    projected = torch.from_numpy(features.numpy() @ flattered.coef_[0])
    own = (projected[labels == 1].mean() - projected[labels == 0].mean()) / projected.std()
    assert own > 1 and similarity.class_distances(features, labels, 2)[0, 1] < 0.5


def test_direction_of_a_pair_is_fishers():
    features, labels = bells((1.5, 2.5), 300, 4)
    halves = [(features[labels == c][:150], features[labels == c][150:]) for c in (0, 1)]
    (first, first_test), (second, second_test) = halves
    fitted = LinearDiscriminantAnalysis(solver="lsqr").fit(torch.cat([first, second]), [0] * 150 + [1] * 150)
    p, q = (test.numpy() @ fitted.coef_[0] for test in (first_test, second_test))
    expected = (q.mean() - p.mean()) / math.sqrt((p.var(ddof=1) + q.var(ddof=1)) / 2)
    assert similarity._judged(first, second, first_test, second_test) == pytest.approx(expected, rel=1e-3)


def test_distances_refuse_one_class_and_nearly_empty_ones():
    with pytest.raises(CourseError, match="at least two classes"):
        similarity.class_distances(torch.randn(10, 3), torch.zeros(10).long(), 1)
    with pytest.raises(CourseError, match="Class 1 has 3 features"):
        similarity.class_distances(torch.randn(10, 3), torch.tensor([0] * 7 + [1] * 3), 2)


# --- recall over all rivals


def test_predicted_recall_multiplies_over_rivals():
    d, counts = torch.tensor([[math.inf, 2, 3], [2, math.inf, 4], [3, 4, math.inf]]).double(), [100, 10, 1]
    by_hand = [
        norm.cdf(1 + math.log(10) / 2) * norm.cdf(1.5 + math.log(100) / 3),
        norm.cdf(1 - math.log(10) / 2) * norm.cdf(2 + math.log(10) / 4),
        norm.cdf(1.5 - math.log(100) / 3) * norm.cdf(2 - math.log(10) / 4),
    ]
    assert similarity.predicted_recall(d, counts).tolist() == pytest.approx(by_hand)
    adjusted = similarity.predicted_recall(d, counts, adjusted=True)
    assert adjusted.tolist() == pytest.approx([norm.cdf(a / 2) * norm.cdf(b / 2) for a, b in ((2, 3), (2, 4), (3, 4))])


def test_predicted_recall_of_equal_counts_needs_no_adjustment():
    d = similarity.class_distances(*bells((2.0, 3.0, 2.5), 50, 3), 3)
    assert torch.allclose(
        similarity.predicted_recall(d, [7, 7, 7]), similarity.predicted_recall(d, [1, 2, 3], adjusted=True)
    )


@pytest.mark.parametrize("counts", [[1, 2], [1, 2, 0]])
def test_predicted_recall_refuses_counts_that_do_not_fit(counts):
    with pytest.raises(CourseError, match="3 classes need as many counts"):
        similarity.predicted_recall(torch.full((3, 3), 2.0), counts)


# --- features and the convex classifier


def test_principal_components_are_those_of_an_svd():
    images = load().train_images[::40, :, ::4, ::4]
    pixels = images.flatten(1).double() / 255
    _, _, vectors = torch.linalg.svd(pixels - pixels.mean(0), full_matrices=False)
    ours = similarity.PrincipalComponents(images, 6)(images)
    theirs = (pixels - pixels.mean(0)) @ vectors[:6].T
    assert ours.dtype == torch.float64 and torch.allclose(ours.abs(), theirs.abs(), atol=1e-8)
    assert torch.allclose(ours.T @ ours, torch.diag(ours.square().sum(0)), atol=1e-6)


@pytest.mark.parametrize("dim", [0, 50])
def test_principal_components_refuse_more_than_there_are(dim):
    with pytest.raises(CourseError, match="principal components"):
        similarity.PrincipalComponents(load().train_images[:100, :, ::4, ::4], dim)


def test_logistic_regression_is_scikit_learns():
    features, labels = bells((2.0, 2.0, 1.0), 80, 4)
    labels = torch.where(torch.arange(len(labels)) % 9 == 0, 0, labels)  # not separable, not balanced
    ours = similarity.fit_logistic(features, labels, 3, l2=1e-2, tolerance=1e-8)
    theirs = LogisticRegression(C=1 / (1e-2 * len(features)), tol=1e-10, max_iter=5000).fit(features, labels)
    with torch.no_grad():
        probabilities = ours(features).softmax(1)
    assert torch.allclose(probabilities, torch.from_numpy(theirs.predict_proba(features)), atol=1e-5)
    assert torch.allclose(ours.weight, torch.from_numpy(theirs.coef_), atol=1e-4)


def test_logistic_regression_of_two_bells_finds_the_threshold_of_the_closed_form():
    random = torch.Generator().manual_seed(0)
    labels = (torch.arange(60_000) % 11 == 0).long()  # ratio 10
    x = torch.randn(60_000, 1, generator=random, dtype=torch.float64) + 2 * labels[:, None]
    model = similarity.fit_logistic(x, labels, 2, l2=1e-6)
    weight, bias = (model.weight[1] - model.weight[0]).item(), (model.bias[1] - model.bias[0]).item()
    recall = norm.sf(-bias / weight, 2)
    assert recall == pytest.approx(similarity.two_class_recall(2, 10).item(), abs=0.01)


def test_logistic_regression_refuses_what_has_no_answer():
    features, labels = bells((2.0, 2.0), 20, 3)
    with pytest.raises(CourseError, match="at least two classes"):
        similarity.fit_logistic(features, torch.zeros(40).long(), 1)
    with pytest.raises(CourseError, match="l2 must be above 0"):
        similarity.fit_logistic(features, labels, 2, l2=0)
    with pytest.raises(CourseError, match="has not converged in 2 steps"):
        similarity.fit_logistic(features, labels, 2, steps=2)
