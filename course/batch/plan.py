"""The jobs of a batch: the notebooks of config/*.yaml, spread over data sets, imbalance factors and seeds."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from lt_utils.errors import CourseError, choose
from lt_utils.files import REPOSITORY, is_name, read_yaml
from lt_utils.runs.folder import IDENTITY, NOT_IDENTITY, root, run_name
from lt_utils.runs.parameters import MOST_SEED, check, code_cells, declared, notebook_path, notes, whole

KEYS = ("profile", "datasets", "imbalances", "seeds", "gpu", "notebooks")
NOTEBOOK_KEYS = ("once", "seconds", "parameters", "by_dataset", "datasets", "imbalances", "seeds")
ONCE = ("00_start_here", "12_scoreboard")  # they run once for all data sets, imbalance factors and seeds
LISTS = {  # key: the entries if it is missing, what an entry is in words, and the test of an entry
    "datasets": ([], "names of data sets", lambda value: isinstance(value, str)),
    "imbalances": (
        [100],
        "numbers from 1 to 100000, or 0 for the set as it is",
        lambda value: type(value) in (int, float) and (value == 0 or 1 <= value <= 1e5),
    ),
    "seeds": ([0], f"whole numbers from 0 to {MOST_SEED}", lambda seed: type(seed) is int and 0 <= seed <= MOST_SEED),
}


@dataclass(frozen=True)
class Job:
    """One run of a notebook. `run` names its folder below the notebook's; `seconds` is the configuration's guess."""

    notebook: str
    run: str
    parameters: dict[str, object]
    code: str
    seconds: float

    @property
    def folder(self) -> Path:
        """The run folder: <runs>/<profile>/<notebook>/<run>."""
        return root() / self.parameters["RUN"]

    @property
    def decides(self) -> dict[str, object]:
        """Everything that decides the result: the run is repeated when this changes, and is executed from this alone."""
        return {"notebook": self.notebook, "parameters": self.parameters, "code": self.code}


def read_config(path: Path) -> dict:
    """Content of a config/*.yaml; CourseError if it is no such file or lacks its main keys."""
    config = read_yaml(path)
    parts = (config.get("profile"), config.get("notebooks")) if isinstance(config, dict) else (None, None)
    if not is_name(parts[0]) or not isinstance(parts[1], dict) or not parts[1]:
        keys = "profile (a name of letters, digits and . _ -) and notebooks (what each runs with)"
        raise CourseError(f"{path} must have the keys {keys}.")
    return config


def plan(config: Mapping[str, object], check_data: bool = True) -> list[Job]:
    """Every job that a configuration asks for, in the order of the notebooks; all are checked before any starts.

    check_data: whether its data sets must have been prepared.
    Raises CourseError for unknown keys, notebooks or parameters, wrong types, and data sets that are not there.
    """
    for key in config:
        choose("key of the configuration", key, KEYS)
    gpus = config.get("gpu", 0)
    if type(gpus) is not int or gpus < 0:
        what = "a whole number, 0 or more: the GPUs that a training asks for"
        raise CourseError(f"The configuration's gpu must be {what}, not {gpus!r}.")
    jobs = []
    for notebook, settings in config["notebooks"].items():
        path = notebook_path(notebook)
        known, comments, code = declared(path), notes(path), code_hash(path)
        settings = _pairs(settings, notebook)
        for key in settings:
            choose(f"key of {notebook} in the configuration", key, NOTEBOOK_KEYS)
        if bool(settings.get("once")) != (notebook in ONCE):
            how = "needs once: true" if notebook in ONCE else "runs for each data set and seed: take once out"
            raise CourseError(f"{notebook} {how}; {' and '.join(ONCE)} run once.")
        seconds = settings.get("seconds", 60)
        if type(seconds) not in (int, float) or not 0 < seconds < float("inf"):
            what = "a number above 0, a guess how long a run takes"
            raise CourseError(f"{notebook}: seconds must be {what}, not {seconds!r}.")
        for name, parameters in _spread(config, notebook, settings):
            parameters = {key: whole(value, known.get(key)) for key, value in parameters.items()}
            check(parameters, known, notebook, comments)
            parameters["RUN"] = f"{config['profile']}/{notebook}/{name}"
            check({"RUN": parameters["RUN"]}, known, notebook)
            jobs.append(Job(notebook, name, parameters, code, float(seconds)))
    if check_data:
        _check_data({job.parameters["DATASET"] for job in jobs if "DATASET" in job.parameters})
    return jobs


def _pairs(value: object, where: str) -> dict:
    """A mapping in the configuration, {} if it was left empty; CourseError for anything else."""
    if value is not None and not isinstance(value, dict):
        raise CourseError(f"The configuration's {where} must be `name: value` pairs, not {value!r}.")
    return dict(value or {})


def _spread(config: Mapping, notebook: str, settings: Mapping) -> list[tuple[str, dict[str, object]]]:
    """(run name, parameters) of one notebook over its data sets, imbalance factors and seeds; "all" if it runs once."""
    fixed = _pairs(settings.get("parameters"), f"parameters of {notebook}")
    special = _pairs(settings.get("by_dataset"), f"by_dataset of {notebook}")
    special = {one: _pairs(values, f"by_dataset of {notebook}, {one},") for one, values in special.items()}
    for name in NOT_IDENTITY if notebook in ONCE else (*NOT_IDENTITY, *IDENTITY):
        if any(name in given for given in (fixed, *special.values())):
            how = "the batch sets RUN, and the lists datasets, imbalances and seeds set the others"
            raise CourseError(f"{notebook}: {name} cannot be set under parameters or by_dataset: {how}.")
    if notebook in ONCE:
        return [("all", fixed)]
    lists = {}
    for key, (default, words, fits) in LISTS.items():
        lists[key] = settings.get(key, config.get(key, default))
        if not isinstance(lists[key], list) or not lists[key]:
            raise CourseError(f"The configuration's {key} must be a list with at least one entry, not {lists[key]!r}.")
        if not all(fits(value) for value in lists[key]):
            raise CourseError(f"The configuration's {key} must be {words}, not {lists[key]!r}.")
        check_once(lists[key], f"The configuration's {key}")
    for dataset in special:
        choose(f"data set under by_dataset of {notebook}", dataset, lists["datasets"])
    places = [dict(zip(IDENTITY, values, strict=True)) for values in product(*lists.values())]
    return [(run_name(place), place | fixed | special.get(place["DATASET"], {})) for place in places]


def check_once(entries: list, what: str) -> None:
    """CourseError if `what`, a list of names or numbers, has an entry twice: one run would count as several."""
    twice = [entry for place, entry in enumerate(entries) if entry in entries[:place]]
    if twice:
        raise CourseError(f"{what} must not repeat an entry, but {twice[0]!r} is there more than once: {entries!r}.")


def _check_data(names: set[str]) -> None:
    """CourseError if a data set has not been prepared yet; the bundled ones need no import of torch to be found."""
    bundled = REPOSITORY / "lt_utils" / "data" / "bundled"
    missing = [name for name in sorted(names) if not (bundled / f"{name}.npz").exists()]
    if not missing:
        return
    from lt_utils.data import datasets

    there = datasets.names()
    for name in missing:  # the message for a misspelt name lists the known ones; for one to fetch it has the command
        choose("data set", name, [*there, *(one for one in datasets.FETCHABLE if one not in there)])
    if missing := [name for name in missing if name not in there]:
        folder = os.path.relpath(datasets.data_folder())
        commands = " and ".join(f"python -m data_prep {name}" for name in missing)
        raise CourseError(f"Not prepared yet: {', '.join(missing)} (looked in {folder}); run {commands} first.")


def code_hash(path: Path) -> str:
    """Hash of a notebook's code cells: prose, outputs and metadata do not change a result."""
    return hashlib.sha256(json.dumps([cell["source"] for cell in code_cells(path)]).encode()).hexdigest()[:16]
