"""Moving pictures: every value is drawn once, in order; print sees the still; bad input is one sentence."""

from io import BytesIO

import matplotlib.pyplot as plt
import pytest
import torch
from PIL import Image

from lt_utils.data import class_counts
from lt_utils.errors import CourseError
from lt_utils.viz import moving, moving_images
from lt_utils.viz.figures import GROUP_COLOURS, class_colours


def bars(values, **options):
    """A moving picture of one bar, and the values in the order in which they were drawn."""
    figure, axes = plt.subplots(figsize=(2, 1))
    drawn = []

    def draw(value):
        drawn.append(value)
        axes.clear()
        axes.set(ylim=(0, 4))
        axes.bar(0, value, color="black")

    return Image.open(BytesIO(moving(figure, draw, values, **options).data)), drawn


def dark(picture) -> int:
    """Dark pixels of a picture."""
    return sum(picture.convert("L").histogram()[:64])


def test_every_value_is_a_picture_and_the_last_stands_longest():
    picture, drawn = bars((1, 2, 3), seconds=0.2)
    assert drawn == [1, 2, 3] and picture.n_frames == 4  # the still, and three
    seen, stands = [], []
    for number in range(1, 4):
        picture.seek(number)
        seen.append(dark(picture))
        stands.append(picture.info["duration"])
    assert seen == sorted(seen) and seen[0] < seen[2]
    assert stands == [200, 200, 2000]
    assert not plt.get_fignums()


@pytest.mark.parametrize(("still", "which"), [(-1, 3), (0, 1)])
def test_print_sees_the_still(still, which):
    picture, _ = bars((1, 2, 3), still=still)
    first = dark(picture)
    picture.seek(which)
    assert first == dark(picture)


@pytest.mark.parametrize("values", [(), range(61)])
def test_too_few_and_too_many(values):
    with pytest.raises(CourseError, match="1 to 60 pictures, not"):
        bars(values)


def test_a_row_of_images_that_change_together():
    frames = torch.full((3, 2, 1, 8, 8), 255, dtype=torch.uint8)
    frames[1:, 0], frames[2, 1] = 0, 0  # the left image darkens first, then the right one
    picture = Image.open(BytesIO(moving_images(frames, titles=["left", "right"]).data))
    seen = []
    for number in range(1, 4):
        picture.seek(number)
        seen.append(dark(picture))
    assert picture.n_frames == 4 and seen[0] < seen[1] < seen[2]
    assert abs((seen[2] - seen[1]) - (seen[1] - seen[0])) < 0.05 * seen[2]  # one image each time


def test_small_areas_keep_their_colour():
    """The bars of rare classes are a few pixels, of a colour like that of their neighbours."""
    figure, axes = plt.subplots(figsize=(7, 3))

    def draw(factor):
        axes.clear()
        counts = class_counts(5000, 10, factor)
        axes.bar_label(axes.bar(range(10), counts, color=class_colours(counts), edgecolor=class_colours(counts), lw=2))
        axes.set(ylim=(0, 5500), title="CIFAR-10-LT", xlabel="class", ylabel="training images")

    picture = Image.open(BytesIO(moving(figure, draw, (1, 30, 1000)).data)).convert("RGB")
    colours = {tuple(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in GROUP_COLOURS.values()}
    assert colours <= {colour for _, colour in picture.getcolors(picture.width * picture.height)}
