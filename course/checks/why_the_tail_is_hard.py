"""Checks of the exercises of notebook 02: a threshold, recall from distances, shares of variance, what a control refutes."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Refusals, Wrong, exercise


@exercise(
    "2.1",
    "head and tail are equally likely at your threshold, in 20 worlds",
    "At the threshold both sides of rho * density of the head = density of the tail are equal. Take logarithms and solve for x.",
    times=20,
)
def threshold(answer: Callable, random: Random) -> Case:
    """answer(head, tail, width, rho) -> the x where both classes are equally likely under the training prior."""
    head, gap = random.between(-5, 5), random.between(1, 4) * (-1) ** random.whole(0, 1)
    tail, width, rho = head + gap, random.between(0.4, 2.5), random.between(2, 100)
    shift, middle = width**2 * math.log(rho) / gap, (head + tail) / 2
    low, high = middle - 1e4, middle + 1e4  # the log-odds of the head fall, or rise, along a straight line: bisection
    for _ in range(200):
        x = (low + high) / 2
        head_wins = math.log(rho) - ((x - head) / width) ** 2 / 2 + ((x - tail) / width) ** 2 / 2 > 0
        low, high = (x, high) if head_wins == (gap > 0) else (low, x)
    mistakes = {
        "The threshold moves *towards the tail*: the frequent class gets more room.": middle - shift,
        "This is the middle. It is right for equally frequent classes; where is rho?": middle,
        "rho itself was used; densities are exponentials, so its *logarithm* moves the threshold.": middle
        + width**2 * rho / gap,
        "The exponent of a bell is divided by the *square* of its width.": middle + width * math.log(rho) / gap,
        "The width is missing: wide bells overlap more, so the prior moves their threshold farther.": middle
        + math.log(rho) / gap,
        "d counts from the head's centre in widths. Here x has a place and a unit of its own.": (
            abs(gap) / width / 2 + math.log(rho) * width / abs(gap)
        ),
        "The tail may lie to the left of the head. Keep the sign of tail - head.": middle
        + shift * math.copysign(1, gap),
    }
    return Case(answer(head, tail, width, rho), x, mistakes)


def _product(d: Tensor, shift: Tensor) -> Tensor:
    """Product over rivals, [C], of Phi(d / 2 - shift / d), rivals one by one."""
    rows = []
    for c in range(len(d)):
        rows.append(
            math.prod(0.5 * math.erfc((shift[c, k] / d[c, k] - d[c, k] / 2) / 2**0.5) for k in range(len(d)) if k != c)
        )
    return torch.tensor(rows, dtype=torch.float64)


@exercise(
    "2.2",
    "the product over all rivals, for 20 sets of classes",
    "For each class go through its rivals: Phi(d / 2 - log(n_k / n_c) / d), and multiply.",
    times=20,
)
def predicted_recall(answer: Callable, random: Random) -> Case:
    """answer(d [C, C], counts [C]) -> recall of each class [C], 0..1."""
    classes = random.whole(3, 7)
    upper = torch.triu(1 + 4 * torch.rand(classes, classes, generator=random, dtype=torch.float64), 1)
    d, counts = upper + upper.T, torch.randint(5, 900, (classes,), generator=random)
    n = counts.double()
    log_ratio = n.log()[None] - n.log()[:, None]  # [c, k]: log(n_k / n_c)
    factors = torch.special.ndtr(d / 2 - log_ratio / d.clone().fill_diagonal_(1))
    nearest = d.clone().fill_diagonal_(math.inf).argmin(1)
    frequent = (log_ratio > 0) | torch.eye(classes, dtype=torch.bool)
    right = _product(d, log_ratio)
    mistakes = {
        "The ratio is upside down: a rival that is *more* frequent than the class lowers its recall.": _product(d, -log_ratio),
        "The counts play no part: this is recall after logit adjustment.": _product(d, 0 * log_ratio),
        "The ratio itself was used where its logarithm belongs.": _product(d, log_ratio.exp()),
        "This is the nearest rival alone. All others take their share, too.": factors[range(classes), nearest],
        "A class is no rival of itself: leave out its own factor, Phi(0) = 1/2.": right / 2,
        "This is the smallest factor. Each rival takes a share of what the others left: multiply.": (
            factors.clone().fill_diagonal_(1).amin(1)
        ),
        "Rivals that are rarer than the class take a share, too.": torch.where(
            frequent, factors, torch.ones(())
        ).fill_diagonal_(1).prod(1),
        "d itself was used for d / 2: the threshold of equal classes stands half-way.": (
            torch.special.ndtr(d - log_ratio / d.clone().fill_diagonal_(1)).fill_diagonal_(1).prod(1)
        ),
        "The second term is divided by d: similar classes suffer more from the same ratio.": (
            torch.special.ndtr(d / 2 - log_ratio).fill_diagonal_(1).prod(1)
        ),
        "Recall as a share, 0 to 1, is wanted, not per cent.": 100 * right,
    }  # fmt: skip
    return Case(answer(d, counts.tolist()), right, mistakes)


@exercise(
    "2.3",
    "the shares of class, number and interaction of 20 Latin squares",
    "Sort first: table[c, place] = recall of class c in the order where it stands there. Then means of rows and of columns.",
    times=20,
)
def shares(answer: Callable, random: Random) -> Case:
    """answer(recall [R, C], orders: R lists) -> shares of the variance: class, number, interaction."""
    classes = random.whole(4, 7)
    level, slope = 70 + 15 * random.normal(classes), random.between(2, 12)
    order = torch.randperm(classes, generator=random).tolist()
    orders = [order[start:] + order[:start] for start in range(classes)]
    table = level[:, None] - slope * torch.arange(classes) + 6 * random.normal(classes, classes)  # [class, place]
    recall = torch.stack([torch.stack([table[c, its.index(c)] for c in range(classes)]) for its in orders])

    def parts(values: Tensor) -> tuple[float, float, float]:
        """Between the groups of rows, between those of columns, and the rest, each a share of the sum of squares."""
        total = values.var(correction=0)
        rows, columns = values.mean(1).var(correction=0), values.mean(0).var(correction=0)
        return (rows / total).item(), (columns / total).item(), ((total - rows - columns) / total).item()

    by_class, by_number, rest = right = parts(table)
    unsorted = parts(recall.T)
    spread = table.var(correction=0).item()
    mistakes = {
        "Class and number have changed places: a *class* is described by its mean over all places.": (
            by_number,
            by_class,
            rest,
        ),
        "Rows of `recall` are orders, not counts: in each order a class stands at another place. Sort by place first.": unsorted,
        "Shares are wanted: divide by the variance of the whole table.": tuple(spread * part for part in right),
        "These are standard deviations; variances add up, standard deviations do not.": tuple(
            part**0.5 for part in right
        ),
        "The interaction is what class and number leave: the three shares add up to 1.": (by_class, by_number, 0.0),
    }
    return Case(torch.as_tensor(answer(recall, orders)), torch.tensor(right), mistakes)


CONTROLS = ("third class", "unseen tail", "prior taken out", "seeds")
CLAIMS = {
    "A": (
        "third class",
        "A says that *any* mixing harms the tail. Look for a row where as much was mixed, and the tail did not suffer.",
    ),
    "B": (
        "unseen tail",
        "B blames the contradiction: the same picture with two labels. In which row is nothing contradicted, and yet the tail "
        "suffers?",
    ),
    "C": (
        "prior taken out",
        "C says that the evidence is gone. If so, moving a threshold could not bring the tail back. Which column moves it?",
    ),
    "D": ("seeds", "D gives a number as if it were sure. How far do repetitions of the same experiment lie apart?"),
}


@exercise("2.4", "each claim is met by the control that was made for it")
def verdict(answer: Callable, random: Random) -> Refusals:
    """answer() -> for each claim "A" to "D" the control that refutes it, one of CONTROLS."""
    given = answer()
    if not isinstance(given, dict) or set(given) != set(CLAIMS):
        raise Wrong(f'Give a dict with the keys {", ".join(CLAIMS)}, such as {{"A": "seeds", ...}}.')
    unknown = [value for value in given.values() if value not in CONTROLS]
    if unknown:
        raise Wrong(f"{unknown[0]!r} is no control of the table. Known: {', '.join(CONTROLS)}.")
    return {hint: given[claim] != control for claim, (control, hint) in CLAIMS.items()}
