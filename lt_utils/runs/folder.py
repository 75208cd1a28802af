"""A run is a folder: its parameters, checkpoints, progress and, written last, its record.

<root>/lab/03_encoders/fashion-mnist-small-if100-seed0/
    run.json          which notebook with which parameters
    checkpoints/      tensors and JSON
    progress.jsonl    how far it is (see progress.py)
    record.json       what was measured, with what; its presence means that the run is complete
"""

import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from lt_utils.errors import CourseError, short_interrupts
from lt_utils.files import REPOSITORY, folder_in, is_damaged, lock, read_json, unlock, write_json
from lt_utils.progress import log_to
from lt_utils.runs.parameters import check, declared, injected, notebook_path, notes
from lt_utils.runs.provenance import surroundings

IDENTITY = ("DATASET", "IMBALANCE", "SEED")  # what two runs must share to belong together
NOT_IDENTITY = ("RUN",)  # where a run lies does not change what it is


def root() -> Path:
    """The folder of all runs: environment variable LT_RUNS, else runs/ in the repository."""
    return folder_in("LT_RUNS", REPOSITORY / "runs")


def folders() -> dict[str, str]:
    """The LT_ folders of the environment as absolute paths, for processes that are started in another working directory."""
    given = [name for name in ("LT_DATA", "LT_NOTEBOOKS") if os.environ.get(name)]
    return {"LT_RUNS": str(root()), **{name: str(folder_in(name, REPOSITORY)) for name in given}}


