"""Each gate passes a good notebook and is seen to refuse a bad one; nbval is seen to notice one altered digit."""

import ast
import copy
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping

import nbformat
import pytest

from course import gates, refresh
from lt_utils.files import REPOSITORY

PICTURE = {"image/png": "iVBORw0KGgo=", "text/plain": "<Figure size 640x480 with 1 Axes>"}


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def code(source: str, *outputs: dict, tags: tuple[str, ...] = ()) -> dict:
    return {
        "cell_type": "code",
        "execution_count": None,
        "metadata": {"tags": list(tags)} if tags else {},
        "source": source,
        "outputs": list(outputs),
    }


def says(text: str, name: str = "stdout") -> dict:
    return {"output_type": "stream", "name": name, "text": text}


def shows() -> dict:
    return {"output_type": "display_data", "metadata": {}, "data": dict(PICTURE)}


LINK = "[All symbols and words](symbols_and_words.md)"


@pytest.fixture
def good() -> dict:
    """A notebook that passes every gate, as JSON."""
    cells = [
        markdown(f"# A question\n\nWhat is it?\n\n**Symbols.** $x$ an image ·\n$C$ the number of classes. {LINK}"),
        code('DATASET = "small"  # which data set\nSEED: int = 0  # the first seed', tags=("parameters",)),
        code("import math", says("")),
        markdown("## 1. An idea · 20 min\n\nA sentence."),
        *[
            code(f"assert math.isclose({number}, {number}.0), 'not a number'\nprint({number})", says(f"{number}\n"))
            for number in range(5)
        ],
        code("train()", says("step 1\n"), tags=("nbval-ignore-output", "training")),
        markdown("### 1.1 A detail\n```\n# a comment in a code block, no heading\n```\nSee /notebooks and 3/4."),
        *[code("plt.show()", shows()) for _ in range(2)],
        code("plt.show()", shows(), tags=("key-figure",)),
    ]
    notebook = {"cells": cells, "metadata": {"kernelspec": {"name": "python3"}}, "nbformat": 4, "nbformat_minor": 5}
    return number_cells(notebook)


def number_cells(notebook: dict) -> dict:
    for count, cell in enumerate((cell for cell in notebook["cells"] if cell["cell_type"] == "code"), start=1):
        cell["execution_count"] = count
    return notebook


def refused(notebook: dict) -> list[str]:
    return [f"{gate.__name__}: {found}" for gate in gates.GATES for found in gate(notebook)]


def test_a_good_notebook_passes(good):
    assert refused(good) == []


PARAMETERS, IMPORT, CHECK, TRAIN, FIGURE = 1, 2, 4, 9, 11  # places in the good notebook
PASTED = "x = 1\n" * 31

