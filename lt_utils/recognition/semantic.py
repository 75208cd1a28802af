"""The expected loss of semantic directions (ISDA): infinitely many random copies of every feature, in closed form."""

import torch.nn.functional as F
from torch import Tensor


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
