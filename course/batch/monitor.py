"""What a batch prints while it runs: which notebooks run, how far they are, and how long the rest takes."""

import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from course.batch.plan import Job
from course.batch.slurm import SlurmLog
from lt_utils.files import read_json
from lt_utils.progress import duration

EVERY = 10.0  # seconds between two lines about what is running; longer in a long batch


class ProgressMonitor:
    """Follows the jobs `todo` through their events (execute.log_event) and their progress.jsonl; on a `cluster` also its."""

    def __init__(self, folder: Path, todo: list[Job], jobs: int, cluster: bool = False):
        self.folder, self.jobs = folder, jobs
        self.todo = {job.parameters["RUN"]: job for job in todo}
        self.started: dict[str, float] = {}  # run -> time, in the order of their starts
        self.finished: set[str] = set()
        self.failed: dict[str, str] = {}
        self.took = {  # notebook -> seconds of its last run on this machine
            notebook.name: about["seconds"]
            for notebook in folder.glob("[!.]*/")
            if (last := max(notebook.glob("*/batch.json"), key=os.path.getmtime, default=None))
            and (about := read_json(last))
        }
        self.several = {name for name, runs in Counter(job.notebook for job in todo).items() if runs > 1}
        self.begin = self.printed = time.time()
        self.events, self.read = folder / ".batch" / "events.jsonl", 0
        self.events.write_text("", encoding="utf-8")
        self.cluster = SlurmLog(folder / ".batch" / "snakemake.log", self.todo) if cluster else None

    @property
    def running(self) -> list[str]:
        return [run for run in self.started if run not in self.finished and run not in self.failed]

    def expected(self, jobs: Iterable[Job]) -> list[float]:
        """Seconds each run may take: what the notebook took last, else the configuration's guess at this machine's pace."""
        known = {one.notebook: one.seconds for one in self.todo.values() if one.notebook in self.took}
        pace = sum(self.took[notebook] for notebook in known) / sum(known.values()) if known else 1.0
        return [self.took.get(job.notebook, job.seconds * pace) for job in jobs]

    def opening(self, total: int) -> str:
        """The first line of a batch: how many of the `total` runs are to do, and about how long that takes."""
        seconds = sum(self.expected(self.todo.values())) / self.jobs
        kept = f"{total - len(self.todo)} of {total} runs are finished already; " if len(self.todo) < total else ""
        return f"{kept}{_count(len(self.todo))} to do, about {duration(seconds)}, into {os.path.relpath(self.folder)}"

    def update(self) -> None:
        """Print what happened since the last call; from time to time also what is running."""
        lines = self.events.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last newline is incomplete
        events, self.read = list(map(json.loads, lines[self.read :])), len(lines)
        events += self.cluster.news() if self.cluster else []
        texts = [text for event in events if event["run"] in self.todo and (text := self._take(event))]
        pause = min(max(EVERY, (time.time() - self.begin) / 40), 600)
        if not texts and time.time() - self.printed >= pause:
            texts = [f"{self._name(run)}{self._progress(run)}" for run in self.running[:4]]
        if texts:
            print(*texts, sep="\n", flush=True)
            self.printed = time.time()

    def closing(self, total: int, command: str = "the same command") -> str:
        """How it ended, after the last update: one sentence, one line for each failure, and which `command` goes on."""
        for run in self.running:
            self.failed[run] = "its process was killed (by hand, or for lack of memory) before it could say anything"
        blocked = len(self.todo) - len(self.finished) - len(self.failed)
        if not self.failed and not blocked:
            return f"All {total} runs are finished."
        rest = f", {blocked} not started{', because they build on those' if self.failed else ''}" if blocked else ""
        lines = [f"{_count(len(self.finished))} finished, {len(self.failed)} failed{rest}:"]
        lines += [f"  {self._title(run)}: {error}" for run, error in self.failed.items()]
        return "\n".join([*lines, f"When that is mended, {command} goes on; what is finished is not repeated."])

    def _take(self, event: dict) -> str:
        """Note one event; returns what to print about it, "" if nothing."""
        run, job = event["run"], self.todo[event["run"]]
        if event["event"] == "queued":
            return f"{self._title(run)} waits in SLURM's queue as job {event['job']}"
        if event["event"] == "lost" and event["state"] == "FAILED" and run in self.failed:
            return ""  # it has said why
        again = run in self.started
        self.started.setdefault(run, event["time"])
        if event["event"] == "start":
            how = ["started again" if again else "", "goes on" if event.get("goes_on") else ""]
            how += [f"on {event['node']}" if event.get("node") else "", f"about {duration(self.expected([job])[0])}"]
            return " · ".join([self._name(run), *filter(None, how)])
        if event["event"] == "lost":
            self.failed[run] = event["error"]
            return f"{self._name(run)} FAILED: {event['error']}"
        if event["event"] == "fail":
            self.failed[run] = event["error"]
            seen = f"how far it came and what it said: failed.ipynb and log.txt in {os.path.relpath(job.folder)}"
            return f"{self._name(run)} FAILED after {duration(event['seconds'])}: {event['error']}\n      {seen}"
        self.finished.add(run)
        if event["event"] == "kept":
            return f"{self._name(run)} was finished already"
        self.took[job.notebook] = event["seconds"]
        return f"{self._name(run)} finished in {duration(event['seconds'])}{self._remaining()}"

    def _title(self, run: str) -> str:
        job = self.todo[run]
        return f"{job.notebook} {job.run}" if job.notebook in self.several else job.notebook

    def _name(self, run: str) -> str:
        """[3/8] 03_encoders: the third that was started of eight."""
        return f"[{list(self.started).index(run) + 1}/{len(self.todo)}] {self._title(run)}"

    def _remaining(self) -> str:
        left = [run for run in self.todo if run not in self.finished and run not in self.failed]
        now = time.time()
        expected = self.expected(self.todo[run] for run in left)
        seconds = sum(max(one - (now - self.started.get(run, now)), 0) for run, one in zip(left, expected, strict=True))
        return f" · about {duration(seconds / self.jobs)} for the remaining {len(left)}" if left else ""

    def _progress(self, run: str) -> str:
        """How far a run is: from its training loop if one is under way, else from the cells that are done."""
        with suppress(OSError, ValueError, IndexError):  # no such file, or its last line is half-written
            line = json.loads((self.todo[run].folder / "progress.jsonl").read_bytes().splitlines()[-1])
            if line["time"] > max(self.started[run], time.time() - 15) and line["total"] and line["seconds_left"]:
                return f" · {line['label']}: {line['done'] / line['total']:.0%} · {duration(line['seconds_left'])} left"
        cells = (read_json(self.todo[run].folder / "notebook.part.ipynb") or {}).get("cells", [])
        states = [cell["metadata"].get("papermill", {}).get("status") for cell in cells]
        done = f" · cell {states.count('completed')} of {len(states)}" if states else ""
        return f"{done} · {duration(time.time() - self.started[run])} so far"


def _count(runs: int) -> str:
    return f"{runs} notebook run" + ("" if runs == 1 else "s")
