"""Answers to the exercises of notebook 03."""

import math

import torch
import torch.nn.functional as F


def log_prior(counts, like):
    counts = torch.tensor(counts, dtype=like.dtype)
    return torch.log(counts / counts.sum())


def through_probabilities(logits, counts, test_prior):
    weighted = torch.softmax(logits, 1) * test_prior / torch.tensor(counts)
    return torch.log(weighted / weighted.sum(1, keepdim=True))


def loss_by_hand(logits, labels, counts):
    weighted = torch.softmax(logits, 1) * torch.tensor(counts, dtype=logits.dtype)
    return -torch.log(weighted[torch.arange(len(labels)), labels] / weighted.sum(1)).mean()


def weighted_loss(logits, labels, counts):
    counts = torch.tensor(counts, dtype=logits.dtype)
    return F.cross_entropy(logits, labels, weight=counts.sum() / counts)


def density(cosine, gamma):
    return (1 - gamma**2) / (1 + gamma**2 - 2 * gamma * cosine) / (2 * math.pi)


def cosines(features, weights):
    return F.normalize(features, dim=1) @ F.normalize(weights, dim=1).T


def wcdas_class_by_class(features, weights, g, scale):
    columns = []
    for weight, raw in zip(weights, g.tolist(), strict=True):
        gamma = 1 / (1 + math.exp(-raw))
        cosine = F.cosine_similarity(features, weight[None], dim=1)
        columns.append(
            scale * (1 - gamma**2) / ((cosine - gamma) ** 2 + 1 - cosine**2) / 6.28
        )  # pi = 3.14, as published
    return torch.stack(columns, 1)


RIGHT = {
    "3.1": through_probabilities,
    "3.2": loss_by_hand,
    "3.3": wcdas_class_by_class,
    "3.4": lambda: (43.0, 84.0, 13.0),
}
WRONG = {
    "3.1": {
        "has to be taken *out*": lambda z, counts, test: z + log_prior(counts, z) - test.log(),
        "is its *logarithm* added": lambda z, counts, test: z - log_prior(counts, z).exp() + test,
        "but the test prior is not in": lambda z, counts, test: z - log_prior(counts, z),
        "but the training prior is not out": lambda z, counts, test: z + test.log(),
        "Both priors were added": lambda z, counts, test: z + log_prior(counts, z) + test.log(),
        "The logits are unchanged": lambda z, counts, test: torch.log_softmax(z, 1),
        "not implemented for 'Long'": lambda z, counts, test: z - torch.softmax(torch.tensor(counts), 0),
        "replace pi_c by the test prior": lambda z, counts, test: z * test / log_prior(counts, z).exp(),
    },
    "3.2": {
        "The sign belongs to the correction": lambda z, y, counts: F.cross_entropy(z - log_prior(counts, z), y),
        "this is plain cross-entropy": lambda z, y, counts: F.cross_entropy(z, y),
        "so add its logarithm": lambda z, y, counts: F.cross_entropy(z + log_prior(counts, z).exp(), y),
        "not the sum": lambda z, y, counts: F.cross_entropy(z + log_prior(counts, z), y, reduction="sum"),
        "wanted is their mean": lambda z, y, counts: F.cross_entropy(z + log_prior(counts, z), y, reduction="none"),
        "weights the images by 1 / pi": weighted_loss,
        "without even dividing": lambda z, y, counts: (
            F.cross_entropy(z, y, reduction="none") / log_prior(counts, z).exp()[y]
        ).mean(),
    },
    "3.3": {
        "not its logarithm": lambda f, w, g, scale: scale * density(cosines(f, w), g.sigmoid()).log(),
        "you used g as it is": lambda f, w, g, scale: scale * density(cosines(f, w), g),
        "Only angles count here": lambda f, w, g, scale: scale * density(f @ w.T, g.sigmoid()),
        "the class weights are not": lambda f, w, g, scale: scale * density(F.normalize(f, dim=1) @ w.T, g.sigmoid()),
        "the features are not": lambda f, w, g, scale: scale * density(f @ F.normalize(w, dim=1).T, g.sigmoid()),
        "your 2 is missing": lambda f, w, g, scale: scale * density(cosines(f, w) / 2, g.sigmoid()),
        "The scale is missing": lambda f, w, g, scale: density(cosines(f, w), g.sigmoid()),
        "so this is no density": lambda f, w, g, scale: 2 * math.pi * scale * density(cosines(f, w), g.sigmoid()),
        "It was given float64 [": lambda f, w, g, scale: scale * density(f.float() @ w.T, g.sigmoid()),
        "The shapes do not fit together": lambda f, w, g, scale: scale * density(cosines(f, w), g.sigmoid()[:, None]),
        "Step by step": lambda f, w, g, scale: scale * cosines(f, w),
    },
    "3.4": {
        "The two recalls differ much": lambda: (84.0, 84.0, 0.0),
        "so its recall rises": lambda: (84.0, 46.0, 14.0),
        "not its recall": lambda: (10.0, 84.0, 14.0),
        "It is not free": lambda: (46.0, 84.0, 0.0),
        "The classes overlap": lambda: (46.0, 100.0, 14.0),
        "Percent are wanted": lambda: (0.46, 0.84, 0.14),
        "Find both thresholds": lambda: (25.0, 60.0, 30.0),
    },
}
