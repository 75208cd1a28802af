"""Kernels are those of this environment, and a notebook shows its figures, whatever the shell says."""

import os

import nbformat
import pytest
from nbclient import NotebookClient

from course.gates import figures_of
from course.kernel import OF_THE_SHELL, own_kernel

PLOT = "from lt_utils.viz import figures\nfigures.style()\nfigures.plt.plot([0, 1])\nfigures.plt.show()"


def test_what_the_shell_says_comes_back_afterwards(monkeypatch):
    for name in OF_THE_SHELL:
        monkeypatch.setenv(name, "1")
    with own_kernel():
        assert not set(OF_THE_SHELL) & set(os.environ) and os.environ["JUPYTER_PREFER_ENV_PATH"] == "1"
    assert all(os.environ[name] == "1" for name in OF_THE_SHELL)


@pytest.mark.parametrize("backend", ["agg", "SVG"])
def test_a_jupyter_that_was_started_with_another_backend_shows_figures(backend, monkeypatch):
    """As in JupyterLab, where nobody cleans the shell: the style call of the set-up cell sees to it."""
    monkeypatch.setenv("MPLBACKEND", backend)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PLOT)])
    NotebookClient(notebook, kernel_name="python3").execute()
    assert len(figures_of(notebook)) == 1
