"""How the course trains its networks: encoders and the independent judge (encoder_recipes.py), and image diffusion.

Each loads the finished network if its checkpoint is there and trains it otherwise, resuming where it was. The notebooks
build every part of these recipes step by step; here they are put together once, for those that only need the result.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from lt_utils.augment import random_flip
from lt_utils.datasets import ImageData
from lt_utils.denoisers import UNet
from lt_utils.diffusion import Schedule, diffusion_loss
from lt_utils.encoder_recipes import (
    HEAD_RECIPE,
    METHODS,
    RECIPES,
    build_encoder,
    encoder_loss,
    finetune_head,
    train_encoder,
    train_judge,
)
from lt_utils.progress import track
from lt_utils.training import EMA, device, train, warmup_cosine

__all__ = [
    "HEAD_RECIPE",
    "METHODS",
    "RECIPES",
    "build_encoder",
    "encoder_loss",
    "finetune_head",
    "to_bytes",
    "to_signed",
    "train_encoder",
    "train_image_diffusion",
    "train_judge",
]


def to_signed(images: Tensor) -> Tensor:
    """uint8 images in 0..255 -> float32 in -1..1, the range in which image diffusion works."""
    return images.float().div(127.5).sub(1)


def to_bytes(images: Tensor) -> Tensor:
    """Float images in -1..1 -> uint8 in 0..255, rounded and clipped; the inverse of `to_signed`."""
    return images.add(1).mul(127.5).round().clamp(0, 255).byte()


def train_image_diffusion(
    data: ImageData,
    schedule: Schedule,
    *,
    steps: int = 350,
    objective: str = "v",
    width: int = 32,
    mults: tuple[int, ...] = (1, 2, 2),
    blocks: int = 1,
    attention: tuple[int, ...] = (),
    batch: int = 64,
    rate: float = 2e-3,
    decay: float = 0.995,
    label_dropout: float = 0.1,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    save_every: float = 20.0,
    label: str = "",
) -> UNet:
    """Train a class-conditional U-Net on the training images of `data`; its moving average, in evaluation mode.

    The defaults are the quick profile: about a minute on two CPU cores. Batches follow the class prior of `data`.
    """
    data = data.to(device())
    torch.manual_seed(seed)
    model = UNet(data.channels, data.classes, width, mults, attention, blocks)
    model.to(device(), memory_format=torch.channels_last)
    ema = EMA(model, decay)

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        images = to_signed(random_flip(data.train_images[index]))
        return diffusion_loss(model, schedule, images, data.train_labels[index], objective, label_dropout)

    loop = train(
        model,
        loss,
        n=len(data.train_labels),
        steps=steps,
        batch=batch,
        optimizer=torch.optim.Adam(model.parameters(), rate),
        lr=warmup_cosine,
        seed=seed,
        ema=ema,
        clip=1.0,
        checkpoint=checkpoint,
        save_every=save_every,
        recipe=f"{data.key}, {objective}, {schedule}, dropout {label_dropout:g}",
    )
    for _ in track(loop, label or f"diffusion, seed {seed}"):
        pass
    return ema.model
