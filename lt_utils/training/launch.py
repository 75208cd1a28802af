"""torchrun for a training or a sampling that is called as any other, from a notebook, a script or a batch.

    model = run_on_ranks(2, train_encoder, data, epochs=200, checkpoint=path)

Two processes train, and leave the result in the checkpoint; then the same function, called here, finds it finished. Functions
with `@on_ranks` do so by themselves where LT_RANKS says how many processes, as a batch does that asks for `gpu: 2`.
"""

import inspect
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist
from torch.serialization import default_restore_location

from lt_utils import progress
from lt_utils.errors import CourseError
from lt_utils.processes import when_starter_is_gone
from lt_utils.training import ranks
from lt_utils.training.devices import device

Given, Result = ParamSpec("Given"), TypeVar("Result")


def on_ranks(function: Callable[Given, Result]) -> Callable[Given, Result]:
    """The function in as many processes as the environment variable LT_RANKS says (`run_on_ranks`); without it, as it is."""

    @wraps(function)
    def started(*arguments: Given.args, **options: Given.kwargs) -> Result:
        count = os.environ.get("LT_RANKS") or "1"
        if not count.isdecimal() or count == "0":
            raise CourseError(f"LT_RANKS, the processes of a training, must be a whole number above 0, not {count!r}.")
        if count == "1" or "WORLD_SIZE" in os.environ:  # this is one of them
            return function(*arguments, **options)
        return run_on_ranks(int(count), started, *arguments, **options)

    started.alone = function
    return started


def run_on_ranks(
    count: int, function: Callable[Given, Result], *arguments: Given.args, **options: Given.kwargs
) -> Result:
    """function(*arguments, **options), its work done by `count` processes of torchrun, one for each GPU or share of the CPU.

    The function leaves its result in a file and finds it there when it is called again: a training with `checkpoint` (one for
    the time being is made if there is none), `sample_to`, `encode_views` with `path`. It and what it is given must be such as
    another process can import or unpickle. Ctrl-C stops all after the same step, and is raised again here.

    Raises CourseError for a function of a notebook, for more processes than GPUs, with the sentence of a process that refused,
    and if one was killed; what is saved stays.
    """
    function_name = f"{function.__module__}.{function.__qualname__}"
    with TemporaryDirectory(prefix="ranks-") as folder:
        given = inspect.signature(function).bind(*arguments, **options)
        if "checkpoint" in inspect.signature(function).parameters and given.arguments.get("checkpoint") is None:
            given.arguments["checkpoint"] = Path(folder) / "training.safetensors"
        job = Path(folder) / "job.pt"
        try:
            if function.__module__ == "__main__":
                raise pickle.PicklingError
            torch.save((function, given.args, given.kwargs, progress.log_file()), job)
        except (pickle.PicklingError, AttributeError, TypeError):
            raise CourseError(
                f"Other processes cannot import {function_name} or what it is given: give functions and classes of a "
                "module, none that a notebook defines."
            ) from None
        _torchrun(count, job)
        return getattr(function, "alone", function)(*given.args, **given.kwargs)


def _torchrun(count: int, job: Path) -> None:
    """Start the processes and pass on what the first one prints, until all have ended. CourseError if one failed."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
    command += ["--local-ranks-filter=0", "--no-python", sys.executable, "-c"]
    command += ["import sys; from lt_utils.training import launch; sys.exit(launch.work(sys.argv[1]))", str(job)]
    threads = str(max(1, torch.get_num_threads() // count))  # those of this process are divided among them
    with open(job.with_name("log"), "w+", encoding="utf-8") as log:
        # A session of its own: Ctrl-C reaches this process alone, which passes it on, once. The pipe ends with this process.
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": threads},
            start_new_session=True,
        )
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
            process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)
            process.stdout.read()
            process.wait()
            raise
        log.seek(0)
        said = log.read()
    if process.returncode:
        reasons = [path.read_text(encoding="utf-8") for path in sorted(job.parent.glob("reason-*"))]
        if killed := re.search(r"exitcode\s*: -(\d+)", said):
            why = f"signal {killed[1]}: for lack of memory, or by hand"
            reasons.append(f"one was killed ({why}). Run it again: it goes on from what is saved.")
        raise CourseError(f"The {count} processes have ended early: {[*reasons, said[-500:].strip()][0]}")


def work(job: str) -> int:
    """What each process does: call the function, and leave behind why it failed. Returns the exit status."""
    when_starter_is_gone(lambda: os._exit(1))
    try:
        function, arguments, options, log = torch.load(job, _here, weights_only=False)
        progress.log_to(log if ranks.first() else None)
        function(*arguments, **options)
        if dist.is_initialized():
            dist.destroy_process_group()
        return 0
    except ranks.LostRank:
        threading.Event().wait(30)  # torchrun ends this one, too; what it reports is then the first that failed
    except CourseError as error:
        Path(job).with_name(f"reason-{os.environ['RANK']}").write_text(str(error), encoding="utf-8")
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        text = f"{type(error).__name__}: {error} {traceback.extract_tb(error.__traceback__)[-1]}"
        Path(job).with_name(f"reason-{os.environ['RANK']}").write_text(text, encoding="utf-8")
    return 1


def _here(storage: torch.UntypedStorage, place: str) -> torch.UntypedStorage:
    """What lay on the starter's GPU comes to that of this process; the rest stays on the CPU."""
    return storage if place == "cpu" else default_restore_location(storage, str(device()))
