"""The course's own recipe for diffusion on images."""

from pathlib import Path

import torch
from torch import Tensor, nn

from lt_utils.data.augmentation import random_flip, to_signed
from lt_utils.data.datasets import ImageData
from lt_utils.diffusion.losses import diffusion_loss
from lt_utils.diffusion.schedules import Schedule
from lt_utils.models.unet import UNet
from lt_utils.training.devices import device
from lt_utils.training.ema import EMA
from lt_utils.training.launch import on_ranks
from lt_utils.training.loop import train_to_end
from lt_utils.training.lr_schedules import warmup_cosine


@on_ranks
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
    patch: int = 1,
    batch_size: int = 64,
    lr: float = 2e-3,
    ema_decay: float = 0.995,
    label_dropout: float = 0.1,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    save_every: float = 20.0,
    title: str = "",
) -> UNet:
    """Train a class-conditional U-Net on the training images of `data`; its moving average, in evaluation mode.

    The defaults are the quick profile: about a minute on two CPU cores. Batches follow the class prior of `data`.
    """
    data = data.to(device())
    torch.manual_seed(seed)
    model = UNet(data.channels, data.num_classes, width, mults, attention, blocks, patch=patch)
    model.to(device(), memory_format=torch.channels_last)

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        images = to_signed(random_flip(data.train_images[index]))
        return diffusion_loss(model, schedule, images, data.train_labels[index], objective, label_dropout)

    return train_to_end(
        model,
        loss,
        title=title or f"diffusion, seed {seed}",
        n=len(data.train_labels),
        steps=steps,
        batch_size=batch_size,
        optimizer=torch.optim.Adam(model.parameters(), lr),
        lr_schedule=warmup_cosine,
        seed=seed,
        ema=EMA(model, ema_decay),
        grad_clip=1.0,
        checkpoint=checkpoint,
        save_every=save_every,
        recipe=f"{data.key}, {objective}, {schedule}, dropout {label_dropout:g}",
    )
