"""Vision transformers: an image as a short sequence of patches that look at each other (Dosovitskiy et al. 2021, 2010.11929).

One definition from a network for a laptop (0.2 million parameters) to ViT-B/16. What reads patches stands apart from what names
classes, because masked pretraining (mae.py) trains the first and throws its own second half away.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.errors import CourseError
from lt_utils.models.resnet import CIFAR_MEAN, CIFAR_STD, hold_statistics

# Keywords of `ViT`, `PatchEncoder` and `MaskedAutoencoder`. "nano" is the course's own, the others those of the literature.
VIT_SIZES: dict[str, dict] = {
    "nano": dict(width=64, depth=4, heads=4),
    "tiny": dict(width=192, depth=12, heads=3),
    "small": dict(width=384, depth=12, heads=6),
    "base": dict(width=768, depth=12, heads=12),
    "large": dict(width=1024, depth=24, heads=16),
}


def to_patches(images: Tensor, patch: int) -> Tensor:
    """Images [B, C, H, W] -> their patches, row by row, [B, N, C patch^2]; a patch is a C x patch x patch image, flattened."""
    count, channels, height, width = images.shape
    rows, columns = height // patch, width // patch
    cut = images.reshape(count, channels, rows, patch, columns, patch)
    return cut.permute(0, 2, 4, 1, 3, 5).reshape(count, rows * columns, channels * patch * patch)


def from_patches(patches: Tensor, channels: int) -> Tensor:
    """Patches [B, N, C patch^2] of square images -> the images [B, C, H, W]; the inverse of `to_patches`."""
    count, number, numbers = patches.shape
    side, patch = math.isqrt(number), math.isqrt(numbers // channels)
    placed = patches.reshape(count, side, side, channels, patch, patch).permute(0, 3, 1, 4, 2, 5)
    return placed.reshape(count, channels, side * patch, side * patch)


def position_code(width: int, side: int) -> Tensor:
    """Fixed code of the places of a side x side grid, row by row, float32 [side^2, width]: sines and cosines.

    With width / 4 frequencies w_i = 10000^(-4 i / width), in this order: sin(w column), cos(w column), sin(w row), cos(w row),
    as masked autoencoders have it (He et al. 2022, arXiv 2111.06377). CourseError for a width that four does not divide.
    """
    if width % 4:
        raise CourseError(f"The position code needs a width that 4 divides, not {width}.")
    frequency = 10_000 ** (-torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    place = torch.arange(side, dtype=torch.float64)
    row, column = (angle.flatten()[:, None] * frequency for angle in torch.meshgrid(place, place, indexing="ij"))
    return torch.cat([column.sin(), column.cos(), row.sin(), row.cos()], dim=1).float()


def resize_positions(positions: Tensor, side: int) -> Tensor:
    """A position code [old side^2, width] for a grid of side x side places, [side^2, width]: bicubic, as a small image."""
    old = math.isqrt(len(positions))
    if old == side:
        return positions
    image = positions.T.reshape(1, -1, old, old)
    return F.interpolate(image, size=(side, side), mode="bicubic", align_corners=False).flatten(2)[0].T


def drop_path(change: Tensor, rate: float) -> Tensor:
    """Stochastic depth (Huang et al. 2016): the change that a layer makes to [B, N, D] is left out for a share `rate` of the
    images, and the others' is divided by 1 - rate, so that the mean stays."""
    keep = torch.rand(len(change), 1, 1, device=change.device) >= rate
    return change * keep / (1 - rate)


class Attention(nn.Module):
    """Each patch asks all others (query . key) and takes a weighted mean of what they offer (value), `heads` times at once."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise CourseError(f"{heads} heads do not divide a width of {width}: choose heads that do, such as 4.")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        count, number, width = x.shape
        three = self.qkv(x).view(count, number, 3, self.heads, width // self.heads)
        query, key, value = three.permute(2, 0, 3, 1, 4)  # each [B, heads, N, width / heads]
        mixed = F.scaled_dot_product_attention(query, key, value)  # softmax(query . key / sqrt(width / heads)) value
        return self.out(mixed.transpose(1, 2).reshape(count, number, width))


class TransformerBlock(nn.Module):
    """Attention between the patches, then a small network on each patch by itself; both are added to what comes in.

    Normalised before, not after ("pre-norm"). drop: share of images for which, in training, a change is left out.
    """

    def __init__(self, width: int, heads: int, drop: float = 0.0, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        hidden = int(mlp_ratio * width)
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.drop = drop

    def add(self, x: Tensor, change: Tensor) -> Tensor:
        return x + (drop_path(change, self.drop) if self.training and self.drop else change)

    def forward(self, x: Tensor) -> Tensor:
        x = self.add(x, self.attention(self.norm1(x)))
        return self.add(x, self.mlp(self.norm2(x)))


def start_weights(module: nn.Module) -> None:
    """Linear layers of `module`: Xavier-uniform weights, biases 0, as masked autoencoders begin."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


