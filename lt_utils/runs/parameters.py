"""The parameters of a notebook: what its two parameter cells declare, and whether given values fit.

The cell tagged `parameters` holds what a learner plays with. The rest stands above it, folded, in a cell tagged
`more-parameters`: papermill writes given values below `parameters`, so they hold for both.

papermill only warns about a misspelt parameter and runs on with the default; here it is refused before anything runs.
"""

import ast
import json
import math
import re
import tokenize
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from io import StringIO
from pathlib import Path

from lt_utils.errors import CourseError, choose
from lt_utils.files import REPOSITORY, folder_in

TAGS = ("parameters", "more-parameters")  # of the cells that declare parameters
# The largest seed: NumPy takes none from 2^32 and PyTorch none from 2^64, and an image of a training step on ImageNet-LT has
# about seed * 10^7 * batch.
MOST_SEED = 10**9
LIMITS = {"SEED": (0, MOST_SEED), "IMBALANCE": (1, 100_000)}  # of parameters that have one meaning in every notebook
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
    return folder_in("LT_NOTEBOOKS", REPOSITORY / "notebooks")


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


def prose(notebook: dict) -> str:
    """The text of all Markdown cells, without fenced code, in which a # begins no heading."""
    text = "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")
    return re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)


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


def notes(path: Path) -> dict[str, str]:
    """Name -> comment on its line, of every parameter of a notebook that has one: `check` reads there what may be given."""
    found = {}
    for cell in code_cells(path):
        if set(TAGS) & set(cell["tags"]):
            tokens = tokenize.generate_tokens(StringIO(cell["source"]).readline)
            comments = {token.start[0]: token.string for token in tokens if token.type == tokenize.COMMENT}
            for name, value in assignments(cell["source"]):
                found[name] = comments.get(value.end_lineno, "")
    return found


def whole(value: object, default: object) -> object:
    """A value as its default is written: 100.0 as 100 where that is a whole number, and so the entries of lists."""
    if isinstance(value, list) and isinstance(default, list) and default:
        return [whole(entry, default[0]) for entry in value]
    return int(value) if type(default) is int and type(value) is float and value.is_integer() else value


def check(
    values: Mapping[str, object], known: Mapping[str, object], notebook: str, comments: Mapping[str, str] | None = None
) -> None:
    """Refuse values that a notebook does not declare, and values that cannot be meant.

    A value is of the type of its default (an int may be a float), lists have such entries. Numbers are finite and not below
    0; whole numbers whose default is above 0 are so, too. A comment says what else there is: `0: none`, `below 0: ...`,
    `empty: none`, or the choices, in quotes, if the default is among them.

    Args: known: the defaults; comments: those of the parameters, as `notes` reads them.
    """
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(str(name), known, n=1)
            hint = f": did you mean {near[0]}?" if near else "."
            raise CourseError(f"{notebook}: unknown parameter {name}{hint} Known: {', '.join(known) or 'none'}.")
        if wrong := _wrong(name, value, known[name], (comments or {}).get(name, "")):
            raise CourseError(f"{notebook}: parameter {name}{wrong}.")


def check_part(values: object, known: Mapping[str, object], where: str) -> None:
    """`check`, and refuse what is no mapping or lacks a key of `known`: of a part of a configuration that must say all."""
    if not isinstance(values, dict) or (missing := [name for name in known if name not in values]):
        lacks = "nothing" if not isinstance(values, dict) else f"no {missing[0]}"
        raise CourseError(f"{where} says {lacks}: it needs {', '.join(known)}.")
    check(values, known, where)


def _wrong(name: str, value: object, default: object, note: str) -> str:
    """What is wrong with a value, to be said after its name: " must be a number from 1, not -1"; "" if nothing is."""
    if default is None:
        return ""
    if name == "IMBALANCE":
        default = float(default)
    if not _fits(value, default):
        return (
            f" must be {KINDS[type(default)]} such as {default!r}, not {value!r} ({type(value).__name__}){_hint(value)}"
        )
    if isinstance(value, (list, tuple)):
        return _wrong_entry(value, default, note)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        least, most = LIMITS.get(name) or (_least(default, note), math.inf)
        also = " (0: the set as it is)" if name == "IMBALANCE" else ""
        if also and value == 0:
            return ""
        if not (math.isfinite(value) and value >= least):
            return f" must be a {'finite number' if least == -math.inf else f'number from {least}'}, not {value}{also}"
        return f" must be at most {most}, not {value}" if value > most else ""
    choices = _choices(note)
    if isinstance(default, str) and default in choices and len(choices) > 1 and value not in choices:
        return f" must be {' or '.join(map(repr, choices))}, not {value!r}"
    return ""


def _wrong_entry(values: Sequence, defaults: Sequence, note: str) -> str:
    """The same for a list, whose entries are like those of its default, if these are alike."""
    kinds = {type(one) for one in defaults}
    if not kinds or not (kinds <= {int, float} or kinds == {str}):
        return ""
    if not values and "empty" not in note:
        return f" must have at least one entry, such as {defaults[0]!r}"
    like = float(min(defaults)) if float in kinds else min(defaults)
    if kinds == {str} and not set(defaults) <= set(_choices(note)):
        note = ""  # it names some, not all
    wrong = ((value, _wrong("", value, like, note)) for value in values)
    return next((f" has the entry {value!r}, which{what}" for value, what in wrong if what), "")


def _choices(note: str) -> list[str]:
    """The texts that a comment names, "empty" included."""
    return re.findall(r'"([^"]*)"', note) + [""] * ("empty" in note)


def _fits(value: object, default: object) -> bool:
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float))
    if isinstance(default, (list, tuple)):
        return isinstance(value, (list, tuple))
    return isinstance(value, type(default))


def _least(default: float, note: str) -> float:
    """The smallest value of a number: from its default, and from what its comment says of 0 and below."""
    if default < 0 or "below 0" in note:
        return -math.inf
    return int(isinstance(default, int) and default > 0 and not re.search(r"\b0(:| is)", note))


def _hint(value: object) -> str:
    """For a text that looks like a number: how YAML wants it, which takes 1e-3 for a text."""
    try:
        number = float(value) if isinstance(value, str) else None
    except ValueError:
        number = None
    if number is None or not math.isfinite(number):
        return ""
    digits, e, power = value.strip().lower().partition("e")
    if not e:
        return ": leave out the quotes"
    sign = "" if power[0] in "+-" else "+"
    return f": YAML wants {digits}{'' if '.' in digits else '.0'}e{sign}{power}"


def injected(names: Mapping[str, object]) -> list[str]:
    """The names that papermill set: those in its cell, which begins with "# Parameters", among the inputs before the run was
    opened. `names` are a notebook's globals(), in which IPython keeps the inputs as In; without these there are none."""
    for source in names.get("In", ()):
        if "open_run(" in source:
            break
        if source.startswith("# Parameters\n"):
            try:
                return [name for name, _ in assignments(source)]
            except (SyntaxError, ValueError):  # a learner's own cell
                return []
    return []
