"""Checks of the exercises of notebook 07: standardising, copies, the denoiser of a Gaussian cloud, and what a clamp does."""

import math
import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from course.checks.tools import Trials, Wrong, between, exercise, fresh, near, numbers, pieces, settle, whole


def _normal(random: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=random, dtype=torch.float64)


@exercise("7.1", "each dimension by its own training statistics, dead dimensions included")
def standardise(answer: Callable) -> None:
    """answer(features [M, D], train [N, D]) -> standardised features [M, D]."""
    random = fresh()
    for trial in range(4):
        dim, n = whole(4, 7, random), 4000
        scale = 0.2 + 3 * torch.rand(dim, generator=random, dtype=torch.float64)
        train = (_normal(random, n, dim) * scale + 2 * scale).relu()
        new = (_normal(random, 30, dim) * 1.5 * scale + scale).relu() + torch.rand(30, dim, generator=random) / 10
        if trial % 2:
            train[:, 1] = 0.7  # a unit that gives the same for every training image
        columns = []
        for column, values in zip(new.T.tolist(), train.T.tolist(), strict=True):
            mean, deviation = statistics.fmean(values), statistics.pstdev(values)
            columns.append([(value - mean) / (deviation if deviation > 1e-9 else 1) for value in column])
        right = torch.tensor(columns, dtype=torch.float64).T
        mean, std = train.mean(0), train.std(0)
        std = torch.where(std > 1e-9, std, 1.0)
        rows = new - new.mean(1, keepdim=True)
        mistakes = {
            "Take mean and deviation from the *training* features, also for new ones: the network was trained on that scale.": (
                (new - new.mean(0)) / new.std(0)
            ),
            "One mean and deviation for everything: dimensions differ in scale, so each needs its own (over axis 0).": (
                (new - train.mean()) / train.std()
            ),
            "You standardised each feature vector by itself. Statistics go over the features (axis 0), not the dimensions.": (
                rows / new.std(1, keepdim=True)
            ),
            "Divide by the standard deviation, not by the variance.": (new - mean) / std**2,
            "The mean is not subtracted.": new / std,
            "Features are divided before the mean is subtracted.": new / std - mean,
        }
        given = answer(new.clone(), train.clone())
        if trial % 2:
            values = torch.as_tensor(given)
            if values.shape == right.shape and (values[:, 1].double() - right[:, 1]).abs().max().nan_to_num(1e9) > 1e-3:
                raise Wrong(
                    "One dimension is the same in every training feature, so its deviation is 0, and dividing by 0 (or by "
                    "almost 0) gives nan or enormous numbers. Let such a dimension keep the deviation 1."
                )
        settle(
            given,
            right,
            mistakes,
            "x = (f - mean) / std with the mean and deviation of the training features, dimension by dimension.",
            rtol=2e-3,  # n or n - 1 in the deviation
            atol=2e-3,
        )


@exercise("7.2", "equal to a plain search through all pairs, for new draws, copies and far-off features")
def near_copies(answer: Callable) -> None:
    """answer(generated [M, D], train [N, D]) -> share of generated features nearer than is typical, in percent."""
    random, trials = fresh(), Trials()
    for trial in range(6):
        train = _normal(random, 2 * whole(20, 30, random) + 1, 3)  # an odd number has one median
        made = _normal(random, 97, 3)
        if trial % 3 == 1:
            made[:30] = train[:30] + 0.01 * made[:30]
        if trial % 3 == 2:
            made = 1.8 * made
        own = [
            min(math.dist(p, q) for j, q in enumerate(train.tolist()) if j != i) for i, p in enumerate(train.tolist())
        ]
        other = [min(math.dist(p, q) for q in train.tolist()) for p in made.tolist()]
        among = [
            min(math.dist(p, q) for j, q in enumerate(made.tolist()) if j != i) for i, p in enumerate(made.tolist())
        ]

        def share(distances: list[float], limit: float) -> float:
            return 100 * sum(one < limit for one in distances) / len(distances)

        middle = statistics.median(own)
        trials.add(
            numbers(answer(made.clone(), train.clone())).mean(),
            share(other, middle),
            {
                "Every training feature is its own nearest neighbour, at distance 0, so nothing can be nearer. Leave the "
                "feature itself out.": 0.0,
                "A share in percent is wanted, 0 to 100.": share(other, middle) / 100,
                "This is the share that is *farther* away.": 100 - share(other, middle),
                "The limit is the *median* of the training features' distances; a mean is drawn up by a few outliers.": share(
                    other, statistics.fmean(own)
                ),
                "You looked for neighbours among the generated features. A copy is near a *training* feature.": share(
                    among, middle
                ),
            },
            "Two lists of nearest distances: each training feature to the nearest *other* training feature, each generated one "
            "to the nearest training feature. Count how many of the second are below the median of the first.",
        )
    trials.judge()


