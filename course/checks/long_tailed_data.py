"""Checks of the exercises of notebook 01: profiles, groups, subsets, and what an accuracy means."""

import math
from collections.abc import Callable, Iterator
from decimal import ROUND_FLOOR, Decimal, getcontext

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Refusals, Wrong, exercise, near, number, numbers, predicted, seeded

GROUPS = ("many", "medium", "few")
CIFAR10 = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]


def _exact(n_max: int, num_classes: int, imbalance: float) -> list[Decimal]:
    """n_max * IF ** (-c / (C - 1)) with 40 digits, through logarithms: another way than any floating-point power."""
    getcontext().prec = 40
    log = Decimal(imbalance).ln()
    return [n_max * (-log * c / (num_classes - 1)).exp() for c in range(num_classes)]


@exercise("1.1", "the published counts, and 20 random profiles to the last image")
def class_counts(answer: Callable, random: Random) -> Iterator[Case | Refusals]:
    """answer(n_max, classes, imbalance) -> [C] images of each class, exponential profile, rounded down."""
    cases = [(5000, 10, 100.0)]
    cases += [(random.whole(300, 9000), random.whole(3, 120), random.between(2, 250)) for _ in range(20)]
    for n_max, classes, imbalance in cases:
        exact, steps = _exact(n_max, classes, imbalance), range(classes)
        right = [int(value.to_integral_value(ROUND_FLOOR)) for value in exact]
        line = [math.floor(n_max * (1 - c / (classes - 1) * (1 - 1 / imbalance))) for c in steps]
        mistakes = {
            "The last class should have n_max / IF images; yours has more. The exponent runs from 0 to 1, so c is divided "
            "by C - 1, the number of steps between C classes, not by C.": [
                math.floor(n_max * imbalance ** (-c / classes)) for c in steps
            ],
            "Counts are rounded down (floor), as in the published sets; yours are rounded to the nearest.": [
                round(float(value)) for value in exact
            ],
            "Class 0 is the head and the last class the tail; your order is the other way round.": right[::-1],
            "Counts fall by the same factor from class to class, not by the same amount: this is a straight line.": line,
        }
        if n_max == 5000 and classes == 10:
            right = CIFAR10
        given, wanted = numbers(answer(n_max, classes, imbalance)), numbers(right)
        if given.shape == (classes,):
            # Where the exact count is a whole number, some correct formulas fall just short of it.
            short = wanted - numbers([value == value.to_integral_value() for value in exact])
            short[-1] = right[-1] - (right[-1] * imbalance == n_max)
            falls_short = ((given == wanted) | (given == short)).all() and (given != wanted).any()
            yield {
                "Images come in whole numbers: round each count down.": (given != given.floor()).any(),
                f"The first class should keep all {n_max} images (and the last n_max / IF), but one of them lost an "
                "image: a value computed through logarithms falls just short of a whole number, and floor takes one "
                "away. Multiply n_max by a power, or add 1e-9 before rounding.": falls_short,
            }
        hint = (
            f"For n_max = {n_max}, C = {classes} and IF = {imbalance:.4g} the counts begin {right[:3]} and end with "
            f"{right[-1]}: class c keeps the share IF ** (-c / (C - 1)) of n_max, rounded down."
        )
        yield Case(given, right, mistakes, hint)


