"""What this machine has, against what the course needs: for the first notebook."""

import shutil
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from torch import nn

from lt_utils.files import REPOSITORY
from lt_utils.runs.folder import root
from lt_utils.training.devices import cores, device, precision_for
from lt_utils.training.loop import train

GB = 1e9


def packages(pyproject: Path = REPOSITORY / "pyproject.toml") -> list[dict]:
    """One row per package the course depends on: "package", "needed" (its bounds), "found", and "ok" (True / False)."""
    from packaging.requirements import Requirement  # here: only this needs it, and it comes with matplotlib

    rows = []
    for line in tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]:
        wanted = Requirement(line)
        try:
            found = version(wanted.name)
        except PackageNotFoundError:
            found = None
        fits = found is not None and wanted.specifier.contains(found, prereleases=True)
        rows.append({"package": wanted.name, "needed": str(wanted.specifier), "found": found or "missing", "ok": fits})
    return rows


def free_disk() -> float:
    """Free bytes on the disk where the runs are kept."""
    folder = root()
    while not folder.exists():
        folder = folder.parent
    return float(shutil.disk_usage(folder).free)


def accelerator() -> str:
    """The name of the GPU (or of Apple's chip), or "none: the CPU does the work"."""
    where = device()
    if where.type == "cuda":
        return torch.cuda.get_device_name()
    return "none: the CPU does the work" if where.type == "cpu" else where.type.upper()


def facts() -> list[dict]:
    """Cores, threads, accelerator, precision, free memory and disk: rows of what, here, what the quick course needs."""
    import psutil  # here, because only this needs it

    rows = [
        ("CPU cores, threads of torch", f"{cores()} cores, {torch.get_num_threads()} threads", "2 cores"),
        ("accelerator", accelerator(), "none"),
        ("precision of training", precision_for(device()), "fp32, or bf16 where it is fast"),
        ("free memory", f"{psutil.virtual_memory().available / GB:.1f} GB", "2 GB"),
        ("free disk for runs", f"{free_disk() / GB:.1f} GB", "1 GB"),
    ]
    return [dict(zip(("what", "here", "the quick course needs"), row, strict=True)) for row in rows]


def training_speed(model: nn.Module, size: int, steps: int = 6, batch: int = 32) -> float:
    """Images per second of SGD steps of a classifier (with a `config`) on random images of `size` pixels squared.

    The first two steps, which warm up, are left out. The model is trained in place.
    """
    model = model.to(device(), memory_format=torch.channels_last)
    images = torch.rand(batch, model.config["channels"], size, size, device=device())
    labels = torch.zeros(batch, dtype=torch.long, device=device())

    def loss(model: nn.Module, index: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(images), labels)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    taken = train(model, loss, n=batch, steps=steps, batch_size=batch, optimizer=optimizer)
    seconds = [step.seconds for step in taken]
    return batch * (steps - 2) / (seconds[-1] - seconds[1])
