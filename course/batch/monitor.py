"""What a batch says while it runs: which notebooks, how far, how long still."""

import json
import os
import time
from contextlib import suppress
from pathlib import Path

from course.batch.plan import Wanted
from lt_utils.errors import CourseError
from lt_utils.files import read_json, write_json
from lt_utils.progress import duration

EVERY = 10.0  # seconds between two lines about what is running; longer in a long batch


class Board:
    """Follows the runs through their events (execute.tell), their progress.jsonl and their half-written notebooks."""

    def __init__(self, folder: Path, todo: list[Wanted], jobs: int):
        self.folder, self.jobs = folder, jobs
        self.todo = {f"{one.profile}/{one.notebook}/{one.run}": one for one in todo}
        self.running: dict[str, float] = {}  # folder -> time of its start
        self.failed: dict[str, str] = {}
        self.finished: set[str] = set()
        self.places: dict[str, int] = {}
        self.pace, self.guessed, self.spent = 1.0, 0.0, 0.0
        self.begin = self.told = time.time()
        self.memory = folder / ".batch" / "seconds.json"  # how long each notebook took the last time, on this machine
        self.took = read_json(self.memory) or {}
        self.events = folder / ".batch" / "events.jsonl"
        self.events.write_text("", encoding="utf-8")
        self.read = 0
        several = [one.notebook for one in todo]
        self.names = {
            key: one.notebook if several.count(one.notebook) == 1 else f"{one.notebook} {one.run}"
            for key, one in self.todo.items()
        }

    def expected(self, one: Wanted) -> float:
        """Seconds that a run may take: what it took before, else the configuration's guess at this machine's pace."""
        known = self.took.get(f"{one.notebook}/{one.run}") or self.took.get(one.notebook)
        return known or one.seconds * self.pace

    def opening(self, wanted: int) -> str:
        """How many of the `wanted` runs are to do, and about how long that takes: the first line of a batch."""
        seconds = sum(self.expected(one) for one in self.todo.values()) / self.jobs
        kept = f"{wanted - len(self.todo)} of {wanted} runs are finished already; " if len(self.todo) < wanted else ""
        return f"{kept}{_count(len(self.todo))} to do, about {duration(seconds)}, into {os.path.relpath(self.folder)}"

    def look(self) -> None:
        """Read what happened since the last look and print it; from time to time also what is under way."""
        for event in self._new_events():
            if event["folder"] in self.todo:
                text = self._take(event)
                if text:
                    print(text, flush=True)
                    self.told = time.time()
        pause = min(max(EVERY, (time.time() - self.begin) / 40), 600)
        if self.running and time.time() - self.told >= pause:
            for key in list(self.running)[:4]:
                print(f"{self._place(key)} {self.names[key]}{self._progress(key)}", flush=True)
            self.told = time.time()

    def closing(self, wanted: int, command: str = "the same command") -> str:
        """How it ended, after the last look: one sentence, one line for each failure, and which `command` goes on."""
        for key in self.running:
            self.failed[key] = "its process was killed (by hand, or for lack of memory) before it could say anything"
        blocked = len(self.todo) - len(self.finished) - len(self.failed)
        if not self.failed and not blocked:
            return f"All {wanted} runs are finished."
        rest = f", {blocked} not started{', because they build on those' if self.failed else ''}" if blocked else ""
        lines = [f"{_count(len(self.finished))} finished, {len(self.failed)} failed{rest}:"]
        lines += [f"  {self.names[key]}: {error}" for key, error in self.failed.items()]
        return "\n".join([*lines, f"When that is mended, {command} goes on; what is finished is not repeated."])

    def _new_events(self) -> list[dict]:
        with open(self.events, encoding="utf-8") as file:
            file.seek(self.read)
            lines = file.read()
        whole = lines[: lines.rfind("\n") + 1]
        self.read += len(whole.encode())
        return [json.loads(line) for line in whole.splitlines()]

    def _take(self, event: dict) -> str | None:
        """Note one event; returns what to print about it."""
        key, one = event["folder"], self.todo[event["folder"]]
        if event["event"] == "start":
            self.running[key] = event["time"]
            return f"{self._place(key)} {self.names[key]} · about {duration(self.expected(one))}"
        self.running.pop(key, None)
        if event["event"] == "fail":
            self.failed[key] = event["error"]
            seen = os.path.relpath(one.folder)
            return (
                f"{self._place(key)} {self.names[key]} FAILED after {duration(event['seconds'])}: {event['error']}\n"
                f"      how far it came and what it said: failed.ipynb and log.txt in {seen}"
            )
        place = self._place(key)
        self.finished.add(key)
        if event["event"] == "kept":
            return f"{place} {self.names[key]} was finished already"
        self.pace = self._pace(one, event["seconds"])
        self.took |= {one.notebook: event["seconds"], f"{one.notebook}/{one.run}": event["seconds"]}
        with suppress(CourseError):  # only better guesses next time: a full disk must not end the batch here
            write_json(self.memory, self.took)
        return f"{place} {self.names[key]} finished in {duration(event['seconds'])}{self._remaining()}"

    def _pace(self, one: Wanted, seconds: float) -> float:
        """Seconds taken for each second guessed, over all runs of this batch so far."""
        self.guessed += one.seconds
        self.spent += seconds
        return self.spent / self.guessed

    def _place(self, key: str) -> str:
        """[3/8]: the third of eight that were begun."""
        place = self.places.setdefault(key, len(self.places) + 1)
        return f"[{place}/{len(self.todo)}]"

    def _remaining(self) -> str:
        left = [key for key in self.todo if key not in self.finished and key not in self.failed]
        if not left:
            return ""
        now = time.time()
        seconds = sum(max(self.expected(self.todo[key]) - (now - self.running.get(key, now)), 0) for key in left)
        return f" · about {duration(seconds / self.jobs)} for the remaining {len(left)}"

    def _progress(self, key: str) -> str:
        """How far a run is: from its training loop if one is under way, else from the cells that are done."""
        folder = self.todo[key].folder
        line = _last_json(folder / "progress.jsonl")
        fresh = line and line["time"] > max(self.running[key], time.time() - 15)
        if fresh and line["total"] and line["seconds_left"]:
            part = f"{100 * line['done'] / line['total']:.0f} %"
            return f" · {line['label']}: {part} · {duration(line['seconds_left'])} left"
        cells = (read_json(folder / "notebook.part.ipynb") or {}).get("cells", [])
        states = [cell["metadata"].get("papermill", {}).get("status") for cell in cells]
        done = f" · cell {states.count('completed')} of {len(states)}" if states else ""
        return f"{done} · {duration(time.time() - self.running[key])} so far"


def _count(runs: int) -> str:
    return f"{runs} notebook run" + ("" if runs == 1 else "s")


def _last_json(path: Path) -> dict | None:
    """The last whole line of a JSON-lines file, or None."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 2000))
            return json.loads(file.read().splitlines()[-1])
    except (OSError, ValueError, IndexError):
        return None
