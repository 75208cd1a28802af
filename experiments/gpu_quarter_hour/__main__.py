"""A quarter of an hour on a GPU, in order of worth: python -m experiments.gpu_quarter_hour run DATA.npz ... --out FOLDER

First, where the data are: `... pack cifar10 --to FOLDER` makes one file of the long-tailed set (factor 100) and its test set, at
most 45 MB, lossless. Then, on a machine with torch, Pillow, safetensors, PyYAML and filelock and this repository:

    python -m experiments.gpu_quarter_hour run cifar10-if100.npz cifar100-if100.npz --out results --minutes 14

    speed    images per second of ResNet-32, U-Net and ViT: eager, CUDA graphs, compiled, both; of three ResNet-32 as one network
    side     the same of three ResNet-32 in three processes at a time
    ce       LDMLR's CE with mixup, ResNet-32, 200 epochs, three seeds, on each data set
    strong   the stronger single ResNet-32 of config/cifar_strong.yaml, 400 epochs
    wcdas    WCDAS, both stages, 700 epochs, three seeds
    cbdm     CBDM and DDPM for 3,000 steps each, on the first data set

ce and wcdas train their seeds as one network, side by side or one by one: what speed and side found fastest on this device. A
line says which and why. A job that has begun goes on in its way: of seeds together no checkpoint is continued apart, nor the
other way round.

Each job has its own limit (`JOBS` in jobs.py) and ends there with a checkpoint; the same command goes on. After every part
FOLDER/results.json is whole; after every job so are weights-JOB.zip and training-JOB.zip, the checkpoints of what was stopped, at
most 16 MB each. On a fresh machine put the files of before into --out. All checkpoints stay in --folder, which may become large.
--tiny is a dry run: the same on a CPU in seconds.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import torch

from course.command import first_line, resumable
from experiments.gpu_quarter_hour import pack as packing
from experiments.gpu_quarter_hour.jobs import JOBS, Context, Part
from experiments.gpu_quarter_hour.runner import Runner
from lt_utils import progress
from lt_utils.data.datasets import load
from lt_utils.errors import CourseError
from lt_utils.files import write_json
from lt_utils.processes import when_starter_is_gone


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m experiments.gpu_quarter_hour", description=first_line(__doc__))
    commands = parser.add_subparsers(dest="command", required=True)
    pack = commands.add_parser("pack", help="make a small file of a long-tailed data set and its test set")
    pack.add_argument("names", nargs="+", help="prepared data sets")
    pack.add_argument("--imbalance", type=float, default=100, help="0: the set as it is (default 100)")
    pack.add_argument("--to", type=Path, default=Path())
    run = commands.add_parser("run", help="run the jobs")
    run.add_argument("data", type=Path, nargs="+", help="packed data sets")
    run.add_argument("--out", type=Path, required=True, help="folder for results and weights")
    run.add_argument("--minutes", type=float, default=14, help="in all (default 14)")
    run.add_argument("--only", nargs="+", choices=list(JOBS), default=list(JOBS), help="these jobs, in this order")
    run.add_argument("--folder", type=Path, default=Path("runs") / "gpu_quarter_hour", help="folder for checkpoints")
    run.add_argument("--commit", default="", help="to record where git cannot say it")
    part = commands.add_parser("part", help="one part of a job; `run` starts these")
    for name in ("job", "name", "variant"):
        part.add_argument(name)
    part.add_argument("--data", type=Path, required=True)
    part.add_argument("--folder", type=Path, required=True)
    for command in (run, part):
        command.add_argument("--tiny", action="store_true", help="a dry run")
    return parser.parse_args(arguments)


def do_part(job: str, name: str, variant: str, data: Path, folder: Path, tiny: bool) -> None:
    """One part of a job, in this process; what is known so far stands in <folder>/<part>.json."""
    part = Part(job, name, variant)
    torch.backends.cudnn.benchmark = True  # all batches but the last of an epoch have one shape
    progress.log_to(folder / f"{part.name}.progress")
    for found in JOBS[job].run(part, Context(packing.unpack(data), folder, tiny)):
        write_json(folder / f"{part.name}.json", found)


@resumable
def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0 all was tried (results.json says how it went), 2 refused, 130 stopped."""
    given = vars(read_arguments(arguments))
    command = given.pop("command")
    if command == "pack":
        for name in given["names"]:
            data = load(name).long_tailed(given["imbalance"]) if given["imbalance"] else load(name)
            path = given["to"] / f"{data.name}.npz"
            print(f"{path}: {packing.pack(data, path) / 1e6:.1f} MB, {data}")
    elif command == "run":
        for path in given["data"]:
            packing.unpack(path)  # a damaged file is refused now, not by every part
        if len({path.stem for path in given["data"]}) < len(given["data"]):
            raise CourseError("Two packed data sets have one name: rename one of the files.")
        Runner(**given).run()
    else:
        when_starter_is_gone(lambda: os.kill(os.getpid(), signal.SIGINT))  # Ctrl-C: the part saves, and ends
        do_part(**given)
    return 0


if __name__ == "__main__":
    sys.exit(main())