BAD = {
    "executed: no cell has an output": lambda cells: [cell.update(outputs=[]) for cell in cells],
    "executed: not executed from top": lambda cells: cells[CHECK].update(execution_count=7),
    "executed: not executed from top to": lambda cells: cells[CHECK].update(execution_count=None),
    "clean_outputs: cell 5: stores an error [(]ValueError[)]": lambda cells: cells[CHECK]["outputs"].append(
        {"output_type": "error", "ename": "ValueError", "evalue": "", "traceback": []}
    ),
    "clean_outputs: cell 5: stores stderr": lambda cells: cells[CHECK]["outputs"].append(says("100%|███|", "stderr")),
    "no_machine_paths: cell 3: .*/home/anna/x": lambda cells: cells[IMPORT].update(source="open('/home/anna/x')"),
    "no_machine_paths: cell 5: .*/tmp/run": lambda cells: cells[CHECK]["outputs"].append(says("saved to /tmp/run\n")),
    "no_machine_paths: cell 5: .*/Users/": lambda cells: cells[CHECK]["outputs"].append(says("in /Users/anna\n")),
    r"no_machine_paths: cell 4: .*C:\\": lambda cells: cells[3].update(source="## Two\n\nC:\\data"),
    "no_machine_paths: cell 3: .*/work": lambda cells: cells[IMPORT].update(metadata={"x": "/work/course"}),
    "parameters: 0 cells are tagged": lambda cells: cells[PARAMETERS].update(metadata={}),
    "parameters: 2 cells are tagged": lambda cells: cells[IMPORT].update(metadata={"tags": ["parameters"]}),
    "parameters: cell 3: the parameters cell must be the first": lambda cells: cells.insert(1, code("import os")),
    "parameters: cell 2: STEPS is derived": lambda cells: cells[PARAMETERS].update(source="STEPS = 10 * 2  # steps"),
    "parameters: cell 2: SEED has no comment": lambda cells: cells[PARAMETERS].update(source="SEED = 0\nX = 1  # x"),
    "parameters: cell 2: .* is no line NAME = literal": lambda cells: cells[PARAMETERS].update(source="import os"),
    "parameters: cell 2: 9 parameters; at most 8": lambda cells: cells[PARAMETERS].update(
        source="\n".join(f"P{i} = {i}  # one" for i in range(9))
    ),
    "parameters: cell 2: papermill .* does not list RECIPE": lambda cells: cells[PARAMETERS].update(
        source='SEED = 0  # seed\nRECIPE = "r=0.2"  # rule'
    ),
    "parameters: cell 2: a cell tagged `more-parameters` is folded": lambda cells: cells.insert(
        1, code("STEPS = 5  # steps", tags=("more-parameters",))
    ),
    "parameters: cell 2: the parameters cell must be the first": lambda cells: cells.insert(
        2, code("STEPS = 5  # steps", tags=("more-parameters",))
    ),
    "messages: cell 5: an assert without a message": lambda cells: cells[CHECK].update(source="assert 1 == 1"),
    "symbols: cell 1: no [*][*]Symbols": lambda cells: cells[0].update(source="# A question\n\nWhat is it?"),
    "symbols: cell 1: .*x. a number. is no row of .* which says 'an image'": lambda cells: cells[0].update(
        source=f"# A question\n\nWhat?\n\n**Symbols.** $x$ a number. {LINK}"
    ),
    "symbols: cell 1: .*which says 'nothing'": lambda cells: cells[0].update(
        source=f"# A question\n\nWhat?\n\n**Symbols.** $q$ a number. {LINK}"
    ),
    "symbols: cell 1: 15 symbols": lambda cells: cells[0].update(
        source=f"# A question\n\nWhat?\n\n**Symbols.** {' · '.join(['$x$ an image'] * 15)} {LINK}"
    ),
    "pace: section .* does not say its minutes": lambda cells: cells[3].update(source="## 1. An idea\n\nA sentence."),
    "pace: 61 minutes of core": lambda cells: cells[3].update(source="## 1. An idea · 61 min\n\nA sentence."),
    "pace: 20 minutes of core, 81 in all": lambda cells: cells[3].update(
        source="## 1. One · 20 min\n\nA sentence.\n\n## 2. Two · 61 min, optional\n\nA sentence."
    ),
    "short_cells: cell 3: 31 lines": lambda cells: cells[IMPORT].update(source=PASTED),
    "tags: cell 10: nbval-ignore-output goes": lambda cells: cells[TRAIN].update(
        metadata={"tags": ["nbval-ignore-output"]}
    ),
    "tags: cell 10: nbval-ignore-output goes with": lambda cells: cells[TRAIN].update(metadata={"tags": ["training"]}),
    "tags: cell 10: unknown tag": lambda cells: cells[TRAIN].update(metadata={"tags": ["slow"]}),
    "tags: cell 3: NBVAL_SKIP as a comment": lambda cells: cells[IMPORT].update(source="# NBVAL_SKIP\nimport math"),
    "compared: nbval compares 4 of 10": lambda cells: [
        cell.update(metadata={"tags": ["nbval-ignore-output", "timing"]}) for cell in cells[4:9]
    ],
    "asserting: 4 cells assert": lambda cells: cells[CHECK].update(source="print(0)  # no assert here"),
    "headings: 0 H1": lambda cells: cells[0].update(source="What is it?"),
    "headings: 2 H1": lambda cells: cells[3].update(source="# Another\n\nA sentence."),
    "headings: 9 H2": lambda cells: cells[3].update(source="## Again\n\nA sentence.\n" * 9),
    "headings: cell 4: heading 'Deep' skips a level": lambda cells: cells[3].update(source="### Deep\n\nA sentence."),
    "headings: cell 5: code directly after the heading 'Bare'": lambda cells: cells[3].update(source="## Bare"),
    "figures: 2 figures": lambda cells: cells.pop(),
    "figures: 0 figures are in a cell tagged": lambda cells: cells[-1].update(metadata={}),
    "figures: 9 figures": lambda cells: cells[FIGURE]["outputs"].extend(shows() for _ in range(6)),
    "small: 1.6 MB": lambda cells: cells[FIGURE]["outputs"][0]["data"].update({"image/png": "A" * 1_600_000}),
    "forbidden: cell 3: ipywidgets": lambda cells: cells[IMPORT].update(source="import ipywidgets"),
    "forbidden: cell 3: an installation": lambda cells: cells[IMPORT].update(source="%pip install torch"),
    "forbidden: cell 3: rcParams": lambda cells: cells[IMPORT].update(source="plt.rcParams['font.size'] = 3"),
    "forbidden: cell 3: a numbered GPU": lambda cells: cells[IMPORT].update(source="device = 'cuda:0'"),
    "claims: cell 4: .*[(]'TDFA moves": lambda cells: cells[3].update(
        source="## Two\n\nTDFA moves features.\n\nIts README is short."
    ),
    "claims: cell 4: .*[(]'[|] TDFA [|] 47": lambda cells: cells[3].update(
        source="## Two\n\nOf the README:\n\n| README | % |\n|---|---|\n| TDFA | 47.1 |"
    ),
    "claims: cell 5: .*[(]'TDFA  47": lambda cells: cells[CHECK]["outputs"].append(says("CE    38.2\nTDFA  47.1\n")),
}


