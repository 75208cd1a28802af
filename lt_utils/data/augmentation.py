"""Augmentation of whole batches: no loop over images, the same code on CPU and GPU, uint8 in and uint8 out."""

import math
from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from lt_utils.data.autoaugment import auto_augment


def unit(images: Tensor) -> Tensor:
    """uint8 images in 0..255 -> float32 in 0..1, in channels-last memory (twice as fast in convolutions on a CPU)."""
    return (images / 255).contiguous(memory_format=torch.channels_last)


def to_signed(images: Tensor) -> Tensor:
    """uint8 images in 0..255 -> float32 in -1..1, the range in which image diffusion works."""
    return images.float().div(127.5).sub(1)


def to_bytes(images: Tensor) -> Tensor:
    """Float images in -1..1 -> uint8 in 0..255, rounded and clipped; the inverse of `to_signed`."""
    return images.add(1).mul(127.5).round().clamp(0, 255).byte()


def random_crop_flip(images: Tensor, pad: int = 4) -> Tensor:
    """Each image [B, C, H, W] padded with black by `pad`, cropped back at random, and mirrored with probability 1/2.

    Cropping and mirroring only choose which row and column each output pixel comes from, so one gather does both.
    """
    count, _, height, width = images.shape
    device = images.device
    top = torch.randint(0, 2 * pad + 1, (count, 1), device=device)
    left = torch.randint(0, 2 * pad + 1, (count, 1), device=device)
    rows = top + torch.arange(height, device=device)  # [B, H]
    columns = torch.arange(width, device=device).expand(count, width)  # [B, W]
    mirrored = torch.rand(count, 1, device=device) < 0.5
    columns = torch.where(mirrored, width - 1 - columns, columns) + left
    padded = F.pad(images, (pad, pad, pad, pad)).permute(0, 2, 3, 1)  # [B, H + 2 pad, W + 2 pad, C]
    index = torch.arange(count, device=device)
    return padded[index[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_flip(images: Tensor) -> Tensor:
    """Each image [B, C, H, W] mirrored left to right with probability 1/2."""
    return torch.where(_coin(images, 0.5), images.flip(3), images)


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


def _coin(images: Tensor, chance: float) -> Tensor:
    """True with probability `chance`, for each image by itself, [B, 1, 1, 1]."""
    return torch.rand(len(images), 1, 1, 1, device=images.device) < chance


def _between(images: Tensor, low: float, high: float) -> Tensor:
    """One uniform number for each image, [B, 1, 1, 1]."""
    return low + (high - low) * torch.rand(len(images), 1, 1, 1, device=images.device)


def random_affine(images: Tensor, degrees: float = 20.0, scale: tuple[float, float] = (0.8, 1.2)) -> Tensor:
    """Each image [B, C, H, W] turned by up to `degrees` and scaled about its centre; float32 in 0..255, black outside.

    One bilinear grid_sample for the whole batch.
    """
    height, width = images.shape[2:]
    angle = _between(images, -degrees, degrees).deg2rad().flatten()
    size = _between(images, *scale).flatten()
    cosine, sine = angle.cos() / size, angle.sin() / size
    # grid_sample measures both axes from -1 to 1; the ratios keep a rotation a rotation where images are not square.
    zero = torch.zeros_like(sine)
    rows = [cosine, -sine * (height / width), zero, sine * (width / height), cosine, zero]
    grid = F.affine_grid(torch.stack(rows, 1).view(-1, 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, align_corners=False)


def _luma(images: Tensor) -> Tensor:
    """Brightness [B, 1, H, W] of each pixel; of RGB images by the weights of ITU-R BT.601."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    return (images * images.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)


def random_colour(images: Tensor, low: float = 0.6, high: float = 1.4) -> Tensor:
    """Brightness, then contrast, then (RGB only) saturation of each image times its own factors in low..high.

    Float images [B, C, H, W] in 0..255 come and go; what leaves the range is clipped after each of the three.
    """
    images = (images * _between(images, low, high)).clamp(0, 255)
    mean = _luma(images).mean((2, 3), keepdim=True)
    images = torch.lerp(mean.expand_as(images), images, _between(images, low, high)).clamp(0, 255)
    if images.shape[1] == 3:
        grey = _luma(images).expand_as(images)
        images = torch.lerp(grey, images, _between(images, low, high)).clamp(0, 255)
    return images


def strong_view(images: Tensor, pad: int = 4) -> Tensor:
    """A strong view of each uint8 image [B, C, H, W], uint8: what brings training features near to test features.

    Crop and flip as in `random_crop_flip`; then, each for a random half of the images: rotation by up to 20 degrees with
    scale 0.8 to 1.2; brightness, contrast and saturation times 0.6 to 1.4; a black square of half the height (16 of 32).
    """
    images = random_crop_flip(images, pad)
    view = torch.where(_coin(images, 0.5), random_affine(images), images)
    view = torch.where(_coin(images, 0.5), random_colour(view), view).round().byte()
    return torch.where(_coin(images, 0.5), cutout(view, images.shape[2] // 2), view)


def random_resized_crop(images: Tensor, smallest: float = 0.2) -> Tensor:
    """A random part of each image [B, C, H, W], stretched to the whole again; float32 in 0..255.

    The part has `smallest` to all of the image's area and is 3/4 to 4/3 times as wide as high. One bilinear grid_sample.
    """
    area = _between(images, smallest, 1.0).flatten()
    stretch = _between(images, math.log(3 / 4), math.log(4 / 3)).flatten().exp().sqrt()
    width, height = ((area.sqrt() * side).clamp(max=1) for side in (stretch, 1 / stretch))
    # The image reaches from -1 to 1, so a part of width w has its centre within 1 - w of the middle.
    across, down = ((1 - side) * _between(images, -1.0, 1.0).flatten() for side in (width, height))
    zero = torch.zeros_like(area)
    rows = torch.stack([width, zero, across, zero, height, down], 1).view(-1, 2, 3)
    grid = F.affine_grid(rows, list(images.shape), align_corners=False)
    return F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False)


def contrast_view(images: Tensor) -> Tensor:
    """The view of MoCo v2 (Chen et al. 2020, arXiv 2003.04297) of each uint8 image [B, C, H, W], uint8.

    A random part of at least a fifth of the area, mirrored or not; brightness, contrast and saturation times 0.6 to 1.4 for four
    images of five; RGB images are grey in one case of five. Without its blur and its change of hue: small images bear no blur.
    """
    view = random_flip(random_resized_crop(images))
    view = torch.where(_coin(view, 0.8), random_colour(view), view)
    if images.shape[1] == 3:
        view = torch.where(_coin(view, 0.2), _luma(view).expand_as(view), view)
    return view.round().byte()


def two_crops(images: Tensor) -> tuple[Tensor, Tensor]:
    """Two independent `contrast_view`s of each uint8 image [B, C, H, W]: what a contrastive loss calls the same."""
    return contrast_view(images), contrast_view(images)


def half_size(images: Tensor) -> Tensor:
    """Each uint8 image [N, C, H, W] at half the height and width, uint8: the mean of each 2 x 2 pixels, rounded."""
    return F.avg_pool2d(images.float(), 2).round().byte()


def auto_view(images: Tensor, pad: int = 4) -> Tensor:
    """Crop and flip, AutoAugment, then a black square of half the height (16 of 32): how WCDAS trains; uint8."""
    return cutout(auto_augment(random_crop_flip(images, pad)), images.shape[2] // 2)


@lru_cache
def _two_operations(fill: int) -> Callable[[Tensor], Tensor]:
    from torchvision.transforms import v2  # here: it takes as long to load as torch itself

    one = v2.RandomApply([v2.RandAugment(num_ops=1, magnitude=27, num_magnitude_bins=31, fill=fill)], p=0.5)
    return v2.Compose([one, one])


def rand_augment(images: Tensor, together: int = 8, fill: int = 128) -> Tensor:
    """RandAugment (Cubuk et al. 2020, arXiv 1909.13719) of uint8 images [B, C, H, W], C = 1 or 3, as strong as LiVT's; uint8.

    Twice, each time with probability 1/2: one of torchvision's 14 operations at nine tenths of its range; `fill` comes in from
    outside. `together` images that follow each other share their draws, since it is the calls that cost: with 8 a batch of 64
    small images takes a fifth or less of what single draws take (2.1 instead of 11.6 ms of a CPU core at 32 pixels). What
    happens to one image has the same probabilities for any `together`. (The published program varies the strength a little, and
    has Invert and SolarizeAdd in the place of Identity.)
    """
    return torch.cat([_two_operations(fill)(part) for part in images.split(together)])


def random_erasing(images: Tensor, probability: float = 0.25) -> Tensor:
    """A rectangle of noise in a share `probability` of uint8 images [B, C, H, W] (Zhong et al. 2020, arXiv 1708.04896); uint8.

    Each has its own: 2 to 33 % of the area, 0.3 to 3.3 times as high as wide, as far as it fits, anywhere inside. Each of its
    numbers is drawn from 0..255. (torchvision has one rectangle for a whole batch.)
    """
    count, _, height, width = images.shape
    side = (_between(images, 0.02, 0.33) * height * width).sqrt().flatten()
    stretch = _between(images, math.log(0.3), math.log(3.3)).exp().sqrt().flatten()

    def covered(side: Tensor, length: int) -> Tensor:  # [B, length]
        side = side.round().clamp(1, length)
        first = (torch.rand_like(side) * (length - side + 1)).floor()
        position = torch.arange(length, device=images.device)
        return (position >= first[:, None]) & (position < (first + side)[:, None])

    hole = covered(side * stretch, height)[:, :, None] & covered(side / stretch, width)[:, None, :]
    hole &= torch.rand(count, 1, 1, device=images.device) < probability
    return torch.where(hole[:, None], torch.randint_like(images, 0, 256), images)


def rand_view(images: Tensor, pad: int = 4) -> Tensor:
    """Crop and flip, then RandAugment, of each uint8 image [B, C, H, W]; uint8."""
    return rand_augment(random_crop_flip(images, pad))


# What an encoder may be trained on: view(images [B, C, H, W] uint8, pad) -> uint8 of the same shape.
AUGMENTATIONS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "weak": random_crop_flip,
    "autoaugment": auto_view,
    "strong": strong_view,
    "randaugment": rand_view,
}