@exercise("1.2", "groups by training images, accuracies by test images, in 20 random cases", over=range(20))
def group_accuracy(answer: Callable, random: Random, trial: int) -> Case:
    """answer(right [N] bool, labels [N], counts [C]) -> {"many", "medium", "few"}: accuracy in percent."""
    counts = [100, 20, 101, 19] + [random.whole(1, 400) for _ in range(random.whole(0, 8))]
    if trial % 3 == 0:
        counts = [n for n in counts if n >= 20]  # no few-shot class at all
    classes = len(counts)
    labels = torch.randint(classes, (random.whole(300, 600),), generator=random)
    labels[: 2 * classes] = torch.arange(classes).repeat(2)
    right = torch.rand(len(labels), generator=random) < torch.linspace(0.9, 0.2, classes)[labels]
    wanted = _by_group(right, labels, counts, _group)
    given = answer(right, labels, counts)
    if not isinstance(given, dict) or set(given) - set(GROUPS):
        raise Wrong("Wanted is a dict with an accuracy for each group, such as {'many': 81.5, 'few': 12.0}.")
    hint = (
        "Take the classes of a group by their training counts, then all test images with these labels, then the share "
        "of them that is right, times 100."
    )
    if extra := sorted(set(given) - set(wanted)):
        hint = (
            f"No class belongs to the group {extra[0]!r} here, so it has no accuracy, not even 0 or nan: leave it out."
        )
        if any(given[name] is None or given[name] != given[name] for name in extra):  # None or nan
            raise Wrong(hint)
    elif missing := sorted(set(wanted) - set(given)):
        hint = f"The group {missing[0]!r} has classes here, but no accuracy in your answer."

    def row(found: dict[str, object]) -> list[float]:
        return [number(found.get(name, -1)) for name in GROUPS]  # -1: the group is not there

    def by_rule(rule: Callable, counts: list[int] = counts) -> list[float]:
        return row(_by_group(right, labels, counts, rule))

    mistakes = {
        "A class with exactly 100 or exactly 20 training images is medium: many is > 100, few is < 20.": by_rule(
            lambda n: "many" if n >= 100 else "few" if n <= 20 else "medium"
        ),
        "The groups go by *training* images (counts); you counted the labels of the test images.": by_rule(
            _group, torch.bincount(labels, minlength=classes).tolist()
        ),
        "Accuracies are wanted in percent, 0 to 100; yours are shares.": row(
            {name: value / 100 for name, value in wanted.items()}
        ),
        "Each test image counts once: the accuracy of a group is its right images / its images. You averaged the "
        "accuracies of its classes, which gives a class with few test images too much weight.": row(
            {name: _mean_of_classes(right, labels, counts, name) for name in wanted}
        ),
    }
    return Case(row(given), row(wanted), mistakes, hint)


def _group(n: int) -> str:
    return "many" if n > 100 else "few" if n < 20 else "medium"


def _by_group(right: Tensor, labels: Tensor, counts: list[int], rule: Callable) -> dict[str, float]:
    """Image after image, without any tensor operation."""
    hits: dict[str, list[bool]] = {}
    for hit, label in zip(right.tolist(), labels.tolist(), strict=True):
        hits.setdefault(rule(counts[label]), []).append(hit)
    return {name: 100 * sum(values) / len(values) for name, values in hits.items()}


def _mean_of_classes(right: Tensor, labels: Tensor, counts: list[int], group: str) -> float:
    members = [c for c, n in enumerate(counts) if _group(n) == group]
    return 100 * sum(right[labels == c].double().mean().item() for c in members) / len(members)


@exercise("1.3", "the right number of each class, each image once, by chance, and the same for the same seed", times=5)
def subset(answer: Callable, random: Random) -> Refusals:
    """answer(labels [N], counts [C], seed) -> indices [sum(counts)] of the images that a long-tailed set keeps."""
    classes = random.whole(3, 8)
    labels = torch.arange(classes).repeat_interleave(60)[torch.randperm(60 * classes, generator=random)]
    counts = [random.whole(10, 50) for _ in range(classes)]
    counts[1] = counts[0]
    kept, again, other = (
        numbers(indices).long() for indices in seeded(answer, labels, counts, seed=random.whole(0, 10**6))
    )
    if kept.ndim != 1 or len(kept) != sum(counts):
        raise Wrong(f"{sum(counts)} indices are wanted in one row, the answer has shape {list(kept.shape)}.")
    if kept.min() < 0 or kept.max() >= len(labels):
        raise Wrong("Indices are places in `labels`, from 0 to N - 1; some of yours are not.")
    members = [(labels == c).nonzero().flatten() for c in range(classes)]
    in_file_order = torch.cat([places[:n] for places, n in zip(members, counts, strict=True)])
    return {
        "An image was kept twice: draw without replacement, for example the first n_c of a permutation.": (
            len(kept.unique()) < len(kept)
        ),
        "Class c must keep counts[c] images: draw within each class, among the places where labels == c.": (
            torch.bincount(labels[kept], minlength=classes).tolist() != counts
        ),
        "The same seed gave two different subsets: every draw must come from a generator with this seed.": (
            not torch.equal(kept, again)
        ),
        "These are the first images of each class in file order. Files are often sorted (by source, by date), so "
        "draw them by chance.": torch.equal(kept.sort().values, in_file_order.sort().values),
        "Another seed gave the same subset: the seed is not used.": torch.equal(
            kept.sort().values, other.sort().values
        ),
        "Two classes of one size kept the same places among their images: a generator made anew for each class, "
        "with the same seed, repeats its draws. Make one generator, before the loop over the classes.": (
            torch.equal(*(torch.isin(places, kept) for places in members[:2]))
        ),
    }


