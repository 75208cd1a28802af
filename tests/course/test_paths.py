"""The ways through the course are those that the notebooks' headings say."""

import json

import pytest

from course import paths
from lt_utils.errors import CourseError

TEXT = """# 00 · A title

## 1. First · 12 min

A sentence.

```
## 9. A comment in a code block · 99 min
```

## 2. Second, with 3 parts · 8 min, optional

### 2.1 A detail

## 3. What we found
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A course of one notebook, 00; all others are planned."""
    cells = [{"cell_type": "markdown", "source": TEXT}, {"cell_type": "code", "source": "## 8. No heading · 7 min"}]
    (tmp_path / "00_start_here.ipynb").write_text(json.dumps({"cells": cells}), encoding="utf-8")
    monkeypatch.setattr("course.paths.notebooks_folder", lambda: tmp_path)
    monkeypatch.setattr("course.paths.built", lambda: {"00"})
    return tmp_path


def test_sections_minutes_and_a_path(folder):
    assert [(part.number, part.title, part.minutes, part.optional) for part in paths.sections("00")] == [
        (1, "First", 12, False),
        (2, "Second, with 3 parts", 8, True),
        (3, "What we found", 0, False),
    ]
    assert paths.minutes("00") == {"core": 12, "optional": 8}
    assert paths.minutes("02") == {"core": None, "optional": None}
    rows = paths.short_path({"00": (2, 1)})
    assert [row["minutes"] for row in rows] == [8, 12, 20]
    assert [row["notebook"] for row in rows] == ["[00 Start here](00_start_here.ipynb)", "", ""]


@pytest.mark.parametrize(
    "path, words", [({"00": (7,)}, "no section 7"), ({"02": (1,)}, "no notebook 02"), ({"99": (1,)}, "99")]
)
def test_what_is_not_there_is_refused(folder, path, words):
    with pytest.raises(CourseError, match=words):
        paths.short_path(path)


def test_the_short_path_of_the_course():
    """Its sections are there, none is optional, and it takes about two hours."""
    for notebook, numbers in paths.SHORT.items():
        parts = {part.number: part for part in paths.sections(notebook)}
        assert all(number in parts and not parts[number].optional and parts[number].minutes for number in numbers)
    assert 90 <= paths.short_path()[-1]["minutes"] <= 135
