"""Training images per second of a vision transformer: this course's, and timm's of the same size.

    python -m benchmarks.vit ours|timm [nano|tiny] [--seconds 10]

Both train with AdamW on batches of 64 of the bundled garments, mirrored at random, with the loop of this course, so the networks
alone differ: patches of 7 pixels, the mean over the patches.
"""

import argparse
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from benchmarks.measure import rate, report
from course.command import first_line
from lt_utils.data.augmentation import random_flip, unit
from lt_utils.data.datasets import load
from lt_utils.errors import choose
from lt_utils.models.vit import VIT_SIZES, ViT
from lt_utils.training.devices import device
from lt_utils.training.loop import train

PATCH, BATCH = 7, 64


def network(side: str, size: str) -> nn.Module:
    """The network of one side for the bundled images."""
    sizes = VIT_SIZES[choose("size", size, VIT_SIZES)]
    if choose("side", side, ("ours", "timm")) == "ours":
        return ViT(10, channels=1, size=28, patch=PATCH, **sizes, mean=(0.0,), std=(1.0,))
    same = dict(embed_dim=sizes["width"], depth=sizes["depth"], num_heads=sizes["heads"], global_pool="avg")
    return VisionTransformer(img_size=28, patch_size=PATCH, in_chans=1, num_classes=10, class_token=False, **same)


def loop(side: str, size: str = "nano") -> Iterator[int]:
    """The endless training of one side, which counts images."""
    torch.manual_seed(0)
    model, data = network(side, size).to(device()), load().to(device())

    def loss(model: nn.Module, index: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(model(unit(random_flip(data.train_images[index]))), data.train_labels[index])

    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    steps = train(model, loss, n=len(data.train_labels), steps=1_000_000, batch_size=BATCH, optimizer=optimizer)
    return (step.images for step in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("side", choices=("ours", "timm"))
    parser.add_argument("size", choices=tuple(VIT_SIZES), nargs="?", default="nano")
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    report({"rate": rate(loop(options.side, options.size), options.seconds, warm_up=5)})


if __name__ == "__main__":
    main()
