"""Number and similarity: how recall follows from class counts and class distances, and a convex classifier to test it on.

A distance d is counted in standard deviations: two bell curves of equal width s have d = |difference of means| / s.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.errors import CourseError
from lt_utils.metrics.statistics import to_float64

RIDGE = 1e-3  # of a pair's covariance, as a share of its mean variance: a pixel that never varies must not divide by 0


def two_class_recall(d: Tensor | float, ratio: Tensor | float) -> Tensor:
    """Recall (0..1, float64) of a class against one rival `ratio` times as frequent: Phi(d / 2 - ln(ratio) / d).

    Two normal distributions of equal width, d standard deviations apart, and the best threshold for the training prior. Logit
    adjustment takes the second term away, which is ratio = 1. d and ratio: any shapes that fit together; d = inf: no rival.
    Raises CourseError for a d or a ratio that is not above 0.
    """
    d, ratio = (torch.as_tensor(value, dtype=torch.float64) for value in (d, ratio))
    for name, value in (("distance", d), ("head-to-tail ratio", ratio)):
        if not (value > 0).all():
            raise CourseError(f"A {name} must be above 0, not {value.min().item():g}.")
    return torch.special.ndtr(d / 2 - ratio.log() / d)


def estimated_recall(d: float, n_head: int, n_tail: int, dim: int, adjusted: bool = False) -> float:
    """Recall (0..1) of the tail class if the two class means in `dim` dimensions are estimated from n_head and n_tail samples.

    Unit covariance, known; means d apart. The rule compares squared distances to the two estimated means, and the log-prior
    unless `adjusted`. Its score on tail samples has the mean d^2 / 2 + dim / 2 (1 / n_head - 1 / n_tail) - ln(n_head / n_tail)
    and, to leading order, the variance d^2 + dim / n_head + dim / n_tail; as a normal distribution this gives

        Phi( mean / sqrt(variance) ).

    With ever more samples it becomes `two_class_recall`. Raises CourseError for d <= 0, an empty class or dim < 1.
    """
    if not d > 0 or min(n_head, n_tail, dim) < 1:
        raise CourseError(f"d must be above 0 and counts and dimensions at least 1: {d:g}, {n_head}, {n_tail}, {dim}.")
    d, n_head, n_tail = (torch.tensor(float(value), dtype=torch.float64) for value in (d, n_head, n_tail))
    mean = d.square() / 2 + dim / 2 * (1 / n_head - 1 / n_tail)
    if not adjusted:
        mean = mean - (n_head / n_tail).log()
    return torch.special.ndtr(mean / (d.square() + dim / n_head + dim / n_tail).sqrt()).item()


def class_distances(features: Tensor, labels: Tensor, num_classes: int, seed: int = 0) -> Tensor:
    """Distances d [C, C] of all pairs of classes, float64, symmetric, with inf on the diagonal: no class is its own rival.

    features: [N, D], of training images. For each pair one fold gives the direction that separates it best (Fisher's, from
    the covariance around both means), the other fold is projected on it: d = difference of means / root of the mean variance.
    Then the folds change places and both d are averaged. A direction is never judged by the features that it was fitted on,
    so d is not flattered; a difference that turns out negative counts as 0.001. seed: of the folds.

    Raises CourseError for fewer than two classes, or a class with fewer than four features.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    if num_classes < 2:
        raise CourseError(f"A distance needs at least two classes; there is {num_classes}.")
    if counts.min() < 4:
        raise CourseError(f"Class {int(counts.argmin())} has {int(counts.min())} features; two folds need 4 of each.")
    features = to_float64(features)
    random = torch.Generator().manual_seed(seed)
    folds: tuple[list[Tensor], list[Tensor]] = ([], [])  # in each fold the features [about n_c / 2, D] of each class
    for c in range(num_classes):
        own = features[(labels == c).to(features.device)]
        shuffled = own[torch.randperm(len(own), generator=random).to(own.device)]
        for fold, half in zip(folds, shuffled.tensor_split(2), strict=True):
            fold.append(half)
    distances = features.new_full((num_classes, num_classes), torch.inf)
    for c in range(num_classes):
        for k in range(c):
            both = [_judged(fit[c], fit[k], test[c], test[k]) for fit, test in (folds, folds[::-1])]
            distances[c, k] = distances[k, c] = max(sum(both) / 2, 1e-3)
    return distances


