"""The pictures of notebooks 02 and 03: what is drawn is what was given, in the colours of the course, without warnings."""

import matplotlib

matplotlib.use("agg")

import math  # noqa: E402

import pytest  # noqa: E402
import torch  # noqa: E402

from lt_utils.viz import recognition_results  # noqa: E402

COUNTS, NAMES = [500, 60, 5], ["T-shirt", "Dress", "Sandal"]
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("course_style")]


def test_angles_lie_around_their_arrow():
    draws = {"narrow": torch.full((400,), 0.1), "wide": torch.linspace(-3, 3, 400)}
    figure = recognition_results.angles_on_circle(draws, {"narrow": 90, "wide": 0}, "two")
    circle, line = figure.axes
    ring = circle.collections[0].get_offsets()
    assert len(ring) == 300 and ring[:, 0].tolist() == pytest.approx([math.pi / 2 + 0.1] * 300, abs=1e-5)
    assert [text.get_text() for text in line.get_legend().get_texts()] == ["narrow", "wide"]
    assert max(circle.collections[0].get_offsets()[:, 1]) < min(circle.collections[1].get_offsets()[:, 1])
    figure.canvas.draw()


def test_bars_of_each_class_are_means_over_seeds_and_one_seed_has_no_spread():
    values = {
        "CE": torch.tensor([[90.0, 50, 10], [80, 60, 20]]),
        "Label shift": torch.tensor([[85.0, 60, 50], [85, 60, 50]]),
    }
    figure = recognition_results.accuracy_by_class(values, COUNTS, NAMES, "each class")
    axes = figure.axes[0]
    assert [bar.get_height() for bar in axes.patches] == [85, 55, 15, 85, 60, 50]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["T-shirt\n500", "Dress\n60", "Sandal\n5"]
    assert len(axes.collections) == 2  # error bars
    one = recognition_results.accuracy_by_class({"CE": values["CE"][:1]}, COUNTS, NAMES, "one")
    assert not one.axes[0].collections


def test_many_classes_are_lines():
    figure = recognition_results.accuracy_by_class({"CE": torch.rand(2, 100)}, range(100, 0, -1), ["c"] * 100, "many")
    assert len(figure.axes[0].lines) == 1 and not figure.axes[0].patches


def test_a_reliability_diagram_has_a_panel_for_each_method_and_takes_seeds_one_after_the_other():
    labels = torch.tensor([0, 1, 1, 0])
    sure = torch.tensor([[0.99, 0.01], [0.99, 0.01], [0.01, 0.99], [0.99, 0.01]])  # 3 of 4 right
    figure = recognition_results.reliability_diagrams({"CE": sure, "twice": torch.cat([sure, sure])}, labels, "toy")
    for axes in figure.axes:
        heights = [bar.get_height() for bar in axes.patches if hasattr(bar, "get_height")]
        assert (
            len(heights) == recognition_results.BINS and heights[-1] == pytest.approx(0.75) and sum(heights[:-1]) == 0
        )
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["CE", "twice"]


def test_recall_squares_say_each_number_where_it_belongs():
    values = torch.tensor([[90.4, 10.0], [80.0, 60.0], [0.0, 100.0]])
    figure = recognition_results.recall_squares({"raw": values, "mended": values}, NAMES, [1000, 10], "squares")
    axes = figure.axes[0]
    said = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert said == {(0, 0): "90", (0, 1): "10", (1, 0): "80", (1, 1): "60", (2, 0): "0", (2, 1): "100"}
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1,000", "10"]
    many = recognition_results.recall_squares({"raw": torch.rand(100, 3)}, ["c"] * 100, [9, 5, 1])
    assert not many.axes[0].texts


def test_a_sweep_shows_means_of_seeds_and_keeps_zero_in_sight():
    boot = torch.tensor([[[90.0, 94], [60, 62]], [[91.0, 93], [92, 92]]])
    panels = [(name, "images", [50, 1000], {"Boot": boot, "Shirt": 0 * boot}) for name in ("up", "down")]
    figure = recognition_results.recall_sweeps(panels, "sweeps", falling=[1])
    up, down = figure.axes
    assert [line.get_ydata().tolist() for line in up.lines[:2]] == [[92, 61], [92, 92]]
    assert [line.get_linestyle() for line in up.lines[:2]] == ["-", "--"]
    assert [line.get_marker() for line in up.lines[:4]] == ["o", "o", "s", "s"]  # a class has its marker
    assert [line.get_markerfacecolor() for line in up.lines[:2]] == ["black", "white"]  # the prior taken out: hollow
    assert up.get_ylim()[0] < 0 and up.get_xlim()[0] < up.get_xlim()[1] and down.get_xlim()[0] > down.get_xlim()[1]
    assert figure.legends[0].get_texts()[3].get_text() == "Shirt, prior taken out"
    assert len(up.collections) == 4  # bars of deviation
    one = recognition_results.recall_sweeps([("one", "images", [50, 1000], {"Boot": boot[..., :1]})])
    assert not one.axes[0].collections
