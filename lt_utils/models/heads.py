"""Classifier heads: what turns a feature into one logit per class.

Every head maps features [B, D] to logits [B, C]. `build_head` makes one by name.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.errors import choose


class LinearHead(nn.Linear):
    """logit_c = <w_c, f> + b_c, with Kaiming-normal weights as in the CIFAR ResNets (He et al. 2016)."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim, num_classes)
        nn.init.kaiming_normal_(self.weight)


class CosineHead(nn.Module):
    """logit_c = scale * cos(f, w_c): no bias and no length, so a frequent class cannot win by a long weight vector."""

    def __init__(self, dim: int, num_classes: int, scale: float = 16.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(F.normalize(torch.empty(num_classes, dim).uniform_(-1, 1), dim=1))
        self.scale = scale

    def forward(self, features: Tensor) -> Tensor:
        # Not in bfloat16: times 30, its cosines would be an eighth apart.
        with torch.autocast(features.device.type, enabled=False):
            features = F.normalize(features.to(self.weight.dtype), dim=1)
            return self.scale * F.linear(features, F.normalize(self.weight, dim=1))


class WCDASHead(nn.Module):
    """Wrapped Cauchy Distributed Angular Softmax (Han 2023, arXiv 2305.18732).

    With cos_c the cosine between feature and class weight and gamma_c = sigmoid(g_c) the concentration of class c,

        d_c = (1 - gamma_c^2) / (1 + gamma_c^2 - 2 gamma_c cos_c) / (2 pi)        (wrapped Cauchy density)
        logit_c = s * d_c,    s = 1 + softplus(s_raw)

    The density itself is the logit, not its logarithm. g_c and s_raw are trained; g_c starts at 0, so gamma at 0.5.
    The published code writes 3.14 for pi; so does this, because its test vector does (densities 1.0005 times larger).
    """

    PI = 3.14

    def __init__(self, dim: int, num_classes: int, concentration: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_classes, dim).uniform_(-1, 1) / math.sqrt(dim))
        self.raw_concentration = nn.Parameter(torch.full((num_classes,), float(concentration)))
        self.raw_scale = nn.Parameter(torch.zeros(()))

    def density(self, cosine: Tensor) -> Tensor:
        """Wrapped Cauchy density of each class [B, C] at the given cosines [B, C] in -1..1."""
        gamma = torch.sigmoid(self.raw_concentration)
        return (1 - gamma**2) / (1 + gamma**2 - 2 * gamma * cosine) / (2 * self.PI)

    def forward(self, features: Tensor) -> Tensor:
        # In float32: near gamma = 1 and cos = 1 the denominator is a small difference of numbers close to 2.
        with torch.autocast(features.device.type, enabled=False):
            cosine = F.linear(F.normalize(features.float(), dim=1), F.normalize(self.weight, dim=1))
            return (1 + F.softplus(self.raw_scale)) * self.density(cosine)


class SharpCosineHead(CosineHead):
    """A cosine head of scale 30, as LDAM has it."""

    def __init__(self, dim: int, num_classes: int) -> None:
        super().__init__(dim, num_classes, scale=30.0)


HEADS = {"linear": LinearHead, "cosine": CosineHead, "cosine-30": SharpCosineHead, "wcdas": WCDASHead}


def build_head(name: str, dim: int, num_classes: int) -> nn.Module:
    """The head called `name`, one of HEADS, for features of length `dim`. CourseError if unknown."""
    return HEADS[choose("head", name, HEADS)](dim, num_classes)
