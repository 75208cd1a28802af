"""For every test, also those that nbval makes of notebook cells: clean folders, notebooks run twice, a count of what is compared.

It lies here, not in tests/, because pytest applies it to notebooks/ only from above both.
"""

import os
from queue import Empty

import pytest

from course.gates import is_compared
from course.kernel import OF_THE_SHELL

COMPARED = "compared notebook cell"
RUN_AGAIN = "notebooks"  # the folder whose notebooks run a second time


class RunAgain(pytest.Item):
    """After nbval has run a notebook's cells: all once more in the same kernel, then each again, from the last to the first.

    The second half is a reader who scrolls up and runs a cell again: it meets what all later cells have left behind.
    """

    def runtest(self) -> None:
        cells = [item for item in self.parent.again if item.cell.source.strip()]
        for when, order in (("a second time", cells), ("again, after the last cell", cells[::-1])):
            for item in order:
                if error := run(self.parent.kernel, item.cell.source, self.config.option.nbval_cell_timeout):
                    pytest.fail(f"{item.name} of {self.path.name}, run {when}: {error}", pytrace=False)

    def reportinfo(self):
        return self.path, 0, f"{self.path.name}: run again"


def run(kernel, source: str, timeout: float) -> str:
    """Run a cell's source; the error's name and text, "" if there was none."""
    message = kernel.execute_cell_input(source, allow_stdin=False)
    try:
        kernel.await_reply(message, timeout=timeout)
    except Empty:
        return f"more than {timeout:g} seconds"
    error = ""
    while True:
        found = kernel.get_message("iopub", timeout=60)
        if found["parent_header"].get("msg_id") != message:
            continue
        if found["msg_type"] == "error":
            error = f"{found['content']['ename']}: {found['content']['evalue']}"
        if found["msg_type"] == "status" and found["content"]["execution_state"] == "idle":
            return error


def pytest_configure(config):
    # The tests are about the notebooks of this repository, wherever LT_NOTEBOOKS points in this shell.
    os.environ.pop("LT_NOTEBOOKS", None)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Behind the last cell of each notebook, the item that runs it again; not if only some of its cells were chosen."""
    cells = {}
    for item in items:
        if hasattr(item, "cell") and item.path.parent.name == RUN_AGAIN:
            cells.setdefault(item.parent, []).append(item)
    for notebook, own in cells.items():
        notebook.again = own
        items.insert(items.index(own[-1]) + 1, RunAgain.from_parent(notebook, name="run again"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before nbval starts a notebook's kernel: an empty folder for its runs, so that each notebook runs alone."""
    if hasattr(item, "cell"):
        if item.parent.kernel is None:
            factory = item.config._tmp_path_factory
            os.environ["LT_RUNS"] = str(factory.mktemp(item.path.stem))
            for name in OF_THE_SHELL:
                os.environ.pop(name, None)
        if is_compared(item.cell):
            item.user_properties.append((COMPARED, item.path.stem))


def pytest_terminal_summary(terminalreporter):
    """How many notebook cells were compared: what `passed` alone does not tell."""
    reports = terminalreporter.getreports("passed")
    cells = [report for report in reports if ".ipynb::" in report.nodeid and report.when == "call"]
    compared = [value for report in cells for name, value in report.user_properties if name == COMPARED]
    if cells:
        terminalreporter.write_line(
            f"{len(reports) - len(cells)} tests passed; {len(cells)} notebook cells ran, and the stored output of "
            f"{len(compared)} of them was compared, in {len(set(compared))} notebooks."
        )
