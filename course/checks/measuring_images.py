"""Checks of the exercises of appendix A1: precision and recall, the Fréchet distance, and what they say of generators that
have failed."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Refusals, Wrong, exercise, near, numbers, pieces, predicted


def _inside(points: list, members: list, k: int, extra: int = 0) -> float:
    """Share of points nearer to some member than its k-th nearest other member, by sorting lists."""
    radii = [sorted(math.dist(p, q) for q in members)[k + extra] for p in members]  # place 0 is the member itself
    return sum(any(math.dist(p, q) < r for q, r in zip(members, radii, strict=True)) for p in points) / len(points)


def _foreign(points: list, members: list, k: int) -> float:
    """The mistake of giving the balls to the points that are asked about."""
    radii = [sorted(math.dist(p, q) for q in points)[k] for p in points]
    return sum(any(math.dist(p, q) < r for q in members) for p, r in zip(points, radii, strict=True)) / len(points)


@exercise(
    "A1.1",
    "equal to a plain search through sorted lists, for clouds that overlap, shrink and grow",
    "Draw five points and their balls on paper, for k = 1. Whose balls are they for precision, and which points are asked "
    "whether they lie in one? And for recall?",
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
    "A1.2",
    "the closed form through eigenvalues, and 0 for equal Gaussians",
    "Try yours on two cases that you can do on paper: equal Gaussians have distance 0; with means 0, one covariance the "
    "identity and the other 4 times the identity, each dimension adds (2 - 1)^2.",
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
            "A complex number: the product of the two covariances is not symmetric, and rounding gives its root imaginary parts. "
            "The product in the formula is symmetric; or keep the real part."
        )
    return Case(numbers(given).mean(), right, mistakes, rtol=1e-3, atol=1e-3)


@exercise(
    "A1.3", "copies have full precision and almost no recall; half a cloud loses about half of its recall, no precision"
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
