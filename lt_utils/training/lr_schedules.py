"""Learning-rate schedules: the factor on the base learning rate before step k (0-based) of n."""

import math
from collections.abc import Callable


def constant(k: int, n: int) -> float:
    """1 throughout."""
    return 1.0


def cosine(k: int, n: int) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * k / n))


def warmup_cosine(k: int, n: int, share: float = 0.1) -> float:
    """A linear rise over the first `share` of the steps, then half a cosine to 0."""
    rise = max(1, int(share * n))
    return (k + 1) / rise if k < rise else cosine(k - rise, n - rise)


def multistep(k: int, n: int) -> float:
    """1, then 0.1 from half of the steps, then 0.01 from three quarters: epochs 100 and 150 of 200, as LDMLR trains."""
    return 1.0 if k < n / 2 else 0.1 if k < 3 * n / 4 else 0.01


def late_multistep(k: int, n: int) -> float:
    """A linear rise over the first fortieth, 1, then 0.01 from 80 % of the steps, then 0.0001 from 90 %.

    Of 200 epochs these are 5, 160 and 180: how LDAM-DRW (Cao et al. 2019) and those who follow it train.
    """
    rise = n // 40
    return (k + 1) / rise if k < rise else 1.0 if k < 0.8 * n else 0.01 if k < 0.9 * n else 0.0001


def linear_warmup(steps: int) -> Callable[[int, int], float]:
    """A learning-rate factor that rises from 0 at the first step to 1 after `steps`, and stays there."""

    def rise(k: int, n: int) -> float:
        return min(k / steps, 1.0) if steps else 1.0

    rise.__name__ = f"linear_warmup({steps})"
    return rise
