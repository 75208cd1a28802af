"""The non-leaking augmentation of EDM (Karras et al. 2022, section F.2), as class-balancing diffusion uses it ("ADA").

Every image is flipped, scaled, turned, stretched and shifted at random, in one bicubic step, and nine numbers tell the
network what was done. It learns to draw augmented images with these numbers, and plain ones when all nine are zero: what the
augmentation shows does not leak into the samples.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

PROBABILITY = 0.12  # of each kind but the mirror image, fixed: nothing adapts here, despite the name "ADA"


def draw(count: int, probability: float = PROBABILITY, device: torch.device | str = "cpu") -> Tensor:
    """What is done to each of `count` images, [count, 8]: a0 .. a7, all 0 for "nothing".

    a0: mirrored (0 or 1, with probability 1/2). The rest is 0 unless its own coin, of `probability`, says so.
    a1: upside down (0 or 1). a2: scale 2^(0.2 a2), normal. a3: rotation in -pi..pi. a4, a5: stretched by 2^(0.2 a5) along
    the direction a4 in -pi..pi. a6, a7: shifted by an eighth of the width, of the height, times a normal number.
    """

    def uniform() -> Tensor:
        return torch.rand(count, device=device)

    def normal() -> Tensor:
        return torch.randn(count, device=device)

    def coin(chance: float) -> Tensor:
        return (uniform() < chance).float()

    def angle() -> Tensor:
        return (2 * uniform() - 1) * math.pi

    mirror, turned_over = coin(0.5), coin(probability) * coin(0.5)
    scale, rotation = coin(probability) * normal(), coin(probability) * angle()
    stretched, shifted = coin(probability), coin(probability)
    parts = [mirror, turned_over, scale, rotation, stretched * angle(), stretched * normal()]
    return torch.stack([*parts, shifted * normal(), shifted * normal()], dim=1)


def description(a: Tensor) -> Tensor:
    """The nine numbers [B, 9] by which the network knows a [B, 8]: angles as cosine and sine, zero for "nothing"."""
    mirror, turned_over, scale, rotation, direction, stretch, right, down = a.unbind(1)
    turn = [rotation.cos() - 1, rotation.sin()]
    pull = [stretch * direction.cos(), stretch * direction.sin()]
    return torch.stack([mirror, turned_over, scale, *turn, *pull, right, down], dim=1)


def _matrix(rows: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)


def placement(a: Tensor, width: int, height: int) -> Tensor:
    """The affine maps [B, 3, 3] that carry a pixel (x, y, 1), measured from the image's centre, to its new place."""
    mirror, turned_over, scale, rotation, direction, stretch, right, down = a.unbind(1)
    one, zero = torch.ones_like(mirror), torch.zeros_like(mirror)

    def sized(x: Tensor, y: Tensor) -> Tensor:
        return _matrix([[x, zero, zero], [zero, y, zero], [zero, zero, one]])

    def turned(by: Tensor) -> Tensor:
        return _matrix([[by.cos(), -by.sin(), zero], [by.sin(), by.cos(), zero], [zero, zero, one]])

    def moved(x: Tensor, y: Tensor) -> Tensor:
        return _matrix([[one, zero, x], [zero, one, y], [zero, zero, one]])

    size, pull = 2 ** (0.2 * scale), 2 ** (0.2 * stretch)
    flips = sized(1 - 2 * mirror, one) @ sized(one, 1 - 2 * turned_over)
    stretched = turned(direction) @ sized(pull, 1 / pull) @ turned(-direction)
    return flips @ sized(size, size) @ turned(-rotation) @ stretched @ moved(width / 8 * right, height / 8 * down)


def augment(images: Tensor, a: Tensor) -> Tensor:
    """Float images [B, C, H, W] with a [B, 8] done to them: one bicubic step, mirrored at the borders, not clipped.

    So values may leave the range of the images a little, as in the original.
    """
    height, width = images.shape[2:]
    # Apple's MPS has neither float64 nor a bicubic grid_sample, so the CPU does it there.
    where = torch.device("cpu") if images.device.type == "mps" else images.device
    # Each new pixel asks where it comes from: the inverse map. In float64, so that a mirror image stays exact; inv_ex
    # because inv would make a GPU wait to say whether the matrix has an inverse, which this one always has.
    source = torch.linalg.inv_ex(placement(a.to(where).double(), width, height)).inverse
    # grid_sample counts from -1 to 1, here between the centres of the outermost pixels; reflection is about them too.
    half = torch.tensor([(width - 1) / 2, (height - 1) / 2, 1.0], dtype=torch.float64)
    half = half.to(where, non_blocking=where.type == "cuda")
    theta = (source * half / half[:, None])[:, :2]
    grid = F.affine_grid(theta, list(images.shape), align_corners=True).to(images.dtype)
    return F.grid_sample(images.to(where), grid, "bicubic", "reflection", align_corners=True).to(images.device)


def edm_augment(images: Tensor, probability: float = PROBABILITY) -> tuple[Tensor, Tensor]:
    """Augmented float images [B, C, H, W] and the nine numbers [B, 9] that describe what was done to each.

    Apply it instead of the random mirror image, which it contains. Sampling gives zeros (or None): nothing done.
    """
    a = draw(len(images), probability, images.device)
    return augment(images, a), description(a)
