"""From head to tail: sources that lend a rare class the variation of a frequent one.

The rules follow three readings of "translation" in the literature, and a fourth by diffusion. Together they are our
reconstruction of TDFA, of which only a README is known: no number that they give is TDFA's.

displacement         the head class's features, moved to the centre of the tail class      (RSG, Wang et al. 2021)
semantic directions  tail features, moved along directions of their class's covariance     (ISDA, Wang et al. 2019)
pushed images        head images, changed until a classifier takes them for the tail class (pushing.py)
edited               head features or images, noised and denoised under the tail label     (SDEdit, Meng et al. 2022)

All are sources as in augmentation.py: (features [N, D], labels [N], amounts [C], seed) -> new (features, labels).
"""

from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lt_utils.diffusion.feature_diffusion import FeatureGenerator
from lt_utils.errors import CourseError, choose
from lt_utils.features.augmentation import Source, amounts_to_labels, repeated_real
from lt_utils.features.encoding import Encoded
from lt_utils.features.statistics import class_covariances, class_means
from lt_utils.features.views import check_encoder, encode_fast
from lt_utils.metrics.statistics import to_float64

HEAD_RULES = ("mean", "cosine", "prior", "mixture")


def head_classes(counts: Sequence[int]) -> list[int]:
    """The classes with more training images than the average class: those that others borrow from.

    Raises CourseError if there is none, as in a balanced set.
    """
    if heads := [c for c, n in enumerate(counts) if n > sum(counts) / len(counts)]:
        return heads
    raise CourseError(
        f"All {len(counts)} classes have {counts[0]} features, so there is no head class to translate from: take a "
        "long-tailed set (an imbalance factor above 1)."
    )


def head_shares(features: Tensor, labels: Tensor, num_classes: int, rule: str = "mean") -> Tensor:
    """Which head class lends to which class: row c holds the share of each class h, float [C, C], rows sum to 1.

    rule: "mean", the head class with the nearest mean; "cosine", that whose mean, seen from the mean of all classes, lies
    in the nearest direction; "prior", the largest class; "mixture", all head classes, by 1 / squared distance of the
    means. A head class lends to itself. Raises CourseError for an unknown rule, and where there is no head class.
    """
    choose("rule for the head class", rule, HEAD_RULES)
    counts = torch.bincount(labels, minlength=num_classes)
    heads = torch.tensor(head_classes(counts.tolist()), device=labels.device)  # [H]
    means = class_means(features, labels, num_classes).nan_to_num()  # a class without a feature is refused elsewhere
    if rule == "cosine":
        centred = F.normalize(means - means.mean(0), dim=1)
        near = centred @ centred[heads].T  # [C, H], the larger the nearer
    elif rule == "prior":
        near = counts[heads].expand(num_classes, -1).to(means)
    else:
        near = 1 / torch.cdist(means, means[heads]).square().clamp(min=1e-12)
    share = near / near.sum(1, keepdim=True) if rule == "mixture" else F.one_hot(near.argmax(1), len(heads)).to(means)
    shares = means.new_zeros(num_classes, num_classes)
    shares[:, heads] = share
    shares[heads] = torch.eye(num_classes, device=means.device)[heads]
    return shares


def donors(
    features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0, head: str = "mean"
) -> tuple[Tensor, Tensor]:
    """Which features to translate: for each of amounts[c] the index of a feature of c's head class, [M]; and c, [M].

    Each class goes on in its head class where the one before it stopped, so that all features there come equally often, to
    within one. head: a rule of `head_shares`. CourseError for a
    class without a real feature.
    """
    counts = torch.bincount(labels, minlength=len(amounts))
    if unseen := [c for c, n in enumerate(amounts) if n and not counts[c]]:
        raise CourseError(f"Class {unseen[0]} has no real feature, so its centre is not known: give it amount 0.")
    shares = head_shares(features, labels, len(amounts), head).cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    parts, used = [shuffled[:0]], [0] * len(amounts)
    for c, amount in enumerate(amounts):
        edges = (shares[c].cumsum(0) * amount).round().long().tolist()  # so that the parts sum to the amount
        for h in (shares[c] > 0).nonzero().flatten().tolist():
            members = shuffled[labels[shuffled] == h]
            first, used[h] = used[h], used[h] + edges[h] - (edges[h - 1] if h else 0)
            parts.append(members[torch.arange(first, used[h]).to(members.device) % len(members)])
    return torch.cat(parts), amounts_to_labels(amounts, labels.device)


def displaced(
    features: Tensor,
    labels: Tensor,
    amounts: Sequence[int],
    seed: int = 0,
    *,
    head: str = "mean",
    match: bool = False,
) -> tuple[Tensor, Tensor]:
    """Displacement: m_c + (f - m_h), f a real feature of the head class h of c (`head_shares`), m_c and m_h class means.

    Where a whole head class is used, the result has the mean of the tail class and the covariance of the head class.
    match: f - m_h is first multiplied by S_c^(1/2) S_h^(-1/2), so that the covariance is the tail's, S_c, mixed with
    the shared one as `class_covariances` does.

    Raises CourseError for a class without a feature, with `match` also for one with a single feature, and where there is
    no head class.
    """
    chosen, added = donors(features, labels, amounts, seed, head)
    means, h = class_means(features, labels, len(amounts)), labels[chosen]
    shift = features[chosen] - means[h]  # [M, D]
    if match:
        tail, own = (class_covariances(features, labels, len(amounts), trust) for trust in (None, 1.0))
        for pair in torch.stack([added, h], 1).unique(dim=0).tolist():
            if pair[0] != pair[1]:  # a head class keeps its own
                here = (added == pair[0]) & (h == pair[1])
                shift[here] = shift[here] @ (_power(tail[pair[0]], 0.5) @ _power(own[pair[1]], -0.5)).T
    return means[added] + shift, added


