"""Images per second of the 35.8-million U-Net of class-balancing diffusion, beside the same network of two libraries.

    python -m benchmarks.images ours|diffusers|lucidrains train|balanced|sample [--seconds 10] [--batch 16] [--precision auto]

"diffusers" is its UNet2DModel in the sizes of DDPM's CIFAR network: exactly as many parameters as ours. "lucidrains" is Unet of
denoising_diffusion_pytorch with the same widths, which has 28.5 million and no labels. All run the same loop, so that the
networks alone differ: noise, the network, mean squared error, backward, clipping, Adam; or one DDIM step without guidance.
"balanced" (ours only) puts the class-balancing loss into that loop, whose step shows the network each image under two labels.
"""

import argparse
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from benchmarks.measure import rate, report
from course.command import first_line
from lt_utils.data.longtail import class_counts
from lt_utils.diffusion.class_balancing import class_balancing_loss, label_prior
from lt_utils.diffusion.samplers import ddim, guided
from lt_utils.diffusion.schedules import linear_schedule
from lt_utils.errors import choose
from lt_utils.models.unet import published_unet
from lt_utils.training.devices import autocast, device

CLASSES, WIDTHS, DROPOUT, STEPS = 100, (128, 256, 256, 256), 0.1, 50


class Peer(nn.Module):
    """A peer's network, called as ours is: (x_t [B, 3, 32, 32], t [B], y [B]) -> noise [B, 3, 32, 32]."""

    no_label = CLASSES

    def __init__(self, network: nn.Module, call: Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.network, self.call = network, call

    def forward(self, x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return self.call(self.network, x, t, y)


def diffusers_unet() -> Peer:
    from diffusers import UNet2DModel

    down, attention = "DownBlock2D", "AttnDownBlock2D"
    network = UNet2DModel(
        sample_size=32,
        block_out_channels=WIDTHS,
        layers_per_block=2,
        down_block_types=(down, attention, down, down),
        up_block_types=("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=WIDTHS[1],  # one head, as ours
        num_class_embeds=CLASSES,
        dropout=DROPOUT,
        downsample_padding=1,
    )
    return Peer(network, lambda network, x, t, y: network(x, t, class_labels=y).sample)


def lucidrains_unet() -> Peer:
    from denoising_diffusion_pytorch import Unet

    network = Unet(WIDTHS[0], dim_mults=tuple(width // WIDTHS[0] for width in WIDTHS), dropout=DROPOUT)
    return Peer(network, lambda network, x, t, y: network(x, t))


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "ours": lambda: published_unet(CLASSES),
    "diffusers": diffusers_unet,
    "lucidrains": lucidrains_unet,
}


def training(model: nn.Module, batch: int, precision: str, balanced: bool) -> Iterator[int]:
    """Train on random images of a long tail; yields how many images it has seen after each step."""
    where, schedule = device(), linear_schedule()
    counts = class_counts(500, CLASSES, 100)
    prior = label_prior("train", counts).to(where)
    images, labels = torch.rand(2048, 3, 32, 32, device=where) * 2 - 1, torch.randint(CLASSES, (2048,), device=where)
    optimizer = torch.optim.Adam(model.parameters(), 2e-4)
    for number in range(1, 1_000_000):
        index = torch.randint(len(images), (batch,), device=where)
        with autocast(where, precision):
            # The peers have no "no label", so nothing is dropped here; without a prior this is the regular loss.
            terms = class_balancing_loss(
                model, schedule, images[index], labels[index], prior if balanced else None, label_dropout=0.0
            )
        optimizer.zero_grad()
        terms.total.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        yield number * batch


def sampling(model: nn.Module, batch: int, precision: str) -> Iterator[float]:
    """Single steps of DDIM; yields how many images that makes, at 50 steps an image."""
    where, schedule = device(), linear_schedule()
    model.eval().requires_grad_(False)
    labels = torch.randint(CLASSES, (batch,), device=where)
    noise = torch.randn(batch, 3, 32, 32, device=where)
    for number in range(1, 1_000_000):
        with autocast(where, precision):
            ddim(guided(model, schedule, labels, "eps"), schedule, noise, steps=1)
        yield number * batch / STEPS


def network(side: str) -> nn.Module:
    """The network of one side, on the device; ours in channels-last memory."""
    torch.manual_seed(0)
    return NETWORKS[side]().to(device(), memory_format=torch.channels_last if side == "ours" else None)


def loop(side: str, task: str, batch: int = 16, precision: str = "auto") -> Iterator[float]:
    """The endless work of one side, which counts images."""
    choose("side", side, NETWORKS)
    if choose("task", task, ("train", "balanced", "sample")) == "sample":
        return sampling(network(side), batch, precision)
    return training(network(side), batch, precision, task == "balanced")


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("side", choices=tuple(NETWORKS))
    parser.add_argument("task", choices=("train", "balanced", "sample"))
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--precision", choices=("auto", "bf16", "fp32"), default="auto")
    options = parser.parse_args()
    if options.task == "balanced" and options.side != "ours":
        parser.error("only ours has the class-balancing loss")
    work = loop(options.side, options.task, options.batch, options.precision)
    report({"rate": rate(work, options.seconds, warm_up=1)})


if __name__ == "__main__":
    main()
