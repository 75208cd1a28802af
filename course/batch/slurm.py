"""Where SLURM runs the jobs of a batch: their threads, what became of them, and what a killed batch has left in the queue."""

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from lt_utils.cores import slurm_cores
from lt_utils.errors import CourseError

PATIENCE = 90.0  # seconds until SLURM has ended jobs that are cancelled
AGAIN = "started again, the run goes on from its last checkpoint"
ENDED = {  # state of a job that SLURM ended: what the user is told
    "TIMEOUT": f"SLURM ended it at its time limit (runtime in the profile); {AGAIN}",
    "CANCELLED": f"its SLURM job was cancelled; {AGAIN}",
    "NODE_FAIL": f"the node it ran on failed; {AGAIN}",
    "PREEMPTED": f"SLURM needed its node for a job of higher priority; {AGAIN}",
    "OUT_OF_MEMORY": "it needed more memory than it had asked for (mem_mb in the profile)",
}
# What Snakemake and its plugin write, a line each.
SUBMITTED = re.compile(r"SLURM jobid (\d+) \(log: .*/rule_([^/]+)/([^/]+)/\d+\.log\)")
MESSAGE = "    message: "
JOB = re.compile(r"SLURM-job '(\d+)' failed.*SLURM status is: '(\w+)")
REFUSED = re.compile(
    r"(?:sbatch failed\. The error message was '(?:sbatch: error: )?|failed with exception: )(.*?)[.']*(?:For further|$)"
)


def job_threads() -> int:
    """The threads of one notebook: those the batch says (LT_JOB_THREADS), at most the cores that SLURM gave this job.

    If the batch says none they are all of these cores: how many the machine has that the batch was started on means
    nothing here.
    """
    said = int(os.environ.get("LT_JOB_THREADS") or 0)
    return min(filter(None, (said, slurm_cores())), default=1)


def cancel_leftovers(log: Path) -> int:
    """Cancel the jobs that the batch which wrote this log of Snakemake has left in SLURM's queue; returns how many.

    A batch that is stopped cancels its jobs itself; one whose machine went down cannot. Two jobs must not write one run.
    CourseError if they do not end.
    """
    try:
        name = re.search(r"^SLURM run ID: (\S+)", log.read_text(encoding="utf-8", errors="replace"), re.M)
    except OSError:
        return 0
    if not name or shutil.which("squeue") is None:
        return 0
    queue = ["squeue", "--noheader", "--name", name[1], "--format=%i"]

    def left() -> list[str]:
        return subprocess.run(queue, capture_output=True, text=True).stdout.split()

    if jobs := left():
        subprocess.run(["scancel", *jobs], capture_output=True)
    deadline = time.monotonic() + PATIENCE
    while still := left():
        if time.monotonic() > deadline:
            raise CourseError(f"SLURM does not end jobs of an earlier batch: {', '.join(still)}; scancel them first.")
        time.sleep(1)
    return len(jobs)


class SlurmLog:
    """Reads what Snakemake writes while it runs a batch on SLURM, as events of `runs` like those of execute.log_event."""

    def __init__(self, path: Path, runs: Iterable[str]):
        self.path, self.runs = path, {tuple(run.split("/")[1:]): run for run in runs}
        self.rules = {(notebook[3:], name): run for (notebook, name), run in self.runs.items()}  # a rule has no number
        self.read, self.rest = 0, ""  # bytes read, and the line that is not whole yet
        self.said = ""  # the message of the last error

    def news(self) -> list[dict]:
        """Events since the last call: "queued" with its job, and "lost" with the error and SLURM's `state` of the job."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.read)
                new = file.read()
        except OSError:
            return []
        self.read += len(new)
        *lines, self.rest = (self.rest + new.decode("utf-8", errors="replace")).split("\n")
        return [event for line in lines if (event := self._take(line))]

    def _take(self, line: str) -> dict | None:
        if found := SUBMITTED.search(line):
            job, *rule = found.groups()
            run = self.rules.get(tuple(rule))
            return run and {"event": "queued", "run": run, "time": time.time(), "job": job}
        if line.startswith(("Error in rule ", MESSAGE)):
            self.said = line.removeprefix(MESSAGE)
        elif found := re.match(r"    output: ([^/]+)/([^/]+)/\.done$", line):
            state, error = verdict(self.said)
            if error and found.groups() in self.runs:
                about = {"run": self.runs[found.groups()], "time": time.time()}
                return {"event": "lost", **about, "state": state, "error": error}
        return None


def verdict(message: str) -> tuple[str, str]:
    """SLURM's state of a job, and its end in one sentence, from an error of Snakemake's executor; "" twice if from another."""
    if found := JOB.search(message):
        job, state = found.groups()
        return state, f"{ENDED.get(state, f'its job ended ({state}) before it could say why')} (SLURM job {job})"
    if found := REFUSED.search(message):
        return "REFUSED", f"SLURM did not take it: {found[1]}"
    return "", ""
