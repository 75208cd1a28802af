"""Answers to the exercises of notebook 01."""

import math

import numpy as np
import torch


def counts_by_repeated_ratio(n_max: int, classes: int, imbalance: float) -> list[int]:
    ratio = (1 / imbalance) ** (1 / (classes - 1))
    share, counts = 1.0, []
    for _ in range(classes):
        counts.append(int(n_max * share + 1e-9))
        share *= ratio
    return counts


def divided_by_classes(n_max: int, classes: int, imbalance: float) -> list[int]:
    return [math.floor(n_max * imbalance ** (-c / classes)) for c in range(classes)]


def rounded(n_max: int, classes: int, imbalance: float) -> list[int]:
    return [round(n_max * imbalance ** (-c / (classes - 1))) for c in range(classes)]


def tail_first(n_max: int, classes: int, imbalance: float) -> list[int]:
    return counts_by_repeated_ratio(n_max, classes, imbalance)[::-1]


def straight_line(n_max: int, classes: int, imbalance: float) -> list[int]:
    return [math.floor(n_max * (1 - c / (classes - 1) * (1 - 1 / imbalance))) for c in range(classes)]


def not_rounded(n_max: int, classes: int, imbalance: float) -> list[float]:
    return [n_max * imbalance ** (-c / (classes - 1)) for c in range(classes)]


def step_profile(n_max: int, classes: int, imbalance: float) -> list[int]:
    return [n_max if c < classes / 2 else int(n_max / imbalance) for c in range(classes)]


def through_logarithms(n_max: int, classes: int, imbalance: float) -> list[int]:
    logs = torch.linspace(math.log(n_max), math.log(n_max / imbalance), classes, dtype=torch.float64)
    return logs.exp().mul(1 - 1e-12).floor().long().tolist()


def group(n: int) -> str:
    return "many" if n > 100 else "few" if n < 20 else "medium"


def groups_by_loop(right: torch.Tensor, labels: torch.Tensor, counts: list[int], group=group) -> dict[str, float]:
    hits: dict[str, list[bool]] = {}
    for hit, label in zip(right.tolist(), labels.tolist(), strict=True):
        hits.setdefault(group(counts[label]), []).append(hit)
    return {name: 100 * sum(values) / len(values) for name, values in hits.items()}


def bounds_included(right: torch.Tensor, labels: torch.Tensor, counts: list[int]) -> dict[str, float]:
    return groups_by_loop(right, labels, counts, lambda n: "many" if n >= 100 else "few" if n <= 20 else "medium")


def groups_by_test_images(right: torch.Tensor, labels: torch.Tensor, counts: list[int]) -> dict[str, float]:
    return groups_by_loop(right, labels, torch.bincount(labels, minlength=len(counts)).tolist())


def shares(right: torch.Tensor, labels: torch.Tensor, counts: list[int]) -> dict[str, float]:
    return {name: value / 100 for name, value in groups_by_loop(right, labels, counts).items()}


def empty_groups_too(right: torch.Tensor, labels: torch.Tensor, counts: list[int]) -> dict[str, float]:
    return {"many": 0.0, "medium": 0.0, "few": 0.0} | groups_by_loop(right, labels, counts)


def nan_for_empty_groups(right: torch.Tensor, labels: torch.Tensor, counts: list[int]) -> dict[str, float]:
    groups = [group(n) for n in counts]
    chosen = {name: [groups[label] == name for label in labels.tolist()] for name in ("many", "medium", "few")}
    return {name: 100 * right[torch.tensor(mask)].double().mean().item() for name, mask in chosen.items()}


def mean_of_classes(right: torch.Tensor, labels: torch.Tensor, counts: list[int]) -> dict[str, float]:
    by_class = [100 * right[labels == c].double().mean().item() for c in range(len(counts))]
    members = {name: [c for c, n in enumerate(counts) if group(n) == name] for name in ("many", "medium", "few")}
    return {name: sum(by_class[c] for c in classes) / len(classes) for name, classes in members.items() if classes}


def subset_by_random_keys(labels: torch.Tensor, counts: list[int], seed: int) -> torch.Tensor:
    keys = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed))
    order = keys.argsort()
    seen, kept = [0] * len(counts), []
    for place in order.tolist():
        c = int(labels[place])
        if seen[c] < counts[c]:
            kept.append(place)
            seen[c] += 1
    return torch.tensor(kept)


