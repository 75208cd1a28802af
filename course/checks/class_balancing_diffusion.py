"""Checks of the exercises of notebook 06: the class-balancing loss, precision and recall, the Fréchet distance, and what they
say of generators that have failed."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Refusals, Wrong, exercise, near, numbers, pieces, predicted


@exercise(
    "6.1",
    "value and both gradients, 4 to -1, in 10 random batches",
    "w = tau t / T for each image, shape [B, 1, 1, 1]; then mean(w (e - sg other)^2) + 1/4 mean(w (sg e - other)^2), "
    "where sg is .detach().",
    over=(5, 4) * 5,  # with size 4 a weight of shape [B] also fits the width of an image
)
def balancing_loss(answer: Callable, random: Random, size: int) -> Case:
    """answer(e [B, C, H, W], other [B, C, H, W], t [B], steps, tau) -> the added loss, a number that can be differentiated."""
    e, other = (random.normal(4, 2, size, size).requires_grad_(True) for _ in range(2))
    steps, tau = random.whole(100, 1000), random.between(0.3, 2)
    t = torch.randint(1, steps, (4,), generator=random)
    difference = (e - other).detach()

    def outcome(weight: Tensor, to_e: float = 1.0, to_other: float = 0.25, value: float | None = None) -> Tensor:
        """Value of the loss, gradients onto e and other: all follow from the weights of the two directions."""
        push = 2 * weight * difference / difference.numel()
        total = (to_e + to_other if value is None else value) * (weight * difference**2).mean()
        return torch.cat([total.view(1), (to_e * push).flatten(), (-to_other * push).flatten()])

    w = (tau * t.double() / steps).view(-1, 1, 1, 1)
    mistakes = {
        "Without stop-gradients both terms pull at both predictions alike. The first may move only e (other.detach()), the "
        "second only other (e.detach()).": outcome(w, 1.25, 1.25, 1.25),
        "The two directions have different weights: the commitment term counts one quarter.": outcome(w, 1.0, 1.0),
        "The stop-gradients are swapped: the *larger* term moves e, the prediction under the true label.": outcome(
            w, 0.25, 1.0
        ),
        "The commitment term is missing: other is to follow, too, with one quarter of the weight.": outcome(
            w, 1.0, 0.0
        ),
        "The weight is tau t / T: your t is missing.": outcome(0 * w + tau),
        "The weight is tau t / T: t was not divided by the number of steps.": outcome(w * steps),
        "The weight is tau t / T: your tau is missing.": outcome(w / tau),
        "The mean over all numbers is wanted, not the sum.": outcome(w * e.numel()),
        "The commitment term is there in value, but no gradient reaches other: each term detaches *one* side.": outcome(
            w, 1.0, 0.0, 1.25
        ),
        "Nothing can learn from this: both sides are detached in both terms.": outcome(w, 0.0, 0.0, 1.25),
    }
    if size == 4:
        mistakes[
            "Each image has a weight of its own, shape [B, 1, 1, 1]; yours runs along the width of the images."
        ] = outcome(w.flatten().expand(4, 2, size, size))
    loss = answer(e, other, t, steps, tau)
    value = numbers(loss)
    if value.ndim:
        raise Wrong("One number is wanted: take the mean over all numbers of the batch.")
    gradients = [torch.zeros_like(e), torch.zeros_like(other)]
    if isinstance(loss, Tensor) and loss.requires_grad:
        found = torch.autograd.grad(loss, (e, other), allow_unused=True)
        gradients = [zero if one is None else one for one, zero in zip(found, gradients, strict=True)]
    return Case(torch.cat([value.view(1), *(one.flatten() for one in gradients)]), outcome(w), mistakes)


def _inside(points: list, members: list, k: int, extra: int = 0) -> float:
    """Share of points nearer to some member than its k-th nearest other member, by sorting lists."""
    radii = [sorted(math.dist(p, q) for q in members)[k + extra] for p in members]  # place 0 is the member itself
    return sum(any(math.dist(p, q) < r for q, r in zip(members, radii, strict=True)) for p in points) / len(points)


def _foreign(points: list, members: list, k: int) -> float:
    """The mistake of giving the balls to the points that are asked about."""
    radii = [sorted(math.dist(p, q) for q in points)[k] for p in points]
    return sum(any(math.dist(p, q) < r for q in members) for p, r in zip(points, radii, strict=True)) / len(points)


@exercise(
    "6.2",
    "equal to a plain search through sorted lists, for clouds that overlap, shrink and grow",
    "Each member of a set has a ball that reaches to its k-th nearest *other* member. Precision: the share of generated "
    "features in at least one ball of the real set. Recall: the same with the roles exchanged.",
    over=((2, 0.4), (3, 1.0), (1, 2.0), (4, 1.0)),
)
def precision_recall(answer: Callable, random: Random, setting: tuple[int, float]) -> Case:
    """answer(real [N, D], generated [M, D], k) -> (precision, recall), shares in 0..1."""
    k, width = setting
    real, made = random.normal(60, 2), width * random.normal(47, 2) + 0.3

    def both(share: Callable, *more: int) -> list[float]:
        """Precision and recall."""
        a, b = real.tolist(), made.tolist()
        return [share(b, a, k, *more), share(a, b, k, *more)]

    right = both(_inside)
    mistakes = {
        "Precision and recall are swapped: precision asks whether *generated* features lie in the real set.": right[
            ::-1
        ],
        "A member's k-th neighbour is counted among the *others*. You count the member itself as the first, at distance 0: "
        "take the k-th after it.": both(_inside, -1),
        "You went one neighbour too far: k + 1 smallest distances include the member itself, so the last of them is "
        "right.": both(_inside, 1),
        "Shares in 0..1 are wanted, yours are percent.": [100 * share for share in right],
        "The radii come from the wrong set: for precision each *real* feature has a ball, for recall each generated "
        "one.": both(_foreign),
    }
    given = pieces(answer(real, made, k), 2, "precision and recall")
    return Case(torch.stack([numbers(one).mean() for one in given]), right, mistakes, atol=1e-9)


@exercise(
    "6.3",
    "the closed form through eigenvalues, and 0 for equal Gaussians",
    "|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1^(1/2) S2 S1^(1/2))^(1/2), where the root of a symmetric matrix is "
    "V diag(sqrt(values)) V^T.",
    over=range(12),
)
def frechet(answer: Callable, random: Random, trial: int) -> Case:
    """answer(mean1 [D], cov1 [D, D], mean2 [D], cov2 [D, D]) -> the squared Fréchet distance of two Gaussians."""
    dim = random.whole(2, 5)
    (m1, s1), (m2, s2) = (
        (random.normal(dim), root @ root.T + 0.2 * torch.eye(dim).double())
        for root in (random.normal(dim, dim) for _ in range(2))
    )
    if trial % 4 == 3:
        m2, s2 = m1, s1
    # The root of S1 S2 has the roots of its eigenvalues, which are real though S1 S2 is not symmetric.
    cross = torch.linalg.eigvals(s1 @ s2).real.clamp(min=0).sqrt().sum()
    gap, traces = (m1 - m2).square().sum(), s1.trace() + s2.trace()
    right = gap + traces - 2 * cross
    deviations = [s.diagonal().sqrt() for s in (s1, s2)]
    mistakes = {
        "The root was taken number by number. The root of a *matrix* S is the matrix R with R R = S: take the roots of its "
        "eigenvalues.": gap + traces - 2 * (s1 @ s2).diagonal().clamp(min=0).sqrt().sum(),
        "The 2 before the last trace is missing: equal Gaussians must have distance 0.": gap + traces - cross,
        "The distance of the means enters squared.": gap.sqrt() + traces - 2 * cross,
        "The root of the product is missing.": gap + traces - 2 * (s1 @ s2).trace(),
        "This compares the means alone; two clouds with one mean can differ in every other way.": gap,
        "The means are missing.": traces - 2 * cross,
        "Only the variances of the dimensions were compared: the covariances between them count, too.": (
            gap + (deviations[0] - deviations[1]).square().sum()
        ),
        "This is the root; FID is the *squared* distance.": right.clamp(min=0).sqrt(),
    }
    given = answer(m1, s1, m2, s2)
    if isinstance(given, Tensor) and given.is_complex():
        raise Wrong(
            "A complex number: S1 S2 is not symmetric, and rounding gives its root imaginary parts. Use "
            "S1^(1/2) S2 S1^(1/2), which is symmetric, or keep the real part."
        )
    return Case(numbers(given).mean(), right, mistakes, rtol=1e-3, atol=1e-3)


@exercise(
    "6.4", "copies have full precision and almost no recall; half a cloud loses about half of its recall, no precision"
)
def prediction(answer: Callable, random: Random) -> Refusals:
    """answer() -> (precision of the copies, recall of the copies, recall of the half), in percent."""
    precise, recalled, half = predicted(answer, 3, "three percentages")
    return {
        "Percent are wanted: 50 for one half.": 0 < max(precise, recalled, half) <= 1,
        f"You say that only {precise:.0f} % of the copies count as precise. Precision asks whether a sample lies where real "
        "features lie, and nothing lies closer to a real feature than its copy.": precise < 85,
        f"You say {recalled:.0f} % recall for ten copied features. Recall asks how much of the *real* set is covered; "
        "around a copy the generated features crowd together, so their balls are tiny.": recalled > 15,
        f"You say {half:.0f} % recall for half a cloud. Real features of the half that is never drawn are hardly "
        "covered; those of the other half are.": not near(half, 55, 15),
    }
