"""Gates: what a notebook of the course must be before it is committed. python -m course check notebooks/*.ipynb

nbval compares stored outputs with new ones, but it passes a notebook whose outputs were stripped, and it cannot see how
a notebook is built. Each gate here looks at one thing and says where and why it refuses.
"""

import ast
import json
import re
import tokenize
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path

from nbformat import NotebookNode

from course.command import command
from lt_utils.files import REPOSITORY
from lt_utils.runs.parameters import assignments, prose, read_notebook

LINES = 30  # of a code cell, at most
PARAMETERS = 8  # that a learner meets, at most; the rest is folded
MINUTES = (60, 80)  # of a learner's time, exercises apart: for the core sections, for all
SYMBOLS = 14  # in a header, at most
HEADINGS = 8  # H2, at most
FIGURES = (3, 8)  # at least, at most
MEGABYTES = 1.5
COMPARED = 5  # cells with output that nbval compares, at least; and at least half of all that have output
ASSERTING = 5  # cells that assert, at least
REASONS = {"training", "progress", "timing", "device"}  # why a cell's output may differ
TAGS = {"parameters", "more-parameters", "key-figure", "nbval-ignore-output"} | REASONS
PATHS = re.compile(
    r"(?<![\w.:/-])(/(home|Users|root|tmp|work|mnt|opt|srv|var)/[\w.~-]|/(tmp|root|work)\b|[A-Za-z]:\\{1,2}\w)"
)
FORBIDDEN = {
    r"\bipywidgets\b": "ipywidgets: progress must read well in logs, too",
    r"\b(pip|conda)3?\s+install\b": "an installation: the environment comes from the lock",
    r"\brcParams\b": "rcParams: the style has one home, lt_utils.viz.figures",
    r"cuda:\d": "a numbered GPU: which one it is, is the batch's business",
}

# What texts may say of TDFA, of which nothing but a README is known: no paper, no code, no numbers. So whatever the course
# says of its method is either what that README shows or a reconstruction, and says which; and nowhere does a number stand in
# a row of its name.
TDFA = re.compile(r"\bTDFA\b")
TDFA_MARKS = re.compile(r"\b(reconstruct(ion|ions|ed)|README)\b")
# A row of a Markdown table whose first cell has the name, or a line of printed text that begins with it.
TDFA_ROW = re.compile(r"^\s*\|[^|\n]*\bTDFA\b.*\|.*\d.*", re.M)
TDFA_LINE = re.compile(r"^[\s|*]*TDFA\b.*\d.*", re.M)

Gate = Callable[[dict], Iterator[str]]


def _code(notebook: dict) -> list[tuple[int, dict, str]]:
    """(number of the cell from 1, cell, source) of every code cell."""
    cells = enumerate(notebook["cells"], start=1)
    return [(number, cell, "".join(cell["source"])) for number, cell in cells if cell["cell_type"] == "code"]


def _tags(cell: dict) -> list[str]:
    return cell.get("metadata", {}).get("tags", [])


def _text(output: dict) -> str:
    """All text of an output: stream, repr, HTML."""
    parts = [output.get("text", ""), *(value for key, value in output.get("data", {}).items() if "image/" not in key)]
    return "\n".join("".join(part) if isinstance(part, list) else str(part) for part in parts)


def is_compared(cell: dict) -> bool:
    """Whether strict nbval compares something of this code cell (of a figure it compares the text, not the picture)."""
    ignored = {"nbval-ignore-output", "nbval-skip"} & set(_tags(cell))
    return bool(cell.get("outputs")) and cell.get("execution_count") is not None and not ignored


def executed(notebook: dict) -> Iterator[str]:
    """Every code cell was executed once, in order, and the outputs are there."""
    counts = [cell.get("execution_count") for _, cell, source in _code(notebook) if source.strip()]
    if counts != list(range(1, len(counts) + 1)):
        yield f"not executed from top to bottom in a fresh kernel: execution counts {counts[:6]} ..."
    if not any(cell.get("outputs") for _, cell, _ in _code(notebook)):
        yield "no cell has an output: they were stripped"


