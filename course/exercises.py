"""Exercises with one source: solutions/NN_topic.ipynb, from which exercises/NN_topic.ipynb is made.

python -m course exercises start            a copy to work in, my_exercises/; what is there already is never touched
python -m course exercises build            make exercises/ from solutions/ (--execute: execute the solutions first)
python -m course exercises check            what is not as it should be in solutions/ and exercises/

An exercise is a row of cells in the source: its text, under a heading `## 1.2 · Title`; one code cell with a function whose
solution stands between `# BEGIN SOLUTION` and `# END SOLUTION`; one code cell that calls its check; if it helps, a code cell
tagged `expected-picture`; and a discussion. In exercises/ the solution is a NotImplementedError, and no output is left but
the expected pictures.
"""

import argparse
import ast
import copy
import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from course import gates
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY
from lt_utils.runs.parameters import read_notebook

SOLUTIONS, EXERCISES, MINE = REPOSITORY / "solutions", REPOSITORY / "exercises", REPOSITORY / "my_exercises"
PICTURE = "expected-picture"  # tag of a cell whose output stays in exercises/
REGION = re.compile(r"^(?P<indent> *)# BEGIN SOLUTION\n.*?^ *# END SOLUTION\n?", re.M | re.S)
HEADING = re.compile(r"^## (?P<number>\d+\.\d+) · (?P<title>.+)$", re.M)
FACTS = re.compile(r"^\*\*Difficulty\*\* (★{1,3})☆* · \*\*Time\*\* (\d+) minutes · \*\*Goal\*\* (.+)$", re.M)
GATES = (gates.executed, gates.clean_outputs, gates.no_machine_paths, gates.short_cells, gates.small, gates.forbidden)


@dataclass(frozen=True)
class Exercise:
    """One exercise: difficulty 1 to 3, minutes, the goal, and its cells' text and code (the solution included)."""

    number: str
    title: str
    difficulty: int
    minutes: int
    goal: str
    text: str
    code: str
    check: str
    discussion: str

    @property
    def function(self) -> str:
        """Name of the function that the learner writes."""
        return functions(self.code)[0].name


def functions(source: str) -> list[ast.FunctionDef]:
    """The functions that a code cell defines."""
    return [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)]


def load(path: Path) -> dict:
    """A notebook file as JSON, each source as one text. CourseError if it cannot be read."""
    notebook = read_notebook(path)
    for cell in notebook["cells"]:
        cell["source"] = "".join(cell["source"])
    return notebook


def read(notebook: dict) -> list[Exercise]:
    """The exercises of a source notebook, in order. CourseError names what one of them lacks."""
    found, cells = [], notebook["cells"]
    starts = [
        place for place, cell in enumerate(cells) if cell["cell_type"] == "markdown" and HEADING.search(cell["source"])
    ]
    for start, end in zip(starts, [*starts[1:], len(cells)], strict=True):
        heading, facts = HEADING.search(cells[start]["source"]), FACTS.search(cells[start]["source"])
        code = [cell["source"] for cell in cells[start:end] if cell["cell_type"] == "code"]
        notes = [cell["source"] for cell in cells[start + 1 : end] if cell["cell_type"] == "markdown"]
        stubs = [source for source in code if "# BEGIN SOLUTION" in source]
        checks = [source for source in code if re.match(r"check\.\w+\(", source)]
        for there, what in (
            (facts, "a line **Difficulty** ★☆☆ · **Time** 5 minutes · **Goal** ..."),
            (len(stubs) == 1 and len(functions(stubs[0])) == 1, "one cell with one function and its solution"),
            (len(checks) == 1, "one cell that begins with check."),
            (any("<summary>Discussion" in note for note in notes), "a discussion"),
        ):
            if not there:
                raise CourseError(f"Exercise {heading['number']} needs {what}.")
        stars, minutes, goal = facts.groups()
        discussion = next(note for note in notes if "<summary>Discussion" in note)
        found.append(
            Exercise(
                heading["number"],
                heading["title"],
                len(stars),
                int(minutes),
                goal,
                cells[start]["source"],
                stubs[0],
                checks[0],
                discussion,
            )
        )
    return found


def strip(source: str) -> str:
    """A code cell with every solution replaced by a NotImplementedError that says what to do."""

    def stub(found: re.Match) -> str:
        return f'{found["indent"]}raise NotImplementedError("your code here")\n'

    return REGION.sub(stub, source).rstrip("\n")


