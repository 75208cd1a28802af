"""Answers to the exercises of notebook 02."""

import math

import torch

PHI = torch.special.ndtr


def by_bisection(head, tail, width, rho):
    side = 1 if tail > head else -1
    low, high = head - 1000 * side, tail + 1000 * side
    for _ in range(100):
        x = (low + high) / 2
        if math.log(rho) + ((x - tail) ** 2 - (x - head) ** 2) / (2 * width**2) > 0:
            low = x
        else:
            high = x
    return x


def with_inf(d, counts):
    d = d.clone().fill_diagonal_(math.inf)
    n = torch.tensor(counts, dtype=d.dtype)
    return PHI(d / 2 - torch.log(n / n[:, None]) / d).prod(1)


def factors(d, counts, sign=1.0, half=2.0):
    n = torch.tensor(counts, dtype=d.dtype)
    return PHI(d / half - sign * torch.log(n / n[:, None]) / d.clone().fill_diagonal_(1))


def sorted_table(recall, orders):
    table = torch.empty_like(recall.T)
    for row, order in enumerate(orders):
        for place, c in enumerate(order):
            table[c, place] = recall[row, c]
    return table


def parts(table):
    rest = table - table.mean()
    by_class, by_number = rest.mean(1, keepdim=True), rest.mean(0, keepdim=True)
    total = rest.square().mean()
    both = by_class.square().mean() / total, by_number.square().mean() / total
    return (*both, (rest - by_class - by_number).square().mean() / total)


VERDICTS = {"A": "third class", "B": "unseen tail", "C": "prior taken out", "D": "seeds"}

RIGHT = {
    "2.1": by_bisection,
    "2.2": with_inf,
    "2.3": lambda recall, orders: torch.stack(parts(sorted_table(recall, orders))),
    "2.4": lambda: dict(VERDICTS),
}
WRONG = {
    "2.1": {
        "moves *towards the tail*": lambda h, t, s, rho: (h + t) / 2 - s**2 * math.log(rho) / (t - h),
        "where is rho?": lambda h, t, s, rho: (h + t) / 2,
        "its *logarithm* moves": lambda h, t, s, rho: (h + t) / 2 + s**2 * rho / (t - h),
        "the *square* of its width": lambda h, t, s, rho: (h + t) / 2 + s * math.log(rho) / (t - h),
        "The width is missing": lambda h, t, s, rho: (h + t) / 2 + math.log(rho) / (t - h),
        "a place and a unit of its own": lambda h, t, s, rho: abs(t - h) / s / 2 + math.log(rho) * s / abs(t - h),
        "Keep the sign": lambda h, t, s, rho: (h + t) / 2 + s**2 * math.log(rho) / abs(t - h),
        "Take logarithms and solve": lambda h, t, s, rho: h + s,
    },
    "2.2": {
        "upside down": lambda d, n: factors(d, n, -1.0).fill_diagonal_(1).prod(1),
        "recall after logit adjustment": lambda d, n: factors(d, n, 0.0).fill_diagonal_(1).prod(1),
        "nearest rival alone": lambda d, n: factors(d, n)[
            torch.arange(len(n)), d.clone().fill_diagonal_(math.inf).argmin(1)
        ],
        "no rival of itself": lambda d, n: factors(d, n).prod(1),
        "the smallest factor": lambda d, n: factors(d, n).fill_diagonal_(1).amin(1),
        "stands half-way": lambda d, n: factors(d, n, half=1.0).fill_diagonal_(1).prod(1),
        "not per cent": lambda d, n: 100 * with_inf(d, n),
        "go through its rivals": lambda d, n: with_inf(d, n).sqrt(),
    },
    "2.3": {
        "changed places": lambda recall, orders: torch.stack(parts(sorted_table(recall, orders).T)),
        "Sort by place first": lambda recall, orders: torch.stack(parts(recall.T)),
        "divide by the variance": lambda recall, orders: (
            torch.stack(parts(sorted_table(recall, orders))) * recall.var(correction=0)
        ),
        "standard deviations do not": lambda recall, orders: torch.stack(parts(sorted_table(recall, orders))).sqrt(),
        "add up to 1": lambda recall, orders: torch.stack([*parts(sorted_table(recall, orders))[:2], torch.zeros(())]),
        "means of rows and of columns": lambda recall, orders: torch.full((3,), 1 / 3),
    },
    "2.4": {
        "the tail did not suffer": lambda: VERDICTS | {"A": "seeds"},
        "nothing contradicted": lambda: VERDICTS | {"B": "third class"},
        "Which column moves it": lambda: VERDICTS | {"C": "unseen tail"},
        "as if it were sure": lambda: VERDICTS | {"D": "third class"},
        "is no control of the table": lambda: VERDICTS | {"D": "luck"},
        "Give a dict": lambda: ["third class"],
    },
}
