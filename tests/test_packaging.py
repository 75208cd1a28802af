"""pyproject.toml, requirements.lock, environment.yml, the Makefile and what is installed say the same."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import lt_utils
from lt_utils.files import REPOSITORY

ROOT = REPOSITORY
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = [text for extra in PROJECT["optional-dependencies"].values() for text in extra]
DECLARED = {canonicalize_name(one.name): one for one in map(Requirement, PROJECT["dependencies"] + EXTRAS)}
LOCK = [line.split("#")[0].strip() for line in (ROOT / "requirements.lock").read_text().splitlines()]
LOCKED = [Requirement(line) for line in LOCK if line]

# What is used without an import: the words that show it, and the file that has them.
USED = {
    "jupyterlab": ("-m jupyterlab", "Makefile"),
    "ipykernel": ('kernel_name="python3"', "course/batch/execute.py"),
    "snakemake": ('"-m", "snakemake"', "course/batch/launch.py"),
    "ruff": ("$(BIN)/ruff", "Makefile"),
    "snakemake-executor-plugin-slurm": ("executor: slurm", "profiles/slurm/config.yaml"),
    "nbval": ("--nbval", "Makefile"),
    "pytest-xdist": ("--dist loadscope", "Makefile"),
}


def here(requirement: Requirement) -> bool:
    return requirement.marker is None or requirement.marker.evaluate()


def imported() -> set[str]:
    """Distributions whose modules the repository's Python files import (those installed here)."""
    modules = set()
    for folder in ("lt_utils", "data_prep", "course", "experiments", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    modules |= {alias.name.split(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom) and node.level == 0:
                    modules.add(node.module.split(".")[0])
    ours = {"lt_utils", "data_prep", "course", "experiments", "benchmarks", "conftest", "small_slurm"}
    owners = packages_distributions()
    return {
        canonicalize_name(name)
        for module in modules - ours - sys.stdlib_module_names
        for name in owners.get(module, [f"{module} (not installed)"])
    }


def test_the_lock_names_versions_and_nothing_else():
    text = (ROOT / "requirements.lock").read_text()
    assert "://" not in text and "--" not in text and "@" not in text
    for requirement in LOCKED:
        assert re.fullmatch(r"==[\w.+]+", str(requirement.specifier)), requirement


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_fits_pyproject(python):
    for name, requirement in DECLARED.items():
        environment = {"python_version": python, "python_full_version": f"{python}.1", "sys_platform": "linux"}
        fitting = [
            locked
            for locked in LOCKED
            if canonicalize_name(locked.name) == name and (not locked.marker or locked.marker.evaluate(environment))
        ]
        assert len(fitting) == 1, (name, python)
        assert requirement.specifier.contains(str(fitting[0].specifier).removeprefix("==")), fitting[0]
    assert SpecifierSet(PROJECT["requires-python"]).contains(f"{python}.0")


def test_what_is_installed_is_what_is_locked():
    assert [str(one) for one in LOCKED if here(one) and not one.specifier.contains(version(one.name))] == []


def test_bounds():
    assert DECLARED["torch"].specifier.contains("2.11") and not DECLARED["torch"].specifier.contains("2.10.9")
    python = SpecifierSet(PROJECT["requires-python"])
    assert [minor for minor in range(9, 16) if python.contains(f"3.{minor}.0")] == [11, 12, 13]
    assert all(one.specifier for one in DECLARED.values())


def test_environment_yml_uses_the_same_lock():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    assert environment["dependencies"][-1] == {"pip": ["-r requirements.lock", "-e ."]}
    conda = environment["dependencies"][:-1]
    assert conda[0] == f"python {PROJECT['requires-python']}" and conda[1:] == ["pip", "make"]


def test_every_dependency_is_used_and_every_import_is_declared():
    for name, (words, file) in USED.items():
        assert words in (ROOT / file).read_text(), name
    used = imported()
    assert set(DECLARED) - set(USED) - used == set()
    assert used - set(DECLARED) - set(USED) == set()


def test_each_dependency_says_what_it_is_for():
    text = (ROOT / "pyproject.toml").read_text()
    for requirement in PROJECT["dependencies"] + EXTRAS:
        assert re.search(rf'^  "{re.escape(requirement)}", +# \w', text, re.M), requirement


def test_one_version():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert PROJECT["version"] == lt_utils.__version__ == cited["version"]
    assert PROJECT["license"] == cited["license"] == "MIT"


FAKE = """#!/bin/sh
# A Python that only notes what it is asked for.
echo "$@" >> "$LOG"
case "$*" in *"-m venv"*) mkdir -p .venv/bin && cp "$0" .venv/bin/python ;; esac
"""


@pytest.fixture
def make(tmp_path):
    """A copy of the Makefile with a pretended Python; call it to make .venv, and get what Python was asked for."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).touch()
    fake = tmp_path / "fakepython"
    fake.write_text(FAKE)
    fake.chmod(0o755)

    def call(*words: str, python: str = str(fake)) -> tuple[int, str, list[str]]:
        log = tmp_path / "log"
        log.write_text("")
        environment = {key: value for key, value in os.environ.items() if not key.startswith("MAKE")} | {
            "LOG": str(log)
        }
        done = subprocess.run(
            ["make", f"PYTHON={python}", *words], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        asked = [line for line in log.read_text().splitlines() if line.startswith("-m")]
        return done.returncode, done.stdout, asked

    return call


def test_make_builds_its_environment_once_and_again_if_half_made(make, tmp_path):
    status, said, asked = make(".venv/.ready")
    assert status == 0 and said.startswith("Making .venv with ")
    assert [line.split()[1] for line in asked] == ["venv", "pip", "pip"]
    assert asked[1].endswith("-r requirements.lock") and asked[2].endswith("-e .")
    assert make(".venv/.ready")[2] == []  # nothing to do

    (tmp_path / ".venv/.ready").unlink()  # as after Ctrl-C in the middle
    (tmp_path / ".venv/rest").touch()
    assert "venv" in make(".venv/.ready")[2][0] and not (tmp_path / ".venv/rest").exists()

    future = (tmp_path / ".venv/.ready").stat().st_mtime + 60
    os.utime(tmp_path / "requirements.lock", (future, future))
    status, said, asked = make(".venv/.ready")
    assert status == 0 and said.startswith("Bringing .venv up to date") and "venv" not in asked[0]


def test_make_says_what_is_wrong_with_python(make, tmp_path):
    status, said, _ = make("run", python="python3.10-is-not-here")
    assert status != 0 and said.startswith("No Python 3.11, 3.12 or 3.13 found (python3.10-is-not-here); install one")
    assert not (tmp_path / ".venv").exists()
    poor = tmp_path / "poor"
    poor.write_text('#!/bin/sh\ncase "$*" in *ensurepip*) exit 1 ;; esac\n')
    poor.chmod(0o755)
    status, said, _ = make("test", python=str(poor))
    assert status != 0 and "cannot make virtual environments; on Debian and Ubuntu install its venv package" in said


def test_make_alone_prints_the_targets(make):
    status, said, asked = make()
    assert status == 0 and asked == []
    assert {"run", "test", "lab", "full", "bench"} <= set(re.findall(r"^make (\w+)", said, re.M))


def test_continuous_integration_runs_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK) and script.read_text().splitlines()[-1] == "exec make test"
