"""Answers to the exercises of notebook 05."""

import math

import torch


def step_with(compose):
    """A DDIM step that estimates x_0 and sigma correctly and composes them by `compose`(x0, eps, z, now, after, sigma)."""

    def answer(x_t, eps, now, after, eta, noise):
        x0 = (x_t - math.sqrt(1 - now) * eps) / math.sqrt(now)
        sigma = eta * math.sqrt((1 - after) / (1 - now) * (1 - now / after))
        return compose(x0, eps, noise, now, after, sigma)

    return answer


def step_by_posterior(x_t, eps, now, after, eta, noise):
    """Written as DDPM does, with a mean in x_0 and x_t, for any sigma."""
    x0 = (x_t - (1 - now) ** 0.5 * eps) / now**0.5
    sigma = eta * ((1 - after) * (1 - now / after) / (1 - now)) ** 0.5
    weight = ((1 - after - sigma**2) / (1 - now)) ** 0.5
    return (after**0.5 - weight * now**0.5) * x0 + weight * x_t + sigma * noise


def step_from_x_t(x_t, eps, now, after, eta, noise):
    sigma = eta * ((1 - after) / (1 - now) * (1 - now / after)) ** 0.5
    return after**0.5 * x_t + (1 - after - sigma**2) ** 0.5 * eps + sigma * noise


def guide_x0(x_t, eps_y, eps_none, omega, a, s, clip):
    """Guides the estimates of x_0 instead of those of eps: the same, as one is linear in the other."""
    x0_y, x0_none = ((x_t - s * eps) / a for eps in (eps_y, eps_none))
    x0 = torch.clamp((1 + omega) * x0_y - omega * x0_none, -clip, clip)
    return x0, (x_t - a * x0) / s


def guide_with(mix, new_eps=True, bound=True):
    def answer(x_t, eps_y, eps_none, omega, a, s, clip):
        eps = mix(eps_y, eps_none, omega)
        x0 = (x_t - s * eps) / a
        x0 = x0.clamp(-clip, clip) if bound else x0
        return x0, (x_t - a * x0) / s if new_eps else eps

    return answer


def course(eps_y, eps_none, omega):
    return eps_y + omega * (eps_y - eps_none)


def midpoint(eps_of, x, now, after):
    """Another method of second order: the estimate in the middle of the step, in the variable s / a, moves all of it."""
    u_now, u_after = ((1 - now) / now) ** 0.5, ((1 - after) / after) ** 0.5
    u = (u_now + u_after) / 2
    level = 1 / (1 + u**2)
    middle = level**0.5 * (x / now**0.5 + (u - u_now) * eps_of(x, now))
    return after**0.5 * (x / now**0.5 + (u_after - u_now) * eps_of(middle, level))


def move(x, eps, now, after):
    return after**0.5 * (x - (1 - now) ** 0.5 * eps) / now**0.5 + (1 - after) ** 0.5 * eps


def euler(eps_of, x, now, after):
    return move(x, eps_of(x, now), now, after)


def asked_at_the_old_x(eps_of, x, now, after):
    return move(x, (eps_of(x, now) + eps_of(x, after)) / 2, now, after)


def asked_at_the_old_level(eps_of, x, now, after):
    there = euler(eps_of, x, now, after)
    return move(x, (eps_of(x, now) + eps_of(there, now)) / 2, now, after)


def from_the_end(eps_of, x, now, after):
    there = euler(eps_of, x, now, after)
    return move(there, (eps_of(x, now) + eps_of(there, after)) / 2, now, after)


def end_only(eps_of, x, now, after):
    return move(x, eps_of(euler(eps_of, x, now, after), after), now, after)


def two_small_steps(eps_of, x, now, after):
    middle = (now + after) / 2
    return euler(eps_of, euler(eps_of, x, now, middle), middle, after)


def four_calls(eps_of, x, now, after):
    middle = (now + after) / 2
    return midpoint(eps_of, midpoint(eps_of, x, now, middle), middle, after)


RIGHT = {
    "5.1": step_by_posterior,
    "5.2": guide_x0,
    "5.3": midpoint,
    "5.4": lambda: (0.2, 1.2, 50.0),
}
WRONG = {
    "5.1": {
        "The fresh noise comes on top": step_with(
            lambda x0, eps, z, now, after, sigma: after**0.5 * x0 + (1 - after) ** 0.5 * eps + sigma * z
        ),
        "multiplied the noise by its square": step_with(
            lambda x0, eps, z, now, after, sigma: after**0.5 * x0 + (1 - after - sigma**2) ** 0.5 * eps + sigma**2 * z
        ),
        "No fresh noise is added": step_with(
            lambda x0, eps, z, now, after, sigma: after**0.5 * x0 + (1 - after) ** 0.5 * eps
        ),
        "eta is not used": lambda x_t, eps, now, after, eta, noise: step_by_posterior(x_t, eps, now, after, 1.0, noise),
        "must be scaled by the square roots": step_with(
            lambda x0, eps, z, now, after, sigma: after * x0 + (1 - after - sigma**2) * eps + sigma * z
        ),
        "with the roots of the step *now*": step_with(
            lambda x0, eps, z, now, after, sigma: now**0.5 * x0 + (1 - after - sigma**2) ** 0.5 * eps + sigma * z
        ),
        "x_t was taken for x_0": step_from_x_t,
    },
    "5.2": {
        "You started from eps_none": guide_with(lambda y, none, omega: none + omega * (y - none)),
        "pushes *away* from the label": guide_with(lambda y, none, omega: y - omega * (y - none)),
        "instead of the difference": guide_with(lambda y, none, omega: y + omega * none),
        "x_0 was not clipped": guide_with(course, bound=False),
        "eps still belongs to the x_0 before the clip": guide_with(course, new_eps=False),
    },
    "5.3": {
        "This is DDIM's own step": euler,
        "made at the old x": asked_at_the_old_x,
        "for the old alpha_bar": asked_at_the_old_level,
        "Repeat it from its *start*": from_the_end,
        "Only the estimate at the end": end_only,
        "second order means 4": two_small_steps,
        "Two calls of the denoiser are allowed": four_calls,
    },
    "5.4": {
        "The two are not alike": lambda: (0.5, 0.5, 60.0),
        "It is the other way round": lambda: (1.0, 0.1, 60.0),
        "Guidance sharpens": lambda: (0.1, 1.0, 100.0),
        "both pushes are positive": lambda: (-0.2, -1.0, 60.0),
        "the sizes are not yet": lambda: (0.1, 3.0, 60.0),
    },
}