@dataclass
class Run:
    """One run of a notebook: `path` is its folder; `base` holds the runs of all notebooks of its batch (or the lab)."""

    path: Path
    notebook: str
    parameters: dict[str, object]
    started: float = field(default_factory=time.monotonic, repr=False)

    @property
    def base(self) -> Path:
        """The folder above the notebooks: <runs>/lab, or <runs>/<profile> of a batch."""
        return self.path.parent.parent

    @property
    def name(self) -> str:
        """How to speak of the folder in print: relative to the runs folder, so that no machine path is shown."""
        return self.path.relative_to(root()).as_posix() if self.path.is_relative_to(root()) else self.path.name

    @property
    def record(self) -> dict | None:
        """Content of record.json, or None as long as the run is not finished."""
        return read_json(self.path / "record.json")

    def file(self, name: str) -> Path:
        """Path of a file of this run; folders in the name are made."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def checkpoint(self, name: str) -> Path:
        """Path <folder>/checkpoints/<name>.safetensors."""
        return self.file(f"checkpoints/{name}.safetensors")

    def finish(self, rows: list[dict], **facts: object) -> None:
        """Write record.json, atomically and last: what was measured (one dict per measured thing) and with what.

        Rows hold plain numbers and texts: accuracies and "ece" in percent (0-100). Raises CourseError if the file
        cannot be written.
        """
        record = {
            "notebook": self.notebook,
            "parameters": self.parameters,
            "rows": [{key: _plain(value) for key, value in row.items()} for row in rows],
            "facts": {key: _plain(value) for key, value in facts.items()},
            **surroundings(),
            "seconds": round(time.monotonic() - self.started, 1),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        write_json(self.path / "record.json", record)


def _plain(value: object) -> object:
    """Tensors and NumPy values as plain Python ones."""
    return value.tolist() if hasattr(value, "tolist") else value


def folder_of(notebook: str, names: Mapping[str, object]) -> Path:
    """Folder of a run: RUN (below the runs folder if relative), else lab/<notebook>/<dataset>-if<..>-seed<..>."""
    if names.get("RUN"):
        return root() / str(names["RUN"])
    return root() / "lab" / notebook / run_name(names)


def run_name(names: Mapping[str, object]) -> str:
    """<dataset>-if<imbalance>-seed<seed> from the parameters that are there, "asis" for an imbalance of 0; "run" if there is none
    of them."""
    forms = {"DATASET": "{}", "IMBALANCE": "if{:g}" if names.get("IMBALANCE") else "asis", "SEED": "seed{}"}
    parts = [form.format(names[key]) for key, form in forms.items() if key in names]
    return re.sub(r"[^\w.-]+", "_", "-".join(parts)) or "run"


def move_aside(folder: Path) -> Path:
    """Rename a run folder to <folder>.old-1 (2, 3, ...), so that nothing is lost, and return the new path."""
    number = 1
    while (aside := folder.with_name(f"{folder.name}.old-{number}")).exists():
        number += 1
    folder.rename(aside)
    return aside


def open_run(notebook: str, names: Mapping[str, object]) -> Run:
    """Open the run folder of a notebook; `names` are its globals(), checked against what its parameters cell declares.

    A parameter is what stands in that cell or came through papermill: constants of a learner's own are none. The same
    parameters again: the run is continued. Other parameters in the same folder: the old run is moved aside and a line says so.

    Raises CourseError for an unknown parameter, for a value that `check` refuses, and for a folder that another process
    writes or that cannot be written.
    """
    path = notebook_path(notebook)
    known = declared(path)
    given = {name: names[name] for name in (*known, *injected(names)) if name in names}
    check(given, known, notebook, notes(path))
    missing = [name for name in known if name not in names]
    if missing:
        raise CourseError(f"{notebook}: parameter {missing[0]} is not set; run the parameters cell first.")
    parameters = json.loads(json.dumps({name: names[name] for name in known}))
    folder = folder_of(notebook, names)
    lock_run_folder(folder, notebook, parameters)
    short_interrupts()
    log_to(folder / "progress.jsonl")
    return Run(folder, notebook, parameters)


def lock_run_folder(folder: Path, notebook: str, parameters: Mapping[str, object]) -> None:
    """Lock the folder for this run, move a run with other or unreadable parameters aside, write run.json."""
    identity = {key: value for key, value in parameters.items() if key not in NOT_IDENTITY}
    what = {"notebook": notebook, "parameters": identity}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock(folder)
        held, damaged = read_json(folder / "run.json"), is_damaged(folder / "run.json")
        if damaged or (held is not None and held != what):
            unlock(folder)  # Windows renames no folder with an open file in it
            aside = move_aside(folder)
            had = "a run whose run.json cannot be read" if damaged else "a run with other parameters"
            print(f"{folder.name} held {had}: moved aside to {aside.name}.", flush=True)
            folder.mkdir(parents=True)
            lock(folder)
        if held != what:
            write_json(folder / "run.json", what)
    except OSError as error:
        raise CourseError(
            f"The run folder {folder} cannot be written ({error.strerror}); set LT_RUNS to a folder of your own."
        ) from error


def find_run(notebook: str, names: Mapping[str, object], *, key: str) -> Run | None:
    """A finished run of another notebook that this one can build on, or None.

    names[key], if given, is its folder (CourseError if no finished run of that notebook with the same DATASET and
    IMBALANCE is there). Otherwise it is looked for beside this run: same base folder, same DATASET, IMBALANCE and SEED.
    CourseError for a record that is there but cannot be read.
    """
    given = names.get(key)
    same = {name: names[name] for name in IDENTITY if name in names}
    if given:
        folder = root() / str(given)
        record = _record(folder, notebook)
        if record is None:
            raise CourseError(
                f"{key}: {folder} holds no finished run (no record.json); finish it first or leave {key} empty."
            )
        if record["notebook"] != notebook:
            raise CourseError(f"{key}: {folder} is a run of {record['notebook']}, not of {notebook}.")
        for name, value in same.items():  # a run may hold several seeds
            there = record["parameters"].get(name)
            if name != "SEED" and there != value:
                said = f"has {name} {there!r}" if name in record["parameters"] else f"does not say its {name}"
                raise CourseError(
                    f"{key}: {folder} {said}, and this run has {value!r}: take another, or leave {key} empty."
                )
        return Run(folder, notebook, record["parameters"])
    base = folder_of(notebook, names).parent.parent if names.get("RUN") else root() / "lab"
    folder = base / notebook / run_name(same)
    record = _record(folder, notebook)
    if record is None or any(record["parameters"].get(name) != value for name, value in same.items()):
        return None
    return Run(folder, notebook, record["parameters"])


def _record(folder: Path, notebook: str) -> dict | None:
    """The record of a run to build on, None if there is none yet. CourseError if it is damaged: that is not the same."""
    path = folder / "record.json"
    record = read_json(path)
    whole = isinstance(record, dict) and "notebook" in record and isinstance(record.get("parameters"), dict)
    if path.exists() and not whole:
        raise CourseError(
            f"{path} cannot be read as the record of a run (it may be cut short): run {notebook} once more, or delete the file."
        )
    return record


def records(folder: Path) -> list[dict]:
    """Every record below a folder, in the order of their paths; runs that were moved aside are left out."""
    found = []
    for path in sorted(Path(folder).rglob("record.json")):
        if not re.search(r"\.old-\d+", str(path.relative_to(folder))):
            record = read_json(path)
            if record is not None:
                found.append(record)
    return found
