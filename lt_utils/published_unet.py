"""The U-Net of class-balancing diffusion (CBDM, Qin et al. 2023) exactly: sizes, groups, dropout and initial weights.

It is the CIFAR network of DDPM (Ho et al. 2020) with a label table, and `lt_utils.denoisers.UNet` is its one definition;
here stand the settings that make it the published one.
"""

import math

from torch import nn

from lt_utils.denoisers import ResidualBlock, SelfAttention, UNet
from lt_utils.errors import choose

SIZES = {
    "full": dict(width=128, mults=(1, 2, 2, 2), attention=(1,), blocks=2),
    "mid": dict(width=64, mults=(1, 2, 2, 2), attention=(1,), blocks=2),
    "small": dict(width=32, mults=(1, 2, 2), attention=(1,), blocks=2),
}
AUGMENTATION = 9  # numbers that describe an EDM augmentation (lt_utils.edm_augment)


def published_unet(
    classes: int,
    size: str = "full",
    *,
    channels: int = 3,
    dropout: float = 0.1,
    augmentation: bool = False,
    attention_defect: bool = False,
    groups_defect: bool = False,
) -> UNet:
    """The U-Net of CBDM for images of 32 x 32 pixels ("small": any size divisible by 4); classes = 0: unconditional.

    Args:
        size: "full" (35.9 million parameters), "mid" (9.0) or "small" (1.7).
        augmentation: also take the 9 numbers of `edm_augment`.
        attention_defect: True starts the attention's output as the original program does. It was meant to start near
            zero, like the other residual branches (gain 1e-5), but the block that holds it initialises it again (gain 1).
        groups_defect: True normalises in 32 groups at every width, as the original does. That is the same for "full",
            but with 32 channels each group is one channel, and what step and label add to it is subtracted again.

    Raises CourseError for an unknown size.
    """
    options = SIZES[choose("U-Net size", size, SIZES)]
    model = UNet(
        channels,
        classes,
        **options,
        dropout=dropout,
        augmentation=AUGMENTATION if augmentation else 0,
        groups=32 if groups_defect else None,
    )
    return xavier_start(model, 1.0 if attention_defect else 1e-5)


def xavier_start(model: UNet, attention_gain: float = 1e-5) -> UNet:
    """Draw the initial weights of CBDM into `model`: Xavier-uniform and zero biases, the ends of branches almost zero.

    Almost zero (gain 1e-5) are the second convolution of every residual block, the last layer, and what attention adds.
    """
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
            nn.init.xavier_uniform_(module.out.weight, gain=attention_gain)
    nn.init.xavier_uniform_(model.out.weight, gain=1e-5)
    return model


def parameter_counts(model: UNet, steps: int = 1000) -> tuple[int, int]:
    """(all, trained) parameters. The original counts its frozen table of `steps` x width time embeddings among all.

    We compute that table where it is needed instead of storing it (`denoisers.sinusoid`).
    """
    trained = sum(weight.numel() for weight in model.parameters())
    return trained + steps * model.config["width"], trained
