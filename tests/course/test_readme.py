"""README.md and RESULTS.md say what is stored, and nothing else; the paths it names are there, and its program runs."""

import ast
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course import readme
from course.batch.plan import read_config
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY

README = REPOSITORY / "README.md"
STORED = REPOSITORY / "notebooks" / "reference" / "quick.json"
TEXTS = [
    README,
    *(REPOSITORY / name for name in ("RESULTS.md", "CONTRIBUTING.md", "data_prep/README.md", "benchmarks/README.md")),
]


@pytest.mark.parametrize("page", readme.PAGES)
def test_generated_parts_equal_the_stored_results(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    assert readme.text_from_records(page, text) == text, "run `python -m course readme`"


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
    notebooks = read_config(REPOSITORY / "config" / "quick.yaml")["notebooks"]
    assert [row["notebook"] for row in rows].count("03_encoders") == 1 and len(rows) == len(notebooks)


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
    copied = tmp_path / "reference"
    shutil.copytree(STORED.parent, copied)
    monkeypatch.setattr(readme, "REFERENCES", copied)
    for name in readme.SHOWN:
        path = copied / f"{name}.json"
        kept = path.read_text()
        path.unlink() if content is None else path.write_text(content)
        with pytest.raises(CourseError, match=f"{name}.json is missing or broken"):
            readme.text_from_records("RESULTS.md", "")
        path.write_text(kept)


def test_a_readme_that_cannot_be_opened_is_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(readme, "REPOSITORY", tmp_path)
    monkeypatch.setattr(sys, "argv", ["readme"])
    assert readme.main() == 2
    said = capsys.readouterr().err
    assert "README.md cannot be read or written (No such file" in said and said.count("\n") == 1


# ------------------------------------------------------------------------------------------------- what a stranger follows
# Folders of a reader's own data, and files that every package may have.
OTHERS = {"train/", "val/", "train_val2018/", "__init__.py", "__main__.py"}
MADE = {line.strip("/") for line in (REPOSITORY / ".gitignore").read_text().splitlines()}  # by a command, not in git
PACKAGES = ("lt_utils", "data_prep", "course", "experiments", "benchmarks")
CODE = re.compile(r"^```.*?^```|(?<!`)`[^`\n]+`(?!`)", re.M | re.S)  # blocks and spans
MODULE = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)+")


def named_paths(text: str) -> set[str]:
    """The words in code spans, code blocks and links that look like paths of this repository, as patterns of glob.

    Such a word ends like a folder or a source file, or begins with a folder that is there; NN_topic stands for any notebook.
    """
    words = set(re.split(r"[\s`'\",;()=]+", " ".join(CODE.findall(text))))
    words |= {target.split("#")[0] for target in re.findall(r"\]\((?!\w+:)([^)]+)\)", text)}
    there = {path.name for path in REPOSITORY.iterdir()}
    return {
        word.replace("NN", "[0-9][0-9]").replace("topic", "*")
        for word in words - OTHERS
        if re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", word)
        and (word.endswith(("/", ".py", ".md", ".yaml", ".yml", ".toml", ".ipynb")) or word.split("/")[0] in there)
        and word.split("/")[0] not in MADE
    }


def missing_paths(text: str, folder: Path) -> set[str]:
    """Those that are neither below `folder`, where the text lies, nor below the repository."""
    return {
        path
        for path in named_paths(text)
        if not any(found for root in (folder, REPOSITORY) for found in root.glob(path.rstrip("/")))
    }


def missing_modules(text: str) -> set[str]:
    """The words such as lt_utils.data that name neither a module nor something in one."""

    def is_there(name: str) -> bool:
        module, _, last = name.rpartition(".")
        path = REPOSITORY.joinpath(*name.split("."))
        return path.is_dir() or path.with_suffix(".py").exists() or hasattr(importlib.import_module(module), last)

    return {found[0] for found in MODULE.finditer(" ".join(CODE.findall(text))) if not is_there(found[0])}


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_paths_and_modules_that_are_named_are_there(path):
    text = path.read_text(encoding="utf-8")
    assert missing_paths(text, path.parent) == set()
    assert missing_modules(text) == set()


def test_a_path_that_is_gone_is_seen():
    text = "`lt_utils/coursemap.py`, `old.py`, `tools/`, [x](docs/x.md#top); `data/`, `.venv/bin/a`, `solutions/NN_topic.ipynb`"
    assert missing_paths(text, REPOSITORY) == {"lt_utils/coursemap.py", "old.py", "tools/", "docs/x.md"}
    assert missing_paths("```\npython -m pytest tests/test_losses.py\n```", REPOSITORY) == {"tests/test_losses.py"}
    assert "solutions/[0-9][0-9]_*.ipynb" in named_paths(text)
    assert missing_modules("`lt_utils.data.load`, `python -m lt_utils.datasets`") == {"lt_utils.datasets"}


def test_every_folder_of_the_repository_and_the_library_has_its_line():
    text = README.read_text(encoding="utf-8")
    tracked = subprocess.run(["git", "ls-files", "*/*"], cwd=REPOSITORY, capture_output=True, text=True).stdout.split()
    folders = {name.split("/")[0] for name in tracked if not name.startswith(".")}
    folders |= {f"lt_utils/{path.parent.name}" for path in REPOSITORY.glob("lt_utils/*/__init__.py")}
    assert {folder for folder in folders if f"\n| `{folder}/` | " not in text} == set()


def test_links_lead_to_headings():
    for path in TEXTS:
        for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", path.read_text(encoding="utf-8")):
            text = ((path.parent / target) if target else path).read_text(encoding="utf-8")
            found = {
                re.sub(r"[^\w -]", "", line).strip().lower().replace(" ", "-")
                for line in re.findall(r"^#+ (.+)$", text, re.M)
            }
            assert heading in found, f"{path.name}: {target}#{heading}"


def programs(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)


def test_the_program_of_the_readme_runs_as_it_stands(tmp_path):
    """In a process of its own: as it stands, again from its checkpoint, and with another number of epochs."""
    (program,) = programs(README)
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "other.py").write_text(program.replace("epochs=2", "epochs=1"))
    three = "from runpy import run_path as run; run('program.py'); print('again'); run('program.py'); run('other.py')"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", three], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600
    )
    assert re.search(r"CourseError: encoder.safetensors is of another training \(steps .+\n$", done.stderr), done.stderr
    first, again = (part.splitlines() for part in done.stdout.split("again\n"))
    assert len(again) == 3 and "images/s" not in again[0], again  # one line of progress, for nothing was trained
    assert again[-2:] == first[-2:]
    rows = [ast.literal_eval(line[line.index("{") :]) for line in first[-2:]]
    assert [list(row) for row in rows] == [["accuracy", "many", "medium", "few", "ece"]] * 2
    assert rows[1]["accuracy"] > rows[0]["accuracy"] and rows[1]["ece"] < rows[0]["ece"]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_what_programs_import_is_there(path):
    for program in programs(path):
        for node in ast.parse(program).body:
            if isinstance(node, ast.ImportFrom):
                assert {alias.name for alias in node.names} <= set(dir(importlib.import_module(node.module)))


def test_links_lead_to_files():
    for text in TEXTS:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", text.read_text(encoding="utf-8")):
            assert (text.parent / target).exists(), f"{text.name}: {target}"
