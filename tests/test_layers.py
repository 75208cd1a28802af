"""Imports run downwards only, no folder's face hides one of its modules, and a batch starts without torch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from lt_utils.files import REPOSITORY

# From the ground up: a room imports from lower floors only, or from itself.
FLOORS = [
    {f"lt_utils.{name}" for name in ("_moved", "cores", "errors", "files", "hashing", "processes", "progress")},
    {"lt_utils.training", "lt_utils.data"},
    {"lt_utils.models", "lt_utils.runs"},
    {"lt_utils.recognition", "lt_utils.diffusion", "lt_utils.metrics"},
    {"lt_utils.features", "lt_utils.viz"},
    {"data_prep", "course"},
    {"experiments", "benchmarks"},
]
PACKAGES = ("lt_utils", "data_prep", "course", "experiments", "benchmarks")
FOLDERS = [path.parent for path in sorted(REPOSITORY.glob("lt_utils/*/__init__.py"))]


def module(path: Path) -> str:
    return ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module(path): path for package in PACKAGES for path in sorted((REPOSITORY / package).rglob("*.py"))}


def imported(path: Path) -> set[str]:
    """The modules of this repository that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively: write the whole name"
            # from lt_utils.data import datasets: a module, if there is one of that name, else the face
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= whole & MODULES.keys() or {node.module}
    return found & MODULES.keys()


ARROWS = {name: imported(path) - {name} for name, path in MODULES.items()}


def room(name: str) -> str:
    return ".".join(name.split(".")[:2]) if name.startswith("lt_utils.") else name.split(".")[0]


def floor(name: str) -> int:
    return next((number for number, rooms in enumerate(FLOORS) if room(name) in rooms), -1)


def test_every_module_has_a_floor():
    assert [name for name in MODULES if floor(name) < 0] == ["lt_utils"]


def test_imports_run_downwards_between_rooms():
    up = [
        f"{name} imports {other}"
        for name, others in ARROWS.items()
        for other in others - {"lt_utils"}
        if room(name) != room(other) and floor(other) >= floor(name) > 0
    ]
    assert up == []


def test_there_is_no_circle_inside_a_room():
    inside = {name: {other for other in others if room(other) == room(name)} for name, others in ARROWS.items()}
    TopologicalSorter(inside).prepare()  # raises CycleError


def test_a_circle_would_be_seen():
    with pytest.raises(ValueError, match="cycle"):
        TopologicalSorter({"a": {"b"}, "b": {"a"}}).prepare()


def test_only_faces_import_through_their_folder():
    """Code names the module where a thing lives; the short way through a folder's face is for notebooks."""
    faces = {module(folder / "__init__.py") for folder in FOLDERS}
    assert {name: others & faces for name, others in ARROWS.items() if others & faces} == {}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_no_face_hides_a_module(folder):
    names = [
        alias.asname or alias.name
        for node in ast.parse((folder / "__init__.py").read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    ]
    assert set(names) & {path.stem for path in folder.glob("*.py")} == set()
    assert 2 <= len(set(names)) == len(names) <= 32


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_folder_is_seen_at_a_glance(folder):
    """At most nine modules; a thing that belongs together may be longer than 300 lines, but not by much."""
    modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= 9
    assert {path.name for path in modules if len(path.read_text(encoding="utf-8").splitlines()) > 330} == set()


@pytest.mark.parametrize("name", ["lt_utils.runs", "course.batch.launch", "course.batch.plan", "course.batch.execute"])
def test_a_batch_starts_without_torch_and_matplotlib(name):
    code = f"import sys, {name}; print(*{{'torch', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.stdout.split() == [] and done.returncode == 0
