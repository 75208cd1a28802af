"""From head to tail: sources that lend a rare class the variation of a frequent one.

The rules follow three readings of "translation" in the literature, and a fourth by diffusion. Together they are our
reconstruction of TDFA, of which only a README is known: no number that they give is TDFA's.

displacement         the head class's features, moved to the centre of the tail class      (RSG, Wang et al. 2021)
semantic directions  tail features, moved along directions of their class's covariance     (ISDA, Wang et al. 2019)
pushed images        head images, changed until a classifier takes them for the tail class (M2m, Kim et al. 2020)
edited               head features or images, noised and denoised under the tail label     (SDEdit, Meng et al. 2022)

All are sources as in augmentation.py: (features [N, D], labels [N], amounts [C], seed) -> new (features, labels).
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.data.augmentation import unit
from lt_utils.diffusion.feature_diffusion import FeatureGenerator
from lt_utils.errors import CourseError, choose
from lt_utils.features.augmentation import Source, amounts_to_labels, repeated_real
from lt_utils.features.encoding import Encoded
from lt_utils.features.statistics import class_covariances, class_means
from lt_utils.features.views import check_encoder, encode_fast
from lt_utils.recognition.losses import log_prior

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

    Within a head class every feature comes equally often, to within one. head: a rule of `head_shares`. CourseError for a
    class without a real feature.
    """
    counts = torch.bincount(labels, minlength=len(amounts))
    if unseen := [c for c, n in enumerate(amounts) if n and not counts[c]]:
        raise CourseError(f"Class {unseen[0]} has no real feature, so its centre is not known: give it amount 0.")
    shares = head_shares(features, labels, len(amounts), head).cpu()
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).to(labels.device)
    parts = [shuffled[:0]]
    for c, amount in enumerate(amounts):
        edges = (shares[c].cumsum(0) * amount).round().long().tolist()  # so that the parts sum to the amount
        for h in (shares[c] > 0).nonzero().flatten().tolist():
            members = shuffled[labels[shuffled] == h]
            part = torch.arange(edges[h - 1] if h else 0, edges[h])
            parts.append(members[part.to(members.device) % len(members)])
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
    exact = covariance.cpu().double() if covariance.device.type == "mps" else covariance.double()
    values, vectors = torch.linalg.eigh(exact)
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


class Pushed(NamedTuple):
    """Images [M, channels, H, W] in 0..1, the class that each is for [M], the index of the training image that it was made
    from [M], and whether it was kept [M]; where not, a real image of the class stands in its place."""

    images: Tensor
    targets: Tensor
    index: Tensor
    kept: Tensor


def push_images(
    model: nn.Module,
    images: Tensor,
    origins: Tensor,
    targets: Tensor,
    *,
    steps: int = 30,
    step_size: float = 0.5,
    sure: float = 0.4,
    away: float = 0.5,
    prior: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Change images [M, ...] in 0..1 by gradient steps until `model` takes them for `targets` [M]; and whether it does, [M].

    Each step has length `step_size` and lowers cross-entropy of the target + away * logit of the origin's class, both under
    the frozen model with `prior` [C], a log-prior, subtracted from its logits. An image rests as soon as its target has
    probability `sure`; it is taken if it gets there.
    """
    x, frozen = images.clone(), [p.requires_grad for p in model.parameters()]
    model.eval().requires_grad_(False)
    for step in range(steps + 1):
        x.requires_grad_(True)
        logits = model(x) - prior
        with torch.no_grad():
            taken = logits.softmax(1).gather(1, targets[:, None])[:, 0] >= sure  # [M]
        if step == steps or taken.all():
            break
        loss = F.cross_entropy(logits, targets, reduction="sum") + away * logits.gather(1, origins[:, None]).sum()
        (slope,) = torch.autograd.grad(loss, x)
        unit_slope = slope / slope.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
        x = torch.where(taken.view(-1, 1, 1, 1), x, (x - step_size * unit_slope).clamp(0, 1)).detach()
    for parameter, before in zip(model.parameters(), frozen, strict=True):
        parameter.requires_grad_(before)
    return x.detach(), taken


def head_acceptance(counts: Sequence[int], beta: float = 0.999) -> Tensor:
    """M2m's rejection by class counts: how likely an image of class h is accepted for class c, [C, C], row c, column h.

    1 - beta^(n_h - n_c), and 0 where h has no more images than c: the larger the head class, the more it can spare.
    """
    n = torch.tensor(list(counts), dtype=torch.float64)
    return 1 - beta ** (n[None] - n[:, None]).clamp(min=0)


def pushed_images(
    encoded: Encoded,
    model: nn.Module,
    amounts: Sequence[int],
    *,
    head: str = "mean",
    beta: float = 0.999,
    seed: int = 0,
    **how,
) -> Pushed:
    """Major-to-minor translation of images: amounts[c] training images of c's head class, pushed by `push_images` to c.

    model: the frozen classifier, used with label shift, without which it hardly takes anything for a rare class. With one
    that is not the encoder's own network, what was done to the images is not simply read back from the features. Images
    that are not taken, or rejected (`head_acceptance`), are replaced by real ones of c. Raises CourseError where the images
    are not at hand, for a class without an image and where there is no head class.
    """
    check_encoder(encoded)
    images, labels = encoded.images.train_images, encoded.train_labels
    index, targets = donors(encoded.train, labels, amounts, seed, head)
    how = {"prior": log_prior(encoded.counts, labels.device), **how}
    pushed, taken = push_images(model, unit(images[index]), labels[index], targets, **how)
    chance = torch.rand(len(index), generator=torch.Generator().manual_seed(seed))
    accepted = chance < head_acceptance(encoded.counts, beta)[targets.cpu(), labels[index].cpu()]
    kept = taken & accepted.to(taken.device)
    places = torch.arange(len(labels), device=labels.device)[:, None]
    real, _ = repeated_real(places, labels, amounts, seed)  # indices of real images of each class, drawn like features
    return Pushed(torch.where(kept.view(-1, 1, 1, 1), pushed, unit(images[real[:, 0]])), targets, index, kept)


# The sources that need no training, by the name that records and the scoreboard use.
TRANSLATIONS: dict[str, Source] = {
    "Displacement": displaced,
    "Displacement, by cosine": partial(displaced, head="cosine"),
    "Displacement, largest class": partial(displaced, head="prior"),
    "Displacement, mixture of heads": partial(displaced, head="mixture"),
    "Displacement, matched": partial(displaced, match=True),
    "Semantic directions": semantic,
}
