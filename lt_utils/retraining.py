"""Retraining the classifier on real and added features: how many to add, where they come from, and the training itself.

A source maps (features [N, D], labels [N], amounts [C], seed) to new (features, labels), amounts[c] of each class c.
The retraining does not know which source it was, so a generator and its controls are treated exactly alike.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.errors import CourseError, choose
from lt_utils.features import Encoded, class_means, shared_covariance
from lt_utils.longtail import group_indices
from lt_utils.losses import label_shift
from lt_utils.metrics import accuracy, scores
from lt_utils.training import train


# ------------------------------------------------------------------------------------------------------------ how many
def index_thirds(classes: int) -> dict[str, list[int]]:
    """LDMLR's groups on CIFAR, by class number: 0-3 / 4-6 / 7-9 of 10 classes, 0-33 / 34-66 / 67-99 of 100."""
    third = classes // 3
    first, second = classes - 2 * third, classes - third
    return {
        "many": list(range(first)),
        "medium": list(range(first, second)),
        "few": list(range(second, classes)),
    }


def ratio_amounts(
    counts: Sequence[int], ratio: float, group: str = "all", groups: str = "thirds", least: int = 5
) -> list[int]:
    """LDMLR's rule: g_c = max(round(ratio n_c), least) for the classes of a group, 0 for the others.

    round() is Python's: halves go to the even number, as in the published code.

    Args:
        counts: training images of each class, [C].
        ratio: features to add for each real one, >= 0.
        group: "all", "many", "medium" or "few".
        groups: what makes a group: "thirds" of the class numbers (LDMLR on CIFAR) or "counts" (> 100, 20 to 100, < 20).

    Raises CourseError for an unknown group or rule, or a negative ratio.
    """
    choose("rule for groups", groups, ("thirds", "counts"))
    choose("group", group, ("all", "many", "medium", "few"))
    if ratio < 0:
        raise CourseError(f"The ratio of added to real features cannot be negative: {ratio:g}.")
    members = index_thirds(len(counts)) if groups == "thirds" else group_indices(counts)
    chosen = range(len(counts)) if group == "all" else members.get(group, [])
    return [max(round(ratio * n), least) if c in chosen else 0 for c, n in enumerate(counts)]


def topup_amounts(counts: Sequence[int], size: int | None = None) -> list[int]:
    """What each class lacks to reach `size` features, [C]; by default the size of the largest class."""
    size = max(counts) if size is None else size
    return [max(size - n, 0) for n in counts]


