"""For every test of figures: matplotlib's own style, whatever a test before it has set, and no figure left open."""

import matplotlib
import matplotlib.pyplot as plt
import pytest

from lt_utils.viz import figures


@pytest.fixture(autouse=True)
def plain_style():
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield
        plt.close("all")


@pytest.fixture
def course_style(plain_style):
    """The style of the course, for a test that asks for it."""
    figures.style()
