"""Figures: one look, the same colours everywhere, every drawing complete and without warnings."""

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from matplotlib.colors import to_hex, to_rgb  # noqa: E402

from lt_utils.viz import figures  # noqa: E402

COUNTS = [500, 101, 100, 20, 19, 5]
NAMES = ["T-shirt", "Trouser", "Pullover", "Dress", "Coat", "Sandal"]
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.usefixtures("course_style")]


def bars(axes):
    return [to_hex(bar.get_facecolor()).upper() for bar in axes.patches]


def test_style_is_white_paper_with_the_method_colours():
    assert plt.rcParams["figure.facecolor"] == plt.rcParams["savefig.facecolor"] == "white"
    assert plt.rcParams["axes.prop_cycle"].by_key()["color"] == [to_rgb(colour) for colour in figures.METHOD_COLOURS]
    before = dict(plt.rcParams)
    figures.style()
    assert dict(plt.rcParams) == before


def test_group_colours_differ_also_in_lightness():
    light = [np.dot(to_rgb(colour), (0.2126, 0.7152, 0.0722)) for colour in figures.GROUP_COLOURS.values()]
    assert list(figures.GROUP_COLOURS) == ["many", "medium", "few"] and min(abs(np.diff(light))) > 0.15
    assert len(set(figures.METHOD_COLOURS)) == len(figures.METHOD_COLOURS)


def test_every_class_has_the_colour_of_its_group():
    colours = figures.GROUP_COLOURS
    expected = [colours[name] for name in ("many", "many", "medium", "medium", "few", "few")]
    assert figures.class_colours(COUNTS) == expected
    _, axes = plt.subplots()
    figures.class_bars(axes, COUNTS, COUNTS, NAMES, label="training images", title="Fashion-MNIST")
    assert bars(axes) == [colour.upper() for colour in expected]
    assert [bar.get_height() for bar in axes.patches] == COUNTS
    assert [text.get_text() for text in axes.get_xticklabels()] == NAMES
    assert [text.get_text() for text in axes.texts] == [str(count) for count in COUNTS]
    assert axes.get_ylabel() == "training images" and axes.get_title(loc="left") == "Fashion-MNIST"


def test_many_classes_get_an_axis_label_instead_of_names():
    _, axes = plt.subplots()
    figures.class_bars(axes, range(100), [5] * 100, ["x"] * 100, label="accuracy, %", title="t", spread=[1.0] * 100)
    assert "most frequent" in axes.get_xlabel() and not axes.texts
    _, axes = plt.subplots()
    figures.class_bars(axes, [1, 2], [5, 500], ["a", "b"], label="accuracy, %", title="t", numbers=False)
    assert not axes.texts


def test_legend_names_the_groups_that_occur_with_their_rule():
    _, axes = plt.subplots()
    figures.group_legend(axes, [500, 5], loc="upper left")
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["many (> 100)", "few (< 20)"]
    figures.group_legend(axes, [500, 50, 5])
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["many (> 100)", "medium (20 to 100)", "few (< 20)"]
    assert axes.get_legend().get_title().get_text() == "training images"


@pytest.mark.parametrize("channels", [1, 3])
def test_image_grid_shows_every_image_in_its_place(channels):
    images = torch.randint(0, 256, (5, channels, 4, 4), dtype=torch.uint8)
    figure = figures.image_grid(
        images,
        3,
        rows=["first", "second"],
        titles=["a", "b", "c"],
        colours=["#0072B2", "#D55E00"],
        title="Fashion-MNIST",
    )
    figure.canvas.draw()
    shown = [axes.images[0].get_array() if axes.images else None for axes in figure.axes]
    assert len(shown) == 6 and shown[5] is None
    for one, image in zip(shown[:5], images, strict=True):
        assert np.array_equal(np.asarray(one), image.permute(1, 2, 0).numpy().squeeze())
    assert figure.axes[0].get_ylabel() == "first" and figure.axes[3].get_ylabel() == "second"
    assert to_hex(figure.axes[3].yaxis.label.get_color()).upper() == "#D55E00"
    assert [axes.get_title() for axes in figure.axes[:3]] == [
        "a",
        "b",
        "c",
    ] and figure.get_suptitle() == "Fashion-MNIST"


