"""Run the whole course: python -m course run config/quick.yaml [--jobs N] [--again] [-- Snakemake options].

Snakemake decides what is to be run, in which order, and goes on after a failure; this module starts it, says in few
words how far things are, and writes the report. Started again after a stop, however hard, it goes on where it was.
"""

import argparse
import contextlib
import itertools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from course.batch import report
from course.batch.execute import is_finished
from course.batch.monitor import Board
from course.batch.plan import Wanted, plan, read_config, write_down
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY, lock, read_json
from lt_utils.progress import duration
from lt_utils.runs.folder import folders, move_aside, root
from lt_utils.runs.provenance import package_hash


class Stopped(Exception):
    """Ctrl-C, a signal, or the end of the make that started this."""


def run(config_path: Path, jobs: int = 1, again: bool = False, options: list[str] | None = None) -> int:
    """Run what the configuration asks for and is not finished yet; returns the exit status (0 when all is finished).

    Args:
        config_path: a file such as config/quick.yaml.
        jobs: how many notebooks run at a time.
        again: move finished runs aside and run all of them once more.
        options: further options of Snakemake, such as ["--profile", "profiles/slurm"].

    Raises:
        CourseError: anything in the configuration that does not fit, another batch in the same folder, or no room for
            the report.
    """
    begin = time.monotonic()
    config = read_config(config_path)
    wanted = plan(config)
    folder = root() / wanted[0].profile
    try:
        (folder / ".batch").mkdir(parents=True, exist_ok=True)
        lock(folder / ".batch", "lock", patience=3)
    except OSError as error:
        raise CourseError(
            f"{folder} cannot be written ({error.strerror}); set LT_RUNS to a folder of your own."
        ) from error
    write_down(wanted)
    for one in wanted:
        if again and one.folder.exists():
            move_aside(one.folder)
        elif not is_finished(one.folder):
            (one.folder / ".done").unlink(missing_ok=True)
    command, environment = _snakemake(config_path, config, folder, jobs, options or [])
    todo = _to_do(command, environment, wanted)
    if not todo:
        page = report.build(folder, wanted)
        print(_older(wanted) + f"Nothing to do: all {len(wanted)} runs are finished. Report: {os.path.relpath(page)}")
        return 0
    board = Board(folder, todo, jobs)
    print(board.opening(len(wanted)), flush=True)
    status = _watch(command, environment, board)
    # Before the report: a full disk may prevent that.
    print(_older(wanted) + board.closing(len(wanted), _same_command(again)), flush=True)
    if status and not board.failed:
        print(f"Snakemake ended with status {status}: see {os.path.relpath(folder / '.batch' / 'snakemake.log')}.")
    page = report.build(folder, wanted)
    print(f"{duration(time.monotonic() - begin)} in all. Report: {os.path.relpath(page)}")
    return 1 if status or board.failed else 0


def _same_command(again: bool) -> str:
    """How to speak of the command that goes on from here: with --again it would begin anew."""
    return "the same command without --again (make: without AGAIN=1)" if again else "the same command"


def _older(wanted: list[Wanted]) -> str:
    """A line about runs made with another state of the package: that alone repeats nothing, for it may cost days."""
    abouts = [about for one in wanted if (about := read_json(one.folder / "batch.json"))]
    number = sum(about.get("package") != package_hash() for about in abouts)
    return (
        f"Note: lt_utils has changed since {number} of these runs; AGAIN=1 (--again) runs all anew.\n" if number else ""
    )


def _snakemake(config_path: Path, config: dict, folder: Path, jobs: int, options: list[str]) -> tuple[list[str], dict]:
    """Snakemake's command line and environment for this batch."""
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(Path(config_path).absolute())]
    # A killed Snakemake leaves its lock and half-done marks: ours is the lock that counts, and what was not finished
    # is begun again. Times alone decide, because only content moves them (see plan.py).
    command += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "--keep-going", "--scheduler", "greedy"]
    threads = _threads(jobs)
    environment = os.environ | folders() | {"PYTHONPATH": _with_repository(), "LT_JOB_THREADS": str(threads)}
    if any(option.startswith(("--profile", "--executor", "-e")) for option in options):
        command += ["--jobs", str(jobs)]  # a cluster: it counts the GPUs, and its jobs outlive this process
    else:
        gpus = _gpus()
        if config.get("gpu") and not gpus:
            command += ["--config", "gpu=0"]
        command += ["--cores", str(jobs * threads), "--resources", f"gpu={len(gpus)}"]
        lock_file = folder / ".batch" / "lock"
        environment |= {"LT_GPUS": ",".join(gpus), "LT_BATCH": f"{os.getpid()}:{lock_file}"}
    return command + options, environment