def clean_outputs(notebook: dict) -> Iterator[str]:
    """No errors, no warnings or progress bars on stderr."""
    for number, cell, _ in _code(notebook):
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                yield f"cell {number}: stores an error ({output.get('ename')})"
            if output.get("name") == "stderr":
                yield f"cell {number}: stores stderr output ({_text(output).strip()[:60]!r})"


def no_machine_paths(notebook: dict) -> Iterator[str]:
    """No absolute path of the machine it was made on, in sources, outputs or metadata."""
    for number, cell in enumerate(notebook["cells"], start=1):
        texts = ["".join(cell["source"]), json.dumps(cell.get("metadata", {}))]
        for text in texts + [_text(output) for output in cell.get("outputs", [])]:
            if found := PATHS.search(text):
                yield f"cell {number}: a machine path ({text[found.start() : found.start() + 40].splitlines()[0]!r})"
    if found := PATHS.search(json.dumps(notebook.get("metadata", {}))):
        yield f"metadata: a machine path ({found[0]!r})"


def parameters(notebook: dict) -> Iterator[str]:
    """One cell tagged `parameters`, short, before all others but a folded one tagged `more-parameters`: lines
    NAME = literal  # comment."""
    cells = _code(notebook)
    tagged = [(number, source) for number, cell, source in cells if "parameters" in _tags(cell)]
    more = [(number, cell, source) for number, cell, source in cells if "more-parameters" in _tags(cell)]
    if len(tagged) != 1 or len(more) > 1:
        count, name = (len(tagged), "parameters") if len(tagged) != 1 else (len(more), "more-parameters")
        yield f"{count} cells are tagged `{name}`; there must be one"
        return
    if [number for number, *_ in (*more, *tagged)] != [number for number, *_ in cells[: len(more) + 1]]:
        yield f"cell {tagged[0][0]}: the parameters cell must be the first code cell, after a folded one at most"
    if more and not more[0][1]["metadata"].get("jupyter", {}).get("source_hidden"):
        yield f"cell {more[0][0]}: a cell tagged `more-parameters` is folded (jupyter.source_hidden)"
    for number, source in [*tagged, *((number, source) for number, _, source in more)]:
        yield from _literals(number, source)
    if (lines := len(tagged[0][1].splitlines())) > PARAMETERS:
        yield f"cell {tagged[0][0]}: {lines} parameters; at most {PARAMETERS}, the others folded (`more-parameters`)"


def _literals(number: int, source: str) -> Iterator[str]:
    """That papermill can set every parameter and lists it: it reads line by line, and leaves out one with a second "="."""
    from papermill.translators import PythonTranslator  # half a second, which only this gate needs

    try:
        found = assignments(source)
    except (SyntaxError, ValueError) as error:
        yield f"cell {number}: {error}"
        return
    tokens = tokenize.generate_tokens(StringIO(source).readline)
    commented = {token.start[0] for token in tokens if token.type == tokenize.COMMENT}
    listed = {parameter.name for parameter in PythonTranslator.inspect(NotebookNode(source=source))}
    for name, value in found:
        try:
            ast.literal_eval(value)
        except ValueError:
            yield f"cell {number}: {name} is derived; papermill cannot reach it, so it belongs in the next cell"
        if value.end_lineno not in commented:
            yield f"cell {number}: {name} has no comment on its line"
        if name not in listed:
            yield f"cell {number}: papermill --help-notebook does not list {name}: write its line without a second `=`"


def short_cells(notebook: dict) -> Iterator[str]:
    """No long code cell."""
    for number, _, source in _code(notebook):
        if (lines := len(source.splitlines())) > LINES:
            yield f"cell {number}: {lines} lines of code; at most {LINES}"


def tags(notebook: dict) -> Iterator[str]:
    """Known tags only; nbval-ignore-output always with exactly one reason."""
    for number, cell, source in _code(notebook):
        names = set(_tags(cell))
        if unknown := names - TAGS:
            yield f"cell {number}: unknown tag {sorted(unknown)}; known: {sorted(TAGS)}"
        if ("nbval-ignore-output" in names) != (len(names & REASONS) == 1):
            yield f"cell {number}: nbval-ignore-output goes with one of {sorted(REASONS)}; has {sorted(names)}"
        if found := re.search(r"^\s*#\s*(NBVAL_\w+|PYTEST_VALIDATE_\w+)", source, re.M):
            yield f"cell {number}: {found[1]} as a comment; use tags"