def test_image_grid_takes_floats_in_0_to_1():
    figure = figures.image_grid(torch.tensor([-1, 0, 0.5, 2.0]).view(1, 1, 2, 2), 1)
    assert np.asarray(figure.axes[0].images[0].get_array()).tolist() == [[0, 0], [128, 255]]


def test_curves_are_running_means_over_steps():
    _, axes = plt.subplots()
    values = torch.arange(100.0)
    figures.curves(axes, {"CE": values, "short": torch.tensor([3.0, 1.0])}, label="loss", title="two", window=10)
    line, short = axes.lines
    assert line.get_xdata().tolist() == [x + 0.5 for x in range(5, 96)] and line.get_ydata()[0] == pytest.approx(4.5)
    assert line.get_ydata()[-1] == pytest.approx(94.5) and short.get_ydata().tolist() == [3, 1]
    assert axes.get_xlabel() == "training step" and [text.get_text() for text in axes.get_legend().get_texts()] == [
        "CE",
        "short",
    ]


def test_curves_leave_out_steps_that_were_not_made():
    _, axes = plt.subplots()
    figures.curves(axes, {"CE": torch.tensor([1.0, 2.0, float("nan"), float("nan")])})
    assert axes.lines[0].get_ydata().tolist() == [1, 2] and axes.get_legend() is None
    figures.curves(axes, {"nothing yet": torch.full((4,), float("nan"))})
    assert len(axes.lines[1].get_ydata()) == 0


def test_image_wall_lays_images_apart_and_fills_the_last_row_with_white():
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 1, 3, 2)
    _, axes = plt.subplots()
    for _ in range(2):  # the same axes serve twice
        names = dict(rows=["a", "b", "c"], colours=["red", "blue", "green"], below=["left", "right"])
        figures.image_wall(axes, images, 2, **names, title="five")
    wall = axes.images[0].get_array()
    gap = figures.GAP
    assert len(axes.images) == 1 and wall.shape == (9 + 2 * gap, 4 + gap)
    assert wall[:: 3 + gap, :: 2 + gap].tolist() == [[0, 1], [2, 3], [4, 255]]
    assert (wall[3 : 3 + gap] == 255).all() and (wall[:, 2 : 2 + gap] == 255).all()
    assert wall[:3, :2].max() == 0 and wall[3 + gap : 6 + gap, 2 + gap :].min() == 3
    assert [(text.get_text(), text.get_color()) for text in axes.get_yticklabels()] == [
        ("a", "red"),
        ("b", "blue"),
        ("c", "green"),
    ]
    assert axes.get_yticks().tolist() == [1, 4 + gap, 7 + 2 * gap] and axes.get_title(loc="left") == "five"
    assert axes.get_xticks().tolist() == [0.5, 2.5 + gap]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["left", "right"]


def test_image_wall_shows_colours_and_floats():
    _, axes = plt.subplots()
    figures.image_wall(axes, torch.rand(4, 3, 5, 5), 4)
    assert axes.images[0].get_array().shape == (5, 20 + 3 * figures.GAP, 3)
    assert not len(axes.get_xticks()) and not len(axes.get_yticks())


def test_sample_rows_name_their_classes_and_end_in_white():
    images = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
    figure = figures.sample_rows([("head", 0, images), ("tail", 5, images[:1])], COUNTS, "title")
    shown = [np.asarray(axes.images[0].get_array()).max() for axes in figure.axes]
    assert shown == [0, 0, 0, 0, 255, 255]
    colours = [to_hex(figure.axes[place].yaxis.label.get_color()).upper() for place in (0, 3)]
    assert colours == [figures.GROUP_COLOURS["many"], figures.GROUP_COLOURS["few"]]
