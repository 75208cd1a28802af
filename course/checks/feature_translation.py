"""Checks of the exercises of notebook 09: displacement, matching a covariance, ISDA's loss, and where an edit changes class."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Wrong, exercise, numbers, pieces


@exercise(
    "9.1",
    "the rare centre and the head's covariance, for 10 random pairs of classes",
    "m_c + (f - m_h) for each row f: the head's mean off, the rare mean on, dimension by dimension.",
    times=10,
)
def displace(answer: Callable, random: Random) -> Iterator[Case]:
    """answer(head [N, D], rare [M, D]) -> displaced features [N, D]."""
    dim = random.whole(3, 6)
    head, rare = (3 * random.normal(dim) + random.normal(n, dim) for n in (random.whole(20, 30), random.whole(5, 8)))
    m_h, m_c = (torch.stack([column.sum() / len(column) for column in one.T]) for one in (head, rare))
    right = head + (m_c - m_h)[None]
    mistakes = {
        "The head's mean is still in there: take it off before you add the rare one.": head + m_c,
        "The rare mean is missing: so the cloud lies around 0.": head - m_h,
        "The two means are exchanged: the head's goes, the rare one comes.": head - m_c + m_h,
        "The mean goes over the features (axis 0), one number for each dimension.": head + rare.mean() - head.mean(),
        "You moved the rare features. The head's are the many that vary; they move.": rare - m_c + m_h,
    }
    yield Case(answer(head, rare), right, mistakes)


def _root(matrix: Tensor) -> Tensor:
    """The symmetric root of a covariance."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ values.sqrt().diag() @ vectors.T


@exercise(
    "9.2",
    "mean and covariance as asked, and every feature still the image of one head feature, for 10 random clouds",
    "Centre the head features, multiply by the inverse root of their covariance, then by the root of the wanted one; add "
    "the mean.",
    times=10,
)
def match(answer: Callable, random: Random) -> Iterator[Case]:
    """answer(head [N, D], mean [D], covariance [D, D]) -> features [N, D] with that mean and covariance."""
    dim = random.whole(2, 4)
    head = random.normal(60, dim) @ random.normal(dim, dim) + 2 * random.normal(dim) + 1
    root = random.normal(dim, dim)
    mean, wanted = random.normal(dim), root @ root.T + 0.2 * torch.eye(dim).double()
    found = numbers(answer(head, mean, wanted))
    if found.shape != head.shape:
        raise Wrong(f"There should be a feature for each of the head's: {list(head.shape)}, not {list(found.shape)}.")
    m_h, own = head.mean(0), head.T.cov()
    inverse = torch.linalg.inv(own)

    def two_moments(features: Tensor) -> Tensor:
        return torch.cat([features.mean(0, keepdim=True), features.T.cov()])

    mistakes = {
        "The covariance comes out squared, so to speak: roots are missing. A cloud times A has the covariance A S A^T.": (
            mean + (head - m_h) @ (wanted @ inverse).T
        ),
        "The head's own covariance is still in there: undo it first, with the inverse root.": (
            mean + (head - m_h) @ _root(wanted).T
        ),
        "Only the scale of each dimension is matched. The dimensions hang together: use whole matrices.": (
            mean + (head - m_h) * (wanted.diagonal() / own.diagonal()).sqrt()
        ),
        "Mean right, covariance the head's: this is displacement, nothing is matched.": mean + (head - m_h),
        "Centre the head features before you multiply, or their mean is turned and stays.": (
            mean + head @ (_root(wanted) @ _root(inverse)).T
        ),
        "The mean is not added.": (head - m_h) @ (_root(wanted) @ _root(inverse)).T,
    }
    right = torch.cat([mean[None], wanted])
    yield Case(
        two_moments(found), right, {idea: two_moments(one) for idea, one in mistakes.items()}, rtol=1e-3, atol=1e-3
    )
    design = torch.cat([head, torch.ones(len(head), 1).double()], 1)
    left = found - design @ torch.linalg.lstsq(design, found).solution
    if left.abs().max() > 1e-2:
        raise Wrong(
            "Mean and covariance are right, but these are other features, drawn anew. Translate the head's: each comes out as "
            "A (f - m_h) + mean."
        )


