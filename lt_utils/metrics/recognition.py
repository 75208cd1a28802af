"""Measures of recognition, in percent: accuracy, by group, calibration."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lt_utils.data.longtail import check_counts, check_labels, group_indices
from lt_utils.errors import CourseError
from lt_utils.metrics.statistics import to_float64


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Which rows of logits (or probabilities) [N, C] are largest at their label [N]: 0 or 1, float64 [N].

    Raises CourseError for logits of another rank or that are not numbers, and for labels that are not one class each: every
    measure here begins with this.
    """
    if logits.ndim != 2:
        raise CourseError(f"Logits [N, C] are needed, a row for each sample, not {list(logits.shape)}.")
    if logits.isnan().any():
        raise CourseError("Some logits or probabilities are not numbers (nan): look at the network or its data.")
    check_labels(labels, *logits.shape)
    return to_float64(logits.argmax(dim=1) == labels.to(logits.device))


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent of logits (or probabilities) [N, C] against labels [N]."""
    return 100 * is_right(logits, labels).mean().item()


def class_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Top-1 accuracy in percent of each class, float64 [C]; nan for a class without test image."""
    right = is_right(logits, labels)
    classes, labels = logits.shape[1], labels.to(right.device)
    total = torch.bincount(labels, minlength=classes)
    return 100 * torch.bincount(labels, weights=right, minlength=classes) / total


def group_accuracy(
    logits: Tensor, labels: Tensor, counts: Sequence[int], many: int = 100, few: int = 20
) -> dict[str, float]:
    """Accuracy in percent over the test images of the many / medium / few classes, grouped by training `counts` [C].

    A group without class is left out. Raises CourseError if `counts` are not those of these C classes.
    """
    right = is_right(logits, labels)
    check_counts(counts, logits.shape[1])
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
    hits = is_right(probabilities, labels)
    confidence = to_float64(probabilities).amax(dim=1)
    if not -1e-3 <= confidence.min() <= confidence.max() <= 1 + 1e-3:
        raise CourseError("Calibration needs probabilities in 0..1: give logits.softmax(dim=1), not the logits.")
    place = (confidence * bins).ceil().long().sub_(1).clamp_(0, bins - 1)
    total = torch.bincount(place, minlength=bins)
    right = torch.bincount(place, weights=hits, minlength=bins)
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
