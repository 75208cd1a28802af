"""Noise schedules: how much signal and how much noise x_t holds at step t.

Throughout, t counts 0 .. T-1, alpha_bar falls from almost 1 to almost 0, and

    x_t = sqrt(alpha_bar_t) x_0 + sqrt(1 - alpha_bar_t) eps = a x_0 + s eps.
"""

import math

import torch
from torch import Tensor

from lt_utils.errors import CourseError

LARGEST_BETA = 0.999  # where a rule would give more: something must be left of x_{t-1}


class Schedule:
    """A noise schedule: alpha_bar, float64 [T], strictly falling inside (0, 1). Raises CourseError otherwise."""

    def __init__(self, alpha_bar: Tensor) -> None:
        alpha_bar = torch.as_tensor(alpha_bar, dtype=torch.float64)
        falls = alpha_bar.ndim == 1 and len(alpha_bar) > 1 and (alpha_bar.diff() < 0).all()
        if not (falls and alpha_bar[-1] > 0 and alpha_bar[0] < 1):
            raise CourseError(
                "A noise schedule is a list of two or more alpha_bar values that fall strictly and stay between 0 and 1."
            )
        self.alpha_bar = alpha_bar
        previous = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
        self.beta = 1 - alpha_bar / previous
        # Variance of q(x_{t-1} | x_t, x_0), equation 7 of DDPM; 0 at t = 0.
        self.posterior_variance = self.beta * (1 - previous) / (1 - alpha_bar)
        self._tables: dict[tuple[torch.device, torch.dtype], tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return len(self.alpha_bar)

    def __repr__(self) -> str:
        return f"Schedule(T {len(self)}, sum of log alpha_bar {self.alpha_bar.log().sum():.6g})"

    def scales(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """a = sqrt(alpha_bar_t), s = sqrt(1 - alpha_bar_t) for t [B], shaped to multiply `like` [B, ...], in its dtype."""
        # Rounded on the CPU (Apple's MPS has no float64) and copied once: a copy in every step would make a GPU wait.
        key = (t.device, like.dtype)
        if key not in self._tables:
            roots = self.alpha_bar.sqrt(), (1 - self.alpha_bar).sqrt()
            self._tables[key] = tuple(root.to(like.dtype).to(t.device) for root in roots)
        a, s = (table[t].view(-1, *[1] * (like.ndim - 1)) for table in self._tables[key])
        return a, s

    def add_noise(self, x0: Tensor, t: Tensor, eps: Tensor) -> Tensor:
        """x_t = a x_0 + s eps for data x0 [B, ...], steps t [B] and noise eps [B, ...] (equation 4 of DDPM)."""
        a, s = self.scales(t, x0)
        return a * x0 + s * eps

    def snr(self) -> Tensor:
        """Signal-to-noise ratio alpha_bar / (1 - alpha_bar) of every step, float64 [T]."""
        return self.alpha_bar / (1 - self.alpha_bar)


def linear_schedule(steps: int = 1000, first: float | None = None, last: float | None = None) -> Schedule:
    """beta rises linearly from `first` to `last`, by default from 1e-4 to 0.02 in 1000 steps (Ho et al. 2020, DDPM).

    With another number of steps these defaults are 1000 / steps times as large, 0.999 at most, so that as little signal is
    left at the end: samplers begin with noise alone. Values that are given are taken as they are.
    """
    first = 1e-4 * 1000 / steps if first is None else first
    last = min(0.02 * 1000 / steps, LARGEST_BETA) if last is None else last
    return Schedule(torch.cumprod(1 - torch.linspace(first, last, steps, dtype=torch.float64), 0))


def cosine_schedule(steps: int = 1000, offset: float = 0.008, largest_beta: float = LARGEST_BETA) -> Schedule:
    """alpha_bar follows a squared cosine (Nichol & Dhariwal 2021, equation 17), each beta at most `largest_beta`."""
    angle = (torch.arange(steps + 1, dtype=torch.float64) / steps + offset) / (1 + offset) * math.pi / 2
    alpha_bar = torch.cos(angle) ** 2
    beta = (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=largest_beta)
    return Schedule(torch.cumprod(1 - beta, 0))


SCHEDULES = {"cosine": cosine_schedule, "linear": linear_schedule}
