"""Measures of generated samples: distances, precision and recall, scores, and all of them at once."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lt_utils.data.longtail import check_labels, group_indices
from lt_utils.errors import CourseError
from lt_utils.metrics.extractors import Extractor
from lt_utils.metrics.neighbours import check_features, group_memorisation, precision_recall
from lt_utils.metrics.recognition import accuracy, group_accuracy
from lt_utils.metrics.statistics import to_float64
from lt_utils.training.devices import device

NEIGHBOURS = 5  # of improved precision and recall, as CBDM counts them; the printed names say so


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
    first, second = to_float64(first), to_float64(second)
    cov1, cov2 = torch.atleast_2d(first.T.cov()), torch.atleast_2d(second.T.cov())
    # The symmetric form has real, non-negative eigenvalues, so no complex matrix square root is needed.
    values, vectors = torch.linalg.eigh(cov1)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ cov2 @ root).clamp(min=0).sqrt().sum()
    return ((first.mean(0) - second.mean(0)).square().sum() + cov1.trace() + cov2.trace() - 2 * cross).item()


def inception_score(probabilities: Tensor, splits: int = 10, seed: int | None = 0) -> tuple[float, float]:
    """exp of the mean KL(p(y|x) || p(y)) of probabilities [N, K] (Salimans et al. 2016): mean and deviation over splits.

    It grows with sure and with various answers, up to K; it does not look at real images. The deviation is that of the
    population, as published. seed: shuffles the samples before they are split, since samples sorted by class would give
    splits without variety; None keeps their order.

    Raises CourseError if there are fewer samples than splits, or if rows do not add up to 1.
    """
    p = to_float64(probabilities)
    if not 1 <= splits <= len(p):
        raise CourseError(f"{len(p)} samples cannot be split into {splits} parts: use fewer splits.")
    if p.ndim != 2 or (p < 0).any() or not torch.allclose(p.sum(1), torch.ones_like(p[:, 0]), atol=1e-3):
        raise CourseError("The Inception score needs probabilities [N, K]: give logits.softmax(dim=1), not the logits.")
    if seed is not None:
        p = p[torch.randperm(len(p), generator=torch.Generator().manual_seed(seed)).to(p.device)]
    values = []
    for part in p.tensor_split(splits):
        # 0 log 0 counts as 0: xlogy, and no small number added inside the logarithm.
        divergence = torch.xlogy(part, part).sum(1) - torch.xlogy(part, part.mean(0)).sum(1)
        values.append(divergence.mean().exp())
    values = torch.stack(values)
    return values.mean().item(), values.std(correction=0).item()


def kernel_distance(
    real: Tensor, generated: Tensor, subsets: int = 100, size: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """Squared maximum mean discrepancy with the kernel (x.y / D + 1)^3 (KID, Binkowski et al. 2018): mean and deviation.

    Unbiased, so around 0 (and now and then below) for samples of one distribution; good for few samples, where a Fréchet
    distance is not. Averaged over `subsets` random subsets of `size`, at most all, from features [N, D] and [M, D].

    Raises CourseError for fewer than 2 features of a kind.
    """
    check_features(real, generated)
    size = min(size, len(real), len(generated))
    if size < 2:
        raise CourseError("The kernel distance needs at least 2 features of each kind.")
    real, generated = to_float64(real), to_float64(generated)
    generator = torch.Generator().manual_seed(seed)
    values = []
    for _ in range(subsets if size < max(len(real), len(generated)) else 1):
        x, y = (
            features[torch.randperm(len(features), generator=generator)[:size].to(features.device)]
            for features in (real, generated)
        )
        xx, yy, xy = ((one @ other.T / x.shape[1] + 1) ** 3 for one, other in ((x, x), (y, y), (x, y)))
        within = (xx.sum() - xx.trace() + yy.sum() - yy.trace()) / (size * (size - 1))
        values.append(within - 2 * xy.mean())
    values = torch.stack(values)
    return values.mean().item(), values.std(correction=0).item()


def cluster(
    features: Tensor, clusters: int, generator: torch.Generator, rounds: int = 10, batch_size: int = 4096
) -> Tensor:
    """Cluster of each of features [N, D], int64 [N], by mini-batch k-means (Sculley 2010) from random members."""
    order = torch.randperm(len(features), generator=generator).to(features.device)
    centres = features[order[:clusters]].clone()
    members = torch.zeros(len(centres), dtype=features.dtype, device=features.device)

    def assign(part: Tensor) -> Tensor:  # [B, D] -> [B]
        return torch.addmm(centres.square().sum(1), part, centres.T, alpha=-2).argmin(1)

    for _ in range(rounds):
        order = torch.randperm(len(features), generator=generator).to(features.device)
        for index in order.split(batch_size):
            part, place = features[index], assign(features[index])
            count = torch.bincount(place, minlength=len(centres)).to(features.dtype)
            total = torch.zeros_like(centres).index_add_(0, place, part)
            members += count
            # Each centre is the mean of all it was ever given: it moves by count / members towards the new mean.
            centres += (total - count[:, None] * centres) / members.clamp(min=1)[:, None]
    return torch.cat([assign(part) for part in features.split(batch_size)])


def f_scores(real: Tensor, generated: Tensor, beta: float = 8.0, angles: int = 1001) -> tuple[float, float]:
    """(F_beta, F_1/beta), 0..1, of two histograms [K] that add up to 1: the best of each on their precision-recall curve.

    For every slope l the curve has precision sum min(l p, q) and recall sum min(p, q / l), p real, q generated (Sajjadi et
    al. 2018, algorithm 1). F_8 weights recall, F_1/8 precision.
    """
    p, q = to_float64(real), to_float64(generated)
    slope = torch.linspace(1e-10, math.pi / 2 - 1e-10, angles, dtype=torch.float64, device=p.device).tan()[:, None]
    precision = torch.minimum(slope * p, q).sum(1).clamp(0, 1)
    recall = (precision / slope[:, 0]).clamp(0, 1)

    def best(weight: float) -> float:
        value = (1 + weight**2) * precision * recall / (weight**2 * precision + recall).clamp(min=1e-12)
        return value.max().item()

    return best(beta), best(1 / beta)


def distribution_scores(
    real: Tensor, generated: Tensor, clusters: int = 200, runs: int = 10, seed: int = 0
) -> tuple[float, float]:
    """(F_8, F_1/8) of precision-recall for distributions (PRD), averaged over `runs` clusterings of all features together.

    CBDM uses 20 clusters for each class. The larger set is thinned to the size of the smaller, at random, because a
    clustering follows the set that has more members. Raises CourseError for fewer features than clusters.
    """
    check_features(real, generated)
    size = min(len(real), len(generated))
    if 2 * size < clusters:
        raise CourseError(f"{clusters} clusters need at least {clusters} features; there are {2 * size}.")
    real, generated = real.float(), generated.float()
    generator, values = torch.Generator().manual_seed(seed), []
    for _ in range(runs):
        both = [f[torch.randperm(len(f), generator=generator)[:size].to(f.device)] for f in (real, generated)]
        place = cluster(torch.cat(both), clusters, generator)
        shares = [torch.bincount(part, minlength=clusters) / size for part in place.split(size)]
        values.append(f_scores(*shares))
    return tuple(torch.tensor(values, dtype=torch.float64).mean(0).tolist())


def diversity(features: Tensor, labels: Tensor, real: Tensor, real_labels: Tensor, num_classes: int) -> Tensor:
    """Mean distance between two samples of a class, in percent of that between two real ones: [C], nan for fewer than two.

    features [M, D] and labels [M] of generated samples, real [N, D] and real_labels [N], of which 100 a class are used.
    """
    check_features(features, real)
    check_labels(labels, len(features), num_classes)
    check_labels(real_labels, len(real), num_classes, "real_labels")

    def apart(some: Tensor) -> Tensor:
        return torch.pdist(to_float64(some).cpu()).mean()

    pairs = [(features[labels == y], real[real_labels == y][:100]) for y in range(num_classes)]
    return 100 * torch.stack([apart(drawn) / apart(there) for drawn, there in pairs])


def label_accuracy(
    probabilities: Tensor, labels: Tensor, counts: Sequence[int], many: int | None = None, few: int | None = None
) -> dict[str, float]:
    """How many generated images show the class of their label, in percent: "all", then many / medium / few.

    probabilities (or logits) [M, C]: of a classifier that had no part in the generator. It judges more strictly the worse
    it is itself, so state its accuracy on real test images beside this one.
    """
    return {"all": accuracy(probabilities, labels)} | group_accuracy(probabilities, labels, counts, many, few)


def measure(
    extractor: Extractor,
    real: tuple[Tensor, Tensor],
    generated: tuple[Tensor, Tensor, Tensor],
    counts: Sequence[int],
    *,
    clusters_per_class: int = 20,
    prd_runs: int = 10,
    many: int | None = None,
    few: int | None = None,
) -> dict[str, dict[str, float]]:
    """Every measure, overall ("all") and for the classes of each group: {"all": {"fd[..]": 12.3, ..}, "few": {..}, ..}.

    Args:
        extractor: names the measures; it has made what follows.
        real: features [N, D] and labels [N] of the reference, which should be balanced.
        generated: features [M, D], probabilities [M, K] and labels [M] of the generated images.
        counts: training images of each class [C]; they make the groups.
        clusters_per_class: of PRD, at most a tenth of the features that it compares. prd_runs: clusterings that are averaged.

    A Fréchet distance is left out where there are not more samples than dimensions, as it would mean nothing; so is, in
    groups, the score, whose value depends on how many classes there are. n counts the generated images.
    """
    features, labels = (one.to(device()) for one in real)
    drawn, probabilities, drawn_labels = (one.to(device()) for one in generated)
    check_labels(labels, len(features), len(counts), "the labels of real")
    check_labels(drawn_labels, len(drawn), len(counts), "the labels of generated")
    if len(probabilities) != len(drawn):
        raise CourseError(
            f"{len(probabilities)} probabilities do not fit {len(drawn)} generated features: give one row each."
        )
    groups = {"all": list(range(len(counts)))} | group_indices(counts, many, few)
    found = {}
    for name, classes in groups.items():
        members = torch.tensor(classes, device=features.device)
        one, other = features[torch.isin(labels, members)], drawn[torch.isin(drawn_labels, members)]
        row, smaller = {"n": len(other)}, min(len(one), len(other))
        found[name] = row
        if smaller <= NEIGHBOURS:
            continue
        if smaller > one.shape[1]:
            row[extractor.metric("distance")] = frechet_distance(one, other)
        row[extractor.metric("kernel")] = kernel_distance(one, other)[0]
        if name == "all":
            row[extractor.metric("score")] = inception_score(probabilities, min(10, len(probabilities)))[0]
        clusters = max(2, min(clusters_per_class * len(classes), 2 * smaller // 10))
        row[extractor.metric("f8")], row[extractor.metric("f1/8")] = distribution_scores(one, other, clusters, prd_runs)
        pair = precision_recall(one, other, NEIGHBOURS)
        row[extractor.metric("precision")], row[extractor.metric("recall")] = pair
    return found


def measure_samples(
    extractor: Extractor,
    probabilities: Tensor,
    images: Tensor,
    labels: Tensor,
    counts: Sequence[int],
    *,
    real: tuple[Tensor, Tensor],
    training: tuple[Tensor, Tensor],
    fresh: tuple[Tensor, Tensor],
    prd_runs: int = 10,
) -> dict[str, dict[str, float]]:
    """`measure` of generated images uint8 [M, C, H, W] with labels [M], and two more measures overall and in each group:
    "label_accuracy" (see `label_accuracy`) and "distance_ratio" (see `group_memorisation`).

    probabilities: of the judge [M, C], whatever the extractor is. real, training, fresh: features and labels of the
    reference, of the training images and of new ones, all by the extractor.
    """
    features, classes = extractor(images)
    found = measure(extractor, real, (features, classes, labels), counts, prd_runs=prd_runs)
    right = label_accuracy(probabilities, labels, counts)
    near = group_memorisation((features, labels), training, fresh, counts)
    return {
        group: row | {"label_accuracy": right[group], "distance_ratio": near[group]} for group, row in found.items()
    }