def _threads(jobs: int) -> int:
    """The threads of one notebook: what OMP_NUM_THREADS says, else an equal share of the cores. CourseError for no number."""
    wish = os.environ.get("OMP_NUM_THREADS", "")
    if not wish:
        return max(1, (os.cpu_count() or 1) // jobs)
    if not wish.isdecimal() or int(wish) < 1:
        raise CourseError(
            f"OMP_NUM_THREADS, the threads of one notebook, must be a whole number above 0, not {wish!r}."
        )
    return int(wish)


def _with_repository() -> str:
    return os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))


def _gpus() -> list[str]:
    """The CUDA devices of this machine that may be used, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, line in enumerate(one for one in listed.splitlines() if one.startswith("GPU"))]


def _to_do(command: list[str], environment: dict, wanted: list[Wanted]) -> list[Wanted]:
    """The wanted runs that Snakemake would run now, from its --summary (a table: file, ..., plan)."""
    done = subprocess.run([*command, "--summary"], capture_output=True, text=True, env=environment)
    if done.returncode:
        raise CourseError(f"Snakemake cannot plan the batch: {_complaint(done.stderr)}")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    pending = {row[0] for row in rows if len(row) > 2 and row[-1] != "no update"}
    return [one for one in wanted if f"{one.notebook}/{one.run}/.done" in pending]


def _complaint(text: str) -> str:
    """What Snakemake says is wrong: the lines between `SomeError in file ..., line ...:` and the traceback; else the last."""
    lines = [line for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if re.match(r"\w+ in .*line \d+:$", line.strip()):
            said = itertools.takewhile(lambda after: not after.startswith('  File "'), lines[number + 1 :])
            return " ".join(words.strip() for words in said) or line.strip()
    return lines[-1].strip() if lines else "it said nothing"


def _watch(command: list[str], environment: dict, board: Board) -> int:
    """Start Snakemake, print what happens until it ends and return its status. Raises Stopped (all is ended then)."""
    parent = os.getppid() if "MAKELEVEL" in os.environ else None

    def stop(number: int, frame: object) -> None:
        raise Stopped

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    # A group of its own: Ctrl-C reaches this process alone, which then ends the others in order. The shell in between
    # tells every job the number of the group, so that a job can end it when this process was killed.
    shell = ["sh", "-c", 'export LT_BATCH_GROUP=$$; exec "$@"', "sh", *command]
    with open(board.folder / ".batch" / "snakemake.log", "w", encoding="utf-8") as log:
        process = subprocess.Popen(
            shell,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            while process.poll() is None:
                time.sleep(0.3)
                board.look()
                if parent is not None and os.getppid() != parent:
                    raise Stopped
            board.look()
        except BaseException:
            for number in before:
                signal.signal(number, signal.SIG_IGN)
            _end(process)
            raise
        finally:
            _kill(process.pid)  # nothing of it may outlive Snakemake, even if that was killed
            for number, handler in before.items():
                signal.signal(number, handler)
    return process.returncode


def _end(process: subprocess.Popen) -> None:
    """Ask Snakemake and its jobs to end, and give them five seconds; kernels follow their jobs within one."""
    with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGINT)
        process.wait(5)
    _kill(process.pid)
    process.wait()


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0 all finished, 1 something failed, 2 refused, 130 stopped."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)  # what follows is Snakemake's
    parser = argparse.ArgumentParser(
        prog="python -m course run",
        usage="%(prog)s [-h] [--jobs JOBS] [--again] config [-- options of Snakemake, such as --profile profiles/slurm]",
        description=__doc__.splitlines()[0],
    )
    parser.add_argument("config", type=Path, help="what to run: config/quick.yaml, config/cifar.yaml or your own")
    parser.add_argument("--jobs", type=int, default=1, help="notebooks that run at a time (default 1)")
    parser.add_argument("--again", action="store_true", help="move finished runs aside and run all of them once more")
    chosen = parser.parse_args(arguments[:end])
    try:
        return run(chosen.config, max(1, chosen.jobs), chosen.again, arguments[end + 1 :])
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    except (Stopped, KeyboardInterrupt):
        print(f"\nStopped. What is finished stays; {_same_command(chosen.again)} goes on from here.", flush=True)
        return 130
    except BrokenPipeError:  # who reads this has left, as in: make run | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
