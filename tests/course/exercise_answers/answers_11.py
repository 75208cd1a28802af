"""Answers to the exercises of notebook 11."""

import math

import torch
import torch.nn.functional as F


def prior_of(counts, like):
    counts = torch.tensor(counts, dtype=like.dtype)
    return counts / counts.sum()


def by_softplus(logits, labels, counts):
    pi = prior_of(counts, logits)
    start = (pi / (1 - pi)).log()
    z = logits + start
    own = z.gather(1, labels[:, None])[:, 0]
    return (F.softplus(z).sum(1) - own).mean(), start


def with_shift(shift_of, start_of=None, reduce=lambda each: each.sum(1).mean()):
    def loss(logits, labels, counts):
        pi = prior_of(counts, logits)
        target = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
        each = F.binary_cross_entropy_with_logits(logits + shift_of(pi), target, reduction="none")
        return reduce(each), (start_of or torch.logit)(pi)

    return loss


def label_alone(logits, labels, counts):
    shift = torch.logit(prior_of(counts, logits))
    target = F.one_hot(labels, logits.shape[1]).to(logits.dtype)
    shifted = logits + shift * target
    return F.binary_cross_entropy_with_logits(shifted, target, reduction="sum") / len(logits), shift


def bal_ce(logits, labels, counts):
    pi = prior_of(counts, logits)
    return F.cross_entropy(logits + pi.log(), labels), torch.logit(pi)


def through_densities(logits, counts):
    """p(x|c) / p(x|not c) = a (1 - pi) / (1 - pi a) with a = p(x|c) / p(x), solved for a."""
    pi, ratio = prior_of(counts, logits), logits.exp()
    return (ratio / (1 - pi + pi * ratio)).log()


def scores(change):
    return lambda z, counts: change(z, prior_of(counts, z))


def patch_by_patch(patches, hidden):
    total, number = 0.0, 0
    for image, mask in zip(patches, hidden, strict=True):
        for patch, is_hidden in zip(image, mask.tolist(), strict=True):
            if is_hidden:
                variance = ((patch - patch.mean()) ** 2).sum() / (len(patch) - 1)
                total += (((patch - patch.mean()) ** 2) / (variance + 1e-6)).sum().item()
                number += len(patch)
    return total / number


def standardised(patches, unbiased=True):
    variance = patches.var(2, keepdim=True, unbiased=unbiased)
    return (patches - patches.mean(2, keepdim=True)) / (variance + 1e-6).sqrt()


def interval(differences, reach=None):
    from lt_utils.metrics import student

    half = (reach or student(len(differences))) * differences.std().item() / math.sqrt(len(differences))
    return differences.mean().item() - half, differences.mean().item() + half


def by_bounds(differences, margin):
    low, high = interval(differences)
    if low > -margin and high < margin:
        return "alike"
    return "open" if low <= 0 <= high else "different"


def significance_alone(differences, margin):
    low, high = interval(differences)
    return "alike" if low <= 0 <= high else "different"


def difference_first(differences, margin):
    low, high = interval(differences)
    if not low <= 0 <= high:
        return "different"
    return "alike" if max(-low, high) < margin else "open"


def one_sided(differences, margin):
    low, high = interval(differences)
    if low > -margin and high < margin:
        return "alike"
    return "different" if low > 0 else "open"


def two_errors(differences, margin):
    low, high = interval(differences, reach=2)
    if low > -margin and high < margin:
        return "alike"
    return "open" if low <= 0 <= high else "different"


RIGHT = {"11.1": by_softplus, "11.2": through_densities, "11.3": patch_by_patch, "11.4": by_bounds}
WRONG = {
    "11.1": {
        "This is plain BCE": with_shift(lambda pi: 0 * pi),
        "A yes-or-no question has log-odds": with_shift(torch.log),
        "The sign is turned": with_shift(lambda pi: -torch.logit(pi)),
        "you shifted the label alone": label_alone,
        "you took their mean": with_shift(torch.logit, reduce=torch.mean),
        "not the sum": with_shift(torch.logit, reduce=torch.sum),
        "wanted is their mean": with_shift(torch.logit, reduce=lambda each: each.sum(1)),
        "This is softmax": bal_ce,
        "starts a *softmax* at the prior": with_shift(torch.logit, torch.log),
        "so rare classes begin low": with_shift(torch.logit, lambda pi: -torch.logit(pi)),
        "it is their logarithm": with_shift(torch.logit, lambda pi: pi / (1 - pi)),
        "not a probability": with_shift(torch.logit, lambda pi: pi),
        "Which number has the sigmoid pi": with_shift(torch.logit, torch.zeros_like),
        "wanted are 2 results": lambda z, y, counts: by_softplus(z, y, counts)[0],
    },
    "11.2": {
        "These are the logits as they are": scores(lambda z, pi: z),
        "is what softmax logits carry": scores(lambda z, pi: z - pi.log()),
        "did not take the prior out": scores(lambda z, pi: F.logsigmoid(z + torch.logit(pi))),
        "sigmoid(z) alone is not": scores(lambda z, pi: F.logsigmoid(z) - pi.log()),
        "and the prior is not taken out": scores(lambda z, pi: F.logsigmoid(z)),
        "Take the log of the sigmoid": scores(lambda z, pi: z + torch.logit(pi) - pi.log()),
        "Scores are logarithms here": scores(lambda z, pi: torch.sigmoid(z + torch.logit(pi)) / pi),
        "so it has to be added here": scores(lambda z, pi: F.logsigmoid(z - torch.logit(pi)) - pi.log()),
    },
    "11.3": {
        "you averaged over all": lambda patches, hidden: standardised(patches).square().mean(),
        "divided by the number of all": lambda patches, hidden: (
            standardised(patches).square().mean(2) * hidden
        ).mean(),
        "that are *seen*": lambda patches, hidden: standardised(patches)[~hidden].square().mean(),
        "M - 1 in its denominator": lambda patches, hidden: standardised(patches, False)[hidden].square().mean(),
        "Not all patches cost 1": lambda patches, hidden: 1.0,
        "are not standardised": lambda patches, hidden: patches[hidden].square().mean(),
        "divide by the spread": lambda patches, hidden: (
            (patches - patches.mean(2, keepdim=True))[hidden].square().mean()
        ),
        "wanted is their mean": lambda patches, hidden: standardised(patches)[hidden].square().sum(1).mean(),
        "gives nan": lambda patches, hidden: (
            ((patches - patches.mean(2, keepdim=True)) / patches.std(2, keepdim=True))[hidden].square().mean()
        ),
    },
    "11.4": {
        "is not to see that there is none": significance_alone,
        "even if it is surely not 0": difference_first,
        "On which side does not matter": one_sided,
        "4.3 for three, not 2": two_errors,
        "is wanted, not True": lambda differences, margin: True,
        "a return is missing": lambda differences, margin: None,
    },
}
