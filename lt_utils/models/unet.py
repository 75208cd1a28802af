"""The U-Net that denoises images, (x_t, t, y) -> output of the shape of x_t, and the condition that all denoisers share.

Denoisers take the step t [B] in 0 .. T-1 and the label y [B] in 0 .. C; y = C (`denoiser.no_label`) means "no label": nothing
is added to the time embedding then, so one network serves with and without a label.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.errors import CourseError, choose


def sinusoid(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding [B, dim] of steps t [B]: sine and cosine, interleaved, frequencies from 1 to 1/10000."""
    frequency = torch.exp(-math.log(10_000) * torch.arange(0, dim, 2, device=t.device) / dim)
    angle = t[:, None].float() * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def check_inputs(x: Tensor, t: Tensor, y: Tensor, shape: str, num_classes: int) -> None:
    """CourseError unless x_t has as many dimensions as `shape` names, "[B, D]", t and y are [B], which otherwise broadcast, and
    y is in 0 .. C (not looked at on a GPU, which would have to wait for it, and without classes)."""
    if x.ndim != shape.count(",") + 1 or not t.shape == y.shape == x.shape[:1]:
        raise CourseError(
            f"A denoiser takes x_t {shape}, steps t [B] and labels y [B], not {list(x.shape)}, {list(t.shape)} and "
            f"{list(y.shape)}."
        )
    if num_classes and y.device.type == "cpu" and not torch.compiler.is_compiling() and len(y):
        if not 0 <= y.min() <= y.max() <= num_classes:
            raise CourseError(
                f"Labels run from {y.min()} to {y.max()}; a denoiser of {num_classes} classes takes 0 .. {num_classes}, the last "
                "being no label."
            )


class Condition(nn.Module):
    """MLP(sinusoid(t)) + label embedding: the vector [B, out] by which every block knows the step and the class.

    augmentation: how many numbers describe how an image was augmented (0 = none); a map without bias adds them, so that
    zeros, or None, add exactly nothing. CourseError for an odd dim, the width of a denoiser.
    """

    def __init__(self, dim: int, out: int, num_classes: int, augmentation: int = 0) -> None:
        super().__init__()
        if dim % 2:
            raise CourseError(
                f"The width of a denoiser must be an even number, for pairs of sine and cosine, not {dim}."
            )
        self.dim = dim
        self.mlp = nn.Sequential(nn.Linear(dim, out), nn.SiLU(), nn.Linear(out, out))
        # One row per class; the row of "no label" is left out of the parameters and is zero (see forward).
        self.label = nn.Embedding(num_classes, out) if num_classes else None
        self.augmentation = nn.Linear(augmentation, out, bias=False) if augmentation else None

    def forward(self, t: Tensor, y: Tensor, augmentation: Tensor | None = None) -> Tensor:
        embedding = self.mlp(sinusoid(t, self.dim))
        if augmentation is not None:
            if self.augmentation is None:
                raise CourseError(
                    "This network knows nothing of augmentation: build it with augmentation=9, or give None."
                )
            embedding = embedding + self.augmentation(augmentation)
        if self.label is None:
            return embedding
        known = y != self.label.num_embeddings
        return embedding + self.label(y.where(known, 0)) * known[:, None]


