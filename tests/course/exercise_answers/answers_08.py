"""Answers to the exercises of notebook 08."""

import math
from decimal import ROUND_HALF_EVEN, ROUND_HALF_UP, Decimal

import torch

from lt_utils.metrics.statistics import student


def amounts(counts, ratio, chosen, least, rounding=ROUND_HALF_EVEN):
    exact = [Decimal(n) * Decimal(str(ratio)) for n in counts]
    added = [0] * len(counts)
    for c in chosen:
        added[c] = max(int(exact[c].quantize(Decimal(1), rounding)), least)
    return added


def least_for_all(counts, ratio, chosen, least):
    return [max(round(ratio * n) * (c in chosen), least) for c, n in enumerate(counts)]


def by_random_places(features, labels, amounts, seed):
    """All draws at once: one uniform number for each new feature, sorted features, one place."""
    wanted = torch.tensor([c for c, amount in enumerate(amounts) for _ in range(amount)])
    counts = torch.bincount(labels, minlength=len(amounts))
    u = torch.rand(len(wanted), generator=torch.Generator().manual_seed(seed))
    place = (counts.cumsum(0) - counts)[wanted] + (u * counts[wanted]).long().clamp(max=counts[wanted] - 1)
    return features[labels.argsort()[place]], wanted


def class_by_class(draw):
    def answer(features, labels, amounts, seed):
        generator = torch.Generator().manual_seed(seed)
        parts = [draw(features, labels, c, amount, generator) for c, amount in enumerate(amounts)]
        return torch.cat(parts), torch.cat([torch.full((len(part),), c) for c, part in enumerate(parts)])

    return answer


def drawn(features, labels, c, amount, generator):
    real = features[labels == c]
    return real[torch.randint(len(real), (amount,), generator=generator)]


@class_by_class
def without_replacement(features, labels, c, amount, generator):
    real = features[labels == c]
    return real[torch.randperm(len(real), generator=generator)[:amount]]


@class_by_class
def from_any_class(features, labels, c, amount, generator):
    return features[torch.randint(len(features), (amount,), generator=generator)]


@class_by_class
def with_noise(features, labels, c, amount, generator):
    real = drawn(features, labels, c, amount, generator)
    return real + 0.01 * torch.randn(real.shape, generator=generator)


@class_by_class
def repeated_in_turn(features, labels, c, amount, generator):
    real = features[labels == c]
    return real[torch.arange(amount) % len(real)]


def unseeded(features, labels, amounts, seed):
    return by_random_places(features, labels, amounts, torch.Generator().seed() % 2**31)


def global_seed(features, labels, amounts, seed):
    torch.manual_seed(seed)
    return by_random_places(features, labels, amounts, int(torch.randint(2**31, ())))


def places_in_one_row(features, labels, amounts, seed):
    return features.flatten()[labels @ features], labels


def indexed_by_a_fraction(counts, ratio, chosen, least):
    return [counts[ratio * c] for c in chosen]


def seed_ignored(features, labels, amounts, seed):
    return by_random_places(features, labels, amounts, 0)


