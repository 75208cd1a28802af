"""Features to add when a classifier is retrained: how many of each class, and where they come from.

A source maps (features [N, D], labels [N], amounts [C], seed) to new (features, labels), amounts[c] of each class c.
The retraining does not know which source it was, so a generator and its controls are treated exactly alike.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from lt_utils.data.longtail import check_labels, group_indices, thirds
from lt_utils.diffusion.feature_diffusion import FeatureGenerator
from lt_utils.diffusion.ldmlr import PublishedGenerator
from lt_utils.errors import CourseError, choose
from lt_utils.features.statistics import class_means, shared_covariance
from lt_utils.metrics.statistics import to_float64

Source = Callable[..., tuple[Tensor, Tensor]]


def index_thirds(num_classes: int) -> dict[str, list[int]]:
    """LDMLR's groups on CIFAR, by class number: 0-3 / 4-6 / 7-9 of 10 classes, 0-33 / 34-66 / 67-99 of 100."""
    first, last = thirds(num_classes)
    second = num_classes - last
    return {"many": list(range(first)), "medium": list(range(first, second)), "few": list(range(second, num_classes))}


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

    Raises CourseError for an unknown group or rule, a group without a class, or a negative ratio.
    """
    choose("rule for groups", groups, ("thirds", "counts"))
    choose("group", group, ("all", "many", "medium", "few"))
    if ratio < 0:
        raise CourseError(f"The ratio of added to real features cannot be negative: {ratio:g}.")
    members = index_thirds(len(counts)) if groups == "thirds" else group_indices(counts)
    chosen = classes_of(group, members, len(counts))
    return [max(round(ratio * n), least) if c in chosen else 0 for c, n in enumerate(counts)]


def classes_of(group: str, members: Mapping[str, Sequence[int]], num_classes: int) -> Sequence[int]:
    """The classes of a group in `members`, or for "all" every class. CourseError if there is none: nothing would be added."""
    chosen = range(num_classes) if group == "all" else members.get(group, ())
    if not chosen:
        others = ", ".join(["all", *(name for name, found in members.items() if found)])
        raise CourseError(
            f"The group {group!r} has no class here, so that no feature would be added: take one of {others}."
        )
    return chosen


def topup_amounts(counts: Sequence[int], size: int | None = None) -> list[int]:
    """What each class lacks to reach `size` features, [C]; by default the size of the largest class."""
    size = max(counts) if size is None else size
    return [max(size - n, 0) for n in counts]


def amounts_to_labels(amounts: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Labels [sum(amounts)], class after class: amounts[c] times the label c."""
    return torch.repeat_interleave(torch.arange(len(amounts)), torch.tensor(list(amounts))).to(device)


