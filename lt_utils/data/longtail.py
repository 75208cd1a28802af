"""Long-tail rules: how many images each class keeps, which ones they are, and the groups many / medium / few.

Everything here works on counts and labels alone, so it holds for any data set. Classes are numbered from 0, and class
order is frequency order: class 0 is the head, the last class is the tail, as in the published CIFAR-LT sets.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from lt_utils.errors import CourseError, choose

PROFILES = ("exponential", "step")
GROUPS = ("many", "medium", "few")
MANY, FEW = 100, 20  # the bounds between them


def check_labels(labels: torch.Tensor, n: int, num_classes: int, where: str = "labels") -> None:
    """CourseError unless `labels` are n whole numbers in 0 .. num_classes - 1, shape [n].

    Labels [n, 1], or probabilities of classes, would be compared with every row of [n, C], and a result come out.
    """
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or labels.shape != (n,):
        raise CourseError(
            f"{where} must be {n:,} whole numbers, one for each row, not {str(labels.dtype).removeprefix('torch.')} "
            f"{list(labels.shape)}: flatten them, or take the class of each row."
        )
    if n and not 0 <= labels.min() <= labels.max() < num_classes:
        raise CourseError(
            f"{where} run from {labels.min()} to {labels.max()}; with {num_classes} classes they must be in "
            f"0 .. {num_classes - 1}."
        )


def check_counts_fit(counts: Sequence[int], num_classes: int) -> None:
    """CourseError unless there is one count for each class: a single one would be taken for all."""
    if len(counts) != num_classes:
        raise CourseError(f"{len(counts)} class counts do not fit logits of {num_classes} classes: give one each.")


def class_counts(
    n_max: int,
    num_classes: int,
    imbalance: float,
    profile: str = "exponential",
    class_names: Sequence[str] | None = None,
) -> list[int]:
    """Return how many training images each class keeps, largest class first.

    With rho = 1 / imbalance = n_min / n_max, and i = 0 .. num_classes - 1:

        exponential   n_i = floor(n_max * rho ** (i / (num_classes - 1)))          (Cui et al. 2019; Cao et al. 2019)
        step          n_i = n_max in the first half of the classes (rounded up), floor(n_max * rho) in the others

    imbalance: the factor n_max / n_min, >= 1; 1 means balanced. class_names: only to name a class in an error.
    Raises CourseError for an unknown profile, a factor below 1, or one that leaves a class without any image.

    >>> class_counts(5000, 10, imbalance=100)
    [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    """
    choose("profile", profile, PROFILES)
    if n_max < 1 or num_classes < 1:
        raise CourseError(
            f"The largest class has {n_max} images and there are {num_classes} classes: both must be >= 1."
        )
    if not 1 <= imbalance < math.inf:  # written so that NaN is refused too
        raise CourseError(f"The imbalance factor is n_max / n_min and so at least 1 (balanced), not {imbalance:g}.")
    rho = 1 / imbalance
    if profile == "exponential":
        shares = [rho ** (i / max(num_classes - 1, 1)) for i in range(num_classes)]
    else:
        shares = [1.0 if i < (num_classes + 1) // 2 else rho for i in range(num_classes)]
    # The 1e-9 matters only where the exact value is a whole number and double precision falls just short of it:
    # 49 * (1 / 49) = 0.999... would otherwise leave the last class empty. Published counts are unchanged.
    counts = [math.floor(n_max * share + 1e-9) for share in shares]
    if 0 in counts:
        raise CourseError(
            f"An imbalance factor of {imbalance:g} leaves {_called(counts.index(0), class_names)} empty: "
            f"with {n_max:,} images in the largest class the largest possible factor is {n_max}."
        )
    return counts


def ordered_counts(counts: Sequence[int], order: Sequence[int]) -> list[int]:
    """The counts of each class if the classes stand in another order from head to tail: class order[i] gets counts[i].

    Raises CourseError for an order that does not name each class once.

    >>> ordered_counts([1000, 100, 10], order=[2, 0, 1])
    [100, 10, 1000]
    """
    if sorted(order) != list(range(len(counts))):
        raise CourseError(
            f"A class order names each of the classes 0 to {len(counts) - 1} once: {list(order)} does not."
        )
    return [count for _, count in sorted(zip(order, counts, strict=True))]


def latin_square(num_classes: int, rows: int | None = None) -> list[list[int]]:
    """Class orders from head to tail, each the one before moved on by a place, so that every class stands once at every place.

    rows: how many of the orders, evenly spaced, the natural one first; default: all. Raises CourseError for fewer than two
    classes, or for rows outside 1 .. num_classes.

    >>> latin_square(3)
    [[0, 1, 2], [1, 2, 0], [2, 0, 1]]
    """
    if num_classes < 2:
        raise CourseError(f"An order of classes needs at least two classes; there is {num_classes}.")
    rows = num_classes if rows is None else rows
    if not 1 <= rows <= num_classes:
        raise CourseError(f"{num_classes} classes have 1 to {num_classes} orders, not {rows}.")
    starts = [row * num_classes // rows for row in range(rows)]
    return [[(start + place) % num_classes for place in range(num_classes)] for start in starts]


def subset(
    labels: torch.Tensor | np.ndarray | Sequence[int],
    counts: Sequence[int],
    seed: int = 0,
    class_names: Sequence[str] | None = None,
) -> torch.Tensor:
    """Choose which images a long-tailed set keeps: `counts[c]` random ones of each class c.

    The legacy NumPy generator (MT19937) is seeded once; classes are visited in ascending order; the positions of each
    class, in file order, are shuffled and the first `counts[c]` are kept. This is the choice of the CBDM code (Qin et
    al. 2023) and of the LDAM code it descends from (Cao et al. 2019), here with a private generator: NumPy's global
    seed is left alone.

    Args:
        labels: class of every image, [N], integers in 0 .. len(counts) - 1.
        counts: images to keep of each class, >= 0.
        class_names: only to name a class in an error.

    Returns indices into `labels`, int64 [sum(counts)] on the CPU, class after class, shuffled inside each class.
    Raises CourseError if a class has fewer images than `counts` says, or labels and counts do not belong together.
    """
    labels = torch.as_tensor(labels).cpu().numpy()
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(counts):
        raise CourseError(f"Labels run from {labels.min()} to {labels.max()}, but there are {len(counts)} counts.")
    generator = np.random.RandomState(seed)
    kept = []
    for c, count in enumerate(counts):
        positions = np.flatnonzero(labels == c)
        if not 0 <= count <= len(positions):
            raise CourseError(
                f"{count:,} images are asked of {_called(c, class_names)}, which has {len(positions):,}: "
                "ask for fewer (a larger imbalance factor, a smaller n_max, or other counts), or take the set as it is "
                "(IMBALANCE = 0)."
            )
        generator.shuffle(positions)  # also when few are kept: the draws of later classes depend on it
        kept.append(positions[:count])
    return torch.from_numpy(np.concatenate(kept).astype(np.int64))


def hold_out(
    labels: torch.Tensor | np.ndarray | Sequence[int],
    class_names: Sequence[str],
    per_class: int | None = None,
    fraction: float | None = None,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Split the images of every class in two, by chance: those that stay and those that are held out.

    Args:
        labels: class of every image, [N], integers in 0 .. len(class_names) - 1.
        per_class: images to hold out, of each class; or else
        fraction: share of each class to hold out, in (0, 1), rounded, but at least one image.

    Returns two int64 index tensors on the CPU: those that stay, in file order, and those held out, class after class.
    Raises CourseError unless exactly one of the two is given, and if a class would keep none or give none.
    """
    if (per_class is None) == (fraction is None):
        raise CourseError("Say either per_class (a number of images) or fraction (a share of each class).")
    labels = torch.as_tensor(labels).cpu()
    present = torch.bincount(labels, minlength=len(class_names)).tolist()
    held = [per_class if fraction is None else max(1, round(fraction * n)) for n in present]
    for c, (out, n) in enumerate(zip(held, present, strict=True)):
        if not 0 < out < n:
            raise CourseError(
                f"{out} of the {n} images of {_called(c, class_names)} cannot be held out: "
                "each class must give at least one and keep at least one."
            )
    moved = subset(labels, held, seed)
    stays = torch.ones(len(labels), dtype=torch.bool)
    stays[moved] = False
    return stays.nonzero().flatten(), moved


def thirds(num_classes: int) -> tuple[int, int]:
    """How many of the most frequent classes are "many", and how many of the rarest "few", if each group is a third of them.

    What does not divide goes to "many", as in LDMLR's groups on CIFAR: (4, 3) of 10 classes. Of two classes each is a group.
    """
    third = max(1, num_classes // 3)
    return max(1, num_classes - 2 * third), third


def group_bounds(counts: Sequence[int]) -> tuple[int, int]:
    """The bounds (many, few) that fit a set: "many" are classes of more images than the first, "few" of fewer than the second.

    100 and 20, those of Liu et al. 2019 (ImageNet-LT), used by most papers on long-tailed recognition. In a small set, where no
    class has more than 100 images, they would find no head: then the bounds make thirds of the classes. Equal counts
    stay together.

    >>> group_bounds([1000, 100, 10]), group_bounds([60, 50, 40, 30, 20])
    ((100, 20), (39, 21))
    """
    if max(counts) > MANY or min(counts) == max(counts):
        return MANY, FEW
    (first, last), falling = thirds(len(counts)), sorted(counts, reverse=True)
    least_of_many, most_of_few = falling[first - 1], falling[-last]
    return least_of_many - 1, min(most_of_few + 1, least_of_many)


def group_of(counts: Sequence[int], many: int | None = None, few: int | None = None) -> list[str]:
    """Return the group of each class: "many" (> many images), "few" (< few) or "medium" (few .. many, both included).

    Without bounds, those of `group_bounds`; if only one is given the other is 100 or 20.

    >>> group_of([1000, 101, 100, 20, 19])
    ['many', 'many', 'medium', 'medium', 'few']
    """
    if many is None and few is None and len(counts):
        many, few = group_bounds(counts)
    else:
        many, few = MANY if many is None else many, FEW if few is None else few
        if not few <= many:
            raise CourseError(f"Groups need few <= many, but few = {few} and many = {many}.")
    return ["many" if n > many else "few" if n < few else "medium" for n in counts]


def group_indices(counts: Sequence[int], many: int | None = None, few: int | None = None) -> dict[str, list[int]]:
    """Return the classes of each group, in the order many, medium, few; groups without a class are left out.

    >>> group_indices([1000, 101, 19])
    {'many': [0, 1], 'few': [2]}
    """
    groups = group_of(counts, many, few)
    members = {name: [c for c, group in enumerate(groups) if group == name] for name in GROUPS}
    return {name: classes for name, classes in members.items() if classes}


def class_table(counts: Sequence[int], class_names: Sequence[str], limit: int = 20) -> str:
    """Return an aligned text table, to be printed: each class with its images, share and group, then the groups.

    counts: training images of each class, [C]. With more classes than `limit`, only the first and last limit / 2 are
    shown; the sums are over all.
    """
    if len(counts) != len(class_names):
        raise CourseError(f"There are {len(counts)} counts but {len(class_names)} class names.")
    total, classes = max(sum(counts), 1), range(len(counts))
    shown = classes if len(counts) <= limit else [*classes[: limit // 2], None, *classes[-(limit // 2) :]]
    groups = group_of(counts)
    rows = [("", "class", "images", "share", "group")]
    for c in shown:
        row = c is not None and (str(c), class_names[c], f"{counts[c]:,}", f"{counts[c] / total:.1%}", groups[c])
        rows.append(row or ("…", "…", "…", "…", "…"))
    for name, members in group_indices(counts).items():
        images = sum(counts[c] for c in members)
        rows.append(("", f"{name}: {_plural(len(members))}", f"{images:,}", f"{images / total:.1%}", ""))
    rows.append(("", f"all: {_plural(len(counts))}", f"{sum(counts):,}", "100.0%", ""))
    sums_from = 1 + len(shown)
    widths = [max(len(row[k]) for row in rows) for k in range(5)]
    lines = [
        f"{n:>{widths[0]}}  {name:<{widths[1]}}  {images:>{widths[2]}}  {share:>{widths[3]}}  {group}".rstrip()
        for n, name, images, share, group in rows
    ]
    rule = "─" * max(len(line) for line in lines)
    lines = [lines[0], rule, *lines[1:sums_from], rule, *lines[sums_from:]]
    if group_bounds(counts) != (MANY, FEW):
        lines.append(f"no class has more than {MANY} images: the groups are thirds of the classes")
    if min(counts) > 0:
        lines.append(f"imbalance factor (largest / smallest class): {max(counts) / min(counts):.4g}")
    return "\n".join(lines)


def _called(c: int, class_names: Sequence[str] | None) -> str:
    return f"class {c}" + (f" ({class_names[c]})" if class_names else "")


def _plural(classes: int) -> str:
    return f"{classes} class" + ("" if classes == 1 else "es")
