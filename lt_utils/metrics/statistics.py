"""Statistics over seeds and test images: mean, deviation, standard error, paired differences."""

from collections.abc import Hashable, Mapping, Sequence

import torch
from torch import Tensor

from lt_utils.data.longtail import group_indices
from lt_utils.errors import CourseError

# 97.5 % quantile of Student's t distribution with n - 1 degrees of freedom, n = 2, 3, ...
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def to_float64(values: Tensor) -> Tensor:
    """`values` in float64; on the CPU where the device has no float64 (Apple's MPS)."""
    return values.cpu().double() if values.device.type == "mps" else values.double()


def mean_std(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1 in the denominator) over seeds; the deviation of a single value is nan."""
    values = torch.as_tensor(list(values), dtype=torch.float64)
    return values.mean().item(), values.std().item() if len(values) > 1 else float("nan")


def mean_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean and its standard error, std / sqrt(n), for example of differences between two methods that share their seeds.

    The error of a single value is nan.
    """
    mean, std = mean_std(values)
    return mean, std / len(values) ** 0.5


def paired_difference(first: Tensor, second: Tensor) -> tuple[float, float, float]:
    """Mean difference of two methods in points, and its two standard errors: over the seeds, and over the test images.

    first, second: what each got right, [seeds, images], 0 or 1, with the same seeds and images. All seeds share the images,
    so more seeds do not make the second error smaller. The first is nan for a single seed. CourseError for other shapes.
    """
    if first.ndim != 2 or first.shape != second.shape:
        raise CourseError(
            f"Two results [seeds, images] of one shape are needed, not {list(first.shape)} and {list(second.shape)}."
        )
    d = 100 * (to_float64(first) - to_float64(second))
    mean, error = mean_error(d.mean(1).tolist())
    return mean, error, (d.mean(0).std() / d.shape[1] ** 0.5).item()


def group_differences(
    right: Mapping[Hashable, Sequence[Tensor]],
    pairs: Mapping[str, tuple[Hashable, Hashable]],
    labels: Tensor,
    counts: Sequence[int],
) -> list[dict]:
    """`paired_difference` over all classes and by group of the long tail, a row for each pair and group, two decimals.

    right: for each method, and each of its seeds in order, which test images it gets right, [images]. pairs: for each name two
    methods, the second of which is subtracted. labels: [images]; counts: training images of each class, [C]. An error that one
    seed cannot tell is None.
    """
    groups, rows = {"all": range(len(counts))} | group_indices(counts), []
    parts = {group: torch.isin(labels, torch.tensor(list(c), device=labels.device)) for group, c in groups.items()}
    for name, methods in pairs.items():
        first, second = (torch.stack(list(right[method])) for method in methods)
        for group, part in parts.items():
            found = paired_difference(first[:, part], second[:, part])
            values = (round(value, 2) if value == value else None for value in found)
            told = zip(("difference", "error over seeds", "error over images"), values, strict=True)
            rows.append({"pair": name, "classes": group, **dict(told)})
    return rows


def half_interval(over_seeds: float, over_images: float, seeds: int) -> float:
    """Half of a 95 % interval from the two errors of `paired_difference`, in their unit.

    Of the two intervals, over the seeds (Student's t) and over the test images (2 standard errors), the wider one counts;
    for a single seed only the second is known.
    """
    return max(student(seeds) * over_seeds if seeds > 1 else 0.0, 2 * over_images)


def standing(first: Tensor, second: Tensor) -> tuple[float, str]:
    """Half of the 95 % interval of `paired_difference` in points, and where the first method stands: "ahead", "behind", or
    "cannot tell" if 0 lies inside."""
    mean, *errors = paired_difference(first, second)
    half = half_interval(*errors, len(first))
    return half, "ahead" if mean > half else "behind" if mean < -half else "cannot tell"


def format_mean(values: Sequence[float], unit: str = "%") -> str:
    """ "79.1 ± 0.4 % (3 seeds)", or "79.1 % (one run)" for a single value."""
    mean, std = mean_std(values)
    return (
        f"{mean:.1f} {unit} (one run)" if len(values) == 1 else f"{mean:.1f} ± {std:.1f} {unit} ({len(values)} seeds)"
    )


def student(n: int) -> float:
    """How many standard errors a 95 % interval of the mean reaches to each side, for n seeds with normal spread.

    4.30 for three seeds. Beyond ten seeds it is rounded up to the value for ten. Raises CourseError for one seed.
    """
    if n < 2:
        raise CourseError("One run has no spread and so no interval: measure at least two seeds.")
    return STUDENT[min(n, len(STUDENT) + 1) - 2]