@pytest.mark.parametrize("sentence", BAD)
def test_a_bad_notebook_is_refused(good, sentence):
    BAD[sentence](good["cells"])
    if not sentence.startswith("executed"):
        number_cells(good)
    found = refused(good)
    assert any(re.match(sentence, one) for one in found), found


def test_every_gate_is_seen_to_refuse():
    assert {sentence.split(":")[0] for sentence in BAD} == {gate.__name__ for gate in gates.GATES}


def test_what_is_marked_may_be_said_of_tdfa(good):
    good["cells"][3]["source"] = (
        "## 2. Two · 5 min\n\nThis is our reconstruction, not TDFA's method.\n\nThe README of TDFA\nnames four data sets.\n\n"
        "| method | % |\n|---|---|\n| our reconstruction of TDFA | 41.0 |\n| TDFA (README) | none is known |"
    )
    good["cells"][CHECK]["outputs"].append(says("TDFA: a reconstruction 41.0\nno TDFA number: 0\n"))
    assert refused(good) == []


def named_rows(rows: Iterable[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """The rows of stored results that name TDFA, have a number, and do not say that it is a reconstruction's."""

    def is_claim(row: Mapping[str, object]) -> bool:
        text = " ".join(value for value in row.values() if isinstance(value, str))
        return (
            bool(gates.TDFA.search(text))
            and "reconstruct" not in text
            and any(type(v) in (int, float) for v in row.values())
        )

    return [row for row in rows if is_claim(row)]


def docstrings(source: str) -> Iterator[str]:
    """All docstrings of a module: its own, and those of its classes and functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""


TEXTS = [path for pattern in ("*.md", "*/*.md", "config/*.yaml") for path in sorted(REPOSITORY.glob(pattern))]
CODE = [
    path
    for folder in ("lt_utils", "data_prep", "course", "experiments", "benchmarks")
    for path in sorted((REPOSITORY / folder).rglob("*.py"))
]
EXERCISES = [path for folder in ("exercises", "solutions") for path in sorted((REPOSITORY / folder).glob("**/*.ipynb"))]
STORED = sorted((REPOSITORY / "notebooks" / "reference").glob("*.json"))


def test_the_courses_own_texts_mark_what_they_say_of_tdfa():
    said = {str(path.relative_to(REPOSITORY)): gates.unmarked(path.read_text(encoding="utf-8")) for path in TEXTS}
    for path in CODE:
        said[str(path.relative_to(REPOSITORY))] = [
            u for text in docstrings(path.read_text(encoding="utf-8")) for u in gates.unmarked(text)
        ]
    for path in EXERCISES:
        said[str(path.relative_to(REPOSITORY))] = list(gates.claims(json.loads(path.read_text(encoding="utf-8"))))
    assert {"README.md", "data_prep/README.md", "CHANGELOG.md", "lt_utils/diffusion/class_balancing.py"} <= said.keys()
    assert {name: found for name, found in said.items() if found} == {}


def test_an_unmarked_sentence_in_a_docstring_is_seen():
    source = (REPOSITORY / "lt_utils" / "diffusion" / "class_balancing.py").read_text(encoding="utf-8")
    changed = source.replace("README", "paper")
    assert changed != source
    assert any(gates.unmarked(text) for text in docstrings(changed))
    inner = 'def f():\n    """A head.\n\n    As TDFA does.\n    """\n'
    assert [gates.unmarked(text) for text in docstrings(inner)] == [[], ["As TDFA does."]]


def test_no_stored_number_is_called_tdfas():
    assert "published_ldmlr.json" in {path.name for path in STORED}
    for path in STORED:
        assert named_rows(json.loads(path.read_text(encoding="utf-8")).get("rows", [])) == [], path.name
    rows = [
        {"method": "CE", "accuracy": 38.2},
        {"method": "TDFA", "data": "cifar100", "accuracy": 47.1},
        {"method": "CE + TDFA", "accuracy": 47},
        {"method": "TDFA", "note": "no number is known"},
        {"method": "Translation", "note": "our reconstruction of TDFA", "accuracy": 41.0},
    ]
    assert named_rows(rows) == rows[1:3]


def test_the_command_line(good, tmp_path, capsys):
    path = tmp_path / "good.ipynb"
    path.write_text(json.dumps(good))
    assert gates.main([str(path)]) == 0
    assert capsys.readouterr().out == f"1 notebooks pass all {len(gates.GATES)} gates.\n"
    good["cells"].pop(-2)
    number_cells(good)
    path.write_text(json.dumps(good))
    assert gates.main([str(path)]) == 1
    assert capsys.readouterr().out == "good.ipynb: 2 figures in the outputs; 3 to 8\n"


@pytest.mark.parametrize("content", [None, "", "no JSON", "{}", "[]", '{"cells": [{}]}', b"\xff"])
@pytest.mark.parametrize("command", [gates.main, refresh.main])
def test_what_is_no_notebook_is_one_sentence(tmp_path, capsys, command, content):
    path = tmp_path / "odd.ipynb"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert command([str(path)]) == 2
    said = capsys.readouterr()
    assert "odd.ipynb cannot be read as a notebook" in said.err and said.err.count("\n") == 1 and not said.out


def test_gates_ask_for_a_notebook(tmp_path, capsys):
    assert gates.main([str(tmp_path)]) == 2
    for arguments, status in (([], 2), (["--help"], 0)):
        with pytest.raises(SystemExit) as ended:
            gates.main(arguments)
        assert ended.value.code == status


def test_nbval_sees_one_altered_digit_but_not_stripped_outputs(tmp_path, notebook):
    """The reason for the gate `executed`: strict nbval passes a notebook without outputs."""
    path = notebook(tmp_path / "right.ipynb", {"SEED": 0}, "print('accuracy', 69.1)", "6 * 7")
    assert refresh.main([str(path)]) == 0
    right = nbformat.read(path, as_version=4)
    altered, stripped = copy.deepcopy(right), copy.deepcopy(right)
    altered.cells[2].outputs[0].text = altered.cells[2].outputs[0].text.replace("69.1", "69.2")
    for cell in stripped.cells[1:]:
        cell.update(outputs=[], execution_count=None)
    nbformat.write(altered, tmp_path / "altered.ipynb")
    nbformat.write(stripped, tmp_path / "stripped.ipynb")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", tmp_path]
    done = subprocess.run(
        [*command, "--nbval", "--nbval-current-env", tmp_path], capture_output=True, text=True, cwd=tmp_path
    )
    assert re.findall(r"^FAILED (\S+)::Cell (\d+)", done.stdout, re.M) == [("altered.ipynb", "1")], done.stdout
    assert "1 failed, 8 passed" in done.stdout
    assert any("stripped" in found for found in gates.executed(json.loads((tmp_path / "stripped.ipynb").read_text())))


def test_a_notebook_that_does_not_survive_a_second_run_or_a_cell_again_fails(tmp_path, notebook):
    (tmp_path / "notebooks").mkdir()
    for name, sources in {
        "good": ("x = 1", "assert x == 1", "y = 2"),
        "second": ("x = globals().get('y', 1)", "assert x == 1, 'x is no longer 1'", "y = 2"),
        "again": ("x = 1", "assert x == 1, 'x has changed'", "x = 2"),
    }.items():
        path = notebook(tmp_path / "notebooks" / f"{name}.ipynb", {"SEED": 0}, *sources)
        assert refresh.main([str(path)]) == 0
    command = [sys.executable, "-m", "pytest", "-q", "-p", "conftest", "-p", "no:cacheprovider", "-c", "/dev/null"]
    done = subprocess.run(
        [*command, "--rootdir", tmp_path, "--nbval", "--nbval-current-env", tmp_path],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert re.findall(r"^FAILED \S+/(\w+)\.ipynb::run again", done.stdout, re.M) == ["again", "second"], done.stdout
    assert "Cell 2 of again.ipynb, run again, after the last cell: AssertionError: x has changed" in done.stdout
    assert "Cell 2 of second.ipynb, run a second time: AssertionError: x is no longer 1" in done.stdout
