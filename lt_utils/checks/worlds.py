"""Tables of results with a known truth, for exercise 8.5: what a claim about generated features has to survive."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lt_utils.tables import student

CONTROLS = ("No generation", "Resampled real", "Class Gaussian", "Uniform noise")
METHOD, BASELINE = "Diffusion", "Cross-entropy"


def half_interval(first: Sequence[float], second: Sequence[float], together: bool = True) -> tuple[float, float]:
    """Mean difference and half of its 95 % interval; `together`: paired."""
    a, b = torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)
    variance = (a - b).var() if together else a.var() + b.var()
    factor = student(len(first))
    return (a - b).mean().item(), factor * (variance / len(first)).sqrt().item()


def beats(
    results: Mapping[str, Sequence[float]], rivals: Sequence[str], errors: bool = True, together: bool = True
) -> bool:
    """Whether the method is ahead of every rival, by more than half of the interval unless `errors` is False."""
    differences = [half_interval(results[METHOD], results[rival], together) for rival in rivals]
    return all(mean > (half if errors else 0) for mean, half in differences)


def worlds(random: torch.Generator) -> list[tuple[bool, dict[str, list[float]]]]:
    """Result tables with the verdict that they deserve: five seeds, whose effect all methods share."""

    def scatter(size: float) -> Tensor:
        """Five numbers with mean 0 and exactly this deviation."""
        x = torch.randn(5, generator=random, dtype=torch.float64)
        return size * (x - x.mean()) / x.std()

    def world(tops: Mapping[str, float], noise: float) -> dict[str, list[float]]:
        seeds = 70 + scatter(2.0)
        heights = {BASELINE: -6.0} | dict.fromkeys(CONTROLS, 0.0) | tops
        steady = {name: seeds + height + scatter(0.05) for name, height in heights.items()}
        steady[METHOD] = seeds + heights[METHOD] + scatter(noise)
        return {name: values.tolist() for name, values in steady.items()}

    return [
        (True, world({METHOD: 1.2}, 0.1)),
        (False, world({METHOD: 4.0, "Resampled real": 4.1, "Class Gaussian": 3.0}, 0.1)),  # it was the weight
        (False, world({METHOD: 3.0, "Uniform noise": 4.0, "Resampled real": 1.0}, 0.1)),  # it was not even features
        (False, world({METHOD: 3.0, "No generation": 3.1}, 0.1)),  # it was the retraining
        (False, world({METHOD: 0.5}, 1.2)),  # it was chance
        (False, world({METHOD: 2.0, "Class Gaussian": 2.6}, 0.1)),  # a Gaussian does it
        (False, world({METHOD: -8.0}, 0.1)),  # it did harm
        (True, world({METHOD: 9.0, "Resampled real": 2.0, "Uniform noise": -3.0}, 0.1)),
    ]
