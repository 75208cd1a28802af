"""Augmentation of whole batches: no loop over images, the same code on CPU and GPU, uint8 in and uint8 out."""

import torch
import torch.nn.functional as F
from torch import Tensor


def unit(images: Tensor) -> Tensor:
    """uint8 images in 0..255 -> float32 in 0..1, in channels-last memory (twice as fast in convolutions on a CPU)."""
    return (images / 255).contiguous(memory_format=torch.channels_last)


def random_crop_flip(images: Tensor, pad: int = 4, flip: bool = True) -> Tensor:
    """Each image [B, C, H, W] padded with black by `pad`, cropped back at random, and mirrored with probability 1/2.

    Cropping and mirroring only choose which row and column each output pixel comes from, so one gather does both.
    """
    count, _, height, width = images.shape
    device = images.device
    top = torch.randint(0, 2 * pad + 1, (count, 1), device=device)
    left = torch.randint(0, 2 * pad + 1, (count, 1), device=device)
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(count, width)
    if flip:
        mirrored = torch.rand(count, 1, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + left
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)
    index = torch.arange(count, device=device)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(images: Tensor) -> Tensor:
    """Each image [B, C, H, W] mirrored left to right with probability 1/2."""
    mirrored = torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    return torch.where(mirrored, images.flip(3), images)


def cutout(images: Tensor, size: int = 16) -> Tensor:
    """One black square of `size` pixels per image, centred anywhere, cut off at the border (DeVries & Taylor 2017)."""
    count, _, height, width = images.shape
    device = images.device
    row = torch.randint(0, height, (count, 1), device=device)
    column = torch.randint(0, width, (count, 1), device=device)

    def covered(centre: Tensor, length: int) -> Tensor:
        position = torch.arange(length, device=device)
        return (position >= centre - size // 2) & (position < centre + size - size // 2)

    hole = covered(row, height)[:, :, None] & covered(column, width)[:, None, :]
    return images.masked_fill(hole[:, None], 0)
