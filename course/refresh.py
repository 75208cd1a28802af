"""Execute notebooks in place, as they are committed: make notebooks, or python -m course refresh notebooks/03*.ipynb

They run one after the other in fresh kernels, as a learner goes through the course: the runs folder is empty at first, and
later notebooks find there what the earlier ones made. What differs from machine to machine is left out of the files. A
notebook that fails stays as it was.
"""

import os
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

from course.command import command
from course.gates import problems
from course.kernel import own_kernel
from lt_utils.errors import CourseError
from lt_utils.files import write_whole
from lt_utils.progress import duration
from lt_utils.runs.parameters import read_notebook

KEPT = ("tags", "jupyter")  # of a cell's metadata


def execute(path: Path) -> float:
    """Execute a notebook and write it back; returns the seconds it took. CourseError names the cell that failed."""
    import nbformat
    from nbconvert.preprocessors import CellExecutionError, CoalesceStreamsPreprocessor, ExecutePreprocessor

    read_notebook(path)  # refuses in one sentence what is no notebook
    notebook = nbformat.read(path, as_version=4)
    begin = time.monotonic()
    try:
        # The kernel would warn on the terminal, each time, that it talks over the local network without encryption.
        quiet = ["--IPKernelApp.log_level=40"]
        with own_kernel():
            ExecutePreprocessor(timeout=None, kernel_name="python3", extra_arguments=quiet).preprocess(
                notebook, {"metadata": {"path": str(path.parent)}}
            )
    except CellExecutionError as error:
        raise CourseError(f"{path.name}: {error.ename}: {error.evalue} (the file was left as it was).") from error
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    for cell in notebook.cells:
        cell.metadata = {key: value for key, value in cell.metadata.items() if key in KEPT}
    write_whole(path, lambda file: file.write((nbformat.writes(notebook) + "\n").encode()))
    return time.monotonic() - begin


@command("refresh", __doc__, ("notebooks", dict(nargs="+", type=Path)))
def main(notebooks: list[Path]) -> int:
    """Execute each notebook named; print its time and what the gates still refuse. Exit status 2 after an error."""
    with tempfile.TemporaryDirectory() as runs, patch.dict(os.environ, LT_RUNS=runs):
        for path in notebooks:
            print(f"{path.name}: {duration(execute(path))}", flush=True)
            for problem in problems(path):
                print(f"  {problem}")
    return 0
