"""Checks of the exercises of notebook 11: balanced BCE, the exact read-out, a lazy guess, a claim of "no difference"."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from course.checks.tools import Case, Random, Refusals, Wrong, exercise, logits_like, number, pieces
from lt_utils.metrics.statistics import STUDENT


@exercise(
    "11.1",
    "loss and start value of balanced BCE, for 20 random priors",
    "The shift is log pi - log(1 - pi), for every class. Sum the binary cross-entropies over the classes, and average over the "
    "batch.",
    times=20,
)
def balanced_bce(answer: Callable, random: Random) -> Iterator[Case]:
    """answer(logits [B, C], labels [B], counts [C]) -> balanced BCE, and the bias [C] at which plain BCE is the same training."""
    classes, batch = random.whole(3, 8), random.whole(5, 12)
    counts, prior = random.prior(classes)
    logits = 2 * random.normal(batch, classes)
    labels = torch.randint(classes, (batch,), generator=random)
    loss, start = pieces(answer(logits, labels, counts), 2, "the loss and the start value")
    odds = prior / (1 - prior)

    def binary(yes: Tensor, no: Tensor | None = None) -> Tensor:
        """-log of a class's share for the label, of the rest for the others: factors e^z -> share e^z / (1 + e^z)."""
        no = yes if no is None else no
        log_yes, log_no = torch.log(yes / (1 + yes)), -torch.log1p(no)
        mine = torch.zeros_like(logits)
        mine[range(batch), labels] = 1
        return -(mine * log_yes + (1 - mine) * log_no)  # [B, C]

    each = binary(odds * logits.exp())
    mistakes = {
        "This is plain BCE: the shift is not in it.": binary(logits.exp()).sum(1).mean(),
        "You shifted by log pi, as for softmax. A yes-or-no question has log-odds: log pi - log(1 - pi).": (
            binary(prior * logits.exp()).sum(1).mean()
        ),
        "The sign is turned: in the loss the shift is *added*.": binary(logits.exp() / odds).sum(1).mean(),
        "The shift belongs to the label and to all other classes alike; you shifted the label alone.": (
            binary(odds * logits.exp(), logits.exp()).sum(1).mean()
        ),
        "The binary cross-entropies are *summed* over the classes; you took their mean.": each.mean(),
        "The mean over the batch is wanted, not the sum.": each.sum(),
        "One loss for each image is given; wanted is their mean.": each.sum(1),
        "This is softmax with the prior inside (Bal-CE). Here each class is a yes-or-no question of its own.": (
            -torch.log_softmax(logits + prior.log(), 1)[range(batch), labels].mean()
        ),
    }
    yield Case(loss, each.sum(1).mean(), mistakes, what="The loss")
    mistakes = {
        "A bias of log pi starts a *softmax* at the prior; a sigmoid needs the log-odds, log pi - log(1 - pi).": prior.log(),
        "The start value is turned: at z = 0 the sigmoid of the bias is to be pi, so rare classes begin low.": -odds.log(),
        "The odds are given; the bias is added to logits, so it is their logarithm.": odds,
        "A bias is a logit, not a probability.": prior,
        "From 0 all sigmoids say 50 %. Which number has the sigmoid pi?": torch.zeros(classes),
    }
    yield Case(start, odds.log(), mistakes, what="The start value")


@exercise(
    "11.2",
    "p(x | c) up to a factor, in 20 random worlds",
    "Put the shift back, so that sigmoid gives p_c, the probability on the training set; then take log p_c - log pi_c.",
    times=20,
)
def exact_scores(answer: Callable, random: Random) -> Case:
    """answer(logits [B, C], counts [C]) -> scores [B, C], log p(x | c) up to a constant for each image."""
    classes = random.whole(3, 8)
    counts, prior = random.prior(classes)
    density = torch.softmax(random.normal(classes, 30), 1)  # p(x | c) of a world with 30 different images
    joint = prior[:, None] * density
    posterior = (joint / joint.sum(0)).T
    shift = torch.logit(prior)
    logits = torch.logit(posterior) - shift  # what balanced BCE ends at
    given = logits_like(logits, answer(logits, counts))
    scores = {
        "These are the logits as they are. They compare p(x|c) with p(x|not c), another opponent for each class.": logits,
        "log pi is what softmax logits carry. Here: back to p_c by the log-odds and a sigmoid, then divide by pi_c.": (
            logits - prior.log()
        ),
        "You put the shift back, but did not take the prior out: this is p_c, for the *training* shares.": posterior.log(),
        "The shift is missing: sigmoid(z) alone is not p_c.": torch.log(1 / (1 + (-logits).exp())) - prior.log(),
        "The shift is missing, and the prior is not taken out.": torch.log(1 / (1 + (-logits).exp())),
        "z plus the shift is the *logit* of p_c. Take the log of the sigmoid.": logits + shift - prior.log(),
        "Scores are logarithms here: log p_c - log pi_c, not p_c / pi_c.": posterior / prior,
        "The shift was subtracted; the loss had it added, so it has to be added here, too.": (
            torch.log(1 / (1 + (-(logits - shift)).exp())) - prior.log()
        ),
    }
    mistakes = {idea: torch.softmax(wrong, 1) for idea, wrong in scores.items()}
    return Case(torch.softmax(given, 1), (density / density.sum(0)).T, mistakes)


