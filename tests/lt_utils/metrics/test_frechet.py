"""The Fréchet distance of Gaussians whose distance is known, and what it must not depend on; peers are in the oracle tests."""

import math

import pytest
import torch

from lt_utils.errors import CourseError
from lt_utils.metrics.generation import frechet_distance


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def exact_gaussian(count, mean, covariance, seed=0):
    """Samples whose mean and covariance (n - 1) are exactly these."""
    x = normal(count, len(mean), seed=seed)
    x = x - x.mean(0)
    x = x @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    return x @ torch.linalg.cholesky(covariance).T + mean


def test_frechet_distance_of_two_gaussians_with_a_known_answer():
    """Commuting covariances: |m|^2 + sum (sqrt(a) - sqrt(b))^2 over the common eigenvectors."""
    turn = torch.linalg.qr(normal(4, 4, seed=3)).Q
    a, b = torch.tensor([4.0, 1.0, 0.25, 9.0]).double(), torch.tensor([1.0, 1.0, 4.0, 16.0]).double()
    mean = torch.tensor([1.0, -2.0, 0.0, 0.5]).double()
    first = exact_gaussian(200, torch.zeros(4).double(), turn @ a.diag() @ turn.T)
    second = exact_gaussian(150, mean, turn @ b.diag() @ turn.T, seed=1)
    expected = mean.square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-9)


def test_frechet_distance_of_diagonal_gaussians():
    first = exact_gaussian(400, torch.tensor([0.0, 1, 2]).double(), torch.tensor([1.0, 4, 9]).double().diag())
    second = exact_gaussian(300, torch.tensor([3.0, 1, 2]).double(), torch.tensor([4.0, 4, 1]).double().diag(), seed=1)
    # 3^2, and (1 - 2)^2 + (2 - 2)^2 + (3 - 1)^2.
    assert frechet_distance(first, second) == pytest.approx(9 + 5, rel=1e-10)


def test_frechet_distance_of_gaussians_whose_axes_differ():
    """In two dimensions tr (S1 S2)^1/2 = sqrt(tr(S1 S2) + 2 sqrt(det S1 det S2))."""
    one = torch.tensor([[2.0, 0.7], [0.7, 1.0]]).double()
    two = torch.tensor([[1.0, -0.4], [-0.4, 3.0]]).double()
    cross = math.sqrt((one @ two).trace() + 2 * math.sqrt(torch.det(one) * torch.det(two)))
    expected = 1 + 4 + 3 + 4 - 2 * cross
    first = exact_gaussian(400, torch.zeros(2).double(), one)
    second = exact_gaussian(250, torch.tensor([1.0, 2.0]).double(), two, seed=1)
    assert frechet_distance(first, second) == pytest.approx(expected, rel=1e-10)
    assert frechet_distance(second, first) == pytest.approx(expected, rel=1e-10)


def test_frechet_distance_of_numbers():
    first = torch.tensor([[0.0], [2.0]])  # mean 1, standard deviation sqrt 2
    second = torch.tensor([[5.0], [5.0], [5.0]])
    assert frechet_distance(first, second) == pytest.approx(16 + 2)


def test_frechet_distance_of_a_set_to_itself_is_zero_in_any_order_and_frame():
    torch.manual_seed(0)
    x = torch.randn(200, 8) @ torch.randn(8, 8)
    y = torch.randn(150, 8)
    distance = frechet_distance(x, y)
    assert abs(frechet_distance(x, x)) < 1e-8 and distance > 0
    assert frechet_distance(x[torch.randperm(200)], y[torch.randperm(150)]) == pytest.approx(distance, rel=1e-9)
    turn = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    assert frechet_distance(x.double() @ turn + 5, y.double() @ turn + 5) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(3 * x, 3 * y) == pytest.approx(9 * distance, rel=1e-6)


def test_frechet_distance_ignores_the_order_and_is_zero_to_itself():
    x, y = normal(300, 8, seed=0), 0.4 + normal(200, 8, seed=1)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(x, y.flip(0)) == pytest.approx(frechet_distance(x, y), rel=1e-9)
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-9)


def test_frechet_distance_stays_real_for_degenerate_features():
    x = torch.randn(50, 6)
    x[:, 3:] = 0  # three dimensions that never vary, as dead features do
    assert frechet_distance(x, 2 * x) == pytest.approx(
        (x.double().mean(0).square().sum() + x.double().var(0).sum()).item()
    )


def test_frechet_distance_far_from_the_origin_keeps_its_digits():
    torch.manual_seed(0)
    x, y = torch.randn(100, 3, dtype=torch.float64), torch.randn(100, 3, dtype=torch.float64)
    assert frechet_distance(x + 1e4, y + 1e4) == pytest.approx(frechet_distance(x, y), rel=1e-6)


def test_too_few_samples_and_different_dimensions_are_refused():
    with pytest.raises(CourseError, match="4-dimensional features needs more than 4 samples; the second set has 4"):
        frechet_distance(torch.randn(9, 4), torch.randn(4, 4))
    with pytest.raises(CourseError, match="the first set has 2"):
        frechet_distance(torch.randn(2, 4), torch.randn(9, 4))
    with pytest.raises(CourseError, match="not \\[9, 4\\] and \\[9, 3\\]"):
        frechet_distance(torch.randn(9, 4), torch.randn(9, 3))
