"""Exercises are what their sources give; each check refuses the stub and every stored wrong answer with the right words, and
passes the solution and another right answer; a learner's work is never touched."""

import importlib
import json
import re

import pytest

from course import exercises, gates
from lt_utils.errors import CourseError

SOURCES = sorted(exercises.SOLUTIONS.glob("*.ipynb"))
NAMES = [path.stem for path in SOURCES]
ALL = {one.number: (path, one) for path in SOURCES for one in exercises.read(exercises.load(path))}


def answers(path):
    return importlib.import_module(f"exercise_answers.answers_{path.name[:2]}")


@pytest.fixture(scope="module")
def room():
    """The names that a notebook's set-up cell makes: room(path)."""
    known = {}

    def names(path) -> dict:
        if path not in known:
            known[path] = {}
            first = next(cell["source"] for cell in exercises.load(path)["cells"] if cell["cell_type"] == "code")
            exec(compile(first, path.name, "exec"), known[path])
        return dict(known[path])

    return names


def check(number: str, room, answer=None, code: str | None = None) -> None:
    """Run the check cell of an exercise on an answer: a function, or the source of a cell that defines one."""
    path, one = ALL[number]
    names = room(path)
    if code is None:
        names[one.function] = answer
    else:
        exec(compile(code, number, "exec"), names)
    exec(compile(one.check, number, "exec"), names)


def all_wrong() -> list:
    return [
        pytest.param(number, words, id=f"{number}-{words[:30]}")
        for path in SOURCES
        for number, wrong in answers(path).WRONG.items()
        for words in wrong
    ]


# -------------------------------------------------------------------------------------------------------------- checks
@pytest.mark.parametrize("number", ALL)
def test_the_stub_waits(number, room):
    stub = exercises.strip(ALL[number][1].code)
    assert "raise NotImplementedError" in stub and "SOLUTION" not in stub
    with pytest.raises(NotImplementedError, match=f"Exercise {number} waits for you: write the body of \\w+"):
        check(number, room, code=stub)


@pytest.mark.parametrize("number", ALL)
def test_the_solution_passes(number, room, capsys):
    before = [one.code for path, one in ALL.values() if path == ALL[number][0] and one.number <= number]
    check(number, room, code="\n\n".join(before))  # a solution may use those before it
    assert re.fullmatch(rf"{number} is right: .+\.\n", capsys.readouterr().out)


@pytest.mark.parametrize("number", ALL)
def test_another_right_answer_passes(number, room, capsys):
    check(number, room, answers(ALL[number][0]).RIGHT[number])
    assert capsys.readouterr().out.startswith(f"{number} is right: ")


@pytest.mark.parametrize("number, words", all_wrong())
def test_a_wrong_answer_is_refused_with_the_missing_idea(number, words, room, capsys):
    with pytest.raises(AssertionError) as refused:
        check(number, room, answers(ALL[number][0]).WRONG[number][words])
    assert str(refused.value).startswith(f"{number}: ") and words in str(refused.value)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_every_exercise_has_its_stored_answers(path):
    stored, numbers = answers(path), [number for number, (source, _) in ALL.items() if source == path]
    assert list(stored.RIGHT) == list(stored.WRONG) == numbers and len(numbers) >= 3
    assert all(len(wrong) >= 2 for wrong in stored.WRONG.values())
    assert any(ALL[number][1].function in ("prediction", "verdict") for number in numbers), "one asks for judgement"


