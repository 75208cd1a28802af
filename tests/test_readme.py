"""The README says what is stored, and nothing else."""

import json

import pytest

from lt_utils import readme
from lt_utils.errors import CourseError
from lt_utils.parameters import REPOSITORY

README = REPOSITORY / "README.md"
STORED = REPOSITORY / "notebooks" / "reference" / "quick.json"


def test_generated_parts_equal_the_stored_results():
    text = README.read_text(encoding="utf-8")
    assert readme.text_from_records(text) == text, "run `python -m lt_utils.readme`"


def test_one_altered_digit_is_seen():
    text = README.read_text(encoding="utf-8")
    summary = json.loads(STORED.read_text(encoding="utf-8"))
    assert readme.fill(text, "quick results", readme.quick_table(json.loads(json.dumps(summary)))) == text
    value = next(row["accuracy"] for row in summary["rows"] if row.get("method") == "Label shift")
    summary["rows"] = [
        {**row, "accuracy": row["accuracy"] + 1} if row.get("accuracy") == value else row for row in summary["rows"]
    ]
    assert readme.fill(text, "quick results", readme.quick_table(summary)) != text


def test_picture_is_the_one_stored_in_the_notebook():
    assert (REPOSITORY / "notebooks" / "reference" / "picture.png").read_bytes() == readme.picture()


def test_a_missing_mark_is_told():
    with pytest.raises(CourseError, match="quick results"):
        readme.fill("no marks here", "quick results", "")


def test_store_of_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(CourseError, match="make run"):
        readme.store(tmp_path, tmp_path / "quick.json")


def test_links_lead_to_files():
    import re

    for text in (README, REPOSITORY / "data_prep" / "README.md", REPOSITORY / "benchmarks" / "README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text.read_text(encoding="utf-8")):
            assert (text.parent / target).exists(), f"{text.name}: {target}"
