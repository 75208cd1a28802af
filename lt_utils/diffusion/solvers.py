"""DPM-Solver++ (Lu et al. 2022): a multistep sampler that needs about ten calls of the network where DDIM needs fifty.

DDIM holds the estimate of x_0 fixed during a step. DPM-Solver++ looks at how that estimate changed over the last steps and
carries the change on, as a second or third order method for differential equations does. It is written in the half-log
signal-to-noise ratio lambda = log(a / s), in which the exact solution between two steps is an integral of x_0 alone.
"""

import math

import torch
from torch import Tensor

from lt_utils.diffusion.samplers import Prediction, ddim_steps
from lt_utils.diffusion.schedules import Schedule
from lt_utils.errors import CourseError

ORDERS = (1, 2, 3)


def _half_log_snr(alpha_bar: float) -> float:
    """lambda = log(a / s), infinite for clean data."""
    return 0.5 * math.log(alpha_bar / (1 - alpha_bar)) if alpha_bar < 1 else math.inf


@torch.no_grad()
def dpm_solver(
    predict: Prediction, schedule: Schedule, x: Tensor, steps: int = 10, order: int = 2, start: int | None = None
) -> Tensor:
    """DPM-Solver++ ("2M", "3M": multistep of order 2 or 3) from noise x [B, ...] to data [B, ...] in `steps` calls.

    The steps are those of DDIM (`samplers.ddim_steps`), and order 1 is DDIM with eta = 0. With fewer than 15 steps the last
    ones fall to a lower order, for there the estimate of x_0 changes abruptly; the very last one is always of order 1.
    start: the step t whose noise x has, by default the last.

    Raises CourseError for an unknown order, fewer steps than the order, or more than the schedule has.
    """
    if order not in ORDERS:
        raise CourseError(f"DPM-Solver++ is written for the orders 1, 2 and 3, not {order}.")
    if steps < order:
        raise CourseError(f"A solver of order {order} needs at least {order} steps, not {steps}: take more steps.")
    times = ddim_steps(len(schedule), steps, start)
    alpha_bar = [*(float(schedule.alpha_bar[t]) for t in times), 1.0]
    lam = [_half_log_snr(value) for value in alpha_bar]
    earlier: list[Tensor] = []  # estimates of x_0 at the last steps, the newest first
    for i, t in enumerate(times):
        x0, _ = predict(x, torch.full((len(x),), t, device=x.device))
        earlier = [x0, *earlier[:2]]
        left = steps - i  # steps to go, this one included
        now = min(order, len(earlier), left if steps < 15 or left == 1 else order)
        a, s = math.sqrt(alpha_bar[i + 1]), math.sqrt(1 - alpha_bar[i + 1])
        s_now = math.sqrt(1 - alpha_bar[i])
        h = lam[i + 1] - lam[i]
        shrink = math.expm1(-h)  # e^-h - 1
        x = s / s_now * x - a * shrink * x0
        if now == 1:
            continue
        r0 = (lam[i] - lam[i - 1]) / h
        slope = (earlier[0] - earlier[1]) / r0  # change of x_0 over a step of length h
        if now == 2:
            x = x - 0.5 * a * shrink * slope
            continue
        r1 = (lam[i - 1] - lam[i - 2]) / h
        before = (earlier[1] - earlier[2]) / r1
        curve = (slope - before) / (r0 + r1)
        slope = slope + r0 * curve
        x = x + a * (shrink / h + 1) * slope - a * ((shrink + h) / h**2 - 0.5) * curve
    return x
