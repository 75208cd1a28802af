"""The README says what is stored, and nothing else."""

import json
import shutil
import sys

import pytest

from course import readme
from course.batch.plan import read_config
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY

README = REPOSITORY / "README.md"
STORED = REPOSITORY / "notebooks" / "reference" / "quick.json"


def test_generated_parts_equal_the_stored_results():
    text = README.read_text(encoding="utf-8")
    assert readme.text_from_records(text) == text, "run `python -m course readme`"


def test_one_altered_digit_is_seen():
    text = README.read_text(encoding="utf-8")
    summary = json.loads(STORED.read_text(encoding="utf-8"))
    assert readme.fill(text, "quick results", readme.quick_table(summary)) == text
    assert readme.fill(text, "quick results", readme.quick_table(summary)) == text  # it leaves the rows as they are
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


@pytest.fixture
def batch(tmp_path):
    """A finished quick profile, one row for each notebook; returns (its folder, a function that writes one more record)."""

    def record(notebook: str, run: str = "all", profile: str = "quick") -> None:
        folder = tmp_path / "quick" / notebook / run
        folder.mkdir(parents=True)
        told = {"seconds": 1.0, "finished": "2026-01-01", "rows": [{"method": "CE", "accuracy": 70.0}]}
        parameters = {"RUN": f"{profile}/{notebook}/{run}"}
        (folder / "record.json").write_text(json.dumps({"notebook": notebook, "parameters": parameters, **told}))

    for notebook in read_config(REPOSITORY / "config" / "quick.yaml")["notebooks"]:
        record(notebook)
    return tmp_path / "quick", record


def test_store_leaves_out_what_was_moved_aside(batch, tmp_path):
    folder, record = batch
    record("03_encoders", "all.old-1")
    rows = json.loads(readme.store(folder, tmp_path / "stored.json").read_text())["rows"]
    assert [row["notebook"] for row in rows].count("03_encoders") == 1 and len(rows) == 9


def test_store_refuses_a_batch_that_is_not_the_whole_quick_profile(batch, tmp_path):
    folder, record = batch
    target = tmp_path / "stored.json"
    record("03_encoders", "more", profile="cifar")
    with pytest.raises(CourseError, match="no batch of config/quick.yaml alone"):
        readme.store(folder, target)
    (folder / "03_encoders" / "more" / "record.json").write_text("{}")
    with pytest.raises(CourseError, match="no batch of config/quick.yaml alone"):
        readme.store(folder, target)
    shutil.rmtree(folder / "08_classifier_retraining")
    with pytest.raises(CourseError, match="no finished run of 08_classifier_retraining"):
        readme.store(folder, target)
    assert not target.exists()


@pytest.mark.parametrize("content", [None, "", "{}"])
def test_a_missing_or_broken_reference_is_told(tmp_path, monkeypatch, content):
    copied = tmp_path / "notebooks" / "reference"
    shutil.copytree(STORED.parent, copied)
    monkeypatch.setattr(readme, "REPOSITORY", tmp_path)
    for name in readme.SHOWN:
        path = copied / f"{name}.json"
        kept = path.read_text()
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(CourseError, match=f"{name}.json is missing or broken"):
            readme.text_from_records("")
        path.write_text(kept)


def test_a_readme_that_cannot_be_opened_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(readme, "REPOSITORY", tmp_path)
    monkeypatch.setattr(sys, "argv", ["readme"])
    assert readme.main() == 2
    said = capsys.readouterr().err
    assert "README.md cannot be read or written (No such file" in said and said.count("\n") == 1


def test_links_lead_to_files():
    import re

    for text in (README, REPOSITORY / "data_prep" / "README.md", REPOSITORY / "benchmarks" / "README.md"):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text.read_text(encoding="utf-8")):
            assert (text.parent / target).exists(), f"{text.name}: {target}"
