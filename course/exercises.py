"""Exercises with one source: solutions/NN_topic.ipynb, from which exercises/NN_topic.ipynb is made.

python -m course exercises start            a copy to work in, my_exercises/; what is there already is never touched
python -m course exercises build            make exercises/ from solutions/ (--execute: execute the solutions first)
python -m course exercises check            what is not as it should be in solutions/ and exercises/

An exercise is a row of cells in the source: its text, under a heading `## 1.2 · Title`, in an appendix `## A1.2 · Title`; one
code cell with a function whose solution stands between `# BEGIN SOLUTION` and `# END SOLUTION`; one code cell that calls its
check; if it helps, a code cell tagged `expected-picture`; and a discussion. In exercises/ the solution is a
NotImplementedError, and no output is left but the expected pictures.
"""

import ast
import copy
import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from course import gates
from course.command import command
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY, write_whole
from lt_utils.runs.parameters import read_notebook

SOLUTIONS, EXERCISES, MINE = REPOSITORY / "solutions", REPOSITORY / "exercises", REPOSITORY / "my_exercises"
PICTURE = "expected-picture"  # tag of a cell whose output stays in exercises/
REGION = re.compile(r"^(?P<indent> *)# BEGIN SOLUTION\n.*?^ *# END SOLUTION\n?", re.M | re.S)
HEADING = re.compile(r"^## (?P<number>A?\d+\.\d+) · (?P<title>.+)$", re.M)
FACTS = re.compile(r"^\*\*Difficulty\*\* (★{1,3})☆* · \*\*Time\*\* (\d+) minutes · \*\*Goal\*\* (.+)$", re.M)
GATES = (gates.executed, gates.clean_outputs, gates.no_machine_paths, gates.short_cells, gates.small, gates.forbidden)


@dataclass(frozen=True)
class Exercise:
    """One exercise: difficulty 1 to 3, minutes, its text, and the code of its function (solution included) and its check."""

    number: str
    title: str
    difficulty: int
    minutes: int
    text: str
    code: str
    check: str

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
    cells = notebook["cells"]
    is_start = [cell["cell_type"] == "markdown" and HEADING.search(cell["source"]) for cell in cells]
    starts = [place for place, found in enumerate(is_start) if found]
    return [_exercise(cells[start:end]) for start, end in zip(starts, [*starts[1:], len(cells)], strict=True)]


def _exercise(cells: list[dict]) -> Exercise:
    """The exercise of a row of cells, of which the first has its heading."""
    text, *notes = (cell["source"] for cell in cells if cell["cell_type"] == "markdown")
    code = [cell["source"] for cell in cells if cell["cell_type"] == "code"]
    heading, facts = HEADING.search(text), FACTS.search(text)
    stubs = [source for source in code if "# BEGIN SOLUTION" in source]
    checks = [source for source in code if re.match(r"check\.\w+\(", source)]
    needed = {
        "a line **Difficulty** ★☆☆ · **Time** 5 minutes · **Goal** ...": facts,
        "one cell with one function and its solution": len(stubs) == 1 and len(functions(stubs[0])) == 1,
        "one cell that begins with check.": len(checks) == 1,
        "a discussion": any("<summary>Discussion" in note for note in notes),
    }
    for what, is_there in needed.items():
        if not is_there:
            raise CourseError(f"Exercise {heading['number']} needs {what}.")
    return Exercise(*heading.groups(), len(facts[1]), int(facts[2]), text, stubs[0], checks[0])


def strip(source: str) -> str:
    """A code cell with every solution replaced by a NotImplementedError that says what to do."""
    return REGION.sub(r'\g<indent>raise NotImplementedError("your code here")\n', source).rstrip("\n")


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
    made, kept, remedy = [], [], "choose another folder with --to FOLDER"
    for path in sorted(source.glob("*.ipynb")):
        mine, content = folder / path.name, path.read_bytes()
        if os.path.lexists(mine):
            kept.append(path.name)
        else:  # written whole: half a copy would be kept as work
            write_whole(mine, lambda file, content=content: file.write(content), remedy)
            made.append(path.name)
    return made, kept


def problems(path: Path, exercises: Path = EXERCISES) -> Iterator[str]:
    """What is not as it should be in a source notebook and its exercises, one sentence each."""
    notebook = load(path)
    yield from (found for gate in GATES for found in gate(notebook))
    table = notebook["cells"][0]["source"]
    for one in read(notebook):
        function, number = functions(one.code)[0], f"exercise {one.number}"
        types = [function.returns, *(argument.annotation for argument in function.args.args)]
        row = f"| {one.number} | {one.title} | {'★' * one.difficulty} | {one.minutes} |"
        needed = {
            f"{number} does not belong to notebook {path.name[:2]}": one.number.startswith(
                f"{path.name[:2].lstrip('0')}."
            ),
            f"{number}: its check is not given {one.function}": f"({one.function})" in one.check,
            f"{number}: an argument or the result of {one.function} has no type": None not in types,
            f"{number}: {one.function} has no docstring": ast.get_docstring(function),
            f"{number} has no hint that opens": "<summary>Hint</summary>" in one.text and "</details>" in one.text,
            f"{number} is not so in the table at the top": row in table,
        }
        yield from (sentence for sentence, is_so in needed.items() if not is_so)
    made = exercises / path.name
    if not made.exists() or made.read_text(encoding="utf-8") != text_of(exercises_of(notebook)):
        yield f"exercises/{path.name} is not what its source gives: python -m course exercises build"


@command(
    "exercises",
    "Exercises: start, build, check.",
    ("what", dict(choices=("start", "build", "check"))),
    ("--to", dict(type=Path, default=MINE, help="start: the folder to work in (default: my_exercises)")),
    ("--execute", dict(action="store_true", help="build: execute the solutions first")),
)
def main(what: str, to: Path, execute: bool) -> int:
    """The command line; see the top of this file. Exit status 1 if `check` finds something, 2 after an error."""
    if what == "check":
        found = [f"{path.name}: {one}" for path in sorted(SOLUTIONS.glob("*.ipynb")) for one in problems(path)]
        print("\n".join(found) or "Solutions and exercises are as they should be.")
        return 1 if found else 0
    if what == "build":
        print(f"exercises/: {len(build(execute=execute))} notebooks made from solutions/.")
        return 0
    made, kept = start(to)
    for name in made:
        print(f"made  {to.name}/{name}")
    for name in kept:
        print(f"kept  {to.name}/{name}: it is yours and was not touched")
    print(f"Open {to.name}/ in JupyterLab (make lab). To begin one anew, rename yours and run this again.")
    return 0