def none_added(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """The control without added features: the retraining alone."""
    return features[:0], labels[:0]


def resampled_real(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Real features of each class again, drawn with replacement (a bootstrap): more weight, nothing new."""
    added, counts = _asked_of(features, labels, amounts)
    return features[_random_members(labels, added, counts, seed)], added


def repeated_real(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Real features of each class again, each equally often: the weight of `resampled_real` without its chance.

    Where amounts[c] is no multiple of what the class has, those that come once more than the others are drawn. With a full
    top-up the mean loss is that of class-balanced cross-entropy, to within these.
    """
    added, counts = _asked_of(features, labels, amounts)
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    turn = torch.cat([torch.arange(n) for n in amounts]).to(labels.device) % counts[added]
    return features[shuffled[_members(labels[shuffled], added, counts, turn)]], added


def _asked_of(features: Tensor, labels: Tensor, amounts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The labels [M] that `amounts` asks for, and how many real features each class has, [C]. CourseError if one has none,
    or if labels and amounts are not those of these features."""
    check_labels(labels, len(features), len(amounts))
    counts = torch.bincount(labels, minlength=len(amounts))
    if short := [c for c, n in enumerate(amounts) if n and not counts[c]]:
        raise CourseError(f"Class {short[0]} has no real feature to draw from: give it amount 0.")
    return amounts_to_labels(amounts, labels.device), counts


def _random_members(labels: Tensor, classes: Tensor, counts: Tensor, seed: int) -> Tensor:
    """For each of `classes` [M] the index of a random feature with that label; counts [C] of `labels`, all above 0."""
    place = (_uniform(len(classes), seed=seed).to(labels.device) * counts[classes]).long()  # [M]
    return _members(labels, classes, counts, place.clamp(max=counts[classes] - 1))


def _members(labels: Tensor, classes: Tensor, counts: Tensor, place: Tensor) -> Tensor:
    """For each of `classes` [M] the index of the feature that has place 0 .. counts[c] - 1 among those with that label."""
    # Sorted by class, the features of class c stand at start_c .. start_c + n_c - 1.
    order, start = labels.argsort(stable=True), counts.cumsum(0) - counts
    return order[start[classes] + place]  # [M]


def class_gaussian(
    features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0, own: float = 0.0, width: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Draws from N(mean_c, width^2 S_c): the mean of each class, and its covariance.

    own = 0: one covariance for all classes, pooled around their means. own = 1: each class its own (of rank n_c - 1 at
    most, so flat in the tail); in between, a mixture of the two. CourseError for a class without a real feature, and for
    features that are not finite numbers.
    """
    added, _ = _asked_of(features, labels, amounts)
    means = class_means(features, labels, len(amounts))
    root = _covariance_root(features, labels, len(amounts))  # [D, D]
    noise = _normal(len(added), features.shape[1], seed=seed).to(features.device)
    shift = (1 - own) ** 0.5 * noise @ root.T  # [M, D]
    if own:
        # sum_i z_i (f_i - mean_c) / sqrt(n_c - 1), z_i ~ N(0, 1), has the covariance of class c.
        for c in (c for c, n in enumerate(amounts) if n):
            centred = features[labels == c] - means[c]
            weight = _normal(amounts[c], len(centred), seed=seed + 7919 * (c + 1)).to(features.device)  # [M_c, n_c]
            shift[added == c] += own**0.5 * weight @ centred / max(1, len(centred) - 1) ** 0.5
    return means[added] + width * shift, added


def translated(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """The spread of frequent classes around the mean of a rare one: mean_c + (f - mean_h), f a real feature of class h.

    h is drawn from the classes with more features than c, or as many and listed before it (the largest class takes its
    own). CourseError for a class without a real feature.
    """
    added, _ = _asked_of(features, labels, amounts)
    means = class_means(features, labels, len(amounts))
    donors, donor_labels = _from_larger_classes(features, labels, added, len(amounts), seed)
    return means[added] + donors - means[donor_labels], added


def mixed_with_head(
    features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0, least: float = 0.5
) -> tuple[Tensor, Tensor]:
    """A real feature of class c, mixed with one of a more frequent class, under the label c: s f_c + (1 - s) f_h.

    The share s is uniform in least .. 1, so the rare class has the larger part.
    """
    own, added = resampled_real(features, labels, amounts, seed)
    donors, _ = _from_larger_classes(features, labels, added, len(amounts), seed + 1)
    share = least + (1 - least) * _uniform(len(added), 1, seed=seed + 2).to(features.device)
    return share * own + (1 - share) * donors, added


def _from_larger_classes(
    features: Tensor, labels: Tensor, added: Tensor, num_classes: int, seed: int
) -> tuple[Tensor, Tensor]:
    """For each label of `added` a random feature, with its label, of a class that has more; every such class is equally
    likely."""
    counts = torch.bincount(labels, minlength=num_classes)
    order = counts.argsort(descending=True, stable=True)
    rank = order.argsort()
    larger = (_uniform(len(added), seed=seed).to(features.device) * rank[added]).long()
    donors = order[torch.minimum(larger, (rank[added] - 1).clamp(min=0))]
    return features[_random_members(labels, donors, counts, seed + 104_729)], donors


def uniform_noise(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """Uniform noise in [0, 1]^D under the same labels: whatever it gains, the features did not bring it."""
    added = amounts_to_labels(amounts, features.device)
    return _uniform(len(added), features.shape[1], seed=seed).to(features.device), added


def from_generator(generator: FeatureGenerator | PublishedGenerator, *, limit: int | None = None, **how) -> Source:
    """A trained generator as a source; `how`: omega and steps, as its `generate` takes them.

    limit: draw at most so many different features of each class, and repeat them where more are asked for.
    """

    def source(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
        pool = amounts_to_labels([n if limit is None else min(n, limit) for n in amounts], features.device)
        drawn = generator.generate(pool, seed=seed, **how)
        return (drawn, pool) if limit is None or max(amounts) <= limit else repeated_real(drawn, pool, amounts, seed)

    return source


def _uniform(*shape: int, seed: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def _normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _covariance_root(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """A Cholesky factor [D, D] of the shared covariance. CourseError for features that are not finite numbers."""
    root, failed = torch.linalg.cholesky_ex(_lifted(shared_covariance(features, labels, num_classes)))
    if not failed:
        return root
    if not features.isfinite().all():
        raise CourseError("Some features are not finite numbers: look at the network or the images they come from.")
    # Where hundreds of dimensions collapse to a few, float32 rounds by more than what `_lifted` adds.
    exact = to_float64(features)
    return torch.linalg.cholesky(_lifted(shared_covariance(exact, labels.to(exact.device), num_classes))).to(features)


def _lifted(covariance: Tensor) -> Tensor:
    """A covariance with a little added to its diagonal, so that it has a Cholesky factor even if it is singular."""
    floor = 1e-5 * covariance.diagonal().mean().clamp(min=1e-12)
    return covariance + floor * torch.eye(len(covariance), device=covariance.device)


# The names that records and the scoreboard use. "CE + LDMLR" stands beside them, made by a feature generator.
CONTROLS: dict[str, Source] = {
    "No generation": none_added,
    "Resampled real": resampled_real,
    "Class Gaussian": class_gaussian,
    "Uniform noise": uniform_noise,
}
# More of them, for the matched comparison: each imitates one more thing that a generator could be doing.
MORE_CONTROLS: dict[str, Source] = CONTROLS | {
    "Repeated real": repeated_real,
    "Own Gaussian": partial(class_gaussian, own=1.0),
    "Wide Gaussian": partial(class_gaussian, width=1.5),
    "Head-tail translation": translated,
    "Head-tail mixing": mixed_with_head,
}