@exercise(
    "9.3",
    "equal to log E exp(loss) in the limit of infinitely many draws, for 20 random heads",
    "Add nu / 2 (w_k - w_y)^T S_y (w_k - w_y) to the logit of each class k, y the label of the row; then cross-entropy.",
    times=20,
)
def isda(answer: Callable, random: Random) -> Iterator[Case]:
    """answer(z [B, C], y [B], W [C, D], S [C, D, D], nu) -> mean loss, one number."""
    classes, dim, batch, nu = random.whole(3, 5), random.whole(2, 4), random.whole(5, 8), random.between(0.3, 1.5)
    z, W = 2 * random.normal(batch, classes), random.normal(classes, dim)
    y = torch.randint(classes, (batch,), generator=random)
    roots = random.normal(classes, dim, dim)
    S = roots @ roots.mT

    def loss(margin: Callable[[int, int], float], factor: float = nu / 2) -> float:
        total = 0.0
        for row, label in zip(z.tolist(), y.tolist(), strict=True):
            moved = [value + factor * margin(k, label) for k, value in enumerate(row)]
            total += math.log(sum(math.exp(one - moved[label]) for one in moved))
        return total / batch

    def quadratic(direction: Tensor, of: int) -> float:
        return float(direction @ S[of] @ direction)

    right = loss(lambda k, c: quadratic(W[k] - W[c], c))
    mistakes = {
        "The half is missing: E exp(g) = exp(mean + variance / 2).": loss(lambda k, c: quadratic(W[k] - W[c], c), nu),
        "It is the class of the *label* that varies: S_y for every k, not S_k.": loss(
            lambda k, c: quadratic(W[k] - W[c], k)
        ),
        "Differences of logits count: w_k - w_y on both sides of S_y, not w_k alone.": loss(
            lambda k, c: quadratic(W[k], c)
        ),
        "The other classes come *nearer* when the feature moves: the term is added to the logits, not taken off.": loss(
            lambda k, c: quadratic(W[k] - W[c], c), -nu / 2
        ),
        "This is plain cross-entropy: nothing of the spread is in it.": loss(lambda k, c: 0.0),
        "The mean over the batch is wanted, not the sum.": batch * right,
        "nu is a share of the *variance*: it enters as it is, not squared.": loss(
            lambda k, c: quadratic(W[k] - W[c], c), nu**2 / 2
        ),
    }
    yield Case(answer(z, y, W, S, nu), right, mistakes)


@exercise(
    "9.4",
    "30 random sweeps, with wavering ones, ties and changes that never come",
    "Go through the steps from the largest down, and stop at the first one where the condition fails.",
    times=30,
)
def verdict(answer: Callable, random: Random) -> Iterator[Case]:
    """answer(steps [K], answers [K, N], old, new) -> (step from which the old class is lost, from which the new one is there)."""
    steps = sorted(torch.randperm(999, generator=random)[: random.whole(6, 9)].tolist())
    images, old, new = 2 * random.whole(4, 8), 3, 7
    sharp, middle = random.between(1, 6), random.between(0.2, 1.1)
    answers = torch.empty(len(steps), images, dtype=torch.long)
    for row, t in enumerate(steps):
        chance = 1 / (1 + math.exp(-sharp * 4 * (t / 1000 - middle)))
        draw = torch.rand(images, generator=random)
        answers[row] = torch.where(draw < chance, new, torch.where(draw > chance + 0.3 * (1 - chance), old, 5))

    def share(row: int, wanted: int) -> float:
        return answers[row].tolist().count(wanted) / images

    def gone(row: int) -> bool:
        return share(row, old) < 0.5

    def there(row: int) -> bool:
        return share(row, new) > 0.5

    def ever(holds: Callable[[int], bool]) -> int:
        return next((t for row, t in enumerate(steps) if holds(row)), 1000)

    def lasting(holds: Callable[[int], bool]) -> int:
        found = 1000
        for row in reversed(range(len(steps))):
            if not holds(row):
                break
            found = steps[row]
        return found

    left, arrived = pieces(answer(steps, answers, old, new), 2, "the step of leaving and the step of arriving")
    right = torch.tensor([lasting(gone), lasting(there)])
    mistakes = {
        "A share may waver: the first step where it holds is not enough, it has to hold for all larger ones, too.": (
            torch.tensor([ever(gone), ever(there)])
        ),
        "To have left the old class is not to have arrived: some images are neither. The second number looks at `new`.": (
            torch.tensor([lasting(gone), lasting(gone)])
        ),
        "The first number looks at the old class: it can be lost before the new one is there.": (
            torch.tensor([lasting(there), lasting(there)])
        ),
        "The two are exchanged: first the step of leaving, then that of arriving.": right.flip(0),
        "Exactly half is no majority: less than half of the old, more than half of the new.": torch.tensor(
            [lasting(lambda row: share(row, old) <= 0.5), lasting(lambda row: share(row, new) >= 0.5)]
        ),
        "Where the change never comes, the answer is 1000: beyond the schedule.": torch.tensor(
            [value if value < 1000 else steps[-1] for value in right.tolist()]
        ),
    }
    given = torch.cat([numbers(value, "The function").flatten() for value in (left, arrived)])
    yield Case(given, right, mistakes)
