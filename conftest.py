"""For every test, also those that nbval makes of notebook cells: clean folders, and a count of what is compared.

It lies here, not in tests/, because pytest applies it to notebooks/ only from above both.
"""

import os

import pytest

from course.gates import is_compared

COMPARED = "compared notebook cell"


def pytest_configure(config):
    # The tests are about the notebooks of this repository, wherever LT_NOTEBOOKS points in this shell.
    os.environ.pop("LT_NOTEBOOKS", None)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Before nbval starts a notebook's kernel: an empty folder for its runs, so that each notebook runs alone."""
    if hasattr(item, "cell"):
        if item.parent.kernel is None:
            factory = item.config._tmp_path_factory
            os.environ["LT_RUNS"] = str(factory.mktemp(item.path.stem))
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
