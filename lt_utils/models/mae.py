"""Masked autoencoders (He et al. 2022, arXiv 2111.06377): hide most patches of an image, and learn to fill them in.

No label is used. The encoder sees the few patches that are left; a small decoder, which is thrown away afterwards, guesses the
others. The loss is taken on the hidden patches alone.
"""

import torch
from torch import Tensor, nn

from lt_utils.errors import CourseError
from lt_utils.models.vit import PatchEncoder, TransformerBlock, pick, position_code, start_weights


def kept_patches(number: int, mask_ratio: float) -> int:
    """How many of `number` patches the encoder sees: floor(number (1 - mask_ratio)). CourseError if that is none or all."""
    kept = int(number * (1 - mask_ratio) + 1e-9)  # 1e-9: 10 (1 - 0.9) would be 0.99...
    if not 0 < kept < number:
        raise CourseError(
            f"A mask ratio of {mask_ratio:g} keeps {kept} of {number} patches: some must be seen, and some be hidden."
        )
    return kept


def random_order(count: int, number: int, device: torch.device | str = "cpu") -> Tensor:
    """A random order of the patches of each image, int64 [count, number]: the first ones are kept, the others hidden."""
    return torch.rand(count, number, device=device).argsort(dim=1)


def standardise(patches: Tensor) -> Tensor:
    """Each patch [..., M] less its mean, divided by its spread: (x - mean) / sqrt(var + 1e-6), var with M - 1.

    A patch of one colour becomes 0 throughout.
    """
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + 1e-6).sqrt()


class MaskedAutoencoder(nn.Module):
    """A patch encoder, and the decoder that pretraining needs.

    Args:
        decoder_width, decoder_depth, decoder_heads: 512, 8 and 16 in the original, whose decoder costs several times its encoder
            on small images.
        encoder: the arguments of `PatchEncoder`.

    `norm` closes the encoder here and stays behind with the decoder. Raises the CourseErrors of `PatchEncoder`.
    """

    def __init__(self, decoder_width: int = 64, decoder_depth: int = 1, decoder_heads: int = 4, **encoder) -> None:
        super().__init__()
        self.encoder = PatchEncoder(**encoder)
        self.config = dict(decoder_width=decoder_width, decoder_depth=decoder_depth, decoder_heads=decoder_heads)
        self.config |= self.encoder.config
        self.norm = nn.LayerNorm(self.encoder.width, eps=1e-6)
        self.enter = nn.Linear(self.encoder.width, decoder_width)
        self.hidden = nn.Parameter(0.02 * torch.randn(1, 1, decoder_width))  # stands in for every hidden patch
        self.positions = nn.Parameter(position_code(decoder_width, self.encoder.side), requires_grad=False)
        self.decoder = nn.Sequential(*(TransformerBlock(decoder_width, decoder_heads) for _ in range(decoder_depth)))
        self.decoder_norm = nn.LayerNorm(decoder_width, eps=1e-6)
        self.leave = nn.Linear(decoder_width, self.encoder.project.in_features)
        for part in (self.enter, self.decoder, self.leave):
            start_weights(part)

    def forward(self, patches: Tensor, order: Tensor, kept: int) -> Tensor:
        """What it takes all patches [B, N, M] to be, standardised, [B, N, M], having seen those at order[:, :kept]."""
        x = self.enter(self.norm(self.encoder(patches, order[:, :kept])))  # [B, 1 +] kept, decoder width
        first = x.shape[1] - kept  # 1 with a class token, else 0
        places = self.hidden.to(x.dtype).expand(len(x), order.shape[1] - kept, -1)
        back = order.argsort(dim=1)  # where in `order` each patch stands
        x = torch.cat([x[:, :first], pick(torch.cat([x[:, first:], places], dim=1), back) + self.positions], dim=1)
        return self.leave(self.decoder_norm(self.decoder(x)))[:, first:]

    def loss(self, images: Tensor, mask_ratio: float = 0.75, order: Tensor | None = None) -> Tensor:
        """Mean squared error on the hidden patches of images [B, C, H, W] in 0..1, each standardised.

        order: which patches are kept, as `random_order`; default: a random one. CourseError for a ratio that keeps none or all.
        """
        patches = self.encoder.patches(images)
        order = random_order(*patches.shape[:2], device=patches.device) if order is None else order
        kept = kept_patches(patches.shape[1], mask_ratio)
        hidden = order[:, kept:]
        guess = pick(self(patches, order, kept), hidden)
        return (guess - pick(standardise(patches), hidden)).square().mean()