def same_number_for_all(features, labels, amounts, seed):
    even = [sum(amounts) // len(amounts)] * len(amounts)
    even[0] += sum(amounts) - sum(even)
    return by_random_places(features, labels, even, seed)


def through_probabilities(logits, counts, added):
    seen = torch.tensor([n + g for n, g in zip(counts, added, strict=True)])
    weighted = torch.softmax(logits, 1) / seen
    return torch.log(weighted / weighted.sum(1, keepdim=True))


def log(numbers):
    return torch.tensor(numbers, dtype=torch.float64).clamp(min=1e-9).log()


def difference(ours, theirs, n_minus=1, root=True, factor=student, together=True):
    n = len(ours)

    def squares(values):
        mean = math.fsum(values) / n
        return math.fsum((value - mean) ** 2 for value in values) / (n - n_minus)

    d = [a - b for a, b in zip(ours, theirs, strict=True)]
    variance = squares(d) if together else squares(ours) + squares(theirs)
    return math.fsum(d) / n, factor(n) * (variance / (n if root else 1)) ** 0.5


CONTROLS = ("No generation", "Resampled real", "Class Gaussian", "Uniform noise")


def rule(rivals, errors=True, together=True, enough=all):
    def answer(results):
        found = [difference(results["Diffusion"], results[rival], together=together) for rival in rivals]
        return enough(mean > (half if errors else 0) for mean, half in found)

    return answer


def against_the_best(results):
    best = max(CONTROLS, key=lambda name: sum(results[name]))
    mean, half = difference(results["Diffusion"], results[best])
    return mean - half > 0


RIGHT = {
    "8.1": amounts,
    "8.2": by_random_places,
    "8.3": through_probabilities,
    "8.4": difference,
    "8.5": against_the_best,
}
WRONG = {
    "8.1": {
        "Classes that were not chosen": least_for_all,
        "only the chosen ones should": lambda counts, ratio, chosen, least: amounts(
            counts, ratio, range(len(counts)), least
        ),
        "`least` is missing": lambda counts, ratio, chosen, least: amounts(counts, ratio, chosen, 0),
        "cuts the decimals off": lambda counts, ratio, chosen, least: [
            max(int(ratio * n + 1e-9), least) if c in chosen else 0 for c, n in enumerate(counts)
        ],
        "yours always go up": lambda counts, ratio, chosen, least: amounts(counts, ratio, chosen, least, ROUND_HALF_UP),
        "not an upper one": lambda counts, ratio, chosen, least: [
            min(round(ratio * n), least) if c in chosen else 0 for c, n in enumerate(counts)
        ],
        "wanted is what is added": lambda counts, ratio, chosen, least: [
            n + g for n, g in zip(counts, amounts(counts, ratio, chosen, least), strict=True)
        ],
        "stops with TypeError: list indices must be integers": indexed_by_a_fraction,
        "and all others 0": lambda counts, ratio, chosen, least: [max(counts) - n for n in counts],
    },
    "8.2": {
        "draw *with* replacement": without_replacement,
        "draw within each class": from_any_class,
        "are no real ones": with_noise,
        "draw by chance": repeated_in_turn,
        "The same seed gave other features": unseeded,
        "moves the global random numbers": global_seed,
        "stops with RuntimeError": places_in_one_row,
        "the seed is not used": seed_ignored,
        "must get amounts[c] features": same_number_for_all,
    },
    "8.3": {
        "would be corrected twice": lambda z, counts, added: z - log(counts),
        "Only the added features are counted": lambda z, counts, added: z - log(added),
        "it has to be taken out": lambda z, counts, added: z + log([n + g for n, g in zip(counts, added, strict=True)]),
        "Both priors are taken out": lambda z, counts, added: z - log(counts) - log(added),
        "only a full top-up needs no correction": lambda z, counts, added: z,
        "wanted is the prior that it left": lambda z, counts, added: (
            z - log([n + g for n, g in zip(counts, added, strict=True)]) + log(counts)
        ),
    },
    "8.4": {
        "The sign is turned round": lambda ours, theirs: difference(theirs, ours),
        "treated as independent": lambda ours, theirs: difference(ours, theirs, together=False),
        "smaller by sqrt(n)": lambda ours, theirs: difference(ours, theirs, root=False),
        "1.96 holds for many seeds": lambda ours, theirs: difference(ours, theirs, factor=lambda n: 1.96),
        "This is one standard error": lambda ours, theirs: difference(ours, theirs, factor=lambda n: 1.0),
        "needs n - 1 in its denominator": lambda ours, theirs: difference(ours, theirs, n_minus=0),
        "the whole width": lambda ours, theirs: difference(ours, theirs, factor=lambda n: 2 * student(n)),
    },
    "8.5": {
        "You compared with cross-entropy alone": rule(["Cross-entropy"]),
        "retraining without generation alone": rule(["No generation"]),
        "The verdict looks at means only": rule(CONTROLS, errors=False),
        "Pair them": rule(CONTROLS, together=False),
        "Uniform noise was left out": rule(CONTROLS[:3]),
        "Each control takes away one other explanation": rule(["Resampled real"]),
        "Beating one control is not enough": rule(CONTROLS, enough=any),
        "Every claim was refused": lambda results: False,
        "Every claim was believed": lambda results: True,
    },
}