def compared(notebook: dict) -> Iterator[str]:
    """nbval compares enough."""
    having = [cell for _, cell, _ in _code(notebook) if cell.get("outputs")]
    checked = sum(is_compared(cell) for cell in having)
    if checked < COMPARED or 2 * checked < len(having):
        yield f"nbval compares {checked} of {len(having)} cells with output; at least {COMPARED} and half of them"


def asserting(notebook: dict) -> Iterator[str]:
    """Enough cells check something: an assert statement, or a call of assert_... such as torch.testing.assert_close."""
    number = sum(bool(re.search(r"^\s*assert\b|\bassert_\w+\(", source, re.M)) for _, _, source in _code(notebook))
    if number < ASSERTING:
        yield f"{number} cells assert something; at least {ASSERTING}"


def messages(notebook: dict) -> Iterator[str]:
    """Every assert says what to do or what is wrong: a learner's most common failure is a cell run twice."""
    for number, _, source in _code(notebook):
        for node in ast.walk(ast.parse(re.sub(r"^%.*", "", source, flags=re.M))):
            if isinstance(node, ast.Assert) and node.msg is None:
                yield f"cell {number}: an assert without a message ({ast.unparse(node)[:40]!r})"


def symbols(notebook: dict) -> Iterator[str]:
    """The header's symbols are rows of the course's table, word by word: one meaning for each letter."""
    header = "".join(notebook["cells"][0]["source"])
    found = re.search(r"\*\*Symbols\.\*\*(.+?)\[All symbols and words\]\(symbols_and_words\.md\)", header, re.S)
    if not found:
        yield "cell 1: no **Symbols.** line that ends with [All symbols and words](symbols_and_words.md)"
        return
    entries = [" ".join(entry.split()).rstrip(".") for entry in re.split(r"\s·\s", found[1]) if entry.strip()]
    if len(entries) > SYMBOLS:
        yield f"cell 1: {len(entries)} symbols; at most {SYMBOLS}"
    known = symbol_table()
    for entry in entries:
        letter, _, meaning = entry.partition("$ ")
        if known.get(f"{letter}$") != meaning.strip():
            said = known.get(f"{letter}$", "nothing")
            yield f"cell 1: {entry!r} is no row of symbols_and_words.md, which says {said!r}"


def symbol_table() -> dict[str, str]:
    """Symbol -> meaning, from the first table of notebooks/symbols_and_words.md."""
    text = (REPOSITORY / "notebooks" / "symbols_and_words.md").read_text(encoding="utf-8")
    return dict(re.findall(r"^\| (\$.+?\$) \| (.+?) \|$", text, re.M))


def pace(notebook: dict) -> Iterator[str]:
    """Each section says its minutes, until "What we found"; core and optional ones are told apart and fit an hour."""
    core = total = 0
    for title in re.findall(r"^## +(.+)$", prose(notebook), re.M):
        if re.search(r"What we found|Exercises|What comes next", title):
            continue
        found = re.search(r" · (\d+) min(, optional)?$", title)
        if not found:
            yield f"section {title!r} does not say its minutes: ## 1. Title · 12 min, or · 10 min, optional"
            continue
        total += int(found[1])
        core += 0 if found[2] else int(found[1])
    if core > MINUTES[0] or total > MINUTES[1]:
        yield f"{core} minutes of core, {total} in all; at most {MINUTES[0]} and {MINUTES[1]}"


def headings(notebook: dict) -> Iterator[str]:
    """One H1, few H2, no level skipped, a sentence under each heading before code."""
    levels: list[int] = []
    pending = None  # a heading that has had no sentence yet
    for number, cell in enumerate(notebook["cells"], start=1):
        if cell["cell_type"] == "code":
            if pending:
                yield f"cell {number}: code directly after the heading {pending!r}; a sentence is missing"
                pending = None
            continue
        fenced = False
        for line in "".join(cell["source"]).splitlines():
            fenced ^= line.startswith("```")
            found = None if fenced else re.match(r"(#{1,6}) +(.+)", line)
            if found:
                level = len(found[1])
                if level > (levels[-1] if levels else 0) + 1:
                    yield f"cell {number}: heading {found[2]!r} skips a level"
                levels.append(level)
                pending = found[2]
            elif line.strip():
                pending = None
    if levels.count(1) != 1:
        yield f"{levels.count(1)} H1; there must be one"
    if levels.count(2) > HEADINGS:
        yield f"{levels.count(2)} H2; at most {HEADINGS}"


