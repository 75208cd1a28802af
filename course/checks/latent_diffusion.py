"""Checks of the exercises of notebook 07: standardising, copies, the denoiser of a Gaussian cloud, and what a clamp does."""

import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Refusals, Wrong, exercise, near, numbers, predicted


@exercise(
    "7.1",
    "each dimension by its own training statistics, dead dimensions included",
    "x = (f - mean) / std with the mean and deviation of the training features, dimension by dimension.",
    over=range(4),
)
def standardise(answer: Callable, random: Random, trial: int) -> Case:
    """answer(features [M, D], train [N, D]) -> standardised features [M, D]."""
    dim, n = random.whole(4, 7), 4000
    scale = 0.2 + 3 * torch.rand(dim, generator=random, dtype=torch.float64)
    train = (random.normal(n, dim) * scale + 2 * scale).relu()
    new = (random.normal(30, dim) * 1.5 * scale + scale).relu() + torch.rand(30, dim, generator=random) / 10
    if trial % 2:
        train[:, 1] = 0.7  # a unit that gives the same for every training image
    columns = []
    for column, values in zip(new.T.tolist(), train.T.tolist(), strict=True):
        mean, deviation = statistics.fmean(values), statistics.pstdev(values)
        columns.append([(value - mean) / (deviation if deviation > 1e-9 else 1) for value in column])
    right = torch.tensor(columns, dtype=torch.float64).T
    mean, std = train.mean(0), train.std(0)
    std = torch.where(std > 1e-9, std, 1.0)
    mistakes = {
        "Take mean and deviation from the *training* features, also for new ones: the network was trained on that scale.": (
            (new - new.mean(0)) / new.std(0)
        ),
        "One mean and deviation for everything: dimensions differ in scale, so each needs its own (over axis 0).": (
            (new - train.mean()) / train.std()
        ),
        "You standardised each feature vector by itself. Statistics go over the features (axis 0), not the dimensions.": (
            (new - new.mean(1, keepdim=True)) / new.std(1, keepdim=True)
        ),
        "Divide by the standard deviation, not by the variance.": (new - mean) / std**2,
        "The mean is not subtracted.": new / std,
        "Features are divided before the mean is subtracted.": new / std - mean,
    }
    given = answer(new, train)
    if trial % 2 and isinstance(given, Tensor) and given.shape == right.shape:
        if (given[:, 1].double() - right[:, 1]).abs().max().nan_to_num(1e9) > 1e-3:
            raise Wrong(
                "One dimension is the same in every training feature, so its deviation is 0, and dividing by 0 (or by "
                "almost 0) gives nan or enormous numbers. Let such a dimension keep the deviation 1."
            )
    return Case(given, right, mistakes, rtol=2e-3, atol=2e-3)  # n or n - 1 in the deviation


def _nearest_others(points: list) -> list[float]:
    """The distance of each point to the nearest other one."""
    return [min(math.dist(p, q) for j, q in enumerate(points) if j != i) for i, p in enumerate(points)]


@exercise(
    "7.2",
    "equal to a plain search through all pairs, for new draws, copies and far-off features",
    "Two lists of nearest distances: each training feature to the nearest *other* training feature, each generated one "
    "to the nearest training feature. Count how many of the second are below the median of the first.",
    over=range(6),
)
def near_copies(answer: Callable, random: Random, trial: int) -> Case:
    """answer(generated [M, D], train [N, D]) -> share of generated features nearer than is typical, in percent."""
    train = random.normal(2 * random.whole(20, 30) + 1, 3)  # an odd number has one median
    made = random.normal(97, 3)
    if trial % 3 == 1:
        made[:30] = train[:30] + 0.01 * made[:30]
    if trial % 3 == 2:
        made = 1.8 * made
    own, among = _nearest_others(train.tolist()), _nearest_others(made.tolist())
    other = [min(math.dist(p, q) for q in train.tolist()) for p in made.tolist()]

    def share(distances: list[float], limit: float) -> float:
        return 100 * sum(one < limit for one in distances) / len(distances)

    median = statistics.median(own)
    right = share(other, median)
    mistakes = {
        "Every training feature is its own nearest neighbour, at distance 0, so nothing can be nearer. Leave the "
        "feature itself out.": 0.0,
        "A share in percent is wanted, 0 to 100.": right / 100,
        "This is the share that is *farther* away.": 100 - right,
        "The limit is the *median* of the training features' distances; a mean is drawn up by a few outliers.": share(
            other, statistics.fmean(own)
        ),
        "You looked for neighbours among the generated features. A copy is near a *training* feature.": share(
            among, median
        ),
    }
    return Case(numbers(answer(made, train)).mean(), right, mistakes)


