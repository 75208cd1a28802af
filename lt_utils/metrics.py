"""Measures of recognition and of generated samples. Accuracies and calibration errors are in percent."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lt_utils.errors import CourseError
from lt_utils.longtail import group_indices


def _double(values: Tensor) -> Tensor:
    """`values` in float64; on the CPU where the device has no float64 (Apple's MPS)."""
    return values.cpu().double() if values.device.type == "mps" else values.double()


def check_features(first: Tensor, second: Tensor) -> None:
    """Raise CourseError unless these are features [N, D] and [M, D] of finite numbers."""
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise CourseError(
            f"Features [N, D] of one encoder are needed, not {list(first.shape)} and {list(second.shape)}."
        )
    if not (first.isfinite().all() and second.isfinite().all()):
        raise CourseError("Some features are not finite numbers: look at the network or the images they come from.")


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent of logits (or probabilities) [N, C] against labels [N]."""
    return 100 * _double(logits.argmax(dim=1) == labels).mean().item()


def class_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Top-1 accuracy in percent of each class, float64 [C]; nan for a class without test image."""
    classes = logits.shape[1]
    right = _double(logits.argmax(dim=1) == labels)
    labels = labels.to(right.device)
    total = torch.bincount(labels, minlength=classes)
    return 100 * torch.bincount(labels, weights=right, minlength=classes) / total


def group_accuracy(
    logits: Tensor, labels: Tensor, counts: Sequence[int], many: int = 100, few: int = 20
) -> dict[str, float]:
    """Accuracy in percent over the test images of the many / medium / few classes, grouped by training `counts` [C].

    A group without class is left out. Raises CourseError if `counts` are not those of these C classes.
    """
    if len(counts) != logits.shape[1]:
        raise CourseError(f"{len(counts)} class counts do not fit logits of {logits.shape[1]} classes: give one each.")
    right = _double(logits.argmax(dim=1) == labels)
    labels = labels.to(right.device)
    groups = group_indices(counts, many, few)
    return {
        name: 100 * right[torch.isin(labels, torch.tensor(classes, device=labels.device))].mean().item()
        for name, classes in groups.items()
    }


def reliability(probabilities: Tensor, labels: Tensor, bins: int = 15) -> tuple[Tensor, Tensor, Tensor]:
    """Share of samples, mean confidence and accuracy (all 0..1, float64 [bins]) in equal confidence bins (low, high].

    Raises CourseError for probabilities [N, C] outside 0..1, such as logits, and for those that are not numbers.
    """
    confidence, prediction = _double(probabilities).max(dim=1)
    if confidence.isnan().any():
        raise CourseError("Some probabilities are not numbers (nan): look at the network or the data that they come from.")
    labels = labels.to(prediction.device)
    if not -1e-3 <= confidence.min() <= confidence.max() <= 1 + 1e-3:
        raise CourseError("Calibration needs probabilities in 0..1: give logits.softmax(dim=1), not the logits.")
    place = (confidence * bins).ceil().long().sub_(1).clamp_(0, bins - 1)
    total = torch.bincount(place, minlength=bins)
    right = torch.bincount(place, weights=(prediction == labels).double(), minlength=bins)
    trust = torch.bincount(place, weights=confidence, minlength=bins)
    safe = total.clamp(min=1)
    return total / len(labels), trust / safe, right / safe


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error in percent (Guo et al. 2017): sum over bins of share * |accuracy - confidence|."""
    share, trust, right = reliability(probabilities, labels, bins)
    return 100 * (share * (right - trust).abs()).sum().item()


def scores(logits: Tensor, labels: Tensor, counts: Sequence[int], many: int = 100, few: int = 20) -> dict[str, float]:
    """One row of the scoreboard: accuracy, many, medium, few, ece, in percent, rounded to 2 decimals."""
    values = {
        "accuracy": accuracy(logits, labels),
        **group_accuracy(logits, labels, counts, many, few),
        "ece": calibration_error(logits.softmax(dim=1), labels),
    }
    return {name: round(value, 2) for name, value in values.items()}


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
    so more seeds do not make the second error smaller. The first is nan for a single seed.
    """
    d = 100 * (_double(first) - _double(second))
    mean, error = mean_error(d.mean(1).tolist())
    return mean, error, (d.mean(0).std() / d.shape[1] ** 0.5).item()


def tell(values: Sequence[float], unit: str = "%") -> str:
    """ "79.1 ± 0.4 % (3 seeds)", or "79.1 % (one run)" for a single value."""
    mean, std = mean_std(values)
    return (
        f"{mean:.1f} {unit} (one run)" if len(values) == 1 else f"{mean:.1f} ± {std:.1f} {unit} ({len(values)} seeds)"
    )


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Fréchet distance of two feature sets [N, D] and [M, D], each seen as a Gaussian, in float64:

        |m1 - m2|^2 + tr(S1) + tr(S2) - 2 tr((S1^1/2 S2 S1^1/2)^1/2)

    It is called FID only with the original Inception features. Raises CourseError when N or M is not larger than D,
    because a covariance of so few samples is singular.
    """
    check_features(first, second)
    for name, features in (("first", first), ("second", second)):
        if len(features) <= features.shape[1]:
            raise CourseError(
                f"The Fréchet distance of {features.shape[1]}-dimensional features needs more than {features.shape[1]} "
                f"samples; the {name} set has {len(features)}."
            )
    first, second = _double(first), _double(second)
    cov1, cov2 = torch.atleast_2d(first.T.cov()), torch.atleast_2d(second.T.cov())
    # The symmetric form has real, non-negative eigenvalues, so no complex matrix square root is needed.
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return ((first.mean(0) - second.mean(0)).square().sum() + cov1.trace() + cov2.trace() - 2 * cross).item()
