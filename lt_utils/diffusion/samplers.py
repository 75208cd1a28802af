"""Samplers: how to walk from noise to data, with guidance; ancestral DDPM, or DDIM with any number of steps."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lt_utils.diffusion.losses import estimates
from lt_utils.diffusion.schedules import Schedule
from lt_utils.errors import CourseError, choose

# A prediction maps (x_t, t) to the estimates (x_0, eps); samplers need nothing else.
Prediction = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def check_labels(labels: Tensor, no_label: int) -> None:
    """Raise CourseError unless all labels [N] are classes 0 .. no_label - 1, or no_label itself, "no label"."""
    unknown = labels[(labels < 0) | (labels > no_label)]
    if len(unknown) and no_label:  # an unconditional network takes any label
        raise CourseError(
            f"Label {unknown[0]} is none of this network's {no_label} classes: give 0 to {no_label - 1}, or {no_label} for "
            "no label."
        )


def guided(
    denoiser: nn.Module,
    schedule: Schedule,
    labels: Tensor,
    objective: str = "v",
    omega: float = 0.0,
    clip: float | None = None,
) -> Prediction:
    """A prediction for `labels` [B] with classifier-free guidance (Ho & Salimans 2022): o_y + omega (o_y - o_none).

    omega = 0 is no guidance, omega > 0 stresses the label; a "guidance scale" as in diffusers is 1 + omega. As x_0 and
    eps are linear in the output, guiding any of the three objectives is the same. Both branches run as one batch.
    clip: bound |x_0| by this value (1 for images in -1..1); eps is recomputed so that the two stay consistent.
    """

    def predict(x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if omega:
            null_labels = torch.full_like(labels, denoiser.no_label)
            both = denoiser(torch.cat([x_t, x_t]), torch.cat([t, t]), torch.cat([labels, null_labels]))
            conditional, unconditional = both.to(x_t.dtype).chunk(2)  # each [B, ...]
            output = conditional + omega * (conditional - unconditional)
        else:
            output = denoiser(x_t, t, labels).to(x_t.dtype)
        a, s = schedule.scales(t, x_t)  # [B, 1, ...]
        x0, eps = estimates(objective, output, x_t, a, s)
        if clip is not None:
            x0 = x0.clamp(-clip, clip)
            eps = (x_t - a * x0) / s
        return x0, eps

    return predict


def check_step(t: int, total: int) -> None:
    """Raise CourseError unless t is a step of a schedule of `total` steps, 0 .. total - 1."""
    if not 0 <= t < total:
        raise CourseError(
            f"Step t = {t} is outside the schedule: its steps are 0 (nearly clean) to {total - 1} (noise)."
        )


def ddim_steps(total: int, steps: int, start: int | None = None) -> list[int]:
    """`steps` values of t, falling from `start` in equal strides ("trailing" spacing, Lin et al. 2024).

    start: the step to begin at, by default the last, total - 1. Raises CourseError unless 0 <= start < total and
    1 <= steps <= start + 1.
    """
    if start is not None:
        check_step(start, total)
        if steps > start + 1:
            raise CourseError(f"From step {start} to the data there are {start + 1} steps, not {steps}: take fewer.")
        total = start + 1
    if not 1 <= steps <= total:
        raise CourseError(f"A schedule of {total} steps can be sampled in 1 to {total} steps, not {steps}.")
    return [round(total - i * total / steps) - 1 for i in range(steps)]


@torch.no_grad()
def ddim(
    predict: Prediction,
    schedule: Schedule,
    x: Tensor,
    steps: int = 50,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    start: int | None = None,
) -> Tensor:
    """DDIM (Song et al. 2021, equation 12) from noise x [B, ...] to data [B, ...] in `steps` steps.

    eta = 0: deterministic. eta = 1 with all T steps: ancestral sampling with the posterior variance.
    start: the step t whose noise x has, by default the last: x is then the x_t of some data, as in SDEdit.
    """
    times = ddim_steps(len(schedule), steps, start)
    alpha_bar = schedule.alpha_bar
    for now, after in zip(times, [*times[1:], None], strict=True):
        abar = float(alpha_bar[now])
        abar_next = float(alpha_bar[after]) if after is not None else 1.0
        x0, eps = predict(x, torch.full((len(x),), now, device=x.device))
        sigma = eta * math.sqrt((1 - abar_next) / (1 - abar) * (1 - abar / abar_next))
        x = math.sqrt(abar_next) * x0 + math.sqrt(max(1 - abar_next - sigma**2, 0)) * eps
        if sigma:
            x = x + sigma * torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
    return x


@torch.no_grad()
def ancestral(
    predict: Prediction,
    schedule: Schedule,
    x: Tensor,
    variance: str = "posterior",
    generator: torch.Generator | None = None,
) -> Tensor:
    """DDPM sampling through all T steps (Ho et al. 2020, algorithm 2) from noise x [B, ...] to data [B, ...].

    variance: "posterior" (that of q(x_{t-1} | x_t, x_0)) or "beta" (the larger choice, beta_t). No noise is added at t = 0.
    """
    choose("variance", variance, ("posterior", "beta"))
    spread = {"posterior": schedule.posterior_variance, "beta": schedule.beta}[variance]
    for t in range(len(schedule) - 1, -1, -1):
        abar, beta = float(schedule.alpha_bar[t]), float(schedule.beta[t])
        before = float(schedule.alpha_bar[t - 1]) if t else 1.0
        x0, _ = predict(x, torch.full((len(x),), t, device=x.device))
        # Posterior mean of q(x_{t-1} | x_t, x_0), equation 7 of DDPM.
        x = (math.sqrt(before) * beta * x0 + math.sqrt(1 - beta) * (1 - before) * x) / (1 - abar)
        if t:
            noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
            x = x + math.sqrt(float(spread[t])) * noise
    return x
