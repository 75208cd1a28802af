"""Features per second of latent diffusion: the residual MLP with DDIM, and the 1-D U-Net that LDMLR builds on.

    python -m benchmarks.latent ours|peer train|sample [--seconds 10]

"peer" is Unet1D and GaussianDiffusion1D of denoising_diffusion_pytorch at LDMLR's settings: a 64-d feature as a sequence of
length 64, width 64 with multipliers (1, 2, 4, 8), x0 objective, 1000 ancestral steps. It is the library's network, with kernels
of 3 and 7 and 14.9 million parameters; LDMLR's changed copy has kernels of 1 and 7.8 million (`feature_unet`), and is faster.
Both sides train with batches of 256. A full ancestral chain of the peer takes minutes, so its speed is that of its steps, divided
by 1000.
"""

import argparse
from collections.abc import Iterator

import torch

from benchmarks.measure import rate, report
from course.command import first_line
from lt_utils.diffusion.losses import diffusion_loss
from lt_utils.diffusion.samplers import ddim, guided
from lt_utils.diffusion.schedules import cosine_schedule
from lt_utils.errors import choose
from lt_utils.models.feature_denoisers import ResidualMLP
from lt_utils.training.devices import device
from lt_utils.training.ema import EMA
from lt_utils.training.loop import train

DIM, CLASSES, TRAIN_BATCH, SAMPLE_STEPS = 64, 10, 256, 50


def ours(task: str) -> Iterator[float]:
    torch.manual_seed(0)
    where, schedule = device(), cosine_schedule()
    model = ResidualMLP(DIM, CLASSES).to(where)
    features, labels = torch.randn(12_406, DIM, device=where), torch.randint(CLASSES, (12_406,), device=where)
    if task == "train":

        def loss(model, index):
            return diffusion_loss(model, schedule, features[index], labels[index])

        optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
        options = dict(batch_size=TRAIN_BATCH, optimizer=optimizer, ema=EMA(model), precision="fp32")
        loop = train(model, loss, n=len(features), steps=1_000_000, **options)
        yield from (step.images for step in loop)
    batch = 2048
    chosen = torch.randint(CLASSES, (batch,), device=where)
    for number in range(1, 1_000_000):
        ddim(guided(model.eval(), schedule, chosen), schedule, torch.randn(batch, DIM, device=where), SAMPLE_STEPS)
        yield number * batch


def peer_diffusion(dim: int, steps: int = 1000):
    """The peer at LDMLR's settings, for features of `dim` numbers in 0..1, a batch as [B, 1, dim]."""
    from denoising_diffusion_pytorch import GaussianDiffusion1D, Unet1D

    model = Unet1D(dim=64, dim_mults=(1, 2, 4, 8), channels=1)
    return GaussianDiffusion1D(model, seq_length=dim, timesteps=steps, objective="pred_x0", auto_normalize=True)


def peer(task: str) -> Iterator[float]:
    torch.manual_seed(0)
    diffusion, where = peer_diffusion(DIM).to(device()), device()
    if task == "train":
        optimizer = torch.optim.SGD(diffusion.parameters(), 1e-4)
        features = torch.rand(12_406, 1, DIM, device=where)
        for number in range(1, 1_000_000):
            optimizer.zero_grad()
            diffusion(features[torch.randint(len(features), (TRAIN_BATCH,), device=where)]).backward()
            optimizer.step()
            yield number * TRAIN_BATCH
    batch = 256
    x = torch.randn(batch, 1, DIM, device=where)
    for number in range(1, 1_000_000):
        with torch.no_grad():
            x, _ = diffusion.p_sample(x, 999 - number % 1000)
        yield number * batch / 1000  # features finished, at 1000 steps a feature


def loop(side: str, task: str) -> Iterator[float]:
    """The endless work of one side, which counts features."""
    choose("task", task, ("train", "sample"))
    return (ours if choose("side", side, ("ours", "peer")) == "ours" else peer)(task)


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("side", choices=("ours", "peer"))
    parser.add_argument("task", choices=("train", "sample"))
    parser.add_argument("--seconds", type=float, default=10)
    options = parser.parse_args()
    report({"rate": rate(loop(options.side, options.task), options.seconds, warm_up=1)})


if __name__ == "__main__":
    main()