def _judged(first: Tensor, second: Tensor, test_first: Tensor, test_second: Tensor) -> float:
    """The distance of two classes in the test features [n, D], along the direction that separates the other two sets best."""
    gap = first.mean(0) - second.mean(0)
    scatter = sum((len(x) - 1) * x.T.cov() for x in (first, second))
    covariance = scatter / (len(first) + len(second) - 2)  # [D, D]
    covariance = covariance + RIDGE * covariance.diagonal().mean() * torch.eye(len(gap)).to(covariance)
    direction = torch.linalg.solve(covariance, gap)
    p, q = test_first @ direction, test_second @ direction
    return ((p.mean() - q.mean()) / ((p.var() + q.var()) / 2).sqrt()).item()


def predicted_recall(distances: Tensor, counts: list[int], adjusted: bool = False) -> Tensor:
    """Recall (0..1, float64 [C]) of each class, no parameter fitted: `two_class_recall` multiplied over its rivals k,

        prod_k Phi( d_ck / 2 - ln(n_k / n_c) / d_ck ),

    as if each rival took its share of a class independently of the others. That is a fair picture of ten classes and a bad
    one of a hundred. adjusted: after logit adjustment, without the second term. distances: of `class_distances`, [C, C].
    Raises CourseError for counts that are not C numbers above 0.
    """
    if len(counts) != len(distances) or min(counts) < 1:
        raise CourseError(f"{len(distances)} classes need as many counts, none below 1: {list(counts)}.")
    n = torch.tensor(counts, dtype=torch.float64, device=distances.device)
    ratio = torch.ones_like(distances) if adjusted else n[None, :] / n[:, None]  # [c, k]: n_k / n_c
    return two_class_recall(distances, ratio).prod(1)


class PrincipalComponents:
    """The first `dim` principal components of images [N, channels, H, W] uint8: a fixed feature, made without any label.

    Called with images it gives float64 [N, dim], pixels counted from 0 to 1, not whitened. Raises CourseError for a `dim` that
    the images do not have.
    """

    def __init__(self, images: Tensor, dim: int) -> None:
        pixels = to_float64(images.flatten(1)) / 255  # [N, P]
        if not 1 <= dim <= min(pixels.shape):
            raise CourseError(f"{len(pixels)} images of {pixels.shape[1]} numbers have no {dim} principal components.")
        self.mean = pixels.mean(0)
        _, vectors = torch.linalg.eigh(pixels.T.cov())  # [P, P], by ascending variance
        self.components = vectors[:, -dim:].flip(1)  # [P, dim]

    def __call__(self, images: Tensor) -> Tensor:
        return (to_float64(images.flatten(1)) / 255 - self.mean) @ self.components


def fit_logistic(
    features: Tensor, labels: Tensor, num_classes: int, l2: float = 1e-4, tolerance: float = 1e-4, steps: int = 1000
) -> nn.Linear:
    """Multinomial logistic regression on features [N, D], fitted to convergence; a linear layer in float64.

    Minimises mean cross-entropy + l2 / 2 |weights|^2, the bias free. The problem is convex: there is one answer, which does
    not depend on a seed, a learning rate or a number of steps. L-BFGS stops when no gradient exceeds `tolerance`. Without l2
    classes that a line can separate drive the weights to infinity, and the logits are then no log-probabilities.

    Raises CourseError for fewer than two classes, for an l2 that is not above 0, and if `steps` do not suffice.
    """
    if num_classes < 2:
        raise CourseError(f"A classifier needs at least two classes; there is {num_classes}.")
    if not l2 > 0:
        raise CourseError(f"l2 must be above 0, not {l2:g}: separable classes have no finite answer without it.")
    features = to_float64(features)
    labels = labels.to(features.device)
    model = nn.Linear(features.shape[1], num_classes, dtype=torch.float64, device=features.device)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    search = dict(history_size=20, tolerance_grad=tolerance, tolerance_change=0.0, line_search_fn="strong_wolfe")
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=steps, max_eval=2 * steps, **search)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(model(features), labels) + l2 / 2 * model.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    slope = max(parameter.grad.abs().max().item() for parameter in model.parameters())
    if not slope <= 10 * tolerance:
        raise CourseError(
            f"The fit has not converged in {steps} steps (gradient {slope:.1e}): allow more, or a larger l2."
        )
    return model.requires_grad_(False)
