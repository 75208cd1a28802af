"""Runs the jobs one after the other, each part a process of its own, and writes what is known after every part.

A part that fails, by an error or a crash of the device, is recorded and the next one begins. At its deadline a part is
interrupted as by Ctrl-C: it finishes its step, saves, and says how far it is. The same command goes on from there.
"""

import functools
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from experiments.gpu_quarter_hour import ways
from experiments.gpu_quarter_hour.jobs import JOBS, Part
from lt_utils.files import REPOSITORY, read_json, write_json, write_whole
from lt_utils.runs.provenance import surroundings

GRACE = 15.0  # seconds for saving, between the interrupt and the end by force
MOST = 16e6  # bytes of a file of weights


class Runner:
    """The jobs `only` on the packed data sets, results in `out`, checkpoints in `folder`, `minutes` in all."""

    def __init__(
        self,
        data: list[Path],
        out: Path,
        folder: Path,
        minutes: float,
        only: list[str],
        tiny: bool = False,
        commit: str = "",
    ) -> None:
        self.data = {path.stem: path.resolve() for path in data}
        self.out, self.folder, self.only, self.tiny = out.resolve(), folder.resolve(), only, tiny
        self.begin = time.monotonic()
        self.end = self.begin + 60 * minutes
        self.path = self.out / "results.json"
        self.asked: set[subprocess.Popen] = set()
        before = read_json(self.path) or {}
        about = surroundings()
        about["commit"] = about["commit"] or commit or None
        self.results = {"title": "A quarter of an hour on a GPU", **about, "jobs": before.get("jobs", {})}
        self.results["ways"] = before.get("ways", {})

    def write(self) -> None:
        """Write all that is known, whole."""
        self.results["written"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_json(self.path, self.results)

    def record(self, part: Part) -> dict:
        """The record of a part, made if there is none."""
        return self.results["jobs"].setdefault(part.job, {}).setdefault(f"{part.data} {part.variant}", {})

    def status(self, part: Part) -> str:
        """How a part ended; "" if it has not. Of several seeds the first that is not done speaks for all."""
        found = [self.record(row).get("status", "") for row in part.rows]
        return next((status for status in found if status != "done"), "done")

    def run(self) -> None:
        """All jobs, in order; what is finished is not done again."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.restore()
        for name in self.only:
            job, deadline = JOBS[name], min(self.end, time.monotonic() + JOBS[name].seconds)
            way = self.way(name, deadline)
            parts = job.parts(name, list(self.data), way == ways.TOGETHER)
            waiting = [part for part in parts if self.status(part) != "done"]
            # Seeds together: one data set after the other, so that one at most is stopped, whose checkpoint can be carried away.
            self.job(waiting, deadline, job.side if way in ("", ways.SIDE) else 1)
            self.keep(name, parts)
            self.write()

    def way(self, name: str, deadline: float) -> str:
        """How the job trains its seeds: as it has begun, else the fastest way; "" where there is nothing to choose."""
        if not (network := JOBS[name].speed_of):
            return ""
        begun = self.results["ways"].get(name)
        found = ways.rates(self.results["jobs"], network, self.results["device"])
        way, why = (begun["way"], begun["why"]) if begun else ways.fastest(found)
        print(f"{name}: " + "as it has begun, " * bool(begun) + f"seeds {why}", flush=True)
        if time.monotonic() < deadline - GRACE:  # it begins now, and shall go on so
            self.results["ways"][name] = {"way": way, "why": why}
            self.write()
        return way

    def job(self, waiting: list[Part], deadline: float, side: int) -> None:
        """The parts of one job, `side` at a time, until the deadline."""
        running: dict[Part, tuple[subprocess.Popen, float]] = {}
        try:
            while waiting or running:
                late = time.monotonic() > deadline - GRACE
                while waiting and (late or len(running) < side):
                    part = waiting.pop(0)
                    if late:
                        how_far = self.how_far(part)
                        for row in part.rows:
                            self.record(row).setdefault("status", "not begun: its job's time was up")
                            self.record(row).update(how_far)
                        print(f"{part.name}: no time left", flush=True)
                    else:
                        begin = time.monotonic()
                        running[part] = self.start(part), begin
                        print(f"{part.name}: begins at {(begin - self.begin) / 60:.1f} min", flush=True)
                if late:
                    self.stop(running, deadline)
                self.collect(running)
                time.sleep(0.05)
        except KeyboardInterrupt:
            deadline = time.monotonic() + GRACE
            while running:
                self.stop(running, deadline)
                self.collect(running)
                time.sleep(0.05)
            raise

    def start(self, part: Part) -> subprocess.Popen:
        """The process of a part; what it prints goes to a file beside its checkpoint."""
        command = [sys.executable, "-m", "experiments.gpu_quarter_hour", "part", part.job, part.data, part.variant]
        command += ["--data", str(self.data[part.data]), "--folder", str(self.folder), *["--tiny"] * self.tiny]
        paths = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))
        environment = os.environ | {"PYTHONPATH": paths, "PYTHONUNBUFFERED": "1"}
        with open(self.folder / f"{part.name}.log", "a", encoding="utf-8") as log:
            # A session of its own: the workers of the compiler end with it, and Ctrl-C here reaches it through us alone.
            # The pipe ends with this process, and the part with the pipe.
            streams = dict(stdin=subprocess.PIPE, stdout=log, stderr=log)
            return subprocess.Popen(command, env=environment, start_new_session=True, cwd=REPOSITORY, **streams)

    def stop(self, running: dict, deadline: float) -> None:
        """Ask each part once to end; after the deadline, end it by force."""
        for process, _ in running.values():
            with suppress(ProcessLookupError):
                if time.monotonic() > deadline:
                    os.killpg(process.pid, signal.SIGKILL)
                elif process not in self.asked:
                    self.asked.add(process)
                    os.kill(process.pid, signal.SIGINT)

    def collect(self, running: dict) -> None:
        """Note the parts that have ended, and take them out of `running`."""
        for part, (process, begin) in list(running.items()):
            if process.poll() is not None:
                del running[part]
                self.note(part, process.returncode, time.monotonic() - begin)

    def how_far(self, part: Part) -> dict:
        """The last line of progress of a part: step and steps of what it was at."""
        with suppress(OSError, ValueError, IndexError):
            line = json.loads((self.folder / f"{part.name}.progress").read_text(encoding="utf-8").splitlines()[-1])
            return {"at": line["label"], "step": line["done"], "of": line["total"]}
        return {}

    def note(self, part: Part, code: int, seconds: float) -> None:
        """Record how a part ended, with what it measured until then."""
        found = read_json(self.folder / f"{part.name}.json") or {}
        complete, each = bool(found.pop("complete", False)) and code == 0, found.pop("each", {})
        log = (self.folder / f"{part.name}.log").read_text(encoding="utf-8", errors="replace").strip().splitlines()
        stopped = code in (130, -signal.SIGINT, -signal.SIGKILL)
        status = "done" if complete else "stopped at its deadline" if stopped else "failed"
        how_far = {} if complete else self.how_far(part)
        for row in part.rows:
            record = self.record(row)
            for old in ("error", "at", "step", "of"):  # of an earlier try
                record.pop(old, None)
            record |= found | each.get(row.variant, {}) | how_far | {"status": status}
            if status == "failed":
                record["error"] = "\n".join(log[-8:])[-1500:] or f"ended with status {code}, and said nothing"
            record["seconds"] = round(record.get("seconds", 0) + seconds, 1)  # of all tries
            if len(part.rows) > 1:
                record["seeds at once"] = len(part.rows)  # in these seconds
            record |= {key: self.results[key] for key in ("device", "commit", "package")}
        told = f", step {how_far['step']:,} of {how_far['of']:,}" if how_far else ""
        print(f"{part.name}: {status}, {seconds:.0f} s{told}", flush=True)
        self.write()

    def keep(self, name: str, parts: list[Part]) -> None:
        """Carry away what a job made: networks in weights-<job>.zip, checkpoints of what was stopped in training-<job>.zip.

        A file has 16 MB at most; what does not fit is named in the results.
        """
        stopped = [part.name for part in parts if self.status(part).startswith("stopped")]
        wanted = {"weights": sorted(self.folder.glob(f"{name}-*.safetensors"))}
        wanted["training"] = [path for one in stopped if (path := self.folder / f"{one}.training").exists()]
        for what, files in wanted.items():
            path, fitting, size = self.out / f"{what}-{name}.zip", [], 0
            for file in files:
                if size + file.stat().st_size < MOST:
                    fitting.append(file)
                    size += file.stat().st_size
            left = [file.name for file in files if file not in fitting]
            self.results["left out"] = self.results.get("left out", {}) | {path.name: left}
            path.unlink(missing_ok=True)
            if fitting:
                write_whole(path, functools.partial(_zip, fitting))

    def restore(self) -> None:
        """Put back what an earlier run carried away, where the folder of checkpoints begins empty."""
        for path in sorted(self.out.glob("*-*.zip")):
            with zipfile.ZipFile(path) as archive:
                for name in archive.namelist():
                    if not (self.folder / name).exists():
                        archive.extract(name, self.folder)


def _zip(files: list[Path], target: BinaryIO) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for file in files:
            archive.write(file, file.name)