def test_a_mistake_is_shown_in_a_sentence_and_an_error_in_the_learners_code_in_full(room):
    with pytest.raises(AssertionError) as refused:
        check("1.1", room, answers(ALL["1.1"][0]).WRONG["1.1"]["rounded down (floor)"])
    assert refused.value._render_traceback_()[0].startswith("Not yet right. 1.1: Counts are rounded down")
    with pytest.raises(NotImplementedError) as waits:
        check("1.1", room, code=exercises.strip(ALL["1.1"][1].code))
    assert waits.value._render_traceback_() == [str(waits.value)]
    with pytest.raises(ZeroDivisionError):
        check("1.1", room, lambda n_max, classes, imbalance: 1 / 0)
    with pytest.raises(AssertionError) as stopped:
        check("1.1", room, lambda n_max, classes: [n_max] * classes)
    sentence, *own = stopped.value._render_traceback_()
    assert re.search(
        r"1\.1: Your function stops with TypeError: .+ It was given 5000, 10, 100, in this order\.$", sentence
    )
    assert own[-1].startswith("TypeError: ") and isinstance(stopped.value.__cause__, TypeError)
    with pytest.raises(AssertionError, match="a return is missing"):
        check("1.1", room, lambda n_max, classes, imbalance: None)


# ---------------------------------------------------------------------------------------------------------- one source
@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_solutions_and_exercises_are_as_they_should_be(path):
    assert list(exercises.problems(path)) == []


def test_exercises_have_no_other_source():
    assert sorted(path.name for path in exercises.EXERCISES.glob("*")) == [path.name for path in SOURCES]


@pytest.mark.parametrize("path", SOURCES, ids=NAMES)
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf-8")
    links = set(re.findall(r"\]\((\.\./[^)#]+)\)", text))
    assert {f"../notebooks/{path.name}", f"../solutions/{path.name}"} <= links
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_nothing_of_a_solution_is_left():
    for path in exercises.EXERCISES.glob("*.ipynb"):
        cells = [cell for cell in exercises.load(path)["cells"] if cell["cell_type"] == "code"]
        assert all(cell["execution_count"] is None and "SOLUTION" not in cell["source"] for cell in cells)
        kept = [cell for cell in cells if cell["outputs"]]
        assert all(exercises.PICTURE in cell["metadata"]["tags"] for cell in kept)


BAD = {
    "needs one cell with one function": lambda cells: cells[2].update(source="x = 1"),
    "needs one cell that begins with check": lambda cells: cells[3].update(source="print(1)"),
    "needs a discussion": lambda cells: cells.pop(4),
    "needs a line": lambda cells: cells[1].update(source="## 1.1 · Title\n\nText."),
    "has no hint": lambda cells: cells[1].update(source=cells[1]["source"].replace("Hint", "Note")),
    "has no docstring": lambda cells: cells[2].update(source=cells[2]["source"].replace('    """Twice x."""\n', "")),
    "has no type": lambda cells: cells[2].update(source=cells[2]["source"].replace(": float", "")),
    "its check is not given twice": lambda cells: cells[3].update(source="check.twice(other)"),
    "is not so in the table": lambda cells: cells[0].update(source="# Exercises"),
    "is not what its source gives": lambda cells: cells[4].update(source=cells[4]["source"] + "."),
    "stores an error": lambda cells: cells[3]["outputs"].append({"output_type": "error", "ename": "E"}),
}


@pytest.fixture
def small(tmp_path):
    """A source notebook with one exercise, at 01_small.ipynb, and its exercises beside it."""
    code = {"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": []}
    text = {"cell_type": "markdown", "metadata": {}}
    body = '    """Twice x."""\n    # BEGIN SOLUTION\n    two = 2\n    return two * x\n    # END SOLUTION\n'
    facts = "**Difficulty** ★☆☆ · **Time** 5 minutes · **Goal** double"
    cells = [
        text | {"source": "# Exercises\n\n| 1.1 | Title | ★ | 5 |"},
        text | {"source": f"## 1.1 · Title\n\n{facts}\n\n<details><summary>Hint</summary>+</details>"},
        code | {"source": f"def twice(x: float) -> float:\n{body}"},
        code | {"source": "check.twice(twice)", "execution_count": 2, "outputs": []},
        text | {"source": "<details><summary>Discussion</summary>Yes.</details>"},
        code | {"source": "plot()", "execution_count": 3, "metadata": {"tags": [exercises.PICTURE]}},
    ]
    cells[-1]["outputs"] = [{"output_type": "display_data", "data": {"image/png": "iVBO"}, "metadata": {}}]
    notebook = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    path = tmp_path / "solutions" / "01_small.ipynb"
    path.parent.mkdir()
    path.write_text(json.dumps(notebook))
    exercises.build(path.parent, tmp_path / "exercises")
    return path