def semantic(
    features: Tensor,
    labels: Tensor,
    amounts: Sequence[int],
    seed: int = 0,
    *,
    strength: float = 0.5,
    trust: float | None = None,
) -> tuple[Tensor, Tensor]:
    """Semantic directions: f + a draw of N(0, strength S_c) for real features f of each class, each equally often.

    The closed form for infinitely many draws is `recognition.isda_loss`. trust: of `class_covariances`. Raises CourseError
    for a negative strength and for a class with fewer than two features.
    """
    if strength < 0:
        raise CourseError(f"The strength of semantic directions is a variance and cannot be negative: {strength:g}.")
    real, added = repeated_real(features, labels, amounts, seed)
    covariances = class_covariances(features, labels, len(amounts), trust)
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(seed + 1)).to(real)
    for c in (c for c, n in enumerate(amounts) if n):
        real[added == c] += strength**0.5 * noise[added == c] @ _power(covariances[c], 0.5)
    return real, added


def _power(covariance: Tensor, power: float) -> Tensor:
    """A power of a covariance [D, D], symmetric; directions without variance stay at 0."""
    values, vectors = torch.linalg.eigh(to_float64(covariance))
    kept = values > 1e-9 * values.max()
    scaled = torch.where(kept, values.where(kept, 1.0) ** power, 0.0)
    return (vectors * scaled @ vectors.T).to(covariance)


def edited_features(
    generator: FeatureGenerator, t: int, *, head: str = "mean", limit: int | None = None, **how
) -> Source:
    """Translation by diffusion as a source: features of the head class noised to step t, denoised under the tail label.

    how: omega and steps, as `FeatureGenerator.edit` takes them. limit: at most so many different ones of each class.
    """

    def source(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
        first = [n if limit is None else min(n, limit) for n in amounts]
        chosen, added = donors(features, labels, first, seed, head)
        return from_pool(generator.edit(features[chosen], added, t, seed=seed, **how), added)(
            features, labels, amounts, seed
        )

    return source


def from_pool(pool: Tensor, pool_labels: Tensor) -> Source:
    """Ready-made features [M, D] with labels [M] as a source: each of a class equally often, repeated where more are wanted.

    The source raises CourseError for a class that is not in the pool, and for features of another length.
    """

    def source(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
        if pool.shape[1] != features.shape[1]:
            raise CourseError(
                f"The pool's features have {pool.shape[1]} numbers, those of the data {features.shape[1]}: they come from "
                "another encoder."
            )
        known = set(pool_labels.tolist())
        if unseen := [c for c, n in enumerate(amounts) if n and c not in known]:
            raise CourseError(f"This source has nothing of class {unseen[0]}: give it amount 0, or make some of it.")
        return repeated_real(pool, pool_labels, amounts, seed)

    return source


def from_images(images: Tensor, labels: Tensor, encoded: Encoded) -> Source:
    """Images [M, channels, H, W] (uint8, or floats in 0..1) with labels [M] as a source: their features by the encoder.

    Raises CourseError if the encoder is not at hand or was trained on images of another shape.
    """
    check_encoder(encoded)
    made, taken = (" x ".join(map(str, one.shape[1:])) for one in (images, encoded.images.train_images))
    if made != taken:
        raise CourseError(f"These images are {made}, the encoder takes {taken}: it belongs to another data set.")
    return from_pool(encode_fast(encoded.encoder, images), labels.to(encoded.train.device))


def for_classes(source: Source, classes: Sequence[int], others: Source = repeated_real) -> Source:
    """A source for some classes alone; the other classes get theirs from `others`, by default their real features again."""

    def both(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
        inside = [n if c in classes else 0 for c, n in enumerate(amounts)]
        outside = [n - own for n, own in zip(amounts, inside, strict=True)]
        parts = source(features, labels, inside, seed=seed), others(features, labels, outside, seed=seed)
        return torch.cat([part for part, _ in parts]), torch.cat([part for _, part in parts])

    return both


def together(*sources: Source) -> Source:
    """Several sources as one: equal parts of the amounts from each, the first ones one more where it does not divide."""
    if not sources:
        raise CourseError("Nothing to combine: give at least one source.")

    def source(features: Tensor, labels: Tensor, amounts: Sequence[int], seed: int = 0) -> tuple[Tensor, Tensor]:
        k = len(sources)
        shares = ([n // k + (i < n % k) for n in amounts] for i in range(k))
        each = enumerate(zip(sources, shares, strict=True))
        parts = [one(features, labels, share, seed=seed + i) for i, (one, share) in each]
        return torch.cat([part for part, _ in parts]), torch.cat([part for _, part in parts])

    return source


# The sources that need no training, by the name that records and the scoreboard use.
TRANSLATIONS: dict[str, Source] = {
    "Displacement": displaced,
    "Displacement, by cosine": partial(displaced, head="cosine"),
    "Displacement, largest class": partial(displaced, head="prior"),
    "Displacement, mixture of heads": partial(displaced, head="mixture"),
    "Displacement, matched": partial(displaced, match=True),
    "Semantic directions": semantic,
}
