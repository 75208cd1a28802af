"""Training images per second of two processes that share each batch (lt_utils/training/ranks.py), and of one.

    python -m benchmarks.ranks encoder|u-net|vit [1|2] [--seconds 10]

The encoder is a ResNet-32 on CIFAR-sized images in batches of 256, with batch normalisation over the whole batch; the U-Net is
the course's own on the bundled images, batch 64; the transformer is "nano", batch 256. On CPUs each process gets an equal part
of the threads that OMP_NUM_THREADS names.
"""

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.encoder import ENDLESS, cifar_sized, ours
from benchmarks.measure import now, report
from benchmarks.vit import network
from course.command import first_line
from lt_utils.data.augmentation import random_flip, to_signed, unit
from lt_utils.data.datasets import load
from lt_utils.diffusion.losses import diffusion_loss
from lt_utils.diffusion.schedules import cosine_schedule
from lt_utils.errors import choose
from lt_utils.models.unet import UNet
from lt_utils.training import ranks
from lt_utils.training.devices import device
from lt_utils.training.launch import run_on_ranks
from lt_utils.training.loop import train

TASKS = ("encoder", "u-net", "vit")
WARM_UP = 3  # steps


def loop(task: str) -> Iterator[int]:
    """The endless training of a task, which counts images."""
    if choose("task", task, TASKS) == "encoder":
        return (seen for seen, _ in ours(cifar_sized(load()), ENDLESS, 256))
    torch.manual_seed(0)
    data, schedule = load().to(device()), cosine_schedule()

    def denoising(model: nn.Module, index: Tensor) -> Tensor:
        return diffusion_loss(
            model, schedule, to_signed(random_flip(data.train_images[index])), data.train_labels[index]
        )

    def classifying(model: nn.Module, index: Tensor) -> Tensor:
        return F.cross_entropy(model(unit(random_flip(data.train_images[index]))), data.train_labels[index])

    if task == "u-net":
        model, loss, batch = UNet(1, 10, 32, (1, 2, 2), (), 1), denoising, 64
        model = model.to(device(), memory_format=torch.channels_last)
    else:
        model, loss, batch = network("ours", "nano").to(device()), classifying, 256
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, fused=True)
    steps = train(model, loss, n=len(data.train_labels), steps=ENDLESS, batch_size=batch, optimizer=optimizer)
    return (step.images for step in steps)


def measured(task: str, seconds: float, path: Path) -> float:
    """Images per second of all processes together; the file holds it for who asks again."""
    if not path.exists():
        for number, seen in enumerate(loop(task), start=1):
            if number == WARM_UP:
                begin, start = seen, now()
            elif number > WARM_UP and ranks.anywhere((passed := now() - start) > seconds):  # all after the same step
                break
        if ranks.first():
            path.write_text(json.dumps((seen - begin) / passed), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8")) if ranks.first() else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("task", choices=TASKS)
    parser.add_argument("processes", type=int, nargs="?", default=1)
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    from benchmarks.ranks import measured  # not that of this script, which other processes cannot import

    with TemporaryDirectory() as folder:
        asked = (options.task, options.seconds, Path(folder) / "rate.json")
        found = run_on_ranks(options.processes, measured, *asked) if options.processes > 1 else measured(*asked)
    report({"rate": found})


if __name__ == "__main__":
    main()