def exercises_of(notebook: dict) -> dict:
    """The notebook for learners: without solutions, and without outputs except the expected pictures."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook["cells"]:
        if cell["cell_type"] != "code":
            continue
        cell["execution_count"] = None
        cell["source"] = strip(cell["source"])
        if PICTURE not in cell["metadata"].get("tags", []):
            cell["outputs"] = []
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = None
    return notebook


def text_of(notebook: dict) -> str:
    """The text of a notebook file, as Jupyter writes it."""
    notebook = copy.deepcopy(notebook)
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    return json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def build(solutions: Path = SOLUTIONS, target: Path = EXERCISES, *, execute: bool = False) -> list[Path]:
    """Write the exercises of every source notebook, and remove those whose source is gone; returns what was written."""
    sources = sorted(solutions.glob("*.ipynb"))
    if execute:
        from course.refresh import execute as run

        for source in sources:
            run(source)
    target.mkdir(exist_ok=True)
    for path in target.glob("*.ipynb"):
        if not (solutions / path.name).exists():
            path.unlink()
    for source in sources:
        (target / source.name).write_text(text_of(exercises_of(load(source))), encoding="utf-8")
    return [target / source.name for source in sources]


def start(folder: Path = MINE, source: Path = EXERCISES) -> tuple[list[str], list[str]]:
    """Copy the exercises to a folder to work in; names of what was (made, kept). Nothing that is there is touched."""
    made, kept = [], []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(source.glob("*.ipynb")):
            mine = folder / path.name
            if os.path.lexists(mine):
                kept.append(path.name)
                continue
            part = folder / f".{path.name}.part"  # half a copy would be kept as work
            part.write_bytes(path.read_bytes())
            part.rename(mine)
            made.append(path.name)
    except OSError as error:
        raise CourseError(f"{folder} cannot be written ({error.strerror}): choose another with --to FOLDER.") from error
    return made, kept


def problems(path: Path, exercises: Path = EXERCISES) -> Iterator[str]:
    """What is not as it should be in a source notebook and its exercises, one sentence each."""
    notebook = load(path)
    yield from (found for gate in GATES for found in gate(notebook))
    number = f"{int(path.name[:2])}."
    for one in read(notebook):
        function = functions(one.code)[0]
        if not one.number.startswith(number):
            yield f"exercise {one.number} does not belong to notebook {path.name[:2]}"
        if f"({one.function})" not in one.check:
            yield f"exercise {one.number}: its check is not given {one.function}"
        if function.returns is None or any(argument.annotation is None for argument in function.args.args):
            yield f"exercise {one.number}: an argument or the result of {one.function} has no type"
        if not ast.get_docstring(function):
            yield f"exercise {one.number}: {one.function} has no docstring"
        if "<summary>Hint</summary>" not in one.text or "</details>" not in one.text:
            yield f"exercise {one.number} has no hint that opens"
        if (
            f"| {one.number} | {one.title} | {'★' * one.difficulty} | {one.minutes} |"
            not in notebook["cells"][0]["source"]
        ):
            yield f"exercise {one.number} is not so in the table at the top"
    made = exercises / path.name
    if not made.exists() or made.read_text(encoding="utf-8") != text_of(exercises_of(notebook)):
        yield f"exercises/{path.name} is not what its source gives: python -m course exercises build"


def main(arguments: list[str]) -> int:
    """The command line; see the top of this file. Exit status 1 if `check` finds something, 2 after an error."""
    parser = argparse.ArgumentParser(prog="python -m course exercises", description="Exercises: start, build, check.")
    parser.add_argument("what", choices=("start", "build", "check"))
    parser.add_argument("--to", type=Path, default=MINE, help="start: the folder to work in (default: my_exercises)")
    parser.add_argument("--execute", action="store_true", help="build: execute the solutions first")
    asked = parser.parse_args(arguments)
    try:
        if asked.what == "check":
            found = [f"{path.name}: {one}" for path in sorted(SOLUTIONS.glob("*.ipynb")) for one in problems(path)]
            print("\n".join(found) or "Solutions and exercises are as they should be.")
            return 1 if found else 0
        if asked.what == "build":
            print(f"exercises/: {len(build(execute=asked.execute))} notebooks made from solutions/.")
            return 0
        made, kept = start(asked.to)
        for name in made:
            print(f"made  {asked.to.name}/{name}")
        for name in kept:
            print(f"kept  {asked.to.name}/{name}: it is yours and was not touched")
        print(f"Open {asked.to.name}/ in JupyterLab (make lab). To begin one anew, rename yours and run this again.")
        return 0
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
