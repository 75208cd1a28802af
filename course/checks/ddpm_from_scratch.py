"""Checks of the exercises of notebook 04: noising, the posterior, an exact denoiser, and what a judge cannot see."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Refusals, exercise, near, numbers, pieces, predicted
from lt_utils.data import datasets


def _schedule(steps: int, random: Random) -> Tensor:
    """A random beta [steps], float64."""
    return 0.001 + 0.3 * torch.rand(steps, generator=random, dtype=torch.float64)


@exercise(
    "4.1",
    "each image of a batch has the noise of its own step",
    "Look up alpha_bar at each image's own t, and give the scales the shape [B, 1, 1, 1].",
    over=(4, 5),  # with size 4 a scale of shape [4] also fits the width of the image, but means something else
)
def add_noise(answer: Callable, random: Random, size: int) -> Case:
    """answer(x0 [B, C, H, W], t [B], eps [B, C, H, W], alpha_bar [T]) -> x_t [B, C, H, W]."""
    batch, steps = 4, random.whole(20, 50)
    beta = _schedule(steps, random)
    alpha_bar = torch.cumprod(1 - beta, 0)
    x0, eps = (random.normal(batch, 2, size, size) for _ in range(2))
    t = torch.randperm(steps, generator=random)[:batch]

    def mixed(level: Tensor, x0: Tensor = x0, eps: Tensor = eps) -> Tensor:
        return level.sqrt() * x0 + (1 - level).sqrt() * eps

    level = alpha_bar[t].view(-1, 1, 1, 1)
    mistakes = {
        "alpha_bar is a share of *variance*; images and noise are multiplied by its square root.": (
            level * x0 + (1 - level) * eps
        ),
        "Only one of the two is scaled by a square root: image and noise both are, so that their variances add up to 1.": (
            level.sqrt() * x0 + (1 - level) * eps
        ),
        "The scale of the noise is the root of 1 - alpha_bar, not 1 minus the root of alpha_bar.": (
            level.sqrt() * x0 + (1 - level.sqrt()) * eps
        ),
        "Signal and noise are swapped: at t = 0 almost the whole image should be left.": mixed(1 - level),
        "All images have the noise of the first one: every image has a t of its own.": mixed(level[0]),
        "This is one small step, with 1 - beta_t. All steps up to t at once need their product, alpha_bar_t.": mixed(
            1 - beta[t].view(-1, 1, 1, 1)
        ),
    }
    if size == batch:
        mistakes[
            "A scale of shape [B] was stretched along the width of the images, so every column has other noise, not "
            "every image. It needs shape [B, 1, 1, 1]: .view(-1, 1, 1, 1)."
        ] = mixed(alpha_bar[t])
    right = torch.stack([mixed(alpha_bar[t[i]], x0[i], eps[i]) for i in range(batch)])
    return Case(answer(x0, t, eps, alpha_bar), right, mistakes)


@exercise("4.2", "mean and variance agree with Bayes' rule at every step of three random schedules", times=3)
def posterior(answer: Callable, random: Random) -> Iterator[Case]:
    """answer(x0 [D], x_t [D], t, beta [T]) -> (mean [D], variance) of q(x_{t-1} | x_t, x_0)."""
    beta = _schedule(12, random)
    alpha_bar = torch.cumprod(1 - beta, 0)
    for t in [5, 11, *range(12)]:
        x0, x_t = (random.normal(3) for _ in range(2))
        mean, variance = pieces(answer(x0, x_t, t, beta), 2, "mean and variance")
        if t == 0:
            hint = (
                "At t = 0 there is no noise left before the step: the mean is x_0 and the variance 0 (alpha_bar = 1)."
            )
            yield Case(mean, x0, {}, hint, "The mean at t = 0")
            yield Case(numbers(variance).mean(), 0.0, {}, hint, "The variance at t = 0")
            continue
        before, now, b = float(alpha_bar[t - 1]), float(alpha_bar[t]), float(beta[t])
        # Two Gaussians for x_{t-1}: from x_0 through t steps, and from x_t one step back. Precisions add up.
        precision = 1 / (1 - before) + (1 - b) / b
        right = (before**0.5 * x0 / (1 - before) + (1 - b) ** 0.5 * x_t / b) / precision
        mistakes = {
            "beta_t is the variance of the step *forward*. Knowing x_0 makes the step back narrower, most of all near "
            "t = 0: by which share?": b,
            "This is the standard deviation; wanted is the variance.": precision**-0.5,
            "The fraction is upside down: the variance must be smaller than beta_t.": b * (1 - now) / (1 - before),
        }
        hint = (
            "Two Gaussians speak of x_{t-1}: one comes forward from x_0, one back from x_t. Multiply them: their precisions "
            "(1 / variance) add up. What is the precision of each?"
        )
        yield Case(numbers(variance, "The variance").mean(), 1 / precision, mistakes, hint, "The variance")
        of_x0, of_x_t = before**0.5 * b / (1 - now), (1 - b) ** 0.5 * (1 - before) / (1 - now)
        late = now**0.5 * b / (1 - now)
        mistakes = {
            "The weights of x_0 and x_t are swapped: near t = 0 the mean must lie close to x_0.": of_x0 * x_t
            + of_x_t * x0,
            "x_0 has its weight from alpha_bar_{t-1}, the step before, not from alpha_bar_t.": late * x0 + of_x_t * x_t,
            "This is x_0 noised to step t - 1; it forgets what x_t says about the noise.": before**0.5 * x0,
        }
        hint = (
            "The mean is a weighted sum of x_0 and x_t; each weight belongs to the precision of its Gaussian. Near which of the "
            "two must it lie when t is small?"
        )
        yield Case(mean, right, mistakes, hint, "The mean")


@exercise(
    "4.3",
    "equal to Bayes' rule summed over a fine grid, at 30 random noise levels",
    "Three steps: how likely is each hump once x_t is seen (how wide is x_t, given the hump)? What is the mean of x_0 inside "
    "one hump (the exact denoiser of a Gaussian)? Then the weighted mean of both.",
    times=30,
)
def two_humps(answer: Callable, random: Random) -> Case:
    """answer(x_t [B], a, s, m, d) -> E[x_0 | x_t] [B] for x_0 = +m or -m, each plus N(0, d^2)."""
    m, d, level = random.between(1, 3), random.between(0.2, 0.6), random.between(0.02, 0.98)
    a, s = level**0.5, (1 - level) ** 0.5
    sign = torch.where(torch.rand(50, generator=random) < 0.5, -1.0, 1.0).double()
    x_t = a * (sign * m + d * random.normal(50)) + s * random.normal(50)
    x_t = torch.cat([x_t, torch.linspace(-0.3, 0.3, 11).double()])
    grid = torch.linspace(-m - 8 * d, m + 8 * d, 20_001, dtype=torch.float64)
    humps = torch.exp(-((grid - m) ** 2) / (2 * d**2)) + torch.exp(-((grid + m) ** 2) / (2 * d**2))
    log = humps.clamp(min=1e-300).log() - (x_t[:, None] - a * grid) ** 2 / (2 * s**2)
    right = (torch.softmax(log, 1) * grid).sum(1)
    variance, spread = a * a * d * d + s * s, m * m + d * d
    left, upper = (centre + a * d * d / variance * (x_t - a * centre) for centre in (-m, m))
    weight, narrow = torch.sigmoid(2 * a * m * x_t / variance), torch.sigmoid(2 * a * m * x_t / s**2)
    mistakes = {
        "Inside a hump x_0 still varies: do not answer with its centre m, but with the exact denoiser of that "
        "Gaussian.": (2 * weight - 1) * m,
        "Both humps are possible. The nearer one is likelier, but the answer is the *mean* over both, weighted with their "
        "posterior probabilities.": torch.where(x_t > 0, upper, left),
        "The two humps have equal weights only before x_t is seen; afterwards the nearer one weighs more.": (
            (left + upper) / 2
        ),
        "This is one wide Gaussian with the same mean and variance; a mixture of two is not Gaussian.": (
            a * spread / (a * a * spread + s * s) * x_t
        ),
        "The posterior weights use the variance of x_t *given the hump*: a^2 d^2 + s^2, not s^2 alone.": (
            upper * narrow + left * (1 - narrow)
        ),
    }
    return Case(answer(x_t, a, s, m, d), right, mistakes, rtol=1e-3, atol=1e-4)


@exercise("4.4", "the judge loses next to nothing while all variety is gone")
def prediction(answer: Callable, random: Random) -> Refusals:
    """answer() -> (change of label accuracy in points, share of spread that is left in percent)."""
    change, left = predicted(answer, 2, "the change in points and the share in percent")
    data = datasets.load()
    images, test = data.train_images.float().flatten(1) / 255, data.test_images.float().flatten(1) / 255
    means = torch.stack([images[data.train_labels == c].mean(0) for c in range(data.num_classes)])

    def judged(x: Tensor, labels: Tensor) -> float:
        return 100 * (torch.cdist(x, means).argmin(1) == labels).double().mean().item()

    members = [(data.test_labels == c).nonzero().flatten() for c in range(data.num_classes)]
    copies = torch.cat([places[torch.randint(300, (60,), generator=random)] for places in members])
    # One copied image per class is right or wrong as a whole; over many choices of it the accuracy is this:
    measured = judged(test[copies], data.test_labels[copies]) - judged(test, data.test_labels)
    if near(change, measured, 12) and near(left, 0, 5):
        return {}
    return {
        f"You say {change:+.0f} points. The judge looks at one image at a time: can it see that it has met this one before? "
        "And how often does it recognise a real image?": change < measured - 12,
        "The copied image was drawn by chance among the real ones. Over many such choices, how often is it one that the judge "
        "recognises, beside all real images?": change > measured + 12,
        f"You say that {left:.0f} % of the spread is left. Take two samples of one class: what is the distance between "
        "them?": True,
    }
