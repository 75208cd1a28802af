"""Statistics of features: mean and spread of each class, distances, covariance."""

import math

import torch
from torch import Tensor

from lt_utils.data.longtail import check_labels
from lt_utils.errors import CourseError


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Mean feature of each class, [C, D]; nan for a class without a feature."""
    check_labels(labels, len(features), num_classes)
    total = features.new_zeros(num_classes, features.shape[1]).index_add_(0, labels, features)
    return total / torch.bincount(labels, minlength=num_classes)[:, None]


def class_spread(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Root-mean-square distance of the features [N, D] of each class to their class mean, [C]."""
    means = class_means(features, labels, num_classes)
    squared = (features - means[labels]).square().sum(1)  # [N]
    total = squared.new_zeros(num_classes).index_add_(0, labels, squared)
    return (total / torch.bincount(labels, minlength=num_classes)).sqrt()


def relative_length(means: Tensor, reference: Tensor) -> Tensor:
    """How far each class mean reaches in the direction of its reference mean; both [C, D], result [C], 1 when equal.

    Both are centred by the average of the reference means, m_c = mean_c - centre: <m_c, r_c> / |r_c|^2.
    """
    if means.shape != reference.shape:
        raise CourseError(
            f"Means and reference must have one shape, not {list(means.shape)} and {list(reference.shape)}."
        )
    centre = reference.mean(0)
    means, reference = means - centre, reference - centre
    return (means * reference).sum(1) / reference.square().sum(1)


def nearest_distance(features: Tensor, others: Tensor, *, same: bool = False) -> Tensor:
    """Distance [N] from each of features [N, D] to the nearest of `others` [M, D].

    same: the two sets are one and the same, so a feature is not its own neighbour.
    """
    if same and features.shape != others.shape:
        raise CourseError(f"One set is not of {list(features.shape)} and of {list(others.shape)}: leave out same=True.")
    # The default of cdist loses digits where the distance is small, and small distances are the point here.
    distance = torch.cdist(features, others, compute_mode="donot_use_mm_for_euclid_dist")
    if same:
        distance.fill_diagonal_(math.inf)
    return distance.amin(1)


def shared_covariance(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Covariance [D, D] of features [N, D] around their class means, all classes together."""
    centred = features - class_means(features, labels, num_classes)[labels]  # [N, D]
    return centred.T @ centred / max(1, len(features) - num_classes)


def class_covariances(features: Tensor, labels: Tensor, num_classes: int, trust: float | None = None) -> Tensor:
    """Covariance of the features [N, D] of each class around its mean, [C, D, D]: trust own + (1 - trust) shared.

    trust: weight of a class's own covariance, 1 for that alone; by default n_c / (n_c + D), for n_c features span at most
    n_c - 1 of D dimensions. Raises CourseError for a class with fewer than two features, which has no covariance.
    """
    counts, dim = torch.bincount(labels, minlength=num_classes), features.shape[1]
    if few := (counts < 2).nonzero().flatten().tolist():
        raise CourseError(
            f"Class {few[0]} has {int(counts[few[0]])} feature{'s' * (counts[few[0]] != 1)}, too few for a covariance: "
            "use one shared by all classes, or leave it out."
        )
    shared = shared_covariance(features, labels, num_classes)
    own = torch.stack([features[labels == c].T.cov() for c in range(num_classes)])
    weight = counts / (counts + dim) if trust is None else torch.full_like(counts, trust, dtype=features.dtype)
    return torch.lerp(shared.expand_as(own), own, weight.to(features).view(-1, 1, 1))
