"""How the course trains its networks: one recipe for encoders, one for image diffusion, one for the independent judge.

Each loads the finished network if its checkpoint is there and trains it otherwise, resuming where it was. The notebooks
build every part of these recipes step by step; here they are put together once, for those that only need the result.
"""

import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.augment import random_crop_flip, random_flip, unit
from lt_utils.datasets import ImageData
from lt_utils.denoisers import UNet
from lt_utils.diffusion import Schedule, diffusion_loss
from lt_utils.encoders import ResNet, channel_statistics
from lt_utils.errors import choose
from lt_utils.losses import logit_adjusted_loss, mixup, mixup_loss
from lt_utils.progress import track
from lt_utils.training import EMA, cosine, device, train, warmup_cosine

# What each method changes: the head, and the loss on a batch. Label shift is not here: it corrects a trained network.
METHODS = ("ce", "ce-mixup", "logit-adjusted", "wcdas")


def encoder_loss(method: str, data: ImageData, pad: int = 4) -> Callable[[nn.Module, Tensor], Tensor]:
    """loss(model, index) of an encoder method on device-resident data; CourseError lists the known methods.

    "ce": cross-entropy. "ce-mixup": the same on mixed images (LDMLR's "CE"). "logit-adjusted": the class prior inside
    the loss. "wcdas": cross-entropy on the logits of a WCDAS head.
    """
    choose("method", method, METHODS)
    counts = data.counts

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        images, labels = unit(random_crop_flip(data.train_images[index], pad)), data.train_labels[index]
        if method == "ce-mixup":
            mixed, partner, weight = mixup(images)
            return mixup_loss(model(mixed), labels, partner, weight)
        if method == "logit-adjusted":
            return logit_adjusted_loss(model(images), labels, counts)
        return F.cross_entropy(model(images), labels)

    return loss


def build_encoder(data: ImageData, method: str = "ce", depth: int = 8, width: int = 16, seed: int = 0) -> ResNet:
    """An untrained encoder for `data` on the accelerator (or CPU), its initial weights drawn with `seed`."""
    torch.manual_seed(seed)
    mean, std = channel_statistics(data.train_images)
    model = ResNet(data.classes, data.channels, depth, width, "wcdas" if method == "wcdas" else "linear", mean, std)
    return model.to(device(), memory_format=torch.channels_last)


def train_encoder(
    data: ImageData,
    method: str = "ce-mixup",
    *,
    epochs: int,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    depth: int = 8,
    width: int = 16,
    batch: int = 64,
    rate: float = 0.1,
    decay: float = 5e-4,
    schedule=cosine,
    label: str = "",
) -> ResNet:
    """Train an encoder by `method` for `epochs` with SGD (Nesterov momentum 0.9); the last epoch, in evaluation mode.

    LDMLR's recipe is depth 32, batch 64, rate 0.1, decay 5e-4, 200 epochs, schedule=multistep.
    """
    data = data.to(device())
    model = build_encoder(data, method, depth, width, seed)
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=0.9, weight_decay=decay, nesterov=True)
    n = len(data.train_labels)
    steps = train(
        model,
        encoder_loss(method, data, pad=data.size // 8),
        n=n,
        steps=epochs * math.ceil(n / batch),
        batch=batch,
        optimizer=optimizer,
        lr=schedule,
        seed=seed,
        checkpoint=checkpoint,
    )
    for _ in track(steps, label or f"{method}, seed {seed}"):
        pass
    return model.eval()


def train_judge(data: ImageData, *, epochs: int = 8, seed: int = 1000, checkpoint: str | Path | None = None) -> ResNet:
    """An independent classifier, trained on the balanced training set: it judges which class a generated image shows.

    It never sees a long-tailed set, and its seed is none of the seeds that the notebooks compare.
    """
    return train_encoder(
        data, "ce", epochs=epochs, seed=seed, checkpoint=checkpoint, depth=8, batch=128, rate=0.2, label="judge"
    )


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
    )
    for _ in track(loop, label or f"diffusion, seed {seed}"):
        pass
    return ema.model
