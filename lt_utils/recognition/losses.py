"""Losses for long-tailed recognition, and the label-shift correction at test time."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from lt_utils.errors import CourseError


def log_prior(counts: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """log(n_c / N) of each class, float32 [C]: the log of the class prior of the training set.

    Raises CourseError for a class without training image, whose log prior would be minus infinity.
    """
    if min(counts) <= 0:
        empty = list(counts).index(min(counts))
        raise CourseError(f"Class {empty} has no training image and so no log prior: give counts above 0.")
    counts = torch.as_tensor(list(counts), dtype=torch.float32, device=device)
    return torch.log(counts / counts.sum())


def label_shift(logits: Tensor, counts: Sequence[int], tau: float = 1.0) -> Tensor:
    """Post-hoc logit adjustment, logits - tau log(n_c / N), for a test set where all classes are equally likely.

    With tau = 1 its softmax is q(c|x) proportional to p(c|x) (1/C) / (n_c/N): the label-shift compensation of LDMLR,
    and equation 9 of Menon et al. (2021, arXiv 2007.07314). Logits [..., C] in, adjusted logits [..., C] out.
    """
    return logits - tau * log_prior(counts, logits.device)


def logit_adjusted_loss(logits: Tensor, labels: Tensor, counts: Sequence[int], tau: float = 1.0) -> Tensor:
    """Cross-entropy of logits + tau log(n_c / N) (Menon et al. 2021, equation 10), mean over the batch.

    The prior is inside the loss, so the bare logits [B, C] are already balanced: use them at test time as they are.
    """
    return F.cross_entropy(logits + tau * log_prior(counts, logits.device), labels)


def mixup(images: Tensor, alpha: float = 0.5) -> tuple[Tensor, Tensor, float]:
    """Mixed images, the partner's index and lambda (Zhang et al. 2018): lambda x + (1 - lambda) x[partner].

    One lambda ~ Beta(alpha, alpha) for the whole batch [B, ...], and one random permutation as partner [B].
    """
    weight = float(torch.distributions.Beta(alpha, alpha).sample())
    partner = torch.randperm(len(images), device=images.device)
    return torch.lerp(images[partner], images, weight), partner, weight


def mixup_loss(logits: Tensor, labels: Tensor, partner: Tensor, weight: float) -> Tensor:
    """lambda CE(z, y) + (1 - lambda) CE(z, y[partner]): the loss that belongs to `mixup`."""
    return weight * F.cross_entropy(logits, labels) + (1 - weight) * F.cross_entropy(logits, labels[partner])


def semantic_margins(weight: Tensor, covariances: Tensor) -> Tensor:
    """M[y, k] = (w_k - w_y)^T S_y (w_k - w_y), float [C, C]: how much of the spread of class y points from w_y to w_k.

    weight: of a linear head, [C, D]; covariances: of the features of each class, [C, D, D].
    """
    difference = weight[None] - weight[:, None]  # [C, C, D]; entry (y, k) is w_k - w_y
    return (difference @ covariances * difference).sum(2)


def isda_loss(logits: Tensor, labels: Tensor, margins: Tensor, strength: float) -> Tensor:
    """Implicit semantic data augmentation (Wang et al. 2019, arXiv 1909.12220, equation 8), mean over the batch [B].

    Cross-entropy of z_k + strength / 2 M[y, k], margins M [C, C] as `semantic_margins` gives them. It is an upper bound of
    the expected cross-entropy when each feature f of class y is replaced by draws from N(f, strength S_y); exactly, it is
    log E[exp(cross-entropy)]. strength = 0 is cross-entropy.
    """
    return F.cross_entropy(logits + strength / 2 * margins[labels], labels)
