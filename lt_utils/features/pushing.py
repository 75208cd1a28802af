"""Images of a head class, pushed over a classifier's border into a tail class: major-to-minor translation (M2m).

After Kim, Jeong and Shin (CVPR 2020, arXiv 2004.00431), as one reading of "translation" in our reconstruction of TDFA, of which
only a README is known.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.data.augmentation import unit
from lt_utils.features.augmentation import repeated_real
from lt_utils.features.encoding import Encoded
from lt_utils.features.translation import donors
from lt_utils.features.views import check_encoder
from lt_utils.recognition.losses import log_prior


class Pushed(NamedTuple):
    """Images [M, channels, H, W] in 0..1, the class that each is for [M], the index of the training image that it was made
    from [M], and whether it was kept [M]; where not, a real image of the class stands in its place."""

    images: Tensor
    targets: Tensor
    index: Tensor
    kept: Tensor


def push_images(
    model: nn.Module,
    images: Tensor,
    origins: Tensor,
    targets: Tensor,
    *,
    steps: int = 30,
    step_size: float = 0.5,
    sure: float = 0.4,
    away: float = 0.5,
    prior: Tensor | float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Change images [M, ...] in 0..1 by gradient steps until `model` takes them for `targets` [M]; and whether it does, [M].

    Each step has length `step_size` and lowers cross-entropy of the target + away * logit of the origin's class, both under
    the frozen model with `prior` [C], a log-prior, subtracted from its logits. An image rests as soon as its target has
    probability `sure`; it is taken if it gets there.
    """
    x, frozen = images.clone(), [p.requires_grad for p in model.parameters()]
    taken = torch.zeros(len(x), dtype=torch.bool, device=x.device)
    model.eval().requires_grad_(False)
    for step in range(steps + 1):
        todo = (~taken).nonzero()[:, 0]
        if not len(todo):
            break
        part, wanted = x[todo].requires_grad_(True), targets[todo, None]
        logits = model(part) - prior
        there = logits.detach().softmax(1).gather(1, wanted)[:, 0] >= sure  # [len(todo)]
        taken[todo] = there
        if step < steps:
            value = F.cross_entropy(logits, wanted[:, 0], reduction="sum")
            value = value + away * logits.gather(1, origins[todo, None]).sum()
            (slope,) = torch.autograd.grad(value, part)
            slope = slope / slope.flatten(1).norm(dim=1).clamp(min=1e-12).view(-1, 1, 1, 1)
            x[todo] = torch.where(there.view(-1, 1, 1, 1), part, (part - step_size * slope).clamp(0, 1)).detach()
    for parameter, before in zip(model.parameters(), frozen, strict=True):
        parameter.requires_grad_(before)
    return x, taken


def head_acceptance(counts: Sequence[int], beta: float = 0.999) -> Tensor:
    """M2m's rejection by class counts: how likely an image of class h is accepted for class c, [C, C], row c, column h.

    1 - beta^(n_h - n_c), and 0 where h has no more images than c: the larger the head class, the more it can spare.
    """
    n = torch.tensor(list(counts), dtype=torch.float64)
    return 1 - beta ** (n[None] - n[:, None]).clamp(min=0)


def pushed_images(
    encoded: Encoded,
    model: nn.Module,
    amounts: Sequence[int],
    *,
    head: str = "mean",
    beta: float = 0.999,
    seed: int = 0,
    **how,
) -> Pushed:
    """Major-to-minor translation of images: amounts[c] training images of c's head class, pushed by `push_images` to c.

    model: the frozen classifier, used with label shift, without which it hardly takes anything for a rare class. With one
    that is not the encoder's own network, what was done to the images is not simply read back from the features. Images
    that are not taken, or rejected (`head_acceptance`), are replaced by real ones of c. Raises CourseError where the images
    are not at hand, for a class without an image and where there is no head class.
    """
    check_encoder(encoded)
    images, labels = encoded.images.train_images, encoded.train_labels
    index, targets = donors(encoded.train, labels, amounts, seed, head)
    how = {"prior": log_prior(encoded.counts, labels.device), **how}
    pushed, taken = push_images(model, unit(images[index]), labels[index], targets, **how)
    chance = torch.rand(len(index), generator=torch.Generator().manual_seed(seed))
    accepted = chance < head_acceptance(encoded.counts, beta)[targets.cpu(), labels[index].cpu()]
    kept = taken & accepted.to(taken.device)
    places = torch.arange(len(labels), device=labels.device)[:, None]
    real, _ = repeated_real(places, labels, amounts, seed)  # indices of real images of each class, drawn like features
    return Pushed(torch.where(kept.view(-1, 1, 1, 1), pushed, unit(images[real[:, 0]])), targets, index, kept)
