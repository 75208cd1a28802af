"""Denoisers for feature vectors: a residual MLP, which the course uses, and LDMLR's 1-D U-Net.

The MLP is far faster, because the numbers of a feature have no order that a sequence model could use.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.errors import CourseError
from lt_utils.models.unet import Condition, check_inputs


class ModulatedBlock(nn.Module):
    """x + gate * MLP(LayerNorm(x) * (1 + scale) + shift); scale, shift and gate come from the condition (Peebles & Xie
    2023)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = nn.Linear(width, 3 * width)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift, gate = self.modulation(condition).chunk(3, dim=1)
        return x + gate * self.mlp(self.norm(x) * (1 + scale) + shift)


class ResidualMLP(nn.Module):
    """Denoiser for feature vectors: a stack of residual blocks, each modulated by step and label.

    Args: dim: length D of a feature. num_classes: number of classes C. width: hidden width, even. blocks: residual blocks.

    Raises CourseError for an odd width.
    """

    def __init__(self, dim: int, num_classes: int, width: int = 256, blocks: int = 4) -> None:
        super().__init__()
        self.config = dict(dim=dim, num_classes=num_classes, width=width, blocks=blocks)
        self.no_label = num_classes
        self.condition = Condition(width, width, num_classes)
        self.stem = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(ModulatedBlock(width) for _ in range(blocks))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, dim)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Output [B, D] for x_t [B, D], steps t [B] and labels y [B] (C = no label)."""
        check_inputs(x, t, y, "[B, D]", self.no_label)
        condition = F.silu(self.condition(t, y))
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, condition)
        return self.out(self.norm(x))


class Norm(nn.Module):
    """Each position of [B, C, L] scaled to root mean square 1 over its channels, times a learned gain."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.normalize(x, dim=1) * self.gain * x.shape[1] ** 0.5


class Attention(nn.Module):
    """Attention between the positions of [B, C, L], 4 heads of 32, added to its input.

    linear: queries and keys each have a softmax of their own (over the head's channels, over the positions), so that no
    L x L matrix is formed (Shen et al. 2021).
    """

    heads, size = 4, 32

    def __init__(self, channels: int, linear: bool) -> None:
        super().__init__()
        hidden = self.heads * self.size
        self.linear, self.norm = linear, Norm(channels)
        self.qkv, self.out = nn.Conv1d(channels, 3 * hidden, 1, bias=False), nn.Conv1d(hidden, channels, 1)
        self.out_norm = Norm(channels) if linear else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        # query, key, value: [B, heads, size, L]
        query, key, value = self.qkv(self.norm(x)).unflatten(1, (3, self.heads, self.size)).unbind(1)
        if self.linear:
            context = value @ key.softmax(-1).mT
            mixed = context @ query.softmax(-2) * self.size**-0.5
        else:
            mixed = F.scaled_dot_product_attention(query.mT, key.mT, value.mT).mT
        return x + self.out_norm(self.out(mixed.flatten(1, 2)))


class ResidualBlock(nn.Module):
    """Twice: convolution, group normalisation, SiLU; the condition scales and shifts between them; plus a shortcut."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv1d(inputs, outputs, 1), nn.GroupNorm(8, outputs)
        self.conv2, self.norm2 = nn.Conv1d(outputs, outputs, 1), nn.GroupNorm(8, outputs)
        self.condition = nn.Linear(condition, 2 * outputs)
        self.shortcut = nn.Conv1d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.condition(F.silu(condition))[:, :, None].chunk(2, dim=1)
        out = F.silu(self.norm1(self.conv1(x)) * (1 + scale) + shift)
        return F.silu(self.norm2(self.conv2(out))) + self.shortcut(x)


class FeatureUNet(nn.Module):
    """The published denoiser: a 1-D U-Net that reads a feature of D numbers as a sequence of D positions, one channel.

    All its convolutions have kernel size 1, so only attention and the halving of the sequence mix the numbers of a
    feature; halving drops every second one. With D = 64 and 10 classes it has 7,781,761 parameters.

    Nothing in it tells the positions apart but those halvings: with four levels, moving a feature on by 8 moves the output
    by 8. So from pure noise it must expect the same of each of the 8 blocks of 8 numbers, whatever the class, and what it
    draws has the blocks in random order. `positions` adds what is missing: a learned vector for each position.

    Args: dim: length D of a feature. num_classes: number of classes C. width: channels at full length, divisible by 8.
    mults: channels of each level, as multiples of width; every level but the last halves the sequence.
    positions: add a learned vector to each position after the stem.
    Raises CourseError if D cannot be halved so often, or if width is not divisible by 8.
    """

    def __init__(
        self,
        dim: int,
        num_classes: int,
        width: int = 64,
        mults: tuple[int, ...] = (1, 2, 4, 8),
        positions: bool = False,
    ) -> None:
        super().__init__()
        if dim % 2 ** (len(mults) - 1) or width % 8:
            raise CourseError(
                f"The 1-D U-Net halves a feature {len(mults) - 1} times and norms 8 groups of channels: "
                f"dim={dim} and width={width} do not allow it; use an encoder with more features, or width 64."
            )
        self.config = dict(dim=dim, num_classes=num_classes, width=width, mults=list(mults), positions=positions)
        self.no_label, condition = num_classes, 4 * width
        self.condition = Condition(width, condition, num_classes)
        self.condition.mlp[1] = nn.GELU()
        self.stem = nn.Conv1d(1, width, 1)
        self.positions = nn.Parameter(torch.randn(width, dim)) if positions else None
        channels = [width, *(mult * width for mult in mults)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()

        def level(inputs: int, outputs: int, resize: nn.Module) -> nn.ModuleList:
            first, second = (ResidualBlock(inputs, outputs, condition) for _ in range(2))
            return nn.ModuleList([first, second, Attention(outputs, linear=True), resize])

        for number, (outer, inner) in enumerate(zip(channels[:-1], channels[1:], strict=True)):
            first, last = number == 0, number == len(mults) - 1
            self.down.append(level(outer, outer, nn.Conv1d(outer, inner, 1, stride=1 if last else 2)))
            double = nn.Identity() if first else nn.Upsample(scale_factor=2)
            self.up.insert(0, level(outer + inner, inner, nn.Sequential(double, nn.Conv1d(inner, outer, 1))))
        self.middle = nn.ModuleList(
            [ResidualBlock(inner, inner, condition), Attention(inner, False), ResidualBlock(inner, inner, condition)]
        )
        self.last, self.out = ResidualBlock(2 * width, width, condition), nn.Conv1d(width, 1, 1)

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        """Output [B, D] for x_t [B, D], steps t [B] and labels y [B] (C = no label, which training never shows)."""
        check_inputs(x, t, y, "[B, D]", self.no_label)
        condition = self.condition(t, y)
        x = stem = self.stem(x[:, None]) + (0 if self.positions is None else self.positions)
        skips = []
        for first, second, attention, resize in self.down:
            x = first(x, condition)
            skips.append(x)
            x = attention(second(x, condition))
            skips.append(x)
            x = resize(x)
        first, attention, second = self.middle
        x = second(attention(first(x, condition)), condition)
        for first, second, attention, resize in self.up:
            x = first(torch.cat([x, skips.pop()], dim=1), condition)
            x = attention(second(torch.cat([x, skips.pop()], dim=1), condition))
            x = resize(x)
        return self.out(self.last(torch.cat([x, stem], dim=1), condition))[:, 0]