@exercise(
    "11.3",
    "what a guess of 0 costs on hidden patches, flat ones included",
    "Standardise each patch (variance with M - 1, plus 1e-6), square, and average over the pixels of the hidden patches.",
    times=20,
)
def lazy_loss(answer: Callable, random: Random) -> Case:
    """answer(patches [B, N, M], hidden bool [B, N]) -> the masked loss of a network that guesses 0."""
    count, number_of, numbers = random.whole(3, 5), random.whole(9, 16), random.whole(4, 9)
    patches = 3 * random.normal(count, number_of, numbers) + random.normal(count, number_of, 1)
    flat = torch.rand(count, number_of, generator=random) < 0.3
    patches[flat] = 0.5
    hidden = torch.rand(count, number_of, generator=random) < 0.6
    hidden[:, 0], hidden[:, 1] = True, False
    # The squares of a standardised patch sum to (M - 1) var / (var + 1e-6).
    around = ((patches - patches.mean(2, keepdim=True)) ** 2).sum(2)
    cost = around / (around / (numbers - 1) + 1e-6) / numbers  # [B, N]
    mistakes = {
        "The loss is taken on the hidden patches alone; you averaged over all.": cost.mean(),
        "The sum is over the hidden patches, but it is divided by the number of all.": (cost * hidden).mean(),
        "You took the patches that are *seen*.": cost[~hidden].mean(),
        "The variance has M - 1 in its denominator.": (around / (around / numbers + 1e-6) / numbers)[hidden].mean(),
        "Not all patches cost 1: one of a single colour is 0 after standardising, and costs nothing.": 1.0,
        "The patches are not standardised.": patches[hidden].square().mean(),
        "Only the mean is taken out; divide by the spread, too.": (around / numbers)[hidden].mean(),
        "The sum over the pixels of a patch is taken; wanted is their mean.": (cost * numbers)[hidden].mean(),
        "The patches are flat in part, and these were left out. They count, with a cost of 0.": cost[
            hidden & ~flat
        ].mean(),
    }
    return Case(number(answer(patches, hidden)), cost[hidden].mean(), mistakes)


def _spread_out(mean: float, error: float, count: int, random: Random) -> Tensor:
    """`count` numbers with exactly this mean, and this standard error of it."""
    noise = random.normal(count)
    noise = (noise - noise.mean()) / noise.std()
    return mean + error * math.sqrt(count) * noise


@exercise(
    "11.4",
    "you tell a difference, its absence, and not knowing apart",
    "Half the interval is student(n) * std / sqrt(n). Inside -margin .. margin: alike. Else, away from 0: different. Else: open.",
    over=("alike", "different", "behind", "open", "small but certain", "wide") * 6,
)
def verdict(answer: Callable, random: Random, kind: str) -> Refusals:
    """answer(differences [S], margin) -> "alike", "different" or "open"."""
    count, margin = 3 if kind == "open" else random.whole(3, 8), random.between(0.8, 2)
    reach = STUDENT[count - 2]
    sign = {"different": 1, "behind": -1}.get(kind) or random.whole(0, 1) * 2 - 1
    mean, half = {
        "alike": (0.3 * margin, 0.5 * margin),
        "different": (4 * margin, 1.5 * margin),
        "behind": (4 * margin, 1.5 * margin),
        "open": (1.5 * margin, 2.2 * margin),
        "small but certain": (0.5 * margin, 0.3 * margin),  # away from 0, yet nowhere beyond the margin
        "wide": (0.1 * margin, 3 * margin),  # far from significant, and no proof of anything
    }[kind]
    right = {"behind": "different", "small but certain": "alike", "wide": "open"}.get(kind, kind)
    given = answer(_spread_out(sign * mean, half / reach, count, random), margin)
    if given is None:
        raise Wrong("The function gives None: a return is missing.")
    if given == right:
        return {}
    return {
        f'One of "alike", "different", "open" is wanted, not {given!r}.': given not in ("alike", "different", "open"),
        "The interval holds 0, but large differences as well. Not to see a difference is not to see that there is none: that "
        'is "open".': kind in ("open", "wide") and given == "alike",
        "The whole interval lies within the margin, so nothing that matters can differ, even if it is surely not 0. That is "
        '"alike".': kind == "small but certain" and given == "different",
        'The whole interval lies within the margin: that is "alike".': kind in ("alike", "small but certain"),
        "The interval lies on one side of 0 and reaches beyond the margin. On which side does not matter: that is "
        '"different".': kind in ("different", "behind"),
        'The interval holds 0 and reaches beyond the margin: that is "open". With few seeds its half is student(n) standard '
        "errors, 4.3 for three, not 2.": kind in ("open", "wide"),
    }
