"""Mixing two images of a batch, and their labels: mixup and cutmix."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from lt_utils.recognition.losses import Loss


def mixup(images: Tensor, alpha: float = 0.5) -> tuple[Tensor, Tensor, float]:
    """Mixed images, the partner's index and lambda (Zhang et al. 2018): lambda x + (1 - lambda) x[partner].

    One lambda ~ Beta(alpha, alpha) for the whole batch [B, ...], and one random permutation as partner [B].
    """
    weight = float(torch.distributions.Beta(alpha, alpha).sample())
    partner = torch.randperm(len(images), device=images.device)
    return torch.lerp(images[partner], images, weight), partner, weight


def cutmix(images: Tensor, alpha: float = 1.0) -> tuple[Tensor, Tensor, float]:
    """Images with a rectangle of a partner, its index, and the image's own share of the pixels (Yun et al. 2019).

    One rectangle for the whole batch [B, C, H, W]: centred anywhere, cut off at the border, (1 - lambda) of the area before that,
    lambda ~ Beta(alpha, alpha). One random permutation is the partner [B].
    """
    height, width = images.shape[2:]
    side = math.sqrt(1 - float(torch.distributions.Beta(alpha, alpha).sample()))

    def span(length: int) -> slice:
        centre, half = float(torch.rand(())) * length, side * length / 2
        return slice(max(0, round(centre - half)), min(length, round(centre + half)))

    rows, columns = span(height), span(width)
    partner = torch.randperm(len(images), device=images.device)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[partner, :, rows, columns]
    return mixed, partner, 1 - (rows.stop - rows.start) * (columns.stop - columns.start) / (height * width)


def mixup_loss(logits: Tensor, labels: Tensor, partner: Tensor, weight: float, loss: Loss = F.cross_entropy) -> Tensor:
    """lambda loss(z, y) + (1 - lambda) loss(z, y[partner]): what belongs to `mixup` and `cutmix`.

    The same as `loss` with `soft_targets`, for all in LOSSES but LADE, which is not linear in the target.
    """
    return weight * loss(logits, labels) + (1 - weight) * loss(logits, labels[partner])


def soft_targets(labels: Tensor, partner: Tensor, weight: float, num_classes: int) -> Tensor:
    """lambda one-hot(y) + (1 - lambda) one-hot(y[partner]), float32 [B, C]: the target of mixed images."""
    own = F.one_hot(labels, num_classes).float()
    return torch.lerp(own[partner], own, weight)