@exercise("7.3", "equal to Bayes' rule in precision form, for 20 random clouds")
def denoise(answer: Callable) -> None:
    """answer(x_t [B, D], mean [D], covariance [D, D], a, s) -> E[x_0 | x_t] [B, D]."""
    random = fresh()
    for _ in range(20):
        dim, batch, level = whole(2, 5, random), whole(6, 8, random), between(0.1, 0.9, random)
        a, s = level**0.5, (1 - level) ** 0.5
        root = _normal(random, dim, dim)
        covariance, mean = root @ root.T + 0.3 * torch.eye(dim).double(), 2 * _normal(random, dim)
        x_t = a * (mean + _normal(random, batch, dim) @ root.T) + s * _normal(random, batch, dim)
        inverse, eye = torch.linalg.inv(covariance), torch.eye(dim).double()
        precision = inverse + a**2 / s**2 * eye
        right = torch.linalg.solve(precision, (inverse @ mean)[:, None] + a / s**2 * x_t.T).T
        gain = a * covariance @ torch.linalg.inv(a**2 * covariance + s**2 * eye)
        flat = covariance.diagonal()
        mistakes = {
            "x_t belongs around a m, not around m: the signal was shrunk by a.": mean + (x_t - mean) @ gain.T,
            "This is the shift from the class mean; add the mean again.": (x_t - a * mean) @ gain.T,
            "The dimensions hang together: use the whole covariance matrix, not only its diagonal.": (
                mean + a * flat / (a**2 * flat + s**2) * (x_t - a * mean)
            ),
            "The noise has variance s^2, so s^2 I is added to a^2 S, not s I.": (
                mean + (x_t - a * mean) @ (a * covariance @ torch.linalg.inv(a**2 * covariance + s * eye)).T
            ),
            "One a is missing: the covariance of x_0 with x_t is a S.": mean + (x_t - a * mean) @ (gain / a).T,
            "The covariance of x_t is a^2 S + s^2 I: your a is not squared there.": (
                mean + (x_t - a * mean) @ (a * covariance @ torch.linalg.inv(a * covariance + s**2 * eye)).T
            ),
            "This only undoes the scale, x_t / a; all of the noise is still in it.": x_t / a,
        }
        settle(
            answer(x_t.clone(), mean.clone(), covariance.clone(), a, s),
            right,
            mistakes,
            "m + a S (a^2 S + s^2 I)^(-1) (x_t - a m) for each row of x_t. If rows come out mixed up, look at the transpose: "
            "with rows, a matrix stands on the right.",
        )


@exercise("7.4", "about 32 % clamped, a deviation of 0.72 left, and a far class drawn in to 1.0")
def prediction(answer: Callable) -> None:
    """answer() -> (share clamped in percent, deviation left, mean of the far class after the clamp)."""
    names = "a share in percent, a deviation and a mean"
    share, deviation, centre = (numbers(value).item() for value in pieces(answer(), 3, names))
    random = fresh()
    x, far = torch.randn(200_000, generator=random), 2 + 0.5 * torch.randn(200_000, generator=random)
    true_share = 100 * (x.abs() > 1).double().mean().item()
    true_deviation, true_centre = x.clamp(-1, 1).std().item(), far.clamp(-1, 1).mean().item()
    if near(share, true_share, 8) and near(deviation, true_deviation, 0.1) and near(centre, true_centre, 0.15):
        return
    if share < true_share - 8:
        raise Wrong(
            f"You say that {share:.0f} % are clamped. The clamp is at *one* standard deviation here, not at two or three: "
            "standardised numbers have deviation 1."
        )
    if share > true_share + 8:
        raise Wrong(
            f"You say that {share:.0f} % are clamped: more than lie beyond one standard deviation of a normal distribution."
        )
    if deviation > true_deviation + 0.1:
        raise Wrong(
            "Nearly a third of the values, and those that made most of the variance, now sit at -1 or 1: the deviation falls."
        )
    if deviation < true_deviation - 0.1:
        raise Wrong("The values inside are untouched and those outside stay at distance 1, so not that much is lost.")
    raise Wrong(
        f"A class around 2, with deviation 0.5, lies almost entirely beyond 1. Where does the clamp put all of it? You say "
        f"{centre:.2f}."
    )
