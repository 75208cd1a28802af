"""Every notebook of the course passes the gates. That its cells run and print what is stored, make test asks nbval."""

import json

import pytest

from course import gates
from lt_utils.files import REPOSITORY

NOTEBOOKS = sorted((REPOSITORY / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_gates(path):
    assert gates.problems(path) == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_with_the_kernel_of_any_environment(path):
    """The kernel is called python3, as in every virtual environment, and no machine's details are kept."""
    metadata = json.loads(path.read_text(encoding="utf-8"))["metadata"]
    assert metadata["kernelspec"]["name"] == "python3"
    assert set(metadata) == {"kernelspec", "language_info"}
