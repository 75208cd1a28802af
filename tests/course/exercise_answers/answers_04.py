"""Answers to the exercises of notebook 04."""

import torch


def noise_image_by_image(x0, t, eps, alpha_bar):
    levels = [float(alpha_bar[step]) for step in t]
    return torch.stack([x * level**0.5 + e * (1 - level) ** 0.5 for x, e, level in zip(x0, eps, levels, strict=True)])


def noise_without_root(x0, t, eps, alpha_bar):
    level = alpha_bar[t][:, None, None, None]
    return level * x0 + (1 - level) * eps


def noise_by_column(x0, t, eps, alpha_bar):
    return alpha_bar[t].sqrt() * x0 + (1 - alpha_bar[t]).sqrt() * eps


def noise_of_the_first(x0, t, eps, alpha_bar):
    return alpha_bar[t[0]].sqrt() * x0 + (1 - alpha_bar[t[0]]).sqrt() * eps


def noise_swapped(x0, t, eps, alpha_bar):
    return noise_image_by_image(eps, t, x0, alpha_bar)


def noise_of_one_step(x0, t, eps, alpha_bar):
    alpha = alpha_bar / torch.cat([torch.ones(1, dtype=alpha_bar.dtype), alpha_bar[:-1]])
    return noise_image_by_image(x0, t, eps, alpha)


def noise_along_channels(x0, t, eps, alpha_bar):
    return alpha_bar[t].view(1, -1, 1, 1).sqrt() * x0 + (1 - alpha_bar[t]).view(1, -1, 1, 1).sqrt() * eps


def posterior_by_precision(x0, x_t, t, beta):
    before = torch.prod(1 - beta[:t]).item()  # 1 for t = 0
    if t == 0:
        return x0, torch.tensor(0.0)
    from_start, from_now = 1 / (1 - before), (1 - beta[t]) / beta[t]
    mean = (from_start * before**0.5 * x0 + from_now * x_t / (1 - beta[t]).sqrt()) / (from_start + from_now)
    return mean, 1 / (from_start + from_now)


def posterior_with(variance=None, mean=None):
    """The right posterior, but for one of its two results."""

    def answer(x0, x_t, t, beta):
        right = posterior_by_precision(x0, x_t, t, beta)
        if t == 0:
            return right
        now, before = torch.prod(1 - beta[: t + 1]), torch.prod(1 - beta[:t])
        return (
            right[0] if mean is None else mean(x0, x_t, beta[t], now, before),
            right[1] if variance is None else variance(beta[t], now, before),
        )

    return answer


def no_first_step(x0, x_t, t, beta):
    alpha_bar = torch.cumprod(1 - beta, 0)
    before, now = alpha_bar[t - 1], alpha_bar[t]  # alpha_bar[-1] at t = 0
    mean = (before.sqrt() * beta[t] * x0 + (1 - beta[t]).sqrt() * (1 - before) * x_t) / (1 - now)
    return mean, beta[t] * (1 - before) / (1 - now)


def humps_by_sigmoid(x_t, a, s, m, d):
    variance = (a * d) ** 2 + s**2
    weight = 1 / (1 + torch.exp(-2 * a * m * x_t / variance))
    shrink = a * d**2 / variance
    return weight * (m + shrink * (x_t - a * m)) + (1 - weight) * (-m + shrink * (x_t + a * m))


def centres_only(x_t, a, s, m, d):
    return m * torch.tanh(a * m * x_t / ((a * d) ** 2 + s**2))


def nearest_hump(x_t, a, s, m, d):
    centre = m * torch.where(x_t > 0, 1.0, -1.0).to(x_t.dtype)
    return centre + a * d**2 / ((a * d) ** 2 + s**2) * (x_t - a * centre)


def one_wide_gaussian(x_t, a, s, m, d):
    variance = m**2 + d**2
    return a * variance / (a**2 * variance + s**2) * x_t


def weights_of_narrow_humps(x_t, a, s, m, d):
    weight = torch.sigmoid(2 * a * m * x_t / s**2)
    shrink = a * d**2 / ((a * d) ** 2 + s**2)
    return weight * (m + shrink * (x_t - a * m)) + (1 - weight) * (-m + shrink * (x_t + a * m))


def equal_humps(x_t, a, s, m, d):
    return x_t * a * d**2 / ((a * d) ** 2 + s**2)


RIGHT = {
    "4.1": noise_image_by_image,
    "4.2": posterior_by_precision,
    "4.3": humps_by_sigmoid,
    "4.4": lambda: (-2.0, 1.0),
}
WRONG = {
    "4.1": {
        "share of *variance*": noise_without_root,
        "stretched along the width": noise_by_column,
        "the noise of the first one": noise_of_the_first,
        "Signal and noise are swapped": noise_swapped,
        "This is one small step": noise_of_one_step,
        "The shapes do not fit together": noise_along_channels,
    },
    "4.2": {
        "the variance of the step *forward*": posterior_with(variance=lambda b, now, before: b),
        "the standard deviation": posterior_with(variance=lambda b, now, before: (b * (1 - before) / (1 - now)) ** 0.5),
        "upside down": posterior_with(variance=lambda b, now, before: b * (1 - now) / (1 - before)),
        "weights of x_0 and x_t are swapped": posterior_with(
            mean=lambda x0, x_t, b, now, before: (
                (before.sqrt() * b * x_t + (1 - b).sqrt() * (1 - before) * x0) / (1 - now)
            )
        ),
        "not from alpha_bar_t": posterior_with(
            mean=lambda x0, x_t, b, now, before: (now.sqrt() * b * x0 + (1 - b).sqrt() * (1 - before) * x_t) / (1 - now)
        ),
        "forgets what x_t says": posterior_with(mean=lambda x0, x_t, b, now, before: before.sqrt() * x0),
        "At t = 0": no_first_step,
    },
    "4.3": {
        "do not answer with its centre": centres_only,
        "Both humps are possible": nearest_hump,
        "a mixture of two is not Gaussian": one_wide_gaussian,
        "not s^2 alone": weights_of_narrow_humps,
        "the nearer one weighs more": equal_humps,
    },
    "4.4": {
        "looks at one image at a time": lambda: (-60.0, 0.0),
        "beside all real images": lambda: (25.0, 0.0),
        "what is the distance between": lambda: (0.0, 50.0),
    },
}
