"""For every test of figures: matplotlib's own style, whatever a test before it has set."""

import matplotlib
import pytest


@pytest.fixture(autouse=True)
def plain_style():
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        yield