class GroupNorm(nn.GroupNorm):
    """Group normalisation in float32 (exact, and on CPUs far faster than in bfloat16): 32 groups, of 4 channels or more.

    A group of one channel would subtract whatever the condition added to that channel, and with it the step and the
    label. DDPM's network has 128 channels or more, where 32 groups are safe; narrow networks need fewer.
    groups: exactly so many groups, whatever their size.
    """

    def __init__(self, channels: int, groups: int | None = None) -> None:
        super().__init__(groups or math.gcd(32, max(1, channels // 4), channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.float()).to(x.dtype)


class SelfAttention(nn.Module):
    """Single-head attention over all positions, added to its input [B, C, H, W]."""

    def __init__(self, channels: int, groups: int | None = None) -> None:
        super().__init__()
        self.norm = GroupNorm(channels, groups)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        # [B, 1 head, H W, C]: without the dimension of heads a GPU does not take its fused kernels.
        query, key, value = self.qkv(self.norm(x)).flatten(2).transpose(1, 2).unsqueeze(1).chunk(3, dim=3)
        mixed = F.scaled_dot_product_attention(query, key, value)
        return x + self.out(mixed.transpose(2, 3).reshape(x.shape))


class ResidualBlock(nn.Module):
    """norm, SiLU, conv, plus the condition; norm, SiLU, dropout, conv, plus a shortcut; then attention, if any."""

    def __init__(
        self, inputs: int, outputs: int, condition: int, attention: bool, dropout: float, groups: int | None = None
    ) -> None:
        super().__init__()
        self.norm1, self.conv1 = GroupNorm(inputs, groups), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.condition = nn.Linear(condition, outputs)
        self.norm2, self.conv2 = GroupNorm(outputs, groups), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()
        self.attention = SelfAttention(outputs, groups) if attention else nn.Identity()
        # The block starts as (almost) its shortcut: a deep stack of such blocks is easy to train.
        nn.init.normal_(self.conv2.weight, std=1e-5)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        out = self.conv1(F.silu(self.norm1(x))) + self.condition(F.silu(condition))[:, :, None, None]
        out = self.conv2(self.dropout(F.silu(self.norm2(out))))
        return self.attention(out + self.shortcut(x))


class UNet(nn.Module):
    """U-Net of DDPM (Ho et al. 2020) with a label embedding, as class-balancing diffusion (CBDM) uses it.

    Args:
        channels: channels of the images [B, channels, H, W]; H and W divisible by patch * 2^(levels - 1).
        num_classes: number of classes C; 0 for an unconditional network.
        width: channels at full resolution. mults: channels of each level, as multiples of width.
        attention: the levels (0 = full resolution) with attention, default level 1 if there is one; the middle block always
            has it.
        blocks: residual blocks per level on the way down. dropout: probability in each residual block.
        augmentation: numbers that describe how an image was augmented, 9 with `edm_augment`; 0 for a network without.
        groups: groups of every normalisation; default: 32, of four channels or more.
        patch: the network works on squares of patch x patch pixels, which become channels at the input and pixels again
            at the output: with 2, a quarter of the positions and of the work. 1: pixels.

    width 128, mults (1, 2, 2, 2), attention (1,), blocks 2 is the CIFAR network of DDPM: 35.8 million parameters.
    `published_unet` builds it as class-balancing diffusion does, initial weights included.
    """

    def __init__(
        self,
        channels: int,
        num_classes: int,
        width: int = 32,
        mults: tuple[int, ...] = (1, 2, 2),
        attention: tuple[int, ...] | None = None,
        blocks: int = 2,
        dropout: float = 0.0,
        augmentation: int = 0,
        groups: int | None = None,
        patch: int = 1,
    ) -> None:
        super().__init__()
        attention = (1,)[: len(mults) - 1] if attention is None else attention
        if not mults or blocks < 1:
            raise CourseError(
                f"A U-Net has one level and one block at least, not mults {tuple(mults)} and blocks {blocks}."
            )
        if strange := [level for level in attention if level not in range(len(mults))]:
            raise CourseError(
                f"attention names levels of the U-Net, 0 (full resolution) to {len(mults) - 1}, not pixels: there is no level "
                f"{strange[0]}."
            )
        if patch < 1:
            raise CourseError(f"patch is the side of a square of pixels, 1 or more, not {patch}.")
        self.config = dict(
            channels=channels,
            num_classes=num_classes,
            width=width,
            mults=list(mults),
            attention=list(attention),
            blocks=blocks,
            dropout=dropout,
            augmentation=augmentation,
            groups=groups,
            patch=patch,
        )
        self.no_label, self.levels, self.patch = num_classes, len(mults), patch
        condition = 4 * width
        self.condition = Condition(width, condition, num_classes, augmentation)
        self.stem = nn.Conv2d(channels * patch**2, width, 3, padding=1)

        def block(inputs: int, outputs: int, level: int) -> ResidualBlock:
            return ResidualBlock(inputs, outputs, condition, level in attention, dropout, groups)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        now, skips = width, [width]
        for level, mult in enumerate(mults):
            for _ in range(blocks):
                self.down.append(block(now, mult * width, level))
                now = mult * width
                skips.append(now)
            if level < self.levels - 1:
                self.down.append(nn.Conv2d(now, now, 3, stride=2, padding=1))
                skips.append(now)
        self.middle = nn.ModuleList(
            [ResidualBlock(now, now, condition, attends, dropout, groups) for attends in (True, False)]
        )
        for level, mult in reversed(list(enumerate(mults))):
            for _ in range(blocks + 1):
                self.up.append(block(now + skips.pop(), mult * width, level))
                now = mult * width
            if level:
                self.up.append(nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(now, now, 3, padding=1)))
        self.norm, self.out = GroupNorm(now, groups), nn.Conv2d(now, channels * patch**2, 3, padding=1)
        nn.init.normal_(self.out.weight, std=1e-5)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, augmentation: Tensor | None = None) -> Tensor:
        """Output [B, channels, H, W] for x_t [B, channels, H, W], steps t [B] and labels y [B] (C = no label).

        augmentation [B, 9]: how each image was augmented; None, as in sampling, is "not at all".
        """
        check_inputs(x, t, y, "[B, channels, H, W]", self.no_label)
        if x.shape[-1] % self.patch or x.shape[-2] % self.patch:
            raise CourseError(
                f"A U-Net with patch {self.patch} takes images that divide into squares of {self.patch} x {self.patch} pixels, "
                f"not {x.shape[-2]} x {x.shape[-1]}."
            )
        if self.patch > 1:
            x = F.pixel_unshuffle(x, self.patch)  # [B, channels patch^2, H / patch, W / patch]
        if x.shape[-1] % 2 ** (self.levels - 1) or x.shape[-2] % 2 ** (self.levels - 1):
            raise CourseError(
                f"A U-Net with {self.levels} levels halves the image {self.levels - 1} times: {x.shape[-2]} x {x.shape[-1]} "
                f"{'pixels' if self.patch == 1 else 'squares'} cannot be halved so often; use fewer entries in mults."
            )
        condition = self.condition(t, y, augmentation)
        x = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips = [x]  # [B, width, H, W]
        for layer in self.down:
            x = layer(x, condition) if isinstance(layer, ResidualBlock) else layer(x)
            skips.append(x)
        for layer in self.middle:  # x: [B, channels, H / 2^(levels - 1), W / 2^(levels - 1)]
            x = layer(x, condition)
        for layer in self.up:
            x = layer(torch.cat([x, skips.pop()], dim=1), condition) if isinstance(layer, ResidualBlock) else layer(x)
        # The last layer in float32: it is small, and few output channels make bfloat16 convolutions slow on CPUs.
        with torch.autocast(x.device.type, enabled=False):
            out = self.out(F.silu(self.norm(x.float())))
            return F.pixel_shuffle(out, self.patch) if self.patch > 1 else out


SIZES = {
    "full": dict(width=128, mults=(1, 2, 2, 2), attention=(1,), blocks=2),
    "mid": dict(width=64, mults=(1, 2, 2, 2), attention=(1,), blocks=2),
    "small": dict(width=32, mults=(1, 2, 2), attention=(1,), blocks=2),
}


def published_unet(
    num_classes: int, size: str = "full", *, channels: int = 3, dropout: float = 0.1, augmentation: bool = False
) -> UNet:
    """The U-Net of CBDM for images of 32 x 32 pixels ("small": any size divisible by 4); num_classes = 0: unconditional.

    Args:
        size: "full" (35.9 million parameters), "mid" (9.0) or "small" (1.7).
        augmentation: also take the 9 numbers of `edm_augment`.

    The initial weights are those of CBDM: Xavier-uniform and zero biases; almost zero (gain 1e-5) are the second
    convolution of every residual block, the last layer, and what attention adds.

    Two defects of the published program are mended. Attention was meant to start near zero like the other residual
    branches, but was initialised again, at gain 1. And narrow networks had 32 groups, too (UNet(groups=32)): with 32
    channels each group is one channel, and what step and label add to it is subtracted again.

    Raises CourseError for an unknown size.
    """
    options = SIZES[choose("U-Net size", size, SIZES)] | {"augmentation": 9 if augmentation else 0}
    model = UNet(channels, num_classes, **options, dropout=dropout)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            nn.init.xavier_uniform_(module.conv2.weight, gain=1e-5)
        elif isinstance(module, SelfAttention):
            # Query, key and value are three matrices [C, C] stored as one; each has the bound of its own shape.
            bound = math.sqrt(6 / (2 * module.qkv.in_channels))
            nn.init.uniform_(module.qkv.weight, -bound, bound)
            nn.init.xavier_uniform_(module.out.weight, gain=1e-5)
    nn.init.xavier_uniform_(model.out.weight, gain=1e-5)
    return model


def parameter_counts(model: UNet) -> tuple[int, int]:
    """(all, trained) parameters. The published program counts its frozen table of 1000 x width time embeddings among all.

    Here that table is computed where it is needed (`sinusoid`).
    """
    trained = sum(weight.numel() for weight in model.parameters())
    return trained + 1000 * model.config["width"], trained
