"""Run the whole course: python -m course run config/quick.yaml [--jobs N] [--again] [-- Snakemake options].

Snakemake decides what is to be run and in which order, and goes on after a failure; this module starts it, prints how far
things are, and writes the report. Started again after a stop, even a kill -9, it goes on where it was.
"""

import argparse
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from course.batch import report, slurm
from course.batch.execute import is_current, is_finished
from course.batch.monitor import ProgressMonitor
from course.batch.plan import ONCE, Job, plan, read_config
from course.command import first_line
from lt_utils.cores import cores
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY, lock, read_json, write_json
from lt_utils.processes import interrupted_with_parent
from lt_utils.progress import duration
from lt_utils.runs.folder import folders, move_aside, root
from lt_utils.runs.provenance import package_hash

# Jobs for one Snakemake. Its time and memory grow with them, and bash takes no command above 128 kB: the names of so many runs
# that the scoreboard builds on.
SLICE = 2000

# How to speak of the command that goes on from here: with --again it would begin anew.
SAME_COMMAND = {False: "the same command", True: "the same command without --again (make: without AGAIN=1)"}


def run(config_path: Path, jobs: int = 1, again: bool = False, options: list[str] | None = None) -> int:
    """Run what the configuration asks for and is not finished yet; returns the exit status (0 when all is finished).

    `jobs` notebooks run at a time; `again` moves finished runs aside first; `options` are Snakemake's. Raises CourseError
    for a configuration that does not fit, another batch in the same folder, and no room for the report.
    """
    begin = time.monotonic()
    config = read_config(config_path)
    planned = plan(config)
    folder = root() / config["profile"]
    try:
        (folder / ".batch").mkdir(parents=True, exist_ok=True)
        lock(folder / ".batch", "lock", patience=3)
    except OSError as error:
        why = f"{folder} cannot be written ({error.strerror}); set LT_RUNS to a folder of your own."
        raise CourseError(why) from error
    cluster = _is_cluster(options or [])
    if cluster and (left := slurm.cancel_leftovers(folder / ".batch" / "snakemake.log")):
        print(
            f"Jobs that an earlier batch had left in SLURM's queue were cancelled: {left}; their runs go on.",
            flush=True,
        )
    # Without Snakemake's memory of parameters each finished run is looked at again: execute.py keeps what is right.
    forgotten = not (folder / ".snakemake").exists()
    for job in planned:
        if again and job.folder.exists():
            move_aside(job.folder)
        elif forgotten or not is_finished(job.folder):
            (job.folder / ".done").unlink(missing_ok=True)
    went_well: list[bool] = []  # of each part that was run
    parts = slices(planned)
    for number, part in enumerate(parts, 1):
        if len(parts) > 1 and all(is_current(job.folder, job.decides, folder) for job in part):
            continue
        command, environment = _snakemake(part, config.get("gpu", 0), folder, jobs, options or [])
        todo = _to_do(command, environment, part)
        if not todo:
            continue
        monitor = ProgressMonitor(folder, todo, jobs, cluster)
        heading = f"Part {number} of {len(parts)}: " if len(parts) > 1 else ""
        if heading and not went_well:
            _forget_gathered(parts[-1])
        print(heading + monitor.opening(len(part)), flush=True)
        status = _watch(command, environment, monitor, cluster)
        went_well.append(not (status or monitor.failed))
        # Before the report: a full disk may prevent that.
        print(_older(part) + monitor.closing(len(part), SAME_COMMAND[again]), flush=True)
        if status and not monitor.failed:
            print(f"Snakemake ended with status {status}: see {os.path.relpath(folder / '.batch' / 'snakemake.log')}.")
    page = os.path.relpath(report.build(folder, planned))
    if not went_well:
        print(f"{_older(planned)}Nothing to do: all {len(planned)} runs are finished. Report: {page}")
        return 0
    print(f"{duration(time.monotonic() - begin)} in all. Report: {page}")
    return 0 if all(went_well) else 1


def _forget_gathered(last: list[Job]) -> None:
    """Let what runs once run again: it gathers the runs of the other parts, of which its own Snakemake does not know."""
    for job in last:
        if job.notebook in ONCE:
            (job.folder / "batch.json").unlink(missing_ok=True)
            (job.folder / ".done").unlink(missing_ok=True)


def slices(planned: list[Job]) -> list[list[Job]]:
    """The jobs in parts of at most SLICE (about), each with all that its runs build on; those that run once, last and apart.

    A run builds on runs of its own name alone: data set, imbalance factor and seed. One part if all fit.
    """
    if len(planned) <= SLICE:
        return [planned]
    by_run: dict[str, list[Job]] = {}
    for job in planned:
        by_run.setdefault("" if job.notebook in ONCE else job.run, []).append(job)
    last = by_run.pop("", [])
    parts: list[list[Job]] = []
    for group in by_run.values():
        if not parts or len(parts[-1]) + len(group) > SLICE:
            parts.append([])
        parts[-1] += group
    return [*parts, *([last] if last else [])]


def _older(planned: list[Job]) -> str:
    """A line about runs made with another state of the package: that alone repeats nothing, for it may cost days."""
    current = package_hash()
    abouts = [about for job in planned if (about := read_json(job.folder / "batch.json"))]
    number = sum(about.get("package") != current for about in abouts)
    note = f"Note: lt_utils has changed since {number} of these runs; AGAIN=1 (--again) runs all anew.\n"
    return note if number else ""