def figures_of(notebook: dict) -> list[dict]:
    """For each picture in the outputs the cell that shows it."""
    return [
        cell
        for _, cell, _ in _code(notebook)
        for output in cell.get("outputs", [])
        if any(key.startswith("image/") for key in output.get("data", {}))
    ]


def figures(notebook: dict) -> Iterator[str]:
    """A few figures, made by the notebook; one of them, tagged `key-figure`, stands for it in the report."""
    shown = figures_of(notebook)
    if not FIGURES[0] <= len(shown) <= FIGURES[1]:
        yield f"{len(shown)} figures in the outputs; {FIGURES[0]} to {FIGURES[1]}"
    if (keys := sum("key-figure" in _tags(cell) for cell in shown)) != 1:
        yield f"{keys} figures are in a cell tagged `key-figure`; there must be one"


def small(notebook: dict) -> Iterator[str]:
    """Not too large for a repository."""
    size = len(json.dumps(notebook, ensure_ascii=False).encode()) / 1e6
    if size > MEGABYTES:
        yield f"{size:.1f} MB; at most {MEGABYTES}"


def forbidden(notebook: dict) -> Iterator[str]:
    """Nothing that has its place elsewhere."""
    for number, _, source in _code(notebook):
        for pattern, why in FORBIDDEN.items():
            if re.search(pattern, source):
                yield f"cell {number}: {why}"


def unmarked(text: str) -> list[str]:
    """The beginning of each paragraph that names TDFA and says neither "reconstruction" nor "README", and of each table
    row of its name with a number (a row may have one if it says itself that it is a reconstruction)."""
    paragraphs = re.split(r"\n\s*\n", text)
    found = [part for part in paragraphs if TDFA.search(part) and not TDFA_MARKS.search(part)]
    return [part.strip()[:60] for part in found] + rows_with_numbers(text, TDFA_ROW)


def rows_with_numbers(text: str, row: re.Pattern = TDFA_LINE) -> list[str]:
    """The beginning of each line of a printed text whose name it is and that has a number, unless a reconstruction's."""
    return [found[0].strip()[:60] for found in row.finditer(text) if "reconstruct" not in found[0]]


def claims(notebook: dict) -> Iterator[str]:
    """What is said of TDFA is marked as what its README shows or as a reconstruction, and no number is called its own."""
    for number, cell in enumerate(notebook["cells"], start=1):
        claimed = unmarked("".join(cell["source"])) if cell["cell_type"] == "markdown" else []
        for text in claimed + [row for output in cell.get("outputs", []) for row in rows_with_numbers(_text(output))]:
            yield f"cell {number}: of TDFA only its README is known; say so, or call it a reconstruction ({text!r})"


GATES: tuple[Gate, ...] = (
    executed,
    clean_outputs,
    no_machine_paths,
    parameters,
    short_cells,
    tags,
    compared,
    asserting,
    messages,
    symbols,
    pace,
    headings,
    figures,
    small,
    forbidden,
    claims,
)


def problems(path: Path) -> list[str]:
    """Everything that the gates refuse in a notebook, one sentence each; empty if it passes. CourseError if it is none."""
    notebook = read_notebook(path)
    return [f"{Path(path).name}: {found}" for gate in GATES for found in gate(notebook)]


@command("check", __doc__, ("notebooks", dict(nargs="+", type=Path)))
def main(notebooks: list[Path]) -> int:
    """Print what is refused; exit status 1 if anything is, 2 if a file is no notebook."""
    found = [problem for path in notebooks for problem in problems(path)]
    print("\n".join(found) if found else f"{len(notebooks)} notebooks pass all {len(GATES)} gates.")
    return 1 if found else 0
