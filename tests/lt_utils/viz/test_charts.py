"""The pictures of two clouds and of the gaps between training and test: what is drawn is what was given."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

from lt_utils.viz import charts  # noqa: E402

pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("course_style")]


def test_two_clouds_show_means_radii_and_how_far_the_second_reaches():
    square = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]])
    clouds = {"training": torch.tensor([8.0, 0.0]) + square, "new images": torch.tensor([4.0, 3.0]) + 2 * square}
    figure = charts.two_clouds(clouds, {"direction": 0.8, "length": 2.0, "spread": 0.5})
    (axes,) = figure.axes
    circles = [(tuple(patch.center), patch.radius) for patch in axes.patches if isinstance(patch, plt.Circle)]
    assert circles == [((8, 0), pytest.approx(2**0.5)), ((4, 3), pytest.approx(8**0.5))]
    bars = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2 and line.get_marker() == "|"]
    assert [float(end - begin) for begin, end in bars] == [8, 4]  # length 2: the whole arrow, and up to the dot
    said = " ".join(text.get_text() for text in axes.texts)
    assert all(words in said for words in ("direction 0.80", "length 2.00", "spread 0.50", "training", "new images"))
    figure.canvas.draw()


def test_gaps_are_shown_as_training_divided_by_test():
    clean = {
        "direction": {"many": 1.0, "few": 0.9},
        "length": {"many": 1.0, "few": 0.5},
        "spread": {"many": 1.0, "few": 2.0},
    }
    fair = {measure: {"many": (1.0, 0.0), "few": (1.0, 0.1)} for measure in clean}
    figure = charts.gaps_to_test({"here": ({"clean": clean}, fair), "there": ({"clean": clean}, fair)})
    assert [row.get_suptitle() for row in figure.subfigs] == ["here", "there"]
    for row in figure.subfigs:
        shown = {
            axes.get_title(loc="left"): next(line.get_ydata() for line in axes.lines if line.get_label() == "training")
            for axes in row.axes
        }
        assert {name: list(values) for name, values in shown.items()} == {
            "direction": [1, 0.9],
            "length": [1, 2],  # training features twice as long
            "spread": [1, 0.5],  # and half as wide
        }
    figure.canvas.draw()


def test_dots_name_their_views_and_write_what_lies_far_below_at_the_edge():
    figure, axes = plt.subplots()
    rungs = [("CE", {"-": (72.5, 0.0)}), ("Noise", {"clean": (58.2, 0.1)}), ("Ours", {"clean": (78.0, float("nan"))})]
    charts.method_dots(axes, rungs, {"label shift": 80.9})
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["the encoder's own head", "clean views"]
    assert [text.get_text() for text in axes.texts] == ["← 58.2 (clean)", "label shift"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["CE", "Noise", "Ours"]
    figure.canvas.draw()
