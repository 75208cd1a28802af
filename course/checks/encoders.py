"""Checks of the exercises of notebook 03: label shift and its inverse in the loss, the WCDAS logit, a predicted recall."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Refusals, exercise, logits_like, near, predicted


@exercise(
    "3.1",
    "Bayes' rule holds for 20 random priors, for any test prior",
    "Start from p(c | x) ~ p(x | c) pi_c and replace pi_c by the test prior: divide one out, multiply the other in, "
    "and take logarithms.",
    over=range(20),
)
def to_test_prior(answer: Callable, random: Random, trial: int) -> Case:
    """answer(logits [B, C], counts [C], test_prior [C]) -> logits [B, C] of a classifier for the test prior."""
    classes = random.whole(3, 8)
    counts, train = random.prior(classes)
    even = torch.full((classes,), 1 / classes).double()
    test = even if trial % 2 else random.prior(classes)[1]
    # A world with 30 different images: p(x | c) is drawn, and everything else follows from Bayes' rule.
    given_class = torch.softmax(random.normal(classes, 30), 1)
    posterior, right = (weight[:, None] * given_class for weight in (train, test))
    posterior, right = (joint / joint.sum(0) for joint in (posterior, right))
    logits = posterior.T.log() + random.normal(30, 1)  # any constant per image is allowed
    given = logits_like(logits, answer(logits, counts, test))
    changes = {
        "The training prior has to be taken *out*: its logarithm is subtracted, that of the test prior added.": (
            train.log() - test.log()
        ),
        "The prior itself was used; logits are logarithms, so a factor in probability is its *logarithm* added.": (
            test - train
        ),
        "The training prior is out, but the test prior is not in: add its logarithm.": -train.log(),
        "The test prior is in, but the training prior is not out: subtract its logarithm.": test.log(),
        "The logits are unchanged.": even.log(),
        "Both priors were added. Only that of the test set belongs in.": train.log() + test.log(),
    }
    mistakes = {idea: torch.softmax(logits + change, 1) for idea, change in changes.items()}
    return Case(torch.softmax(given, 1), right.T, mistakes)


@exercise(
    "3.2",
    "the mean of -log of a prior-weighted softmax, in 20 random batches",
    "Add log(n_c / N) to every logit, take the cross-entropy with the labels, and average over the batch.",
    times=20,
)
def adjusted_loss(answer: Callable, random: Random) -> Case:
    """answer(logits [B, C], labels [B], counts [C]) -> the logit-adjusted cross-entropy, one number."""
    classes, batch = random.whole(3, 8), random.whole(5, 12)
    counts, prior = random.prior(classes)
    logits = 2 * random.normal(batch, classes)
    labels = torch.randint(classes, (batch,), generator=random)
    weighted = prior * logits.exp()
    each = -(weighted[range(batch), labels] / weighted.sum(1)).log()

    def plain(z: Tensor) -> Tensor:
        return torch.logsumexp(z, 1) - z.gather(1, labels[:, None])[:, 0]

    rarity = 1 / prior[labels]
    by_rarity = rarity * plain(logits)
    mistakes = {
        "The sign belongs to the correction at *test* time. In the loss the prior is added, so that the bare logits need "
        "not learn it.": plain(logits - prior.log()).mean(),
        "The logits are unadjusted: this is plain cross-entropy.": plain(logits).mean(),
        "The prior is added as it is; logits are logarithms, so add its logarithm.": plain(logits + prior).mean(),
        "The mean over the batch is wanted, not the sum.": each.sum(),
        "One loss for each image is given; wanted is their mean.": each,
        "This weights the images by 1 / pi. Logit adjustment moves the logits instead; it weights nothing.": (
            by_rarity.sum() / rarity.sum()
        ),
        "This weights the images by 1 / pi, without even dividing by the weights. Logit adjustment moves the "
        "logits.": by_rarity.mean(),
    }
    return Case(answer(logits, labels, counts), each.mean(), mistakes)


def _series(cosine: Tensor, gamma: Tensor) -> Tensor:
    """The wrapped Cauchy density as its Fourier series, (1 + 2 sum_k gamma^k cos(k theta)) / (2 pi)."""
    theta, total = cosine.clamp(-1, 1).acos(), torch.ones_like(cosine)
    for k in range(1, 400):
        total = total + 2 * gamma**k * torch.cos(k * theta)
    return total / (2 * math.pi)


@exercise(
    "3.3",
    "equal to the Fourier series of the wrapped Cauchy density, for 20 random heads",
    "Step by step: unit lengths, cosines [B, C], gamma = sigmoid(g) for each class, the density, times the scale.",
    times=20,
)
def wcdas_logits(answer: Callable, random: Random) -> Case:
    """answer(features [B, D], weights [C, D], g [C], scale) -> logits [B, C]."""
    batch, classes, dim = random.whole(3, 6), random.whole(7, 9), random.whole(10, 16)
    features, weights = random.normal(batch, dim), random.normal(classes, dim)
    gamma, scale = torch.sigmoid(1.2 * random.normal(classes)).clamp(max=0.95), random.between(1.5, 9)
    g = torch.logit(gamma)
    unit_f, unit_w = (x / x.square().sum(1, keepdim=True).sqrt() for x in (features, weights))
    cosine = unit_f @ unit_w.T

    def density(cosine: Tensor, gamma: Tensor = gamma, twice: float = 2.0) -> Tensor:
        return (1 - gamma**2) / (1 + gamma**2 - twice * gamma * cosine) / (2 * math.pi)

    mistakes = {
        "WCDAS uses the density itself as the logit, not its logarithm.": scale * density(cosine).log(),
        "gamma is sigmoid(g), between 0 and 1; you used g as it is.": scale * density(cosine, g),
        "Only angles count here: divide features *and* weights by their lengths before the scalar product.": (
            scale * density(features @ weights.T)
        ),
        "The features are normalised, the class weights are not.": scale * density(unit_f @ weights.T),
        "The class weights are normalised, the features are not.": scale * density(features @ unit_w.T),
        "The denominator is 1 + gamma^2 - 2 gamma cos: your 2 is missing.": scale * density(cosine, twice=1.0),
        "The scale is missing.": density(cosine),
        "The factor 1 / (2 pi) is missing, so this is no density.": 2 * math.pi * scale * density(cosine),
        "The density is made of the *angle* through its cosine; you put the angle itself in.": (
            scale * density(cosine.acos())
        ),
    }
    given = answer(features, weights, g, scale)
    return Case(given, scale * _series(cosine, gamma), mistakes, rtol=2e-3)  # the published code writes 3.14 for pi


@exercise(
    "3.4", "the rare class is found in about 46 % of cases with its prior, 84 % without, and others pay with 14 points"
)
def prediction(answer: Callable, random: Random) -> Refusals:
    """answer() -> recall of the rare class in percent with the training prior, and after label shift; loss of the other."""
    before, after, price = predicted(answer, 3, "two recalls of the rare class and the loss of the frequent class")
    rare, frequent = (torch.randn(100_000, generator=random) + centre for centre in (1.0, -1.0))

    def called_rare(x: Tensor, shift: float) -> float:
        """Percent of the images x for which log p(rare | x) / p(frequent | x) under the training prior, shifted, is positive."""
        return 100 * (2 * x + math.log(0.1 / 0.9) + shift > 0).double().mean().item()

    label_shift = math.log(0.9 / 0.1)
    true_before, true_after = called_rare(rare, 0), called_rare(rare, label_shift)
    true_price = called_rare(frequent, label_shift) - called_rare(frequent, 0)
    if near(before, true_before, 10) and near(after, true_after, 8) and near(price, true_price, 8):
        return {}
    return {
        "Percent are wanted: 50 for one half.": 0 < max(before, after) <= 1,
        "The two recalls differ much. The prior moves the threshold: with 90 % of the data on one side, x must be "
        "clearly on the rare side before the answer changes.": near(before, after, 5),
        "Label shift takes out the prior that spoke *against* the rare class, so its recall rises.": after < before,
        "10 % is the share of the rare class, not its recall. A classifier looks at x: where is the point at which both "
        "answers are equally likely?": near(before, 10, 5),
        "It is not free: images of the frequent class between the two thresholds were right before and are wrong "
        "now.": price < 3,
        "The classes overlap. Even at the best threshold, x = 0, a part of each class lies on the other side.": (
            after > true_after + 8
        ),
        f"You say {before:.0f} %, {after:.0f} % and {price:.0f} points. Find both thresholds: 2x = log(0.9 / 0.1) before "
        "and 2x = 0 after; then look up how much of N(+1, 1) and of N(-1, 1) lies beyond them.": True,
    }
