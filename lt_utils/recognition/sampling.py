"""Which images a step trains on, and when a loss changes: rules around a loss(model, index) of the training loop."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from lt_utils.recognition.losses import effective_number
from lt_utils.training.loop import step_now

StepLoss = Callable[[nn.Module, Tensor], Tensor]


def class_aware_order(labels: Tensor, total: int, per_class: int = 4, seed: int = 0) -> Tensor:
    """Indices [total] in which every class comes equally often (class-aware sampling, Shen et al. 2016).

    Each round visits all classes in a new random order and takes `per_class` images of each. A class goes through all
    its images, in random order, before one of them comes again.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = labels.cpu()
    present = labels.unique()
    rounds = math.ceil(total / (per_class * len(present)))
    picked = []
    for c in present:
        members = (labels == c).nonzero()[:, 0]
        times = math.ceil(rounds * per_class / len(members))
        order = torch.rand(times, len(members), generator=generator).argsort(1)
        picked.append(members[order].flatten()[: rounds * per_class].view(rounds, per_class))
    visits = torch.rand(rounds, len(present), generator=generator).argsort(1)
    by_round = torch.stack(picked, 1)  # [rounds, classes, per_class]
    return by_round.gather(1, visits[:, :, None].expand_as(by_round)).flatten()[:total]


def resampled_order(labels: Tensor, total: int, beta: float = 1.0, seed: int = 0) -> Tensor:
    """Indices [total] drawn with replacement, an image of class c with chance proportional to 1 / effective number of c.

    beta = 1: 1 / n_c, so that every class comes equally often on average (re-sampling); 0.9999: the effective number of Cui
    et al. 2019; 0: all images alike. Raises CourseError for a beta outside 0..1.
    """
    labels = labels.cpu()
    chance = 1 / effective_number(torch.bincount(labels), beta)[labels]  # [N]
    return torch.multinomial(chance, total, replacement=True, generator=torch.Generator().manual_seed(seed))


def in_order(loss: StepLoss, order: Tensor, seed: int) -> StepLoss:
    """`loss` on the images order[k] of step k, in the place of those that the loop would take.

    order: indices [steps, batch_size]; a shorter batch of the loop stays as short. seed: that of the loop.
    """

    def ordered(model: nn.Module, index: Tensor) -> Tensor:
        return loss(model, order[step_now(seed)][: len(index)].to(index.device))

    return ordered


def deferred(early: StepLoss, late: StepLoss, first: int, seed: int) -> StepLoss:
    """The loss `early` until step `first` (0-based), then `late`. seed: that of the loop."""
    return lambda model, index: (early if step_now(seed) < first else late)(model, index)