def amounts_to_labels(amounts: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Labels [sum(amounts)], class after class: amounts[c] times the label c."""
    return torch.repeat_interleave(torch.arange(len(amounts)), torch.tensor(list(amounts))).to(device)


# ------------------------------------------------------------------------------------------------------------- controls
def nothing(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """The control without added features: the retraining alone."""
    return features[:0], labels[:0]


def resampled_real(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Real features of each class again, drawn with replacement (a bootstrap): more weight, nothing new."""
    added = amounts_to_labels(amounts, features.device)
    counts = torch.bincount(labels, minlength=len(amounts))
    if short := [c for c, n in enumerate(amounts) if n and not counts[c]]:
        raise CourseError(f"Class {short[0]} has no real feature to draw from: give it amount 0.")
    # Sorted by class, the features of class c stand at start_c .. start_c + n_c - 1: one random place for each label.
    order, start = labels.argsort(stable=True), counts.cumsum(0) - counts
    place = (_uniform(len(added), seed=seed).to(features.device) * counts[added]).long()
    return features[order[start[added] + place.clamp(max=counts[added] - 1)]], added


def class_gaussian(
    features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0, own: float = 0.0
) -> tuple[Tensor, Tensor]:
    """Draws from N(mean_c, S_c): the mean of each class, and its covariance.

    own = 0: one covariance for all classes, pooled around their means. own = 1: each class its own (of rank n_c - 1 at
    most, so flat in the tail); in between, a mixture of the two.
    """
    added = amounts_to_labels(amounts, features.device)
    means = class_means(features, labels, len(amounts))
    root = torch.linalg.cholesky(_lifted(shared_covariance(features, labels, len(amounts))))
    noise = _normal(len(added), features.shape[1], seed=seed).to(features.device)
    shift = (1 - own) ** 0.5 * noise @ root.T
    if own:
        # sum_i z_i (f_i - mean_c) / sqrt(n_c - 1), z_i ~ N(0, 1), has the covariance of class c.
        for c in (c for c, n in enumerate(amounts) if n):
            centred = features[labels == c] - means[c]
            weight = _normal(amounts[c], len(centred), seed=seed + 7919 * (c + 1)).to(features.device)
            shift[added == c] += own**0.5 * weight @ centred / max(1, len(centred) - 1) ** 0.5
    return means[added] + shift, added


def uniform_noise(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Uniform noise in [0, 1]^D with the labels asked for: whatever it gains, the features did not bring it."""
    added = amounts_to_labels(amounts, features.device)
    return _uniform(len(added), features.shape[1], seed=seed).to(features.device), added


def _uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _lifted(covariance: Tensor) -> Tensor:
    """A covariance with a little added to its diagonal, so that it has a Cholesky factor even if it is singular."""
    floor = 1e-5 * covariance.diagonal().mean().clamp(min=1e-12)
    return covariance + floor * torch.eye(len(covariance), device=covariance.device)


# The names that records and the scoreboard use. "CE + LDMLR" stands beside them, made by a feature generator.
CONTROLS = {
    "No generation": nothing,
    "Resampled real": resampled_real,
    "Class Gaussian": class_gaussian,
    "Uniform noise": uniform_noise,
}


# ----------------------------------------------------------------------------------------------------------- retraining
@dataclass(frozen=True)
class Retrained:
    """A retrained head, and its test accuracy in percent after every epoch: plain and with label shift, [epochs]."""

    head: nn.Module
    plain: Tensor
    shifted: Tensor


def retrain_head(
    data: Encoded,
    added: Tensor,
    added_labels: Tensor,
    *,
    epochs: int = 400,
    batch: int = 1024,
    rate: float = 1e-3,
    decay: float = 1e-5,
    seed: int = 0,
) -> Retrained:
    """LDMLR's stage 3: train a copy of the encoder's head on the real and the added features, the encoder frozen.

    It starts from the trained weights; plain cross-entropy, Adam with a constant rate, no balancing. The head after the
    last epoch is the result. Test accuracies of every epoch are kept only to show what choosing among them would do.

    Args: data: the real features; added [M, D] with added_labels [M]: what a source made, M >= 0.
    """
    features = torch.cat([data.train, added])
    labels = torch.cat([data.train_labels, added_labels])
    head = copy.deepcopy(data.head).requires_grad_(True)
    a_epoch = -(-len(features) // batch)
    loop = train(
        head,
        lambda head, index: F.cross_entropy(head(features[index]), labels[index]),
        n=len(features),
        steps=epochs * a_epoch,
        batch=batch,
        optimizer=torch.optim.Adam(head.parameters(), rate, weight_decay=decay),
        seed=seed,
        precision="fp32",
    )
    plain, shifted = [], []
    for step in loop:
        if step.step % a_epoch == 0:
            with torch.no_grad():
                logits = head(data.test)
            plain.append(accuracy(logits, data.test_labels))
            shifted.append(accuracy(label_shift(logits, data.counts), data.test_labels))
    return Retrained(head.eval(), torch.tensor(plain), torch.tensor(shifted))


def test_scores(head: nn.Module, data: Encoded, many: int = 100, few: int = 20) -> dict[str, dict[str, float]]:
    """Scores of a head on the test features, {"plain": ..., "label shift": ...}, each as `metrics.scores` gives them.

    Label shift uses the original training counts, also after features were added, as LDMLR does.
    """
    with torch.no_grad():
        logits = head(data.test)
    both = {"plain": logits, "label shift": label_shift(logits, data.counts)}
    return {test: scores(values, data.test_labels, data.counts, many, few) for test, values in both.items()}


test_scores.__test__ = False  # a function to use, not one that pytest should collect


def result_rows(retrained: Retrained, encoded: Encoded, /, **columns) -> list[dict]:
    """Two rows for a record, tested plain and with label shift: the scores of the last epoch and, beside them, the
    accuracy of the best test epoch, "best_test_epoch" (the paper's protocol: chosen on the test set, for each test).
    """
    best = {"plain": retrained.plain.max(), "label shift": retrained.shifted.max()}
    return [
        {**columns, "test": test, **values, "best_test_epoch": round(best[test].item(), 2)}
        for test, values in test_scores(retrained.head, encoded).items()
    ]
