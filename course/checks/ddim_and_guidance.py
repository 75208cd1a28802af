"""Checks of the exercises of notebook 05: one DDIM step, guidance with a clip, a second-order step, and what guidance does."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Refusals, Wrong, exercise, near, number, numbers, pieces, predicted
from lt_utils.diffusion.samplers import ddim
from lt_utils.diffusion.schedules import cosine_schedule


@exercise(
    "5.1", "exact for eta = 0, and Bayes' posterior of DDPM for eta = 1, at 40 random pairs of steps", over=range(40)
)
def ddim_step(answer: Callable, random: Random, trial: int) -> Case:
    """answer(x_t [D], eps [D], now, after, eta, noise [D]) -> x at the step after, [D]; now and after are alpha_bar."""
    now = random.between(0.02, 0.9)
    after = now + (0.99 - now) * random.between(0.05, 0.9)
    eta = (0.0, 1.0, random.between(0.2, 0.9))[trial % 3]
    x0, eps, noise = (random.normal(5) for _ in range(3))
    x_t = now**0.5 * x0 + (1 - now) ** 0.5 * eps
    # DDPM's step from `now` to `after`: the precisions of its two Gaussians add up.
    alpha = now / after
    variance = 1 / (1 / (1 - after) + alpha / (1 - alpha))
    sigma = eta * variance**0.5
    clean, full, fresh = after**0.5 * x0, (1 - after) ** 0.5 * eps, sigma * noise
    rest = (1 - after - sigma**2) ** 0.5 * eps
    mistakes = {
        "The fresh noise comes on top: x then holds more noise than 1 - alpha_bar. What sigma^2 adds must be taken from "
        "the old noise: sqrt(1 - alpha_bar_after - sigma^2) eps.": clean + full + fresh,
        "sigma is a standard deviation, and you multiplied the noise by its square.": clean + rest + sigma * fresh,
        "eta is not used: this is the step for eta = 1.": (
            clean + (1 - after - variance) ** 0.5 * eps + variance**0.5 * noise
        ),
        "No fresh noise is added: this is the step for eta = 0.": clean + full,
        "x_0 and eps must be scaled by the square roots of alpha_bar and 1 - alpha_bar.": (
            after * x0 + (1 - after - sigma**2) * eps + fresh
        ),
        "The estimate of x_0 was scaled with the roots of the step *now*; x moves to the step after.": (
            now**0.5 * x0 + rest + fresh
        ),
        "x_t was taken for x_0. First solve x_t = a x_0 + s eps for x_0.": after**0.5 * x_t + rest + fresh,
    }
    hint = (
        f"With eta = 0 already, from alpha_bar {now:.2f} to {after:.2f}, something is off. First back from x_t and eps to x_0 "
        "with the scales of *now*, then forward with the same eps and the scales of the step *after*."
        if not eta
        else f"With eta = 0 you are right; with eta = {eta:.1f} not. Three parts make x: x_0, the old eps, fresh noise. Their "
        "shares of variance must add up to 1. Which share has each? And what is sigma at eta = 1, where this is DDPM's step?"
    )
    return Case(answer(x_t, eps, now, after, eta, noise), clean + rest + fresh, mistakes, hint)


@exercise(
    "5.2",
    "right with and without a clip, and x_0 and eps always fit x_t",
    "In this order: eps_y + omega (eps_y - eps_none); x_0 from it; clip x_0; eps from x_t and the clipped x_0.",
    over=range(20),
)
def guided(answer: Callable, random: Random, trial: int) -> Case:
    """answer(x_t [B, D], eps_y [B, D], eps_none [B, D], omega, a, s, clip) -> (x_0, eps), both [B, D]."""
    level, omega = random.between(0.1, 0.9), random.between(0.5, 4) if trial % 4 < 3 else 0.0
    a, s, clip = level**0.5, (1 - level) ** 0.5, (100.0, 1.0)[trial % 2]
    x_t, eps_y, eps_none = (random.normal(3, 4) for _ in range(3))
    difference = eps_y - eps_none

    def both(eps: Tensor, bound: float = clip) -> Tensor:
        """x_0 and eps, [2, B, D]."""
        x0 = ((x_t - s * eps) / a).clamp(-bound, bound)
        return torch.stack([x0, (x_t - a * x0) / s])

    moved = eps_y + omega * difference
    right = both(moved)
    mistakes = {
        "Here omega = 0 means *no* guidance: start from eps_y and go further. You started from eps_none, which is the "
        "convention of libraries whose guidance scale is 1 + omega.": both(eps_none + omega * difference),
        "The sign is turned round: this pushes *away* from the label.": both(eps_y - omega * difference),
        "The difference points from 'no label' to 'label'; you added eps_none to eps_y instead of the "
        "difference.": both(eps_y + omega * eps_none),
        "x_0 was not clipped.": both(moved, 1e9),
        "Both outputs are clipped: only x_0 has known bounds.": torch.stack([right[0], right[1].clamp(-clip, clip)]),
        "eps still belongs to the x_0 before the clip. Compute it anew from x_t and the clipped x_0, so that "
        "x_t = a x_0 + s eps holds again: the sampler uses both.": torch.stack([right[0], moved]),
    }
    given = pieces(answer(x_t, eps_y, eps_none, omega, a, s, clip), 2, "x_0 and eps, both [B, D]")
    x0, eps = numbers(given[0], "x_0"), numbers(given[1], "eps")
    if x0.shape != x_t.shape or eps.shape != x_t.shape:
        raise Wrong(f"x_0 and eps should have the shape {list(x_t.shape)} of x_t.")
    return Case(torch.stack([x0, eps]), right, mistakes, rtol=1e-6, atol=1e-6)


def _gaussian_denoiser(deviation: float) -> Callable:
    """eps_of(x, alpha_bar), exact for data from N(0, deviation^2)."""
    return lambda x, level: (1 - level) ** 0.5 / (level * deviation**2 + 1 - level) * x


def walk(step: Callable, deviation: float, steps: int) -> tuple[float, float]:
    """Relative error of `step` on Gaussian data, for which the path is known exactly, and the largest number of calls."""
    denoiser, calls = _gaussian_denoiser(deviation), [0] * steps
    levels = (torch.linspace(1.4, 0.1, steps + 1, dtype=torch.float64).cos() ** 2).tolist()  # alpha_bar
    x = torch.ones(1, dtype=torch.float64)
    for place in range(steps):

        def eps_of(x: Tensor, alpha_bar: float, place: int = place) -> Tensor:
            calls[place] += 1
            return denoiser(x, alpha_bar)

        x = numbers(step(eps_of, x.clone(), levels[place], levels[place + 1]))
    start, end = ((level * deviation**2 + 1 - level) ** 0.5 for level in (levels[0], levels[-1]))
    return abs(number(x) * start / end - 1), max(calls)


@exercise("5.3", "two calls a step, and twice the steps make the error about four times smaller")
def second_order_step(answer: Callable, random: Random) -> Iterator[Refusals]:
    """answer(eps_of, x, now, after) -> x at the step after; eps_of(x, alpha_bar) is the denoiser."""
    deviation = random.between(0.3, 0.6)
    now, after = random.between(0.2, 0.4), random.between(0.6, 0.8)
    x, eps_of = random.normal(4), _gaussian_denoiser(deviation)

    def move(x: Tensor, eps: Tensor) -> Tensor:
        return after**0.5 * (x - (1 - now) ** 0.5 * eps) / now**0.5 + (1 - after) ** 0.5 * eps

    given = numbers(answer(eps_of, x, now, after))
    first = eps_of(x, now)
    there = move(x, first)
    at_end = eps_of(there, after)
    mistakes = {
        "This is DDIM's own step: it knows the noise only at its beginning. Ask the denoiser again at its end.": there,
        "The second estimate was made at the old x. Go to the end of the step first, and ask the denoiser there.": move(
            x, (first + eps_of(x, after)) / 2
        ),
        "The second estimate was made for the old alpha_bar; at the end of the step the noise level is `after`.": move(
            x, (first + eps_of(there, now)) / 2
        ),
        "The step was repeated from its end. Repeat it from its *start*, with the mean of both estimates.": move(
            there, (first + at_end) / 2
        ),
        "Only the estimate at the end was used; the *mean* of both cancels the error of first order.": move(x, at_end),
    }
    if given.shape == x.shape:
        yield {idea: torch.allclose(given, wrong, rtol=1e-6, atol=1e-8) for idea, wrong in mistakes.items()}
    (coarse, calls), (fine, _) = (walk(answer, deviation, steps) for steps in (32, 64))
    order = math.log2(coarse / fine) if fine > 0 else 9.0
    yield {
        f"Two calls of the denoiser are allowed in a step, yours makes {calls}: compare methods at equal calls.": (
            calls > 2
        ),
        f"On Gaussian data, where the path is known exactly, twice the steps make your error {coarse / max(fine, 1e-30):.1f} "
        "times smaller; second order means 4. Move with DDIM, ask again there (at `after`), then move once more from the "
        "start with the mean of both noise estimates.": order < 1.7 or fine > 1e-2,
    }


def guided_means(omega: float = 2.0, samples: int = 4000, seed: int = 0) -> list[tuple[float, float]]:
    """(push away from the other class, standard deviation) of both classes of exercise 5.4 under guidance, by DDIM with
    exact denoisers in 100 steps."""
    schedule, width = cosine_schedule(1000), 0.5
    means, weights = torch.tensor([-1.0, 1.0], dtype=torch.float64), torch.tensor([0.9, 0.1], dtype=torch.float64)

    def denoise(x: Tensor, a: float, s: float, centres: Tensor, shares: Tensor) -> Tensor:
        variance = (a * width) ** 2 + s**2
        distance = x[:, None] - a * centres
        posterior = torch.softmax(shares.log() - distance**2 / (2 * variance), 1)
        return (posterior * (centres + a * width**2 / variance * distance)).sum(1)

    found = []
    for c, sign in ((0, -1), (1, 1)):

        def predict(x: Tensor, t: Tensor, c: int = c) -> tuple[Tensor, Tensor]:
            a, s = (float(scale[0]) for scale in schedule.scales(t, x))
            own, every = denoise(x, a, s, means[c : c + 1], torch.ones(1).double()), denoise(x, a, s, means, weights)
            x0 = own + omega * (own - every)
            return x0, (x - a * x0) / s

        start = torch.randn(samples, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        x = ddim(predict, schedule, start, 100)
        found.append(((sign * (x.mean() - means[c])).item(), x.std().item()))
    return found


@exercise("5.4", "the frequent class is hardly moved, the rare one by about 1, and it keeps about 57 % of its width")
def prediction(answer: Callable, random: Random) -> Refusals:
    """answer() -> (push of the frequent class, push of the rare class, width of the rare class in percent)."""
    frequent, rare, width = predicted(answer, 3, "two pushes and a width in percent")
    (true_frequent, _), (true_rare, true_width) = guided_means(seed=random.initial_seed() % 2**31)
    left = 100 * true_width / 0.5
    if near(frequent, true_frequent, 0.25) and near(rare, true_rare, 0.5) and near(width, left, 25):
        return {}
    return {
        "Guidance pushes a class *away* from what the unlabelled model expects, so both pushes are positive.": (
            frequent < -0.05 or rare < -0.05
        ),
        "The two are not alike. The push is own - every, and 'every' is nearly the frequent class itself (it has 90 % of "
        "the data): for which class is this difference large?": near(frequent, rare, 0.2),
        "It is the other way round: the unlabelled model already looks like the frequent class, so there is little left "
        "to push; the rare class is what it does not expect.": frequent > rare,
        f"You say that {width:.0f} % of the rare class's width is left. Guidance sharpens: samples near the other class "
        "are pushed most, so all of them end closer together.": width > left + 25,
        f"The direction is right, the sizes are not yet: you say {frequent:.2f}, {rare:.2f} and {width:.0f} %. Look at the "
        "figure of guided classes in notebook 05: by how many of its own widths (0.5) is the rare class moved? By which part of "
        "one the frequent class? How wide is the rare class afterwards?": True,
    }
