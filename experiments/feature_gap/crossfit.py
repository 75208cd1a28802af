"""Cross-fitting: what features of unseen images look like, learned from training images alone.

The features of training images are too long and too tight, because the encoder has seen these images; a generator fitted
to them copies that. The test set may not be used to find out by how much. So the training set is cut into folds: an
encoder trained without a fold sees the images of that fold as it would see a test image. Its features live in a space of
their own, but how much shorter and wider the unseen ones are is a number that can be carried over to the final encoder.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from lt_utils.data.datasets import ImageData
from lt_utils.data.longtail import group_indices
from lt_utils.errors import CourseError
from lt_utils.features.encoding import Encoded, encode_data
from lt_utils.features.statistics import class_means
from lt_utils.features.views import Views
from lt_utils.recognition.encoders import train_encoder


def fold_of(labels: Tensor, folds: int, seed: int = 0) -> Tensor:
    """The fold 0 .. folds-1 of each image, [N]: in each class at random, and as evenly as its number allows.

    So each fold holds out at least one image of every class, and its encoder is trained on at least one. Raises
    CourseError for fewer than two folds, and for a class with fewer images than folds.
    """
    counts = torch.bincount(labels).tolist()
    if folds < 2:
        raise CourseError(f"Cross-fitting needs at least 2 folds, not {folds}: one part to train on, one to hold out.")
    if short := [c for c, n in enumerate(counts) if 0 < n < folds]:
        raise CourseError(
            f"Class {short[0]} has {counts[short[0]]} images, fewer than the {folds} folds, so a fold would hold out none "
            "of it: take fewer folds."
        )
    generator = torch.Generator().manual_seed(seed)
    fold, here = torch.empty(len(labels), dtype=torch.long), labels.cpu()
    for c, n in enumerate(counts):
        # Starting each class at another fold keeps the folds equally large.
        fold[here == c] = (torch.randperm(n, generator=generator) + c) % folds
    return fold.to(labels.device)


def without_fold(data: ImageData, fold: Tensor, k: int) -> ImageData:
    """`data` trained without fold k: its images of fold k take the place of the test images, which are dropped."""
    return data.split(fold != k, fold == k, f"{data.name}-without{k}")


def fold_encoders(
    data: ImageData, folds: int = 3, *, seed: int = 0, folder: str | Path | None = None, method: str = "ce-mixup", **how
) -> list[Encoded]:
    """One encoder for each fold, trained on all other folds; what it makes of the images it saw and of the held-out ones.

    The result of fold k holds the seen images as `train` and the unseen ones of fold k as `test`. The test set of `data`
    is not in it, so nothing that is chosen on the folds can have looked at it.

    Args: how: keywords of `encoders.train_encoder`, such as epochs and depth. folder: for the checkpoints.
    """
    fold = fold_of(data.train_labels, folds, seed)
    found = []
    for k in range(folds):
        part = without_fold(data, fold, k)
        path = None if folder is None else Path(folder) / f"encoder-seed{seed}-without-fold{k}of{folds}.safetensors"
        label = f"encoder without fold {k + 1} of {folds}, seed {seed}"
        model = train_encoder(part, method, seed=seed * 100 + k, checkpoint=path, title=label, **how)
        found.append(encode_data(model, part))
    return found


# -------------------------------------------------------------------------------------------------------------- ratios
@dataclass(frozen=True)
class Ratios:
    """Unseen against seen features, for every class: length [C] and spread [C], both 1 where there is no difference.

    length: how far the mean of the unseen features reaches along the mean of the seen ones, both from the centre of all
    class means. spread: standard deviation around the class mean, unseen / seen.
    """

    length: Tensor
    spread: Tensor


def unseen_ratios(folds: Sequence[tuple[Views, Encoded]], counts: Sequence[int]) -> Ratios:
    """Length and spread of unseen training images against seen ones, one value for all classes of a group.

    With m_c the mean of the seen features of class c in a fold, u_c that of the unseen ones, both minus the centre, the
    average of the seen means, and v the variance around the class mean, over all folds and the classes of the group

        length = sum <u_c, m_c> / sum <m_c, m_c>        spread^2 = sum_c v_c(unseen) / sum_c v_c(seen)

    Ten images are too few for a value of their own; the group has more. The product needs no length of u_c, which the
    noise in few images would make too large, and v has n - 1 in its denominator.

    Args:
        folds: for each fold the views of its seen images (clean or other: what the head will be fitted on) and what
            `fold_encoders` gives, whose `test` holds the unseen images.
        counts: images of each class in the whole training set, [C]: they make the groups many / medium / few.

    Raises CourseError if no class of a group has a fold that holds out two of its images.
    """
    classes, device = len(counts), folds[0][0].features.device
    reach, size = torch.zeros(classes, device=device), torch.zeros(classes, device=device)
    squares, free = torch.zeros(2, classes, device=device), torch.zeros(2, classes, device=device)
    for views, encoded in folds:
        seen, seen_labels = views.flat
        m, u = class_means(seen, seen_labels, classes), class_means(encoded.test, encoded.test_labels, classes)
        reach += ((u - m.mean(0)) * (m - m.mean(0))).sum(1)
        size += (m - m.mean(0)).square().sum(1)
        pairs = ((encoded.test, encoded.test_labels, u), (seen, seen_labels, m))
        for row, (features, labels, means) in enumerate(pairs):
            squares[row].index_add_(0, labels, (features - means[labels]).square().sum(1))
            free[row] += torch.bincount(labels, minlength=classes) - 1
    length, spread = torch.ones(classes, device=device), torch.ones(classes, device=device)
    for group, members in group_indices(counts).items():
        length[members] = reach[members].sum() / size[members].sum()
        varied = [c for c in members if free[:, c].min() > 0]
        if not varied:
            raise CourseError(
                f"No class of the group {group!r} has two images held out in one fold, so their spread is unknown: "
                "take fewer folds."
            )
        unseen, seen = (squares[:, varied] / free[:, varied]).sum(1)
        spread[members] = (unseen / seen).sqrt()
    return Ratios(length, spread)


def widening(counts: Sequence[int], width: float, device: torch.device | str = "cpu") -> Ratios:
    """Ratios that leave all means where they are and widen the medium and few classes `width` times."""
    spread = torch.full((len(counts),), float(width), device=device)
    spread[group_indices(counts).get("many", [])] = 1.0
    return Ratios(torch.ones_like(spread), spread)


# ---------------------------------------------------------------------------------------------------------- correction
def corrected(features: Tensor, labels: Tensor, ratios: Ratios, means: Tensor) -> Tensor:
    """Features [N, D] moved and widened to where unseen images of their class would lie, [N, D]:

        centre + length_c (m_c - centre) + spread_c (f - m_c)

    Real and generated features alike, so that the corrected real ones are the control of the corrected generated ones.

    Args: means: class means m_c [C, D] of the real features; the centre is their average.
    """
    centre = means.mean(0)
    target = centre + ratios.length[:, None] * (means - centre)
    return target[labels] + ratios.spread[labels, None] * (features - means[labels])


def corrected_views(views: Views, ratios: Ratios) -> Views:
    """The same views, corrected around their own class means. CourseError for mixed views: they have two labels."""
    flat, labels = views.flat
    moved = corrected(flat, labels, ratios, class_means(flat, labels, len(ratios.length)))
    return replace(views, features=moved.view_as(views.features))