def _snakemake(planned: list[Job], gpu: int, folder: Path, jobs: int, options: list[str]) -> tuple[list[str], dict]:
    """Snakemake's command line and environment for this batch; writes the plan that the Snakefile reads."""
    path = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
    environment = os.environ | folders() | {"PYTHONPATH": path}
    environment["PYTHONIOENCODING"] = "utf-8"  # of what Snakemake and its jobs write, whatever this terminal takes
    if _is_cluster(options):  # it counts GPUs and cores: the profile says how many a job gets, and uses
        where = ["--jobs", str(jobs)]
        environment["LT_JOB_THREADS"] = ""
    else:
        gpus, threads = _gpus(), _threads(jobs)
        gpu = min(gpu, len(gpus))
        where = ["--cores", str(jobs * threads), "--resources", f"gpu={len(gpus)}"]
        environment |= {"LT_GPUS": ",".join(gpus), "LT_BATCH": "1", "LT_JOB_THREADS": str(threads)}
    decide: dict[str, dict] = {}
    for job in planned:
        decide.setdefault(job.notebook, {})[job.run] = job.decides
    write_json(folder / ".batch" / "plan.json", {"gpu": gpu, "jobs": decide})
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(REPOSITORY / "Snakefile")]
    command += ["--directory", str(folder), "--configfile", str(folder / ".batch" / "plan.json")]
    # A killed Snakemake leaves its lock and half-done marks: ours is the lock that counts, and what was not finished
    # is begun again.
    command += ["--nolock", "--rerun-incomplete", "--keep-going", "--scheduler", "greedy"]
    return [*command, "--rerun-triggers", "mtime", "params", *where, *options], environment


def _is_cluster(options: list[str]) -> bool:
    """Whether Snakemake's options leave the jobs to a cluster."""
    return any(option.startswith(("--profile", "--executor", "-e")) for option in options)


def _threads(jobs: int) -> int:
    """The threads of one notebook: what OMP_NUM_THREADS says, else an equal share of the cores. CourseError for no number."""
    wish = os.environ.get("OMP_NUM_THREADS") or str(max(1, cores() // jobs))
    if not wish.isdecimal() or int(wish) < 1:
        what = "OMP_NUM_THREADS, the threads of one notebook,"
        raise CourseError(f"{what} must be a whole number above 0, not {wish!r}.")
    return int(wish)


def _gpus() -> list[str]:
    """The CUDA devices of this machine that may be used, as CUDA_VISIBLE_DEVICES names them."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [name for name in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if name not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, line in enumerate(one for one in listed.splitlines() if one.startswith("GPU"))]


def _to_do(command: list[str], environment: dict, planned: list[Job]) -> list[Job]:
    """The planned jobs that Snakemake would run now, from its --summary (a table: file, ..., plan)."""
    done = subprocess.run([*command, "--summary"], capture_output=True, encoding="utf-8", env=environment)
    if done.returncode:
        raise CourseError(f"Snakemake cannot plan the batch: {error_summary(done.stderr)}")
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    pending = {row[0] for row in rows if len(row) > 2 and row[-1] != "no update"}
    return [job for job in planned if f"{job.notebook}/{job.run}/.done" in pending]


def error_summary(text: str) -> str:
    """What Snakemake says is wrong: the lines between `SomeError in file ..., line ...:` and the traceback; else the last."""
    found = re.search(r'^\w+ in .*line \d+:\n(.+?)(\n  File "|\Z)', text, re.M | re.S)
    said = found[1] if found else (text.strip() or "it said nothing").splitlines()[-1]
    return " ".join(said.split())


def _watch(command: list[str], environment: dict, monitor: ProgressMonitor, cluster: bool) -> int:
    """Start Snakemake, print what happens until it ends and return its status.

    KeyboardInterrupt by Ctrl-C, a signal, or the end of the make that started this: then all is ended before.
    """
    parent = os.getppid()
    before = {one: signal.signal(one, signal.default_int_handler) for one in (signal.SIGINT, signal.SIGTERM)}
    with open(monitor.folder / ".batch" / "snakemake.log", "w", encoding="utf-8") as log:
        # A session of its own: Ctrl-C reaches this process alone, which then ends the others in order. The pipe ends with
        # this process, and the jobs with the pipe.
        streams = dict(stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT)
        if cluster:
            # No job reads the pipe there: Snakemake itself is told, and cancels them, or nobody would follow them.
            streams["preexec_fn"] = interrupted_with_parent()
        process = subprocess.Popen(command, env=environment, start_new_session=True, **streams)
    try:
        while process.poll() is None:
            time.sleep(0.3)
            monitor.update()
            if "MAKELEVEL" in os.environ and os.getppid() != parent:  # make opens no pipe
                raise KeyboardInterrupt
        monitor.update()
    except BaseException:
        for number in before:
            signal.signal(number, signal.SIG_IGN)
        with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
            os.killpg(process.pid, signal.SIGINT)
            # A cluster has to cancel its jobs; here kernels follow theirs within a second.
            process.wait(slurm.PATIENCE if cluster else 5)
        raise
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # nothing may outlive Snakemake, even if that was killed
        process.communicate()
        for number, handler in before.items():
            signal.signal(number, handler)
    return process.returncode


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status: 0 all finished, 1 something failed, 2 refused, 130 stopped."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)  # what follows is Snakemake's
    parser = argparse.ArgumentParser(
        prog="python -m course run",
        usage="%(prog)s [-h] [--jobs JOBS] [--again] config [-- options of Snakemake, such as --profile profiles/slurm]",
        description=first_line(__doc__),
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
    except KeyboardInterrupt:
        print(f"\nStopped. What is finished stays; {SAME_COMMAND[chosen.again]} goes on from here.", flush=True)
        return 130
    except BrokenPipeError:  # who reads this has left, as in: make run | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 141
