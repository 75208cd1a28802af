"""The parameters of a notebook: what its two parameter cells declare, and whether given values fit.

The cell tagged `parameters` holds what a learner plays with. The rest stands above it, folded, in a cell tagged
`more-parameters`: papermill writes given values below `parameters`, so they hold for both.

papermill only warns about a misspelt parameter and runs on with the default; here it is refused before anything runs.
"""

import ast
import json
import os
import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from lt_utils.errors import CourseError, choose
from lt_utils.files import REPOSITORY

TAGS = ("parameters", "more-parameters")  # of the cells that declare parameters
KINDS = {
    bool: "True or False",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    tuple: "a list",
    dict: "a dict",
}


def notebooks_folder() -> Path:
    """The folder of the course's notebooks: environment variable LT_NOTEBOOKS, else notebooks/ in the repository."""
    return Path(os.environ.get("LT_NOTEBOOKS") or REPOSITORY / "notebooks")


def notebook_path(notebook: str, folder: Path | None = None) -> Path:
    """Path of the notebook with this name, such as "03_encoders"; CourseError lists the known names."""
    folder = Path(folder or notebooks_folder())
    choose("notebook", notebook, sorted(path.stem for path in folder.glob("*.ipynb")))
    return folder / f"{notebook}.ipynb"


def read_notebook(path: Path) -> dict:
    """Content of a notebook file; CourseError if there is none or it holds something else."""
    try:
        notebook = json.loads(Path(path).read_text(encoding="utf-8"))
        _ = [(cell["cell_type"], cell["source"]) for cell in notebook["cells"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(
            f"{path} cannot be read as a notebook ({type(error).__name__}); check its name, or restore the file."
        ) from error
    return notebook


def code_cells(path: Path) -> list[dict]:
    """The code cells of a notebook file, each with its text joined under "source" and its list of "tags"."""
    return [
        cell | {"source": "".join(cell["source"]), "tags": list(cell.get("metadata", {}).get("tags", []))}
        for cell in read_notebook(path)["cells"]
        if cell["cell_type"] == "code"
    ]


def assignments(source: str) -> list[tuple[str, ast.expr]]:
    """(name, value expression) of each `NAME = value` in a parameters cell; ValueError at any other statement."""
    found = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            found.append((node.targets[0].id, node.value))
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value is not None:
            found.append((node.target.id, node.value))
        else:
            raise ValueError(f"{ast.unparse(node)!r} is no line NAME = literal")
    return found


def declared(path: Path) -> dict[str, object]:
    """Name -> default value of every parameter that a notebook declares in its cells tagged with one of `TAGS`.

    A notebook without such a cell declares none. Raises CourseError if a default is not a plain literal.
    """
    source = "\n".join(cell["source"] for cell in code_cells(path) if set(TAGS) & set(cell["tags"]))
    try:
        return {name: ast.literal_eval(value) for name, value in assignments(source)}
    except (ValueError, SyntaxError) as error:
        raise CourseError(f"The parameters cell of {Path(path).name} must hold literals only: {error}.") from error


def _fits(value: object, default: object) -> bool:
    if default is None:
        return True
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple))
    return isinstance(value, type(default))


def check(values: Mapping[str, object], known: Mapping[str, object], notebook: str) -> None:
    """Refuse values that a notebook does not declare, or of another type than the default (an int may be a float).

    RUNS, the number of seeds that a notebook trains, must be at least 1.
    """
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f": did you mean {near[0]}?" if near else "."
            raise CourseError(f"{notebook}: unknown parameter {name}{hint} Known: {', '.join(known) or 'none'}.")
        if not _fits(value, known[name]):
            kind = KINDS[type(known[name])]
            given = f"{value!r} ({type(value).__name__})"
            raise CourseError(f"{notebook}: parameter {name} must be {kind} such as {known[name]!r}, not {given}.")
        if name == "RUNS" and value < 1:
            raise CourseError(f"{notebook}: parameter RUNS, the number of seeds, must be at least 1, not {value}.")


def literals(names: Mapping[str, object]) -> dict[str, object]:
    """The ALL-CAPS names with plain values among a notebook's globals: what papermill may have injected."""
    plain = (bool, int, float, str, list, tuple, dict)
    return {
        name: value
        for name, value in names.items()
        if re.fullmatch(r"[A-Z][A-Z0-9_]*", name) and type(value) in plain and not name.startswith("PAPERMILL_")
    }


def own_names(cells: list[dict], whole: bool) -> set[str]:
    """Names that the notebook itself imports or assigns outside its parameters cell: its constants, not parameters.

    whole=False looks no further than the cell that opens the run: when that cell runs first, later names are not there.
    """
    found: set[str] = set()
    for cell in cells:
        if set(TAGS) & set(cell["tags"]):
            continue
        try:
            nodes = list(ast.walk(ast.parse(cell["source"])))
        except SyntaxError:  # a cell with %magic cannot be read as Python; it declares nothing
            nodes = []
        found.update(node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store))
        imports = [node for node in nodes if isinstance(node, (ast.Import, ast.ImportFrom))]
        found.update(alias.asname or alias.name for node in imports for alias in node.names)
        if not whole and "open_run(" in cell["source"]:
            break
    return found
