"""Samples from a diffusion model: a few at once, or many into a folder, shard by shard, with labels chosen beforehand.

A shard is one file of images and labels, written whole or not at all. Its noise depends on (seed, shard) alone, so a run
that was killed at any moment makes, when it is run again, the same images as one that was not: on a CPU to the last bit. So do
several processes (training/launch.py), which divide the shards among them.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from lt_utils import files, hashing
from lt_utils.data.augmentation import to_bytes
from lt_utils.diffusion.samplers import Prediction, ancestral, check_labels, check_step, ddim, guided
from lt_utils.diffusion.schedules import Schedule
from lt_utils.diffusion.solvers import dpm_solver
from lt_utils.errors import CourseError, choose
from lt_utils.progress import track
from lt_utils.training import checkpoints, ranks
from lt_utils.training.devices import autocast, precision_for
from lt_utils.training.launch import on_ranks
from lt_utils.training.loop import step_seed

SHARDS = "shard-[0-9][0-9][0-9][0-9][0-9].safetensors"
# The samplers by name; of DDPM's two, "fixedlarge" has the variance beta_t, "fixedsmall" that of q(x_{t-1} | x_t, x_0).
VARIANCES = {"fixedlarge": "beta", "fixedsmall": "posterior"}
SAMPLERS = ("ddim", "dpm-solver", *VARIANCES)


def walk(
    sampler: str,
    predict: Prediction,
    schedule: Schedule,
    x: Tensor,
    steps: int = 50,
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    start: int | None = None,
) -> Tensor:
    """From noise x [B, ...] to data [B, ...] by the sampler of that name, one of SAMPLERS.

    "dpm-solver" is DPM-Solver++ of order 2, without fresh noise; "fixedlarge" and "fixedsmall" visit every step of the
    schedule. start: the step t whose noise x has, by default the last; for DDIM and DPM-Solver++ only. Raises CourseError
    for an unknown name, for eta with "dpm-solver", and for `start` with a sampler that cannot begin there.
    """
    choose("sampler", sampler, SAMPLERS)
    if sampler == "dpm-solver":
        if eta:
            raise CourseError(f"DPM-Solver++ adds no fresh noise: leave eta at 0 (it is {eta:g}), or take ddim.")
        return dpm_solver(predict, schedule, x, steps, start=start)
    if sampler == "ddim":
        return ddim(predict, schedule, x, steps, eta, generator, start)
    if start is not None:
        raise CourseError(
            f"The sampler {sampler!r} begins with pure noise: to begin at a step, take ddim or dpm-solver."
        )
    return ancestral(predict, schedule, x, VARIANCES[sampler], generator)


@contextmanager
def _evaluating(denoiser: nn.Module) -> Iterator[None]:
    """Inside, the network is in evaluation mode; then in that of before, also after a sampler or steps that are refused."""
    was_training = denoiser.training
    denoiser.eval()
    try:
        yield
    finally:
        denoiser.train(was_training)


@torch.no_grad()
def sample(
    denoiser: nn.Module,
    schedule: Schedule,
    labels: Tensor,
    shape: tuple[int, ...],
    *,
    objective: str = "v",
    sampler: str = "ddim",
    steps: int = 50,
    eta: float = 0.0,
    omega: float = 0.0,
    clip: float | None = None,
    seed: int = 0,
    batch_size: int = 256,
) -> Tensor:
    """Samples [N, *shape], float32, one for each of `labels` [N], in evaluation mode, in batches of `batch_size`.

    The start noise comes from a CPU generator with `seed`, so the same seed starts from the same noise on every device.
    sampler, steps, eta: see `walk`. Raises CourseError for a label that the network does not know.
    """
    check_labels(labels, denoiser.no_label)
    device = next(denoiser.parameters()).device
    start = torch.randn((len(labels), *shape), generator=torch.Generator().manual_seed(seed))  # [N, *shape]
    generator = torch.Generator(device).manual_seed(seed + 1)
    parts = []
    with _evaluating(denoiser):
        for noise, part in zip(start.split(batch_size), labels.split(batch_size), strict=True):
            predict = guided(denoiser, schedule, part.to(device), objective, omega, clip)
            parts.append(walk(sampler, predict, schedule, noise.to(device), steps, eta, generator))
    return torch.cat(parts)


@torch.no_grad()
def edited(
    denoiser: nn.Module,
    schedule: Schedule,
    x0: Tensor,
    labels: Tensor,
    t: int,
    *,
    steps: int = 10,
    omega: float = 0.0,
    clip: float | None = None,
    objective: str = "v",
    seed: int = 0,
    batch_size: int = 256,
) -> Tensor:
    """Data x0 [N, ...] noised to step t and denoised under other `labels` [N], float32 [N, ...] (SDEdit, Meng et al. 2022).

    t = 0 nearly gives x0 back, t = T - 1 forgets it and draws as `sample` does; in between the result has something of
    both. DPM-Solver++ from step t, in `steps` calls or as many as there are steps to go; below 2 calls DDIM. The noise
    depends on `seed` alone, so that t can be swept with the same noise.

    Raises CourseError for t outside the schedule and for a label that the network does not know.
    """
    check_step(t, len(schedule))
    check_labels(labels, denoiser.no_label)
    where, calls, parts = next(denoiser.parameters()).device, min(steps, t + 1), []
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(seed))
    with _evaluating(denoiser):
        for clean, eps, part in zip(*(one.split(batch_size) for one in (x0, noise, labels)), strict=True):
            x_t = schedule.add_noise(clean.float().to(where), torch.full((len(clean),), t, device=where), eps.to(where))
            predict = guided(denoiser, schedule, part.to(where), objective, omega, clip)
            sampler = "dpm-solver" if calls > 1 else "ddim"
            parts.append(walk(sampler, predict, schedule, x_t, calls, start=t))
    return torch.cat(parts) if parts else x0


def balanced_labels(total: int, num_classes: int) -> Tensor:
    """Exactly total / num_classes labels of each class, int64 [total], in the order 0, 1, .., C-1, 0, 1, ...

    Any run of C labels in a row holds every class once, so shards and the parts of an Inception score are balanced too.
    Raises CourseError if `total` is not a multiple of `num_classes`.
    """
    if total < 1 or total % num_classes:
        raise CourseError(f"{total} samples cannot be divided evenly among {num_classes} classes: ask for a multiple.")
    return torch.arange(total) % num_classes


@on_ranks
@torch.no_grad()
def sample_to(
    folder: str | Path,
    denoiser: nn.Module,
    schedule: Schedule,
    labels: Tensor,
    shape: tuple[int, int, int],
    *,
    sampler: str = "ddim",
    steps: int = 50,
    eta: float = 0.0,
    omega: float = 0.0,
    clip: float | None = None,
    objective: str = "v",
    seed: int = 0,
    shard: int = 256,
    as_bytes: bool = True,
    precision: str = "fp32",
    notes: dict | None = None,
    title: str = "",
) -> tuple[Tensor, Tensor]:
    """Draw an image for each of `labels` [N] into `folder`; return images [N, *shape] and labels [N], on the CPU.

    Shards that are in the folder already are kept, so a run that was stopped goes on where it was.

    Args:
        shape: (channels, height, width) of an image.
        sampler: one of SAMPLERS, with `steps` and `eta`; see `walk`.
        omega: guidance strength; 0 is none. clip: bound |x_0| by this in every step; the published chain is not clipped.
        objective: what the denoiser predicts. seed: decides all noise. shard: images a file and a batch.
        as_bytes: uint8 in 0..255, as in an image file; False: float32 clipped to -1..1, as the published program measures.
        precision: "fp32", "bf16" or "auto". notes: what else to store with them, such as {"labels": "balanced", "ema": True}.

    The denoiser is put in evaluation mode while it samples: dropout would otherwise act in the samples.
    Raises CourseError if the folder holds samples of another model, other labels or other settings, and for a label that
    the network does not know.
    """
    check_labels(labels, denoiser.no_label)
    choose("sampler", sampler, SAMPLERS)
    where, folder, labels = next(denoiser.parameters()).device, Path(folder), labels.cpu()
    facts = {
        "model": hashing.fingerprint(denoiser),
        "schedule": [len(schedule), float(schedule.alpha_bar.log().sum())],
        "shape": list(shape),
        "sampler": sampler,
        **({} if sampler in VARIANCES else {"steps": steps, "eta": eta}),
        "omega": omega,
        "clip": clip,
        "objective": objective,
        "seed": seed,
        "shard": shard,
        "images": "uint8" if as_bytes else "float32",
        "precision": precision_for(where) if precision == "auto" else precision,
        "notes": json.loads(json.dumps(notes or {})),  # as they come back from the file: a tuple is a list there
    }
    parts = labels.split(shard)
    missing = ranks.from_first(lambda: _missing(folder, parts, facts))
    rank, processes = ranks.place()
    missing = missing[rank::processes]
    try:
        with _evaluating(denoiser):
            for number in track(missing, title or f"{len(labels):,} samples") if missing else ():
                # Seeded by shard: the start on the CPU, so that it is the same on every device, the rest where it is used.
                noise = torch.Generator().manual_seed(step_seed(seed, 2 * number))
                x = torch.randn((len(parts[number]), *shape), generator=noise).to(where)
                noise = torch.Generator(where).manual_seed(step_seed(seed, 2 * number + 1))
                with autocast(where, precision):
                    predict = guided(denoiser, schedule, parts[number].to(where), objective, omega, clip)
                    x = walk(sampler, predict, schedule, x, steps, eta, noise)
                images = to_bytes(x) if as_bytes else x.clamp(-1, 1)
                checkpoints.save(_path(folder, number), {"images": images, "labels": parts[number]}, facts)
        ranks.every(None)  # until all have finished
    finally:
        files.unlock(folder)
    return read_samples(folder)[:2]


def _path(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:05d}.safetensors"


def _missing(folder: Path, parts: Sequence[Tensor], facts: dict) -> list[int]:
    """Numbers of the shards still to be made, and the folder locked. CourseError if it holds other samples than these."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.lock(folder)
    except OSError as error:
        raise CourseError(f"The folder {folder} cannot be used ({error.strerror}): choose another.") from None
    numbers = set()
    for path in sorted(folder.glob(SHARDS)):
        try:
            tensors, stored = checkpoints.load(path)
        except CourseError:  # damaged on the disk: make it again
            continue
        number = int(path.stem.removeprefix("shard-"))
        different = [name for name, value in facts.items() if stored.get(name) != value]
        if not different and (number >= len(parts) or not torch.equal(tensors["labels"], parts[number])):
            different = ["labels"]
        if different:
            files.unlock(folder)
            raise CourseError(
                f"{folder} holds samples that were made differently ({', '.join(different)}): "
                "delete that folder or choose another."
            )
        numbers.add(number)
    return [number for number in range(len(parts)) if number not in numbers]


def read_samples(folder: str | Path) -> tuple[Tensor, Tensor, dict]:
    """All samples in a folder: images [N, C, H, W] as they were stored, labels [N], and how they were made.

    Raises CourseError if there are none, or if a shard is missing before the last.
    """
    paths = sorted(Path(folder).glob(SHARDS))
    if [path.name for path in paths] != [_path(Path(folder), number).name for number in range(len(paths))] or not paths:
        raise CourseError(f"{folder} does not hold a whole set of samples: run the sampling again, it goes on.")
    loaded = [checkpoints.load(path) for path in paths]
    images, labels = (torch.cat([tensors[name] for tensors, _ in loaded]) for name in ("images", "labels"))
    return images, labels, loaded[0][1]