@exercise("1.4", "20 factors found again from nothing but the size of the data set", times=20)
def factor_for_total(answer: Callable, random: Random) -> None:
    """answer(n_max, classes, total) -> the imbalance factor whose exponential profile has about `total` images."""
    n_max, classes, factor = random.whole(500, 5000), random.whole(8, 100), random.between(3, 200)
    total = round(_total(n_max, classes, factor))
    given = number(answer(n_max, classes, total))
    if 0 < given < 1:
        raise Wrong("This is n_min / n_max. The imbalance factor is n_max / n_min, so at least 1.")
    if not 1 <= given < math.inf:
        raise Wrong(f"An imbalance factor is a number of at least 1, not {given:g}.")
    reached = _total(n_max, classes, given)
    if abs(reached - total) <= classes + 1:  # what rounding down may take away
        return
    endless = 1 - n_max / total  # ratio of neighbours if the tail never ended: total = n_max / (1 - r)
    if endless > 0 and math.isclose(given, endless ** (1 - classes), rel_tol=0.01):
        raise Wrong("The series n_max / (1 - r) has endless many classes; this set ends after C of them.")
    raise Wrong(
        f"For n_max = {n_max} and C = {classes} your factor {given:.4g} makes about {reached:,.0f} images, not {total:,}. "
        + ("Too many: a larger factor makes fewer." if reached > total else "Too few: a smaller factor makes more.")
        + " The total falls as the factor grows, so halve an interval."
    )


def _total(n_max: int, num_classes: int, factor: float) -> float:
    """Sum of the profile before rounding: a geometric series in closed form."""
    ratio = factor ** (-1 / (num_classes - 1))
    return n_max * num_classes if ratio == 1 else n_max * (1 - ratio**num_classes) / (1 - ratio)


@exercise("1.5", "about 81 % where the test set is long-tailed, 50 % where it is balanced, with the same classifier")
def prediction(answer: Callable, random: Random) -> Refusals:
    """answer() -> (accuracy on a long-tailed test set, accuracy on a balanced one), in percent, within 6 points."""
    first, second = predicted(answer, 2, "the two accuracies in percent")
    rate = torch.linspace(0.95, 0.05, 10)

    def accuracy(test_counts: Tensor) -> float:
        labels = torch.multinomial(test_counts, 100_000, True, generator=random)
        return 100 * (torch.rand(100_000, generator=random) < rate[labels]).double().mean().item()

    tailed, balanced = accuracy(torch.tensor(CIFAR10).float()), accuracy(torch.ones(10))
    if near(first, tailed, 6) and near(second, balanced, 6):
        return {}
    return {
        "Percent are wanted: 50 for one half.": max(first, second) <= 1,
        "It is the other way round. On which of the two test sets do most images belong to the easy classes?": (
            near(first, balanced, 6) and near(second, tailed, 6)
        ),
        "The same classifier scores very differently on the two: each accuracy is the mean of the class accuracies, "
        "weighted by how many *test* images a class has.": abs(first - second) < 6,
        f"On the balanced set every class weighs one tenth, so the accuracy is the plain mean of 95, 85, ..., 5; "
        f"you say {second:.0f}.": not near(second, balanced, 6),
        f"On the long-tailed set class c weighs n_c / N: the two largest classes alone are two thirds of the images, "
        f"with 95 and 85 percent; you say {first:.0f}.": True,
    }