def test_exercises_are_made_from_the_source(small):
    target = small.parent.parent / "exercises"
    made = exercises.load(target / small.name)
    function = 'def twice(x: float) -> float:\n    """Twice x."""\n    raise NotImplementedError("your code here")'
    assert made["cells"][2]["source"] == function
    assert [len(cell.get("outputs", [])) for cell in made["cells"]] == [0, 0, 0, 0, 0, 1]
    assert list(exercises.problems(small, target)) == []
    assert gates.executed(made)  # a gate that the exercises themselves do not pass
    (target / "99_old.ipynb").write_text("{}")
    exercises.build(small.parent, target)
    assert [path.name for path in target.iterdir()] == [small.name]


@pytest.mark.parametrize("words", BAD)
def test_a_bad_source_is_refused(small, words):
    notebook = exercises.load(small)
    BAD[words](notebook["cells"])
    small.write_text(json.dumps(notebook))
    try:
        found = list(exercises.problems(small, small.parent.parent / "exercises"))
    except CourseError as error:
        found = [str(error)]
    assert any(words in one for one in found), found


def test_an_unreadable_source_is_refused(tmp_path):
    (tmp_path / "01_x.ipynb").write_text("{")
    with pytest.raises(CourseError, match="cannot be read as a notebook"):
        exercises.load(tmp_path / "01_x.ipynb")


# ----------------------------------------------------------------------------------------------------- a learner's copy
def test_start_never_overwrites(small, tmp_path):
    source, mine = small.parent.parent / "exercises", tmp_path / "mine"
    assert exercises.start(mine, source) == ([small.name], [])
    assert (mine / small.name).read_bytes() == (source / small.name).read_bytes()
    (mine / small.name).write_text("my work")
    (source / "02_more.ipynb").write_text("{}")
    assert exercises.start(mine, source) == (["02_more.ipynb"], [small.name])
    assert (mine / small.name).read_text() == "my work"
    assert sorted(path.name for path in mine.iterdir()) == [small.name, "02_more.ipynb"]
    (mine / "02_more.ipynb").unlink()
    (mine / "02_more.ipynb").symlink_to(tmp_path / "elsewhere.ipynb")  # not even a link that leads nowhere
    assert exercises.start(mine, source)[0] == [] and not (tmp_path / "elsewhere.ipynb").exists()


def test_the_command_line(tmp_path, capsys):
    mine = tmp_path / "mine"
    assert exercises.main(["start", "--to", str(mine)]) == 0
    assert f"made  mine/{NAMES[0]}.ipynb\n" in capsys.readouterr().out
    (mine / f"{NAMES[0]}.ipynb").write_text("my work")
    assert exercises.main(["start", "--to", str(mine)]) == 0
    told = capsys.readouterr().out
    assert f"kept  mine/{NAMES[0]}.ipynb: it is yours and was not touched\n" in told and "made" not in told
    assert (mine / f"{NAMES[0]}.ipynb").read_text() == "my work"
    (tmp_path / "file").write_text("")
    assert exercises.main(["start", "--to", str(tmp_path / "file" / "x")]) == 2
    assert "choose another folder with --to FOLDER" in capsys.readouterr().err
    assert exercises.main(["check"]) == 0


def test_git_ignores_the_learners_copy_and_make_knows_both():
    assert "/my_exercises/" in (exercises.REPOSITORY / ".gitignore").read_text().splitlines()
    makefile = (exercises.REPOSITORY / "Makefile").read_text()
    assert "course exercises start" in makefile and "$(wildcard notebooks solutions)" in makefile
