"""Measures of recognition, in percent: accuracy, by group, calibration."""

from collections.abc import Sequence

import torch
from torch import Tensor

from lt_utils.data.longtail import GROUPS, check_counts_fit, check_labels, group_indices
from lt_utils.errors import CourseError
from lt_utils.metrics.statistics import to_float64


def check_logits(logits: Tensor, labels: Tensor) -> None:
    """CourseError unless these are numbers [N, C] and one class [N] for each row: every measure here begins with this."""
    if logits.ndim != 2:
        raise CourseError(f"Logits [N, C] are needed, a row for each sample, not {list(logits.shape)}.")
    if logits.isnan().any():
        raise CourseError("Some logits or probabilities are not numbers (nan): look at the network or its data.")
    check_labels(labels, *logits.shape)


def is_right(logits: Tensor, labels: Tensor) -> Tensor:
    """Which rows of logits (or probabilities) [N, C] are largest at their label [N]: 0 or 1, float64 [N]."""
    check_logits(logits, labels)
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


def worst_class_accuracy(logits: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in percent of the class that is recognised worst, of those with test images."""
    found = class_accuracy(logits, labels)
    return found[~found.isnan()].min().item()


def top_k_accuracy(logits: Tensor, labels: Tensor, k: int = 5) -> float:
    """Percent of images whose label is among the k largest of their logits [N, C]. CourseError for k outside 1..C."""
    check_logits(logits, labels)
    if not 1 <= k <= logits.shape[1]:
        raise CourseError(f"There are {logits.shape[1]} classes: k must be between 1 and that, not {k}.")
    among = logits.topk(k, dim=1).indices == labels.to(logits.device)[:, None]
    return 100 * to_float64(among.any(1)).mean().item()


def macro_f1(logits: Tensor, labels: Tensor) -> float:
    """Mean over the classes of F1 = 2 right / (images + predictions), in percent; without classes that have neither."""
    check_logits(logits, labels)
    predicted, labels, classes = logits.argmax(1).cpu(), labels.cpu(), logits.shape[1]
    right = torch.bincount(labels[predicted == labels], minlength=classes).double()
    either = torch.bincount(labels, minlength=classes) + torch.bincount(predicted, minlength=classes)
    return 100 * (2 * right / either)[either > 0].mean().item()


def group_accuracy(
    logits: Tensor, labels: Tensor, counts: Sequence[int], many: int | None = None, few: int | None = None
) -> dict[str, float]:
    """Accuracy in percent over the test images of the many / medium / few classes, grouped by training `counts` [C].

    A group without class is left out. Raises CourseError if `counts` are not those of these C classes.
    """
    right = is_right(logits, labels)
    check_counts_fit(counts, logits.shape[1])
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


def largest_calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Maximum calibration error in percent: the largest |accuracy - confidence| of a bin that has samples."""
    _, trust, right = reliability(probabilities, labels, bins)  # both 0 in an empty bin
    return 100 * (right - trust).abs().max().item()


def prior_following(logits: Tensor, labels: Tensor, counts: Sequence[int]) -> float:
    """How far the predictions follow the training prior: KL(test, predicted) / KL(test, prior), of class frequencies.

    Called PDC by Xu et al. (2023, arXiv 2302.14284). 0: classes are predicted as often as they occur in the test set; 1: as in
    the training set of `counts` [C]; far above 1 if a class is never predicted; nan if test and training set are alike.
    """
    check_logits(logits, labels)
    check_counts_fit(counts, logits.shape[1])
    classes = logits.shape[1]

    def frequency(values: Tensor) -> Tensor:
        return torch.bincount(values.cpu(), minlength=classes).double() / len(values)

    def divergence(p: Tensor, q: Tensor) -> float:
        return (p * ((p + 1e-6) / (q + 1e-6)).log()).sum().item()

    test, prior = frequency(labels), torch.tensor(list(counts), dtype=torch.float64) / sum(counts)
    if divergence(test, prior) < 1e-9:
        return float("nan")
    return divergence(test, frequency(logits.argmax(1))) / divergence(test, prior)


def scores(
    logits: Tensor, labels: Tensor, counts: Sequence[int], many: int | None = None, few: int | None = None
) -> dict[str, float]:
    """One row of the scoreboard: accuracy, many, medium, few, ece, in percent, rounded to 2 decimals."""
    values = {
        "accuracy": accuracy(logits, labels),
        **group_accuracy(logits, labels, counts, many, few),
        "ece": calibration_error(logits.softmax(dim=1), labels),
    }
    return {name: round(value, 2) for name, value in values.items()}


def full_scores(
    logits: Tensor, labels: Tensor, counts: Sequence[int], many: int | None = None, few: int | None = None
) -> dict[str, float]:
    """All measures of a classifier in one row: those of `scores`, "worst" class, macro "f1", "top5", "mce", "pdc".

    In percent but for "pdc", a ratio; rounded to 2 decimals. A group without class is nan, which a table shows as n/a. "top5" is
    100 for fewer than six classes.
    """
    values = {
        "worst": worst_class_accuracy(logits, labels),
        "f1": macro_f1(logits, labels),
        "top5": top_k_accuracy(logits, labels, min(5, logits.shape[1])),
        "mce": largest_calibration_error(logits.softmax(dim=1), labels),
        "pdc": prior_following(logits, labels, counts),
    }
    found = scores(logits, labels, counts, many, few)
    order = ("accuracy", *GROUPS, "ece")
    return {name: found.get(name, float("nan")) for name in order} | {k: round(v, 2) for k, v in values.items()}
