"""The commit in a record is that of this repository, with its changes, or none."""

import subprocess

import pytest

from lt_utils.runs import provenance

WHO = ["-c", "user.name=x", "-c", "user.email=x@example.org"]


def git(folder, *words) -> str:
    done = subprocess.run(["git", "-C", folder, *WHO, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def outer(tmp_path, monkeypatch):
    """A repository with a commit of its own, in which the course lies unpacked in a folder."""
    for name in provenance.OF_ANOTHER:
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "notes.txt").write_text("mine")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "notes")
    (tmp_path / "course" / "lt_utils").mkdir(parents=True)
    (tmp_path / "course" / "lt_utils" / "a.py").write_text("a = 1\n")
    monkeypatch.setattr(provenance, "REPOSITORY", tmp_path / "course")
    return tmp_path


def make_own(folder) -> str:
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "course")
    return git(folder, "rev-parse", "HEAD")


@pytest.mark.parametrize("committed", [False, True])
def test_the_commit_of_a_repository_around_it_is_not_ours(outer, committed):
    if committed:
        git(outer, "add", ".")
        git(outer, "commit", "-qm", "unpacked a course")
    assert provenance._commit() == {"commit": None, "dirty": None}


def test_our_own_commit_inside_another_repository_and_each_kind_of_change(outer):
    commit = make_own(outer / "course")
    assert provenance._commit() == {"commit": commit, "dirty": False}
    (outer / "course" / "my_notes.txt").write_text("no code")
    assert provenance._commit()["dirty"] is False
    (outer / "course" / "lt_utils" / "new.py").write_text("new = 1\n")  # untracked, and yet the package is another
    assert provenance._commit() == {"commit": commit, "dirty": True}
    (outer / "course" / "lt_utils" / "new.py").unlink()
    (outer / "course" / "lt_utils" / "a.py").write_text("a = 2\n")
    assert provenance._commit() == {"commit": commit, "dirty": True}


def test_what_a_git_hook_sets_in_the_shell_does_not_lead_elsewhere(outer, monkeypatch):
    commit = make_own(outer / "course")
    monkeypatch.setenv("GIT_DIR", str(outer / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(outer))
    assert provenance._commit() == {"commit": commit, "dirty": False}


def test_a_status_that_does_not_come_is_not_called_clean(outer, monkeypatch):
    commit = make_own(outer / "course")
    run = subprocess.run

    def slow(command, **options):
        if "status" in command:
            raise subprocess.TimeoutExpired(command, 10)
        return run(command, **options)

    monkeypatch.setattr(provenance.subprocess, "run", slow)
    assert provenance._commit() == {"commit": commit, "dirty": None}