class PatchEncoder(nn.Module):
    """Images -> one vector for each patch: patches, a linear map, their positions, transformer blocks.

    Args:
        channels, size: of the images: 1 or 3 channels, size x size pixels. patch: side of a patch in pixels; it divides `size`.
        width: numbers for each patch. depth: blocks. heads: of the attention, they divide `width`.
        class_token: put a learned vector before the patches.
        drop_path: of the last block; it rises linearly from 0 in the first.
        mean, std: per channel, for images in 0..1; the network normalises its own input.

    The positions are fixed sines and cosines, a parameter with requires_grad False; `ViT` trains them. Raises CourseError for a
    patch that does not divide the image, heads that do not divide the width, and a mean or std that does not fit the channels.
    """

    def __init__(
        self,
        channels: int = 3,
        size: int = 32,
        patch: int = 4,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        class_token: bool = False,
        drop_path: float = 0.0,
        mean: Sequence[float] = CIFAR_MEAN,
        std: Sequence[float] = CIFAR_STD,
    ) -> None:
        super().__init__()
        if patch < 1 or size % patch:
            fits = [number for number in range(2, size + 1) if size % number == 0]
            raise CourseError(f"Patches of {patch} pixels do not divide an image of {size}: choose one of {fits}.")
        hold_statistics(self, channels, mean, std)
        self.config = dict(channels=channels, size=size, patch=patch, width=width, depth=depth, heads=heads)
        self.config |= dict(class_token=class_token, drop_path=drop_path, mean=list(mean), std=list(std))
        self.patch, self.channels, self.side, self.width = patch, channels, size // patch, width
        self.project = nn.Linear(channels * patch * patch, width)
        self.positions = nn.Parameter(position_code(width, self.side), requires_grad=False)  # [N, width]
        self.token = nn.Parameter(0.02 * torch.randn(1, 1, width)) if class_token else None
        rates = [drop_path * number / max(depth - 1, 1) for number in range(depth)]
        self.blocks = nn.Sequential(*(TransformerBlock(width, heads, rate) for rate in rates))
        start_weights(self)

    def patches(self, images: Tensor) -> Tensor:
        """The normalised patches [B, N, C patch^2] of images [B, C, H, W] in 0..1. CourseError for other images."""
        if not images.is_floating_point():
            raise CourseError("A transformer takes images in 0..1: pass uint8 images through lt_utils.data.unit.")
        expected = (self.channels, self.side * self.patch, self.side * self.patch)
        if images.shape[1:] != expected:
            raise CourseError(f"This network takes images of {expected}, not {tuple(images.shape[1:])}.")
        return to_patches((images - self.mean) / self.std, self.patch)

    def forward(self, patches: Tensor, kept: Tensor | None = None) -> Tensor:
        """Vectors [B, N, width] of patches [B, N, C patch^2], or of those at `kept` [B, K] alone; a class token comes first."""
        if kept is None:
            x = self.project(patches) + self.positions
        else:
            x = self.project(pick(patches, kept)) + self.positions[kept]
        if self.token is not None:
            x = torch.cat([self.token.to(x.dtype).expand(len(x), -1, -1), x], dim=1)
        return self.blocks(x)


def pick(vectors: Tensor, places: Tensor) -> Tensor:
    """The vectors [B, K, D] at `places` [B, K] of [B, N, D]."""
    return vectors.gather(1, places[:, :, None].expand(-1, -1, vectors.shape[2]))


class ViT(nn.Module):
    """A vision transformer: patch encoder, mean over the patches, normalisation, linear head.

    With the sizes of ViT-B/16 at 224 pixels, a class token and 1,000 classes it has 86,566,888 parameters: the usual 86,567,656
    less the 768 of a position for the class token, which here has none.

    Args:
        num_classes: number of classes C. pool: "mean" of the patches, or "token", the class token's vector alone.
        encoder: the arguments of `PatchEncoder`.

    Positions begin as the fixed code and are trained. The head begins near 0, so that all classes begin alike. Raises the
    CourseErrors of `PatchEncoder`, and one for a pool that there is not.
    """

    def __init__(self, num_classes: int, pool: str = "mean", **encoder) -> None:
        super().__init__()
        self.encoder = PatchEncoder(**encoder)
        self.encoder.positions.requires_grad_(True)
        if pool not in ("mean", "token") or (pool == "token" and self.encoder.token is None):
            raise CourseError(f'pool is "mean", or "token" with class_token=True, not {pool!r}.')
        self.config = dict(num_classes=num_classes, pool=pool, **self.encoder.config)
        self.pool, self.dim = pool, self.encoder.width
        self.norm = nn.LayerNorm(self.dim, eps=1e-6)
        self.head = nn.Linear(self.dim, num_classes)
        nn.init.trunc_normal_(self.head.weight, std=2e-5)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """Features [B, width] of images [B, C, H, W] in 0..1."""
        x = self.encoder(self.encoder.patches(images))
        first = 0 if self.encoder.token is None else 1
        return self.norm(x[:, 0] if self.pool == "token" else x[:, first:].mean(dim=1))

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, C] of images [B, C, H, W] in 0..1."""
        return self.head(self.features(images))
