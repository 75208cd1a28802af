"""One look for every figure of the course: one style call, one set of colours, a few drawings that notebooks share."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import seaborn as sns
import torch
from IPython import get_ipython
from matplotlib.axes import Axes
from matplotlib.backends import BackendFilter, backend_registry
from matplotlib.figure import Figure, FigureBase
from matplotlib.patches import Patch
from torch import Tensor

from lt_utils.data.longtail import group_bounds, group_indices, group_of
from lt_utils.metrics.statistics import mean_std, student

# Okabe-Ito colours: distinguishable with every common form of colour blindness; the same in every notebook.
GROUP_COLOURS = {"many": "#0072B2", "medium": "#E69F00", "few": "#D55E00"}
METHOD_COLOURS = ("#555555", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#D55E00", "#000000")
SHOW_NOTHING = tuple(backend_registry.list_builtin(BackendFilter.NON_INTERACTIVE))  # backends that only write files
GAP = 2  # white pixels between the images of a wall


def style() -> None:
    """Set the style of the course; call it once, in the set-up cell.

    White paper under every figure keeps it readable on a dark theme. In a notebook, figures are shown below their cell, even
    if the shell that started Jupyter set MPLBACKEND to a backend that shows none.
    """
    shell = get_ipython()
    if getattr(shell, "kernel", None) and plt.get_backend().lower() in SHOW_NOTHING:
        shell.enable_matplotlib("inline")
    sns.set_theme(
        context="notebook",
        style="whitegrid",
        palette=METHOD_COLOURS,
        rc={
            "figure.figsize": (8, 3.6),
            "figure.dpi": 100,
            "savefig.dpi": 100,
            "figure.facecolor": "white",
            "savefig.facecolor": "white",
            "figure.constrained_layout.use": True,
            "figure.titlesize": 11,
            "figure.titleweight": "bold",
            "axes.titlesize": 11,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 10,
            "xtick.labelsize": 9,
            "ytick.labelsize": 9,
            "legend.fontsize": 9,
            "legend.title_fontsize": 9,
            "legend.frameon": False,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": "#E6E6E6",
            "image.cmap": "gray",
        },
    )


def headline(figure: FigureBase, title: str) -> None:
    """The title of a figure of several panels: at its left edge, as large as those of the panels."""
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")


def class_colours(counts: Sequence[int]) -> list[str]:
    """The group colour of each class, from its training count."""
    return [GROUP_COLOURS[group] for group in group_of(counts)]


def group_legend(axes: Axes, counts: Sequence[int], **where) -> None:
    """A legend of the groups that occur, with the rule that makes them."""
    many, few = group_bounds(counts)
    rule = {"many": f"many (> {many})", "medium": f"medium ({few} to {many})", "few": f"few (< {few})"}
    handles = [Patch(color=GROUP_COLOURS[name], label=rule[name]) for name in group_indices(counts)]
    axes.legend(handles=handles, title="training images", **where)


def class_bars(
    axes: Axes,
    values: Sequence[float],
    counts: Sequence[int],
    names: Sequence[str],
    *,
    label: str,
    title: str,
    numbers: bool = True,
    spread: Sequence[float] | None = None,
) -> None:
    """One bar per class in the colour of its group: training images, accuracies, anything with one value per class."""
    place = range(len(values))
    axes.bar(place, values, color=class_colours(counts), yerr=spread, error_kw={"lw": 1, "capsize": 2})
    if len(values) <= 20:
        axes.set_xticks(place, names, rotation=35, ha="right")
        if numbers:
            for x, value in enumerate(values):
                place_above = dict(xytext=(0, 1), textcoords="offset points", ha="center", va="bottom")
                axes.annotate(f"{value:,.0f}", (x, value), **place_above, fontsize=8)
    else:
        axes.set_xlabel("class, from the most frequent to the rarest")
    axes.set(ylabel=label, title=title)
    axes.grid(axis="x", visible=False)


def pixels(image: Tensor) -> np.ndarray:
    """An image [C, H, W] as matplotlib wants it: [H, W, C], or [H, W] if it is grey."""
    return np.squeeze(image.cpu().permute(1, 2, 0).numpy())


def _as_bytes(images: Tensor) -> Tensor:
    """Images uint8, or float in 0..1, as uint8 on the CPU."""
    images = images.detach().cpu()
    return images if images.dtype == torch.uint8 else images.clamp(0, 1).mul(255).round().byte()


def image_grid(
    images: Tensor,
    columns: int,
    *,
    rows: Sequence[str] | None = None,
    titles: Sequence[str] | None = None,
    colours: Sequence[str] | None = None,
    title: str = "",
    scale: float = 0.62,
) -> Figure:
    """A labelled grid of images [N, C, H, W], uint8 or float in 0..1, filled row by row.

    rows: a name for each row, with an optional colour each; titles: a name for each column.
    """
    images = _as_bytes(images)
    count = -(-len(images) // columns)
    figure, axes = plt.subplots(
        count,
        columns,
        figsize=(scale * columns + (1.2 if rows else 0.1), scale * count + (0.45 if title else 0.1)),
        squeeze=False,
        gridspec_kw={"wspace": 0.04, "hspace": 0.04},
    )
    for place, spot in enumerate(axes.flat):
        spot.set(xticks=[], yticks=[])
        spot.spines[:].set_visible(False)
        spot.grid(visible=False)
        if place < len(images):
            spot.imshow(pixels(images[place]), vmin=0, vmax=255, interpolation="nearest")
        else:
            spot.set_axis_off()
    for row, name in enumerate(rows or ()):
        axes[row, 0].set_ylabel(
            name, rotation=0, ha="right", va="center", fontsize=9, color=colours[row] if colours else "black"
        )
    for column, name in enumerate(titles or ()):
        axes[0, column].set_title(name, fontsize=8, fontweight="normal", loc="center")
    if title:
        headline(figure, title)
    return figure


def image_wall(
    axes: Axes,
    images: Tensor,
    columns: int,
    *,
    rows: Sequence[str] = (),
    colours: Sequence[str] | None = None,
    below: Sequence[str] = (),
    title: str = "",
) -> None:
    """Images [N, C, H, W], uint8 or float in 0..1, in one axes, row by row: far quicker than `image_grid`.

    White gaps of `GAP` pixels keep them apart. What the axes showed before goes, so that it can be drawn again.
    rows: a name for each row, with an optional colour each; below: a name under each column.
    """
    images = _as_bytes(images)
    images = torch.cat([images, images.new_full((-len(images) % columns, *images.shape[1:]), 255)])
    count, channels, height, width = images.shape
    framed = images.new_full((count, channels, height + GAP, width + GAP), 255)
    framed[..., :height, :width] = images
    wall = framed.unflatten(0, (-1, columns)).permute(0, 3, 1, 4, 2)  # [rows, H, columns, W, C]
    wall = wall.flatten(2, 3).flatten(0, 1)[:-GAP, :-GAP].squeeze(-1)
    axes.clear()
    axes.imshow(wall.numpy(), vmin=0, vmax=255, interpolation="nearest")
    axes.set_xticks([(width + GAP) * column + (width - 1) / 2 for column in range(len(below))], below, fontsize=9)
    axes.set_yticks([(height + GAP) * row + (height - 1) / 2 for row in range(len(rows))], rows, fontsize=9)
    for text, colour in zip(axes.get_yticklabels(), colours or (), strict=False):
        text.set_color(colour)
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)
    axes.set_title(title, fontsize=10)


def sample_rows(
    rows: Sequence[tuple[str, int, Tensor]],
    counts: Sequence[int],
    title: str,
    *,
    titles: Sequence[str] | None = None,
    scale: float = 0.72,
) -> Figure:
    """A grid with a row for each (name, class, images [N, C, H, W] uint8), the name in the colour of the class's group.

    Rows of fewer images than the longest end in white.
    """
    columns = max(len(images) for _, _, images in rows)
    white = torch.full_like(rows[0][2][:1], 255)
    cells = [torch.cat([images, *[white] * (columns - len(images))]) for _, _, images in rows]
    colours = [class_colours(counts)[c] for _, c, _ in rows]
    names = [name for name, _, _ in rows]
    return image_grid(torch.cat(cells), columns, rows=names, titles=titles, colours=colours, title=title, scale=scale)


def seed_dot(axes: Axes, y: float, values: Sequence[float], colour: str, *, filled: bool = True) -> None:
    """One line of an interval chart at height y: the seeds as small points, their mean, and its 95 % interval.

    The interval is mean ± student(n) * standard error, for two seeds or more; one run gets none.
    """
    mean, std = mean_std(values)
    if len(values) > 1:
        half = student(len(values)) * std / len(values) ** 0.5
        axes.plot([mean - half, mean + half], [y, y], color=colour, lw=1.6, zorder=2)
    axes.plot(values, [y - 0.22] * len(values), "o", color=colour, ms=3, alpha=0.75, zorder=2)
    axes.plot(mean, y, "o", ms=9, mec=colour, mfc=colour if filled else "white", mew=1.8, zorder=3)


def curves(axes: Axes, series: dict[str, Tensor], *, label: str = "loss", title: str = "", window: int = 25) -> None:
    """Training curves: for each name a value per step [S], smoothed by a running mean of `window` steps, drawn
    at their middle; nan is left out."""
    for name, values in series.items():
        values = values.detach().cpu().double()
        values = values[values.isfinite()]
        width = max(1, min(window, len(values) // 4))
        smooth = values.unfold(0, width, 1).mean(dim=1) if len(values) else values
        axes.plot(np.arange(width, len(values) + 1) - (width - 1) / 2, smooth, label=name, lw=1.5)
    axes.set(xlabel="training step", ylabel=label, title=title)
    if len(series) > 1:
        axes.legend()
