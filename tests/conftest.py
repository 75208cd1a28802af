"""Shared by all tests: a maker of small notebooks."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook


def write_notebook(path, parameters: dict, *sources: str):
    """Write a notebook, not executed: a title, a parameters cell, then one code cell per source. Returns its path."""
    lines = [f"{name} = {value!r}  # {name.lower()}" for name, value in parameters.items()]
    cells = [new_markdown_cell(f"# {path.stem}"), new_code_cell("\n".join(lines), metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources]
    path.parent.mkdir(parents=True, exist_ok=True)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), path)
    return path


@pytest.fixture
def notebook():
    """The function write_notebook(path, parameters, *sources)."""
    return write_notebook
