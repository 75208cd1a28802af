"""What a batch is to run: the notebooks of config/*.yaml, spread over data sets, imbalance factors and seeds.

Each wanted run is written down as <profile>/.batch/<notebook>/<run>.json, which says everything that decides its
result: parameters and a hash of the notebook's code. The file is touched only when that content changes, so that
Snakemake, which looks at times, repeats a run for a changed notebook or parameter, but not after a fresh checkout,
for a stored output or a sentence that was reworded.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from .errors import CourseError, choose
from .files import read_json, write_json
from .parameters import REPOSITORY, check, code_cells, declared, notebook_path
from .runs import root, run_name

KEYS = ("profile", "datasets", "imbalances", "seeds", "gpu", "notebooks")
NOTEBOOK_KEYS = ("once", "seconds", "parameters", "by_dataset", "datasets", "imbalances", "seeds")


@dataclass(frozen=True)
class Wanted:
    """One run of a notebook: its name (the folder below the notebook's), its parameters, the seconds it may take."""

    profile: str
    notebook: str
    run: str
    parameters: dict[str, object]
    seconds: float

    @property
    def folder(self) -> Path:
        """The run folder: <runs>/<profile>/<notebook>/<run>."""
        return root() / self.profile / self.notebook / self.run

    @property
    def paper(self) -> Path:
        """Where it is written down what this run should be."""
        return root() / self.profile / ".batch" / self.notebook / f"{self.run}.json"


def read_yaml(path: Path) -> object:
    """Content of a YAML file; CourseError if it cannot be read."""
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise CourseError(f"{path} cannot be read ({error.strerror}); see config/ for those there are.") from error
    except yaml.YAMLError as error:
        raise CourseError(f"{path} is not valid YAML: {' '.join(str(error).split())}.") from error


def read_config(path: Path) -> dict:
    """Content of a config/*.yaml; CourseError if it is no such file or lacks its main keys."""
    config = read_yaml(path)
    parts = (config.get("profile"), config.get("notebooks")) if isinstance(config, dict) else (None, None)
    if not isinstance(parts[0], str) or not isinstance(parts[1], dict) or not parts[1]:
        raise CourseError(f"{path} must have the keys profile (a name) and notebooks (what each of them runs with).")
    return config


def plan(config: Mapping[str, object]) -> list[Wanted]:
    """Every run that a configuration asks for, in the order of the notebooks; all are checked before any starts.

    Raises CourseError for unknown keys, notebooks or parameters, wrong types, and data sets that are not there.
    """
    for key in config:
        choose("key of the configuration", key, KEYS)
    wanted = []
    for notebook, settings in config["notebooks"].items():
        settings = settings or {}
        for key in settings:
            choose(f"key of {notebook} in the configuration", key, NOTEBOOK_KEYS)
        known = declared(notebook_path(notebook))
        for name, parameters in _spread(config, settings):
            check(parameters, known, notebook)
            parameters["RUN"] = f"{config['profile']}/{notebook}/{name}"
            check({"RUN": parameters["RUN"]}, known, notebook)
            wanted.append(Wanted(config["profile"], notebook, name, parameters, float(settings.get("seconds", 60))))
    _check_data({run.parameters["DATASET"] for run in wanted if "DATASET" in run.parameters})
    return wanted


def _spread(config: Mapping, settings: Mapping) -> list[tuple[str, dict[str, object]]]:
    """(run name, parameters) of one notebook over its data sets, imbalance factors and seeds; "all" if it runs once."""
    fixed = dict(settings.get("parameters") or {})
    if settings.get("once"):
        return [("all", fixed)]
    lists = {}
    for key, default in (("datasets", []), ("imbalances", [100]), ("seeds", [0])):
        lists[key] = settings.get(key, config.get(key, default))
        if not isinstance(lists[key], list) or not lists[key]:
            raise CourseError(f"The configuration's {key} must be a list with at least one entry, not {lists[key]!r}.")
        if key != "datasets" and not all(type(value) in (int, float) for value in lists[key]):
            raise CourseError(f"The configuration's {key} must be numbers, not {lists[key]!r}.")
    spread = []
    for dataset, imbalance, seed in product(*lists.values()):
        place = {"DATASET": dataset, "IMBALANCE": imbalance, "SEED": seed}
        special = (settings.get("by_dataset") or {}).get(dataset, {})
        spread.append((run_name(place), place | fixed | special))
    return spread


def _check_data(names: set[str]) -> None:
    """CourseError if a data set has not been prepared yet; the bundled ones need no import of torch to be found."""
    missing = [name for name in sorted(names) if not (REPOSITORY / "lt_utils" / "bundled" / f"{name}.npz").exists()]
    if missing:
        from . import datasets

        there = datasets.names()
        for name in missing:  # a misspelt name is told with the known ones; one that can be fetched, with the command
            choose("data set", name, [*there, *(one for one in datasets.FETCHABLE if one not in there)])
        missing = [name for name in missing if name not in there]
    if missing:
        folder = Path(os.path.relpath(datasets.data_folder()))
        commands = " and ".join(f"python -m data_prep {name}" for name in missing)
        raise CourseError(f"Not prepared yet: {', '.join(missing)} (looked in {folder}); run {commands} first.")


def code_hash(path: Path) -> str:
    """Hash of a notebook's code cells: prose, outputs and metadata do not change a result."""
    return hashlib.sha256(json.dumps([cell["source"] for cell in code_cells(path)]).encode()).hexdigest()[:16]


def write_down(wanted: list[Wanted]) -> None:
    """Write each run's paper, unless it says the same already."""
    for run in wanted:
        content = {
            "notebook": run.notebook,
            "folder": f"{run.profile}/{run.notebook}/{run.run}",
            "parameters": run.parameters,
            "code": code_hash(notebook_path(run.notebook)),
        }
        if read_json(run.paper) != json.loads(json.dumps(content)):
            run.paper.parent.mkdir(parents=True, exist_ok=True)
            write_json(run.paper, content)
