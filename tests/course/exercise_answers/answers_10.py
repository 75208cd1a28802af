"""Answers to the exercises of notebook 10."""

import torch

from lt_utils.metrics import mean_error, student


# 10.1
def turned(images, turns, direction=1):
    return torch.stack([image.rot90(direction * int(k), (1, 2)) for image, k in zip(images, turns, strict=True)])


def shuffled(count, seed):
    chance = torch.Generator().manual_seed(seed)
    return torch.arange(count).remainder(4)[torch.rand(count, generator=chance).argsort()]


def by_groups(images, seed):
    turns = shuffled(len(images), seed)
    out = images.clone()
    for k in range(1, 4):
        out[turns == k] = images[turns == k].rot90(k, (2, 3))
    return out, turns


def clockwise(images, seed):
    turns = shuffled(len(images), seed)
    return turned(images, turns, -1), turns


def one_by_one(images, seed):
    turns = torch.randint(4, (len(images),), generator=torch.Generator().manual_seed(seed))
    return turned(images, turns), turns


def in_turn(images, seed):
    turns = torch.arange(len(images)) % 4
    return turned(images, turns), turns


def all_four(images, seed):
    turns = torch.arange(4).repeat_interleave(len(images))
    return turned(images.repeat(4, 1, 1, 1), turns), turns


def degrees(images, seed):
    turns = shuffled(len(images), seed)
    return turned(images, turns), 90 * turns


def images_as_they_are(images, seed):
    return images, shuffled(len(images), seed)


def global_shuffle(images, seed):
    torch.manual_seed(seed)
    turns = torch.randperm(len(images)) % 4
    return turned(images, turns), turns


# 10.2
def correlation(first, second, dim=0, divide=True, centred=True):
    pair = []
    for z in (first, second):
        z = z - z.mean(dim, keepdim=True) if centred else z
        pair.append(z / z.std(dim, keepdim=True, correction=0) if divide else z)
    return pair[0].T @ pair[1] / len(first)


def twins(R, weight, on=1.0):
    total = 0.0
    for i in range(len(R)):
        for j in range(len(R)):
            total += on * (1 - R[i, j]) ** 2 if i == j else weight * R[i, j] ** 2
    return total


# 10.3
def scaled(weights):
    return weights * len(weights) / weights.sum()


def effective(counts, beta):
    return torch.tensor([(1 - beta**n) / (1 - beta) for n in counts])


# 10.4
def rule(rival, errors=True, together=True):
    def verdict(pretraining, finetuning, tasks, pretrained, scratch):
        ours = torch.tensor(pretrained, dtype=torch.float64)
        theirs = torch.tensor(scratch[rival(pretraining, finetuning, tasks, scratch)], dtype=torch.float64)
        variance = (ours - theirs).var() if together else ours.var() + theirs.var()
        half = student(len(ours)) * (variance / len(ours)).sqrt().item() if errors else 0.0
        return (ours - theirs).mean().item() > half

    return verdict


def fair(pretraining, finetuning, tasks, scratch):
    return round(finetuning + pretraining / tasks)


def through_the_package(pretraining, finetuning, tasks, pretrained, scratch):
    theirs = scratch[finetuning + pretraining // tasks]
    mean, error = mean_error([p - q for p, q in zip(pretrained, theirs, strict=True)])
    return mean - student(len(theirs)) * error > 0


RIGHT = {
    "10.1": by_groups,
    "10.2": lambda a, b, weight: twins(correlation(a, b), weight),
    "10.3": lambda counts, beta: scaled(1 / effective(counts, beta)),
    "10.4": through_the_package,
}
WRONG = {
    "10.1": {
        "You turn clockwise": clockwise,
        "equally likely, but not equally frequent": one_by_one,
        "must be shuffled": in_turn,
        "Here each image comes in all four turns": all_four,
        "A label is the number of quarter turns": degrees,
        "The labels say something else": images_as_they_are,
        "moves the global random numbers": global_shuffle,
    },
    "10.2": {
        "The columns are not standardised": lambda a, b, w: twins(correlation(a, b, divide=False, centred=False), w),
        "You standardised each *image*": lambda a, b, w: twins(correlation(a, b, dim=1), w),
        "not divided by their deviation": lambda a, b, w: twins(correlation(a, b, divide=False), w),
        "divide by B": lambda a, b, w: twins(correlation(a, b) * len(a), w),
        "yours does not weigh them": lambda a, b, w: twins(correlation(a, b), 1.0),
        "The weight stands on the diagonal": lambda a, b, w: twins(correlation(a, b), 1.0, on=w),
        "The entries off the diagonal are missing": lambda a, b, w: twins(correlation(a, b), 0.0),
        "are counted among the others, too": lambda a, b, w: (
            twins(correlation(a, b), w) + w * correlation(a, b).diagonal().square().sum()
        ),
        "Standardise each column over the batch": lambda a, b, w: (a - b).square().sum(),
    },
    "10.3": {
        "a rare class must weigh *more*": lambda counts, beta: scaled(effective(counts, beta)),
        "This is 1 / n_c": lambda counts, beta: scaled(1 / torch.tensor(counts)),
        "The weights must sum to C": lambda counts, beta: 1 / effective(counts, beta),
        "sum to 1 instead of C": lambda counts, beta: scaled(1 / effective(counts, beta)) / len(counts),
        "not by the largest": lambda counts, beta: effective(counts, beta).min() / effective(counts, beta),
    },
    "10.4": {
        "You compared at equal fine-tuning": rule(lambda p, f, tasks, scratch: f),
        "You charged the whole pretraining to one task": rule(lambda p, f, tasks, scratch: f + p),
        "the same budget, no more": rule(lambda p, f, tasks, scratch: max(scratch)),
        "Your rival spent the pretraining's share alone": rule(
            lambda p, f, tasks, scratch: min(scratch, key=lambda passes: abs(passes - p / tasks))
        ),
        "The verdict looks at means only": rule(fair, errors=False),
        "Pair them": rule(fair, together=False),
        "Every bargain was taken": lambda *table: True,
        "Every bargain was refused": lambda *table: False,
    },
}
