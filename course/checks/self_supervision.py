"""Checks of the exercises of notebook 10: the balanced rotation batch, Barlow Twins, effective numbers, and a fair rival."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Refusals, Wrong, ahead, exercise, numbers, pieces, seeded


@exercise("10.1", "every turn equally often, in random order, and each label names the turn that was made", times=5)
def rotation_batch(answer: Callable, random: Random) -> Refusals:
    """answer(images [B, C, H, W], seed) -> (turned images [B, C, H, W], turns [B])."""
    images = torch.randint(0, 256, (40, 2, 6, 6), generator=random)
    (turned, turns), (again, turns_again), (_, other) = (
        pieces(result, 2, "turned images and turns") for result in seeded(answer, images, seed=random.whole(1, 1000))
    )
    turned, turns = numbers(turned, "The first result").long(), numbers(turns, "The second result").long()
    if len(turned) == 4 * len(images):
        raise Wrong("Here each image comes in all four turns. Wanted is one turn for each image, as in the paper.")
    if turned.shape != images.shape or turns.shape != images.shape[:1]:
        shapes = f"{list(turned.shape)} and {list(turns.shape)}"
        raise Wrong(f"Shapes {list(images.shape)} and [{len(images)}] are wanted; the results have {shapes}.")

    def turned_by(direction: int) -> bool:
        made = [image.rot90(direction * int(k), (1, 2)) for image, k in zip(images, turns, strict=True)]
        return torch.equal(turned, torch.stack(made))

    counts = torch.bincount(turns.clamp(min=0), minlength=4)
    return {
        "A label is the number of quarter turns: 0, 1, 2 or 3.": not 0 <= turns.min() <= turns.max() <= 3,
        "The labels say something else than what was done: turned[i] must be images[i] turned turns[i] times.": (
            not turned_by(1) and not turned_by(-1)
        ),
        "You turn clockwise. rot90 with k = 1 turns anticlockwise, from the first of the two axes towards the "
        "second.": not turned_by(1),
        f"The turns come {counts.tolist()} times. Drawn one by one they are equally likely, but not equally frequent: make a "
        "list in which each comes equally often, then shuffle it.": counts.max() - counts.min() > 1,
        "The same seed gave other turns: shuffle with torch.Generator().manual_seed(seed).": (
            not torch.equal(numbers(turns_again).long(), turns) or not torch.equal(numbers(again).long(), turned)
        ),
        "Another seed gave the same turns in the same places. The list must be shuffled, or an image's place in the batch "
        "betrays its turn.": torch.equal(numbers(other).long(), turns),
    }


def _standardised(z: Tensor, dim: int = 0) -> Tensor:
    return (z - z.mean(dim, keepdim=True)) / z.std(dim, correction=0, keepdim=True)


@exercise(
    "10.2",
    "the same number as through singular values and traces, in 20 random pairs of views",
    "Standardise each column over the batch; R = first.T @ second / B; (1 - R_ii)^2 on the diagonal, weight * R_ij^2 off it.",
    times=20,
)
def barlow_twins(answer: Callable, random: Random) -> Case:
    """answer(first [B, D], second [B, D], weight) -> the loss, one number."""
    batch, dim, weight = random.whole(20, 40), random.whole(3, 6), random.between(0.05, 0.5)
    first = random.normal(batch, dim) * 3 + 1
    second = 0.6 * first + random.normal(batch, dim) - 2
    a, b = _standardised(first), _standardised(second)
    R = torch.einsum("bi,bj->ij", a, b) / batch

    def loss(R: Tensor, on: float = 1.0, off: float = weight) -> Tensor:
        same = torch.einsum("ii->i", R)
        # sum of all squares = trace of R^T R = sum of the squared singular values
        return on * (1 - same).square().sum() + off * (torch.linalg.svdvals(R).square().sum() - same.square().sum())

    rows = _standardised(first, 1).T @ _standardised(second, 1) / batch
    mistakes = {
        "The columns are not standardised: subtract each column's mean and divide by its deviation over the batch.": loss(
            first.T @ second / batch
        ),
        "You standardised each *image*. Each *column* is: its mean over the batch is 0, its deviation 1.": loss(rows),
        "The columns are centred but not divided by their deviation.": loss(
            (first - first.mean(0)).T @ (second - second.mean(0)) / batch
        ),
        "R is a mean over the batch: divide by B.": loss(R * batch),
        "The weight belongs to the entries off the diagonal: yours does not weigh them.": loss(R, off=1.0),
        "The weight stands on the diagonal; it belongs to the entries off it.": loss(R, on=weight, off=1.0),
        "The entries off the diagonal are missing: without them all columns may say the same.": loss(R, off=0.0),
        "Entries off the diagonal should be 0, so their squares are summed; you sum (1 - R_ij)^2.": (
            (1 - R.diagonal()).square().sum() + weight * ((1 - R).square().sum() - (1 - R.diagonal()).square().sum())
        ),
        "The squares of the diagonal are counted among the others, too.": (
            loss(R) + weight * R.diagonal().square().sum()
        ),
    }
    return Case(answer(first, second, weight), loss(R), mistakes, rtol=1e-3)


@exercise(
    "10.3",
    "weights of 20 random counts, and both ends: all alike for beta = 0, nearly 1 / n for beta near 1",
    "1 / E_n for each class with E_n = (1 - beta^n) / (1 - beta), then scaled so that the weights sum to C.",
    over=range(20),
)
def effective_weights(answer: Callable, random: Random, trial: int) -> Case:
    """answer(counts [C], beta) -> class weights [C] that sum to C."""
    counts = torch.randint(2, 900, (random.whole(4, 9),), generator=random)
    beta = (0.0, 0.9, 0.99, 0.999)[trial % 4]
    # the effective number as a sum: image k of a class is new with chance beta^k
    E = torch.tensor([sum(beta**k for k in range(n)) if beta else 1.0 for n in counts.tolist()], dtype=torch.float64)

    def scaled(weights: Tensor) -> Tensor:
        return weights * len(weights) / weights.sum()

    n = counts.double()
    mistakes = {
        "These are weights by the effective number itself: a rare class must weigh *more*.": scaled(E),
        "This is 1 / n_c. With the effective number, the thousandth image counts less than the tenth.": scaled(1 / n),
        "The weights must sum to C, so that the size of the loss, and with it the learning rate, stays as it was.": 1
        / E,
        "The weights sum to 1 instead of C: the loss, and with it the step, becomes C times smaller.": (
            scaled(1 / E) / len(counts)
        ),
        "Scale the weights by their sum, not by the largest.": E.min() / E,
        "beta^n is a power: beta * n is something else.": scaled((1 - beta) / (1 - beta * n).where(1 != beta * n, n)),
        "The factor beta^n alone is no effective number; it is (1 - beta^n) / (1 - beta).": scaled(
            1 / (beta**n).clamp(min=1e-30)
        ),
    }
    given = answer(counts.tolist(), beta)
    return Case(given, scaled(1 / E), mistakes)


Table = tuple[int, int, int, list[float], dict[int, list[float]]]


@exercise(
    "10.4",
    "four good bargains are taken, and five bad ones are seen through",
    "The rival is scratch with finetuning + pretraining / tasks passes; take the paired differences, and answer True if their "
    "mean is larger than half of its 95 % interval.",
    times=3,
)
def verdict(answer: Callable, random: Random) -> Iterator[Case]:
    """answer(pretraining, finetuning, tasks, pretrained [R], scratch {passes: [R]}) -> whether to pretrain."""
    for truth, table in _bargains(random):
        said = answer(*table)
        if not isinstance(said, bool) and not (isinstance(said, Tensor) and said.dtype == torch.bool):
            raise Wrong(f"The verdict is True (pretrain) or False, not {said!r}.")
        pretraining, finetuning, tasks, _, scratch = table
        mistakes = {
            "You compared at equal fine-tuning. Where pretraining has to be paid, scratch may spend those passes, too.": (
                _ahead(table, finetuning)
            ),
            "You charged the whole pretraining to one task. Done once, it is shared by all tasks: pretraining / tasks.": (
                _ahead(table, finetuning + pretraining)
            ),
            "Your rival spent the pretraining's share alone. It may also spend what fine-tuning costs.": (
                _ahead(table, min(scratch, key=lambda passes: abs(passes - pretraining / tasks)))
            ),
            "You asked for a lead over the longest training from scratch, whatever it cost. The rival has the same budget, no "
            "more.": _ahead(table, max(scratch)),
            "The verdict looks at means only. In one of the tables the lead is smaller than its paired error.": (
                _ahead(table, _fair(table), errors=False)
            ),
            "A good bargain was refused: the error was computed as if the two did not share their seeds. Pair them.": (
                _ahead(table, _fair(table), together=False)
            ),
            "Every bargain was taken.": True,
            "Every bargain was refused; four of them are good ones.": False,
        }
        yield Case(said, truth, mistakes)


def _fair(table: Table) -> int:
    pretraining, finetuning, tasks, *_ = table
    return finetuning + pretraining // tasks


def _ahead(table: Table, rival: int, errors: bool = True, together: bool = True) -> bool:
    """Whether pretrained is ahead of scratch with `rival` passes, by more than half of the 95 % interval unless not `errors`."""
    return ahead(table[3], table[4][rival], errors, together)


def _bargains(random: Random) -> list[tuple[bool, Table]]:
    """Tables with the verdict that they deserve: five seeds, whose effect all methods share."""

    def table(pretraining: int, tasks: int, heights: Mapping[int, float], lead: float, noise: float = 0.1) -> Table:
        seeds = 60 + random.scatter(2.0)
        scratch = {passes: (seeds + height + random.scatter(0.05)).tolist() for passes, height in heights.items()}
        return pretraining, 20, tasks, (seeds + lead + random.scatter(noise)).tolist(), scratch

    curve: Mapping[int, float] = {20: 0.0, 40: 5.0, 100: 8.0, 120: 9.0}
    cheap: Sequence[int] = (20, 24, 30, 40, 60, 120)
    slow = dict(zip(cheap, (0.0, 0.3, 0.6, 4.0, 6.0, 8.0), strict=True))
    return [
        (False, table(100, 1, curve, 3.0)),  # ahead at equal fine-tuning, far behind at equal compute
        (True, table(0, 1, curve, 3.0)),  # downloaded: it costs nothing
        (True, table(40, 10, slow, 1.5)),  # shared by ten tasks; alone it would not pay
        (False, table(20, 1, slow, 1.0)),
        (False, table(40, 4, slow, 0.8, noise=1.2)),  # chance
        (False, table(40, 2, slow, -1.0)),  # it did harm
        (False, table(100, 1, curve, 8.5)),  # ahead of the pretraining's share alone
        (True, table(20, 1, slow, 7.8)),
        (True, table(100, 1, curve, 13.0)),
    ]
