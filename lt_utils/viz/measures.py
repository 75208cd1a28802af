"""Drawings of what a measure of images sees: images at their places, clouds, balls around points, images beside numbers."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Patch, Rectangle
from torch import Tensor

from lt_utils.viz.figures import pixels

REAL, MADE = "#0072B2", "#D55E00"  # real and generated
COLOURS = {"noticed": "#BFDDF0", "praised": "#F9CFA8", "": "white"}  # of a number, by what it says
# The numbers that a table shows: its heading, and whether higher (1) or lower (-1) is better, or neither (0).
NUMBERS = {
    "fd": ("FD ↓", -1),
    "kd": ("KD ↓", -1),
    "class_score": ("class\nscore ↑", 1),
    "f8": ("F8 ↑", 1),
    "f1/8": ("F1/8 ↑", 1),
    "precision": ("preci-\nsion ↑", 1),
    "recall": ("recall ↑", 1),
    "label accuracy": ("label\n% ↑", 1),
    "distance ratio": ("distance\nratio → 1", 0),
}


def verdict(name: str, value: float, usual: Sequence[float]) -> str:
    """What a number (a key of NUMBERS) says of images, beside the `usual` values of real ones: "noticed" if it is worse than
    all of them by more than their spread, "praised" if it is better by as much, else "".
    """
    low, high = min(usual), max(usual)
    below, above = value < 2 * low - high, value > 2 * high - low
    better = NUMBERS[name][1]
    if better and (above if better > 0 else below):
        return "praised"
    return "noticed" if below or above else ""


def image_map(axes: Axes, images: Tensor, places: Tensor, colour: str, limits: Sequence[Sequence[float]]) -> None:
    """Small images uint8 [N, C, H, W] at their `places` [N, 2], each in a frame of `colour`; limits: of x and of y."""
    width, height = ((high - low) / 15 for low, high in limits)
    for image, (x, y) in zip(images, places.tolist(), strict=True):
        box = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
        axes.imshow(pixels(image), extent=box, vmin=0, vmax=255, cmap="gray", zorder=2)
        axes.add_patch(Rectangle((box[0], box[2]), width, height, fill=False, ec=colour, lw=1.6, zorder=3))
    axes.set(xlim=limits[0], ylim=limits[1], aspect="auto", xlabel="widest direction", ylabel="second direction")


def clouds(axes: Axes, real: Tensor, made: Tensor, title: str, *, shown: int = 250, limit: float = 4.0) -> None:
    """Two clouds of points [N, 2] and the Gaussian of each, an ellipse at two deviations."""
    angle = torch.linspace(0, 2 * torch.pi, 100, dtype=torch.float64)
    circle = 2 * torch.stack([angle.cos(), angle.sin()], 1)
    for points, colour, line in ((real.double(), REAL, "-"), (made.double(), MADE, "--")):
        values, vectors = torch.linalg.eigh(points.T.cov())
        axes.plot(*points[:shown].T.numpy(), ".", ms=3, color=colour, alpha=0.45)
        axes.plot(*(circle * values.sqrt() @ vectors.T + points.mean(0)).T.numpy(), line, color=colour, lw=2)
    axes.set(title=title, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel="feature 1")


def balls(axes: Axes, members: Tensor, points: Tensor, k: int, name: str, *, made: bool, limit: float = 3.5) -> float:
    """Draw the balls of members [N, 2], each of which reaches to its k-th nearest other member, and points [M, 2]: filled if
    they lie in a ball, hollow if not. Returns the share of points in a ball, which the title counts under `name`.

    made: whether the members are generated and the points real, or the other way round; it decides the colours.
    """
    axes.clear()
    own, others = (MADE, REAL) if made else (REAL, MADE)
    radii = torch.cdist(members, members).sort(dim=1).values[:, k]
    inside = (torch.cdist(points, members) < radii).any(dim=1)
    for centre, radius in zip(members.tolist(), radii.tolist(), strict=True):
        axes.add_patch(Circle(centre, radius, fc=own, alpha=0.12, lw=0))
        axes.add_patch(Circle(centre, radius, fill=False, ec=own, lw=0.7, alpha=0.6))
    axes.plot(*members.T.numpy(), ".", color=own, ms=7)
    for marked, fill in ((inside, others), (~inside, "white")):
        axes.plot(*points[marked].T.numpy(), "o", mfc=fill, mec=others, mew=1.6, ms=7, zorder=3)
    title = f"{name}: {int(inside.sum())} of {len(points)} in a ball"
    axes.set(title=title, xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal")
    axes.set(xlabel="feature 1", ylabel="feature 2")
    return inside.double().mean().item()


def answers(axes: Axes, probabilities: Tensor, title: str) -> None:
    """Class probabilities [N, C] as a table of colours, one image a row."""
    axes.imshow(probabilities.cpu().numpy(), cmap="Blues", vmin=0, vmax=1.2, aspect="auto")
    axes.set(title=title, xlabel="class", ylabel="image", xticks=range(probabilities.shape[1]))
    axes.grid(visible=False)


def histograms(axes: Axes, places: Mapping[str, Tensor], clusters: int, title: str) -> None:
    """The share of each of `clusters` among real and among generated images: by name, the cluster of each image [N]."""
    for (name, place), shift, colour in zip(places.items(), (-0.2, 0.2), (REAL, MADE), strict=True):
        share = torch.bincount(place.cpu(), minlength=clusters) / len(place)
        axes.bar([cluster + shift for cluster in range(clusters)], share.tolist(), 0.4, color=colour, label=name)
    axes.set(title=title, xlabel="cluster of features", ylabel="share of images", xticks=range(clusters))
    axes.legend()


def unnoticed(rows: Mapping[str, Mapping[str, float]], usual: Sequence[Mapping[str, float]]) -> list[dict]:
    """For each number the names of the rows that it does not notice and that it praises (see `verdict`)."""
    found = []
    for number in (name for name in NUMBERS if name in usual[0]):
        said = {name: verdict(number, row[number], [one[number] for one in usual]) for name, row in rows.items()}
        names = [", ".join(name for name in said if said[name] == word) for word in ("", "praised")]
        found.append({"measure": number} | dict(zip(("does not notice", "praises"), names, strict=True)))
    return found


def image_table(
    rows: Mapping[str, Mapping[str, float]],
    images: Mapping[str, Tensor],
    usual: Sequence[Mapping[str, float]],
    title: str,
) -> Figure:
    """A table with a strip of images in each row, between its name and its numbers, coloured by their `verdict`.

    rows: numbers (keys of NUMBERS; those that the first row lacks get no column) by name. images: uint8 [n, C, H, W] of each
    row. usual: the numbers of sets of real images.
    """
    columns = [name for name in NUMBERS if name in usual[0]]
    first, width = 3.6, 1.2  # in units of one image; the names stand in 0 .. first
    left = first + max(map(len, images.values())) + 0.2
    end = left + width * len(columns)
    figure, axes = plt.subplots(figsize=(0.5 * end, 0.5 * (len(rows) + 2.4)), layout="none")
    figure.subplots_adjust(0.005, 0, 0.995, 1)
    for place, (name, row) in enumerate(rows.items()):
        axes.text(first - 0.15, place + 0.5, name, ha="right", va="center", fontsize=9.5)
        for x, image in enumerate(images[name], start=1):
            box = (first + x - 0.97, first + x - 0.03, place + 0.97, place + 0.03)
            axes.imshow(pixels(image), extent=box, vmin=0, vmax=255, cmap="gray")
        for x, column in enumerate(columns):
            colour = COLOURS[verdict(column, row[column], [one[column] for one in usual])]
            text = f"{row[column]:.0f}" if column == "label accuracy" else f"{row[column]:.2f}".replace("-0.00", "0.00")
            axes.add_patch(Rectangle((left + width * x, place + 0.03), width - 0.06, 0.94, fc=colour, lw=0))
            axes.text(left + width * (x + 0.5), place + 0.5, text, ha="center", va="center", fontsize=9.5)
    for x, column in enumerate(columns):
        style = {"ha": "center", "va": "bottom", "fontsize": 9, "fontweight": "bold", "linespacing": 1.05}
        axes.text(left + width * (x + 0.5), -0.12, NUMBERS[column][0], **style)
    axes.text(0.1, -1.05, title, fontsize=11, fontweight="bold", va="bottom")
    said = {"noticed": "worse than real images: noticed", "praised": "better than real images: praised"}
    said |= {"": "like real images: not noticed"}
    key = [Patch(fc=COLOURS[name], ec="#BBBBBB", label=text) for name, text in said.items()]
    axes.legend(
        handles=key, loc="upper left", bbox_to_anchor=(0, len(rows) + 0.15), ncols=3, bbox_transform=axes.transData
    )
    axes.set(xlim=(0, end), ylim=(len(rows) + 1, -1.5), aspect="auto")
    axes.set_axis_off()
    return figure
