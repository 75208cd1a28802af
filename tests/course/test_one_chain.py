"""One chain of results: what two notebooks, the README or a card say of the same thing is the same number."""

import json
import re

import pytest

from course.readme import stored
from lt_utils.files import REPOSITORY
from lt_utils.models.pretrained import pretrained_card
from lt_utils.viz.tables import MEASURES, average

CELL = re.compile(r"(\d+\.\d) ± (\d+\.\d)")


def printed(notebook: str) -> str:
    """All text that the stored notebook shows."""
    (path,) = (REPOSITORY / "notebooks").glob(f"{notebook}_*.ipynb")
    texts = []
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        for output in cell.get("outputs", []):
            for text in (output.get("text", ""), output.get("data", {}).get("text/markdown", "")):
                texts.append("".join(text))
    return "\n".join(texts)


def line(text: str, method: str) -> list[tuple[str, str]]:
    """The first `mean ± deviation` cells of the first table row of a method."""
    row = re.search(rf"^\| {re.escape(method)} \|(.+± .+)\|$", text, re.M)
    assert row, f"no row of {method}"
    return CELL.findall(row[1])


@pytest.fixture(scope="module")
def board() -> dict[str, list[tuple[str, str]]]:
    """Method -> its measures in the stored quick run, as tables print them: what the README shows."""
    rows = [row for row in stored("quick")["rows"] if row["notebook"] == "03_encoders"]
    return {row["method"]: [(f"{row[m][0]:.1f}", f"{row[m][1]:.1f}") for m in MEASURES] for row in average(rows)}


@pytest.mark.parametrize("method", ["CE", "Label shift", "WCDAS", "CE without mixup"])
@pytest.mark.parametrize(("notebook", "measures"), [("03", MEASURES), ("12", ("accuracy", "ece"))])
def test_the_encoders_have_the_same_numbers_everywhere(notebook, measures, method, board):
    expected = dict(zip(MEASURES, board[method], strict=True))
    assert line(printed(notebook), method) == [expected[measure] for measure in measures]


@pytest.mark.parametrize("method", ["CE", "Label shift"])
def test_retraining_begins_with_the_numbers_of_the_encoders(method, board):
    assert line(printed("08"), method) == board[method]


@pytest.mark.parametrize("method", ["No generation", "Class Gaussian", "CE + LDMLR"])
def test_the_scoreboard_shows_what_retraining_measured(method):
    text = printed("08")
    row = re.search(rf"^\| {re.escape(method)} \| (\S+ ± \S+) \|", text, re.M)
    assert row and CELL.findall(row[1])[0] == line(printed("12"), method)[0]


@pytest.mark.parametrize("notebook", ["04", "05", "A1"])
def test_the_judge_is_one_judge(notebook):
    said = re.findall(r"judge (?:gets|is right on) (\d+\.\d) %", printed(notebook))
    assert said and {float(value) for value in said} == {
        pretrained_card("judge")["measures"]["accuracy_on_test_images"]
    }


def test_a_number_that_differs_is_seen(board):
    text = printed("12").replace(f"{board['CE'][0][0]} ±", "61.0 ±")
    assert line(text, "CE") != board["CE"]
