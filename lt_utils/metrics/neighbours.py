"""Nearest neighbours among features: improved precision and recall, and how much a generator repeats its training set.

Distances are Euclidean, in float64, and computed in blocks of rows: 10,000 against 10,000 features of 2048 numbers need
well under 1 GB.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from lt_utils.data.longtail import check_labels, group_indices
from lt_utils.errors import CourseError
from lt_utils.metrics.statistics import to_float64

BLOCK = 1000  # rows of a distance matrix that are in memory at once


def check_features(first: Tensor, second: Tensor) -> None:
    """Raise CourseError unless these are features [N, D] and [M, D] of finite numbers."""
    if first.ndim != 2 or second.ndim != 2 or first.shape[1] != second.shape[1]:
        raise CourseError(
            f"Features [N, D] of one encoder are needed, not {list(first.shape)} and {list(second.shape)}."
        )
    if not (first.isfinite().all() and second.isfinite().all()):
        raise CourseError("Some features are not finite numbers: look at the network or the images they come from.")


def _squared(queries: Tensor, references: Tensor) -> Iterator[Tensor]:
    """Squared distances [<= BLOCK, M] of the queries [N, D] to the references [M, D], block by block."""
    lengths = references.square().sum(1)
    for part in queries.split(BLOCK):
        # |q - r|^2 = |q|^2 + |r|^2 - 2 q r: one matrix product instead of N M differences.
        yield torch.addmm(lengths, part, references.T, alpha=-2).add_(part.square().sum(1, keepdim=True)).clamp_(min=0)


def _shared(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 with the mean of `first` subtracted, which distances do not notice and rounding does."""
    check_features(first, second)
    first, second = to_float64(first), to_float64(second)
    mean = first.mean(0)
    return first - mean, second - mean


def nearest(queries: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Distance float64 [N] of each query [N, D] to its nearest reference [M, D], and that one's index int64 [N].

    Between copies the distance is 0 up to rounding, about 1e-7 times the length of a feature.
    """
    references, queries = _shared(references, queries)
    found = [block.min(dim=1) for block in _squared(queries, references)]
    return torch.cat([one.values for one in found]).sqrt(), torch.cat([one.indices for one in found])


def _radii(features: Tensor, k: int) -> Tensor:
    """Squared distance of each feature to its k-th nearest other one, [N]."""
    # The nearest is the feature itself.
    blocks = [block.topk(k + 1, dim=1, largest=False).values[:, k] for block in _squared(features, features)]
    return torch.cat(blocks)


def precision_recall(real: Tensor, generated: Tensor, k: int = 5) -> tuple[float, float]:
    """Improved precision and recall in 0..1 (Kynkäänniemi et al. 2019) of generated [M, D] against real features [N, D].

    A feature lies in a set if it is nearer to one of its members than that member's k-th nearest other member ("<").
    Precision: the share of generated features in the real set. Recall: the share of real features in the generated set.
    Values for k = 5 on Inception features (as CBDM reports) and for k = 3 on VGG features do not compare.

    Raises CourseError if a set has k features or fewer, or for k below 1.
    """
    if k < 1:
        raise CourseError(f"k is the number of neighbours, 1 or more, not {k}.")
    if min(len(real), len(generated)) <= k:
        raise CourseError(
            f"Precision and recall with k={k} need more than {k} features of each kind: {len(real)} and {len(generated)}."
        )
    real, generated = _shared(real, generated)
    real_radii, generated_radii = _radii(real, k), _radii(generated, k)
    inside, covered = torch.zeros(len(generated), dtype=torch.bool, device=real.device), []
    for block, radii in zip(_squared(real, generated), real_radii.split(BLOCK), strict=True):  # [<= BLOCK, M]
        inside |= (block < radii[:, None]).any(dim=0)
        covered.append((block < generated_radii).any(dim=1))
    return inside.double().mean().item(), torch.cat(covered).double().mean().item()


def memorisation(generated: Tensor, training: Tensor, fresh: Tensor) -> float:
    """How near generated features come to the training features, compared with fresh (test) features of the same class.

    The ratio of median distances to the nearest training feature, generated / fresh: about 1 if generated images are as
    new as fresh ones, towards 0 if they are copies of training images. Above 1 they are unlike the training images.
    """
    near, far = (nearest(features, training)[0].median().item() for features in (generated, fresh))
    return near / far if far > 0 else float("nan")


def group_memorisation(
    generated: tuple[Tensor, Tensor],
    training: tuple[Tensor, Tensor],
    fresh: tuple[Tensor, Tensor],
    counts: Sequence[int],
    many: int | None = None,
    few: int | None = None,
) -> dict[str, float]:
    """`memorisation` of each class, averaged over all classes ("all") and over those of each group.

    Each pair is features and labels. Every generated image is compared with the training images of its own class alone.
    A class without an image of one kind is left out; a group of such classes is nan.
    """
    for (features, labels), name in zip((generated, training, fresh), ("generated", "training", "fresh"), strict=True):
        check_labels(labels, len(features), len(counts), f"the labels of {name}")
    ratios = []
    for c in range(len(counts)):
        parts = [features[labels == c] for features, labels in (generated, training, fresh)]
        ratios.append(memorisation(*parts) if all(len(part) for part in parts) else float("nan"))
    groups = {"all": list(range(len(counts)))} | group_indices(counts, many, few)
    return {name: torch.tensor([ratios[c] for c in classes]).nanmean().item() for name, classes in groups.items()}