@exercise(
    "7.3",
    "equal to Bayes' rule in precision form, for 20 random clouds",
    "m + a S (a^2 S + s^2 I)^(-1) (x_t - a m) for each row of x_t. If rows come out mixed up, look at the transpose: "
    "with rows, a matrix stands on the right.",
    times=20,
)
def denoise(answer: Callable, random: Random) -> Case:
    """answer(x_t [B, D], mean [D], covariance [D, D], a, s) -> E[x_0 | x_t] [B, D]."""
    dim, batch, level = random.whole(2, 5), random.whole(6, 8), random.between(0.1, 0.9)
    a, s = level**0.5, (1 - level) ** 0.5
    root, eye = random.normal(dim, dim), torch.eye(dim).double()
    covariance, mean = root @ root.T + 0.3 * eye, 2 * random.normal(dim)
    x_t = a * (mean + random.normal(batch, dim) @ root.T) + s * random.normal(batch, dim)
    inverse = torch.linalg.inv(covariance)
    precision = inverse + a**2 / s**2 * eye
    right = torch.linalg.solve(precision, (inverse @ mean)[:, None] + a / s**2 * x_t.T).T

    def moved(signal: float, noise: float, shift: Tensor) -> Tensor:
        """The shift times the gain, with these variances of signal and noise."""
        return shift @ (a * covariance @ torch.linalg.inv(signal * covariance + noise * eye)).T

    flat, shift = covariance.diagonal(), x_t - a * mean
    mistakes = {
        "x_t belongs around a m, not around m: the signal was shrunk by a.": mean + moved(a**2, s**2, x_t - mean),
        "This is the shift from the class mean; add the mean again.": moved(a**2, s**2, shift),
        "The dimensions hang together: use the whole covariance matrix, not only its diagonal.": (
            mean + a * flat / (a**2 * flat + s**2) * shift
        ),
        "The noise has variance s^2, so s^2 I is added to a^2 S, not s I.": mean + moved(a**2, s, shift),
        "One a is missing: the covariance of x_0 with x_t is a S.": mean + moved(a**2, s**2, shift) / a,
        "The covariance of x_t is a^2 S + s^2 I: your a is not squared there.": mean + moved(a, s**2, shift),
        "This only undoes the scale, x_t / a; all of the noise is still in it.": x_t / a,
    }
    return Case(answer(x_t, mean, covariance, a, s), right, mistakes)


@exercise("7.4", "about 32 % clamped, a deviation of 0.72 left, and a far class drawn in to 1.0")
def prediction(answer: Callable, random: Random) -> Refusals:
    """answer() -> (share clamped in percent, deviation left, mean of the far class after the clamp)."""
    share, deviation, centre = predicted(answer, 3, "a share in percent, a deviation and a mean")
    x, far = torch.randn(200_000, generator=random), 2 + 0.5 * torch.randn(200_000, generator=random)
    true_share = 100 * (x.abs() > 1).double().mean().item()
    true_deviation, true_centre = x.clamp(-1, 1).std().item(), far.clamp(-1, 1).mean().item()
    if near(share, true_share, 8) and near(deviation, true_deviation, 0.1) and near(centre, true_centre, 0.15):
        return {}
    return {
        f"You say that {share:.0f} % are clamped. The clamp is at *one* standard deviation here, not at two or three: "
        "standardised numbers have deviation 1.": share < true_share - 8,
        f"You say that {share:.0f} % are clamped: more than lie beyond one standard deviation of a normal "
        "distribution.": share > true_share + 8,
        "Nearly a third of the values, and those that made most of the variance, now sit at -1 or 1: the deviation "
        "falls.": deviation > true_deviation + 0.1,
        "The values inside are untouched and those outside stay at distance 1, so not that much is lost.": (
            deviation < true_deviation - 0.1
        ),
        "A class around 2, with deviation 0.5, lies almost entirely beyond 1. Where does the clamp put all of it? You "
        f"say {centre:.2f}.": True,
    }