def first_ones(labels: torch.Tensor, counts: list[int], seed: int) -> torch.Tensor:
    return torch.cat([(labels == c).nonzero().flatten()[:n] for c, n in enumerate(counts)])


def global_seed(labels: torch.Tensor, counts: list[int], seed: int) -> torch.Tensor:
    torch.manual_seed(seed)
    places = [(labels == c).nonzero().flatten() for c in range(len(counts))]
    return torch.cat([place[torch.randperm(len(place))[:n]] for place, n in zip(places, counts, strict=True)])


def with_replacement(labels: torch.Tensor, counts: list[int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    places = [(labels == c).nonzero().flatten() for c in range(len(counts))]
    draws = [torch.randint(len(place), (n,), generator=generator) for place, n in zip(places, counts, strict=True)]
    return torch.cat([place[draw] for place, draw in zip(places, draws, strict=True)])


def without_seed(labels: torch.Tensor, counts: list[int], seed: int) -> torch.Tensor:
    generator = torch.Generator()
    generator.seed()
    return subset_by_random_keys(labels, counts, generator.initial_seed() % 2**31)


def any_class(labels: torch.Tensor, counts: list[int], seed: int) -> torch.Tensor:
    return torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[: sum(counts)]


def a_generator_for_each_class(labels: torch.Tensor, counts: list[int], seed: int) -> torch.Tensor:
    kept = []
    for c, n in enumerate(counts):
        places = (labels == c).nonzero().flatten()
        kept.append(places[torch.randperm(len(places), generator=torch.Generator().manual_seed(seed))[:n]])
    return torch.cat(kept)


def seed_of_numpy(labels: torch.Tensor, counts: list[int], seed: int) -> torch.Tensor:
    np.random.seed(seed)
    places = [(labels == c).nonzero().flatten().numpy() for c in range(len(counts))]
    return torch.tensor([i for place, n in zip(places, counts, strict=True) for i in np.random.permutation(place)[:n]])


def always_seed_zero(labels: torch.Tensor, counts: list[int], seed: int) -> torch.Tensor:
    return subset_by_random_keys(labels, counts, 0)


def factor_by_grid(n_max: int, classes: int, total: int) -> float:
    factors = torch.logspace(0, 4, 200_001, dtype=torch.float64)[1:]
    ratio = factors ** (-1 / (classes - 1))
    images = n_max * (1 - ratio**classes) / (1 - ratio)
    return factors[(images - total).abs().argmin()].item()


def endless_series(n_max: int, classes: int, total: int) -> float:
    return (1 - n_max / total) ** (1 - classes)


RIGHT = {
    "1.1": counts_by_repeated_ratio,
    "1.2": groups_by_loop,
    "1.3": subset_by_random_keys,
    "1.4": factor_by_grid,
    "1.5": lambda: (81.0, 49.0),
}
WRONG = {
    "1.1": {
        "c is divided by C - 1": divided_by_classes,
        "rounded down (floor)": rounded,
        "the other way round": tail_first,
        "this is a straight line": straight_line,
        "Images come in whole numbers": not_rounded,
        "falls just short of a whole number": through_logarithms,
        "keeps the share IF": step_profile,
    },
    "1.2": {
        "many is > 100, few is < 20": bounds_included,
        "go by *training* images": groups_by_test_images,
        "yours are shares": shares,
        "not even 0 or nan: leave it out": nan_for_empty_groups,
        "it has no accuracy": empty_groups_too,
        "Each test image counts once": mean_of_classes,
    },
    "1.3": {
        "the first images of each class": first_ones,
        "moves the global random numbers": global_seed,
        "so whatever draws after it changes": seed_of_numpy,
        "made anew for each class": a_generator_for_each_class,
        "draw without replacement": with_replacement,
        "gave two different subsets": without_seed,
        "draw within each class": any_class,
        "the seed is not used": always_seed_zero,
    },
    "1.4": {
        "This is n_min / n_max": lambda n_max, classes, total: 1 / factor_by_grid(n_max, classes, total),
        "endless many classes": endless_series,
        "halve an interval": lambda n_max, classes, total: n_max * classes / total,
    },
    "1.5": {
        "the other way round": lambda: (50.0, 81.0),
        "weighted by how many *test* images": lambda: (50.0, 50.0),
        "Percent are wanted": lambda: (0.8, 0.5),
        "every class weighs one tenth": lambda: (80.0, 65.0),
        "class c weighs n_c / N": lambda: (63.0, 50.0),
    },
}
