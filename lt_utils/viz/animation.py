"""Moving pictures: a figure drawn again for each of some values, as one animated PNG.

An animated PNG needs no widget: a browser plays it, and what cannot (a printer, a PDF) shows its first picture, the still.
"""

from collections.abc import Callable, Sequence
from io import BytesIO

import matplotlib.pyplot as plt
from IPython.display import Image as Shown
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from lt_utils.errors import CourseError
from lt_utils.viz.figures import image_grid, pixels

FRAMES = 60  # at most
COLOURS = 64  # of each picture: a few dozen kilobytes instead of hundreds


def moving(
    figure: Figure, draw: Callable, values: Sequence, *, seconds: float = 0.1, still: int = -1, dpi: int = 80
) -> Shown:
    """Show `figure` as `draw(value)` leaves it for each of `values`, one after the other, over and over.

    seconds: how long a picture stands; the last one stands ten times as long. still: place of the picture for print.
    The figure is closed. Raises CourseError for no values, and for more than 60.
    """
    values = list(values)
    if not 1 <= len(values) <= FRAMES:
        raise CourseError(f"A moving picture has 1 to {FRAMES} pictures, not {len(values)}.")
    pictures = []
    for value in values:
        draw(value)
        buffer = BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        pictures.append(Image.open(buffer).convert("RGB"))
    plt.close(figure)
    # One palette for all, from the busiest pictures side by side: colours do not flicker, and small areas keep theirs.
    sample = Image.new("RGB", (pictures[0].width, 3 * pictures[0].height))
    for place, number in enumerate((0, len(pictures) // 2, -1)):
        sample.paste(pictures[number], (0, place * pictures[0].height))
    palette = sample.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    pictures = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    stands = [round(1000 * seconds)] * (len(pictures) - 1) + [round(10_000 * seconds)]
    buffer = BytesIO()
    pictures[still].save(
        buffer, format="PNG", save_all=True, append_images=pictures, default_image=True, duration=stands, loop=0
    )  # fmt: skip
    return Shown(buffer.getvalue(), format="png")


def moving_images(
    frames: Tensor, *, titles: Sequence[str], title: str = "", scale: float = 1.2, seconds: float = 0.1, still: int = 0
) -> Shown:
    """A row of images that change together: frames [F, K, C, H, W], uint8, F pictures of K images, with a title for each image.

    seconds, still: see `moving`, whose errors it raises.
    """
    figure = image_grid(frames[still], frames.shape[1], titles=titles, title=title, scale=scale)
    figure.canvas.draw()
    figure.set_layout_engine("none")  # laid out once, not for each picture

    def draw(place: int) -> None:
        for axes, picture in zip(figure.axes, frames[place], strict=True):
            axes.images[0].set_data(pixels(picture))

    return moving(figure, draw, range(len(frames)), seconds=seconds, still=still)
