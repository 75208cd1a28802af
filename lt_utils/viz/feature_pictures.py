"""Pictures of features: what a source adds to a class, how far a cloud lies from the test features, a map of classes."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from torch import Tensor

from lt_utils.viz.charts import VIEW_COLOURS
from lt_utils.viz.figures import headline, pixels

ROUND = 0.35  # how wide the test cloud is drawn, in lengths of its arrow
TEST = "#E69F00"
SHAPE = 2.2  # width / height of a class map, at least


def added_in_plane(features: Tensor, real: Tensor, new: Tensor, added: Mapping[str, Tensor], title: str = "") -> Figure:
    """What each source adds to one class, a panel each, in the plane of the two widest directions of `features` [N, D].

    real [n, D]: training features of the class, black rings; new [m, D]: its test features, orange; added: by source,
    blue.
    """
    centre = features.mean(0)
    plane = torch.linalg.svd(features - centre, full_matrices=False).Vh[:2].T  # [D, 2]
    figure, panels = plt.subplots(1, len(added), figsize=(9.5, 3.4), sharex=True, sharey=True)
    for axes, (name, drawn) in zip(panels, added.items(), strict=True):
        crowded = len(drawn) > 100  # then blue would hide the test features
        looks = (
            (new, dict(s=7, color=TEST, alpha=0.35, lw=0, zorder=1.5 if crowded else 0.9)),
            (drawn, dict(s=20, color=VIEW_COLOURS["drawn"], alpha=min(0.8, 60 / max(1, len(drawn))), lw=0)),
        )
        for values, look in (*looks, (real, dict(s=40, facecolors="none", edgecolors="black", zorder=2))):
            axes.scatter(*((values - centre) @ plane).T.cpu(), **look)
        axes.set(title=name, xlabel="component 1")
    panels[0].set_ylabel("component 2")
    headline(figure, title)
    return figure


def clouds_to_scale(
    measured: Mapping[str, Sequence[Mapping]],
    title: str = "",
    *,
    kinds: Sequence[str] = ("clean", "strong"),
    group: str = "few",
) -> Figure:
    """Training and test features of a group of classes as two clouds, each at the end of an arrow from the middle of all.

    measured: by name, the rows of `views.gap_rows` (or of a record), of these kinds of views and of the fair sample. A column
    of panels for each name, a row for each kind. Drawn to scale: the test arrow is 1 long and the test cloud always as wide;
    the training arrow has the length and the angle, the training cloud the width, that were measured, as training / test.
    """
    figure, panels = plt.subplots(
        len(kinds), len(measured), figsize=(9.5, 2.65 * len(kinds)), sharex=True, sharey=True, squeeze=False
    )
    for column, (name, rows) in zip(panels.T, measured.items(), strict=True):
        by_views = {row["views"]: row for row in rows}
        for axes, kind in zip(column, kinds, strict=True):
            _clouds(axes, by_views[kind], by_views["fair sample"], group)
        column[0].set_title(name)
        column[-1].set_xlabel("in lengths of the test arrow")
    for axes, kind in zip(panels[:, 0], kinds, strict=True):
        axes.set_ylabel(f"{kind} views")
    headline(figure, title)
    return figure


def _clouds(axes: Axes, row: Mapping, fair: Mapping, group: str) -> None:
    """One panel of `clouds_to_scale`."""
    length, width = 1 / row[f"length_{group}"], 1 / row[f"spread_{group}"]
    turn, fair_turn = (math.acos(min(one[f"direction_{group}"], 1.0)) for one in (row, fair))
    colour, points = VIEW_COLOURS[row["views"]], torch.randn(2, 90, 2, generator=torch.Generator().manual_seed(0))
    ends = ((1.0, 0.0), TEST, ROUND), ((length * math.cos(turn), length * math.sin(turn)), colour, ROUND * width)
    for cloud, (end, shade, radius) in zip(points, ends, strict=True):
        axes.scatter(*(torch.tensor(end) + cloud * radius / 2**0.5).T, s=5, color=shade, alpha=0.45)
        axes.annotate("", end, (0, 0), arrowprops=dict(arrowstyle="-|>", color=shade, lw=2.5, shrinkA=0, shrinkB=0))
    sample = f"{math.degrees(fair_turn):.0f}°, {1 / fair[f'length_{group}']:.2f}, {1 / fair[f'spread_{group}']:.2f}"
    words = f"angle {math.degrees(turn):.0f}°, length {length:.2f}, spread {width:.2f}\n(fair sample: {sample})"
    axes.text(0.03, 0.03, words, fontsize=7.5, transform=axes.transAxes)
    axes.set(xlim=(-0.4, 2.7), ylim=(-1.35, 1.5), aspect="equal")


def class_map(distances: Tensor, images: Tensor, names: Sequence[str], title: str = "") -> Figure:
    """A map of classes, their distances [C, C] kept as well as a plane can (classical scaling), the longer side across.

    images: one of each class, uint8 [C, channels, H, W], drawn at its place. A line, the thicker the nearer, and the number
    after its name lead to the nearest rival of each class. The diagonal of `distances` does not count. A name stands at that
    side of its picture where it covers least of the others.
    """
    squared = distances.cpu().double().clone().fill_diagonal_(0).square()
    # Squared distances -> scalar products around the centre -> coordinates: the two largest eigenvectors.
    inner = -(squared - squared.mean(0) - squared.mean(1, keepdim=True) + squared.mean()) / 2
    values, vectors = torch.linalg.eigh(inner)
    places = (vectors[:, -2:] * values[-2:].clamp(min=0).sqrt()).flip(1)  # [C, 2]
    figure, axes = plt.subplots(figsize=(9.2, 4.6))
    half = 0.03 * (places[:, 0].max() - places[:, 0].min()).item()  # of the width of an image
    for c, (right, up) in enumerate(places.tolist()):
        k = int(distances[c].clone().index_fill_(0, torch.tensor(c, device=distances.device), torch.inf).argmin())
        near = distances[c, k].item()
        axes.plot(*places[[c, k]].T.tolist(), color="#D55E00", lw=7 / max(near, 0.5), alpha=0.5, zorder=1)
        box = (right - half, right + half, up - half, up + half)
        axes.imshow(pixels(images[c]), extent=box, zorder=2, cmap="gray_r" if images.shape[1] == 1 else None)
        axes.annotate(f"{names[c]} {near:.1f}", (right, up), (0, 0), textcoords="offset points", fontsize=8.5, zorder=3)
    low, high = (places.amin(0) - 3 * half).tolist(), (places.amax(0) + 2 * half).tolist()
    wider = max(0, SHAPE * (high[1] - low[1]) - (high[0] - low[0])) / 2  # on both sides, so that the title has room
    axes.set(xlim=(low[0] - wider, high[0] + wider), ylim=(low[1], high[1]), aspect="equal", title=title)
    axes.set(xlabel="standard deviations", ylabel="standard deviations")
    axes.grid(visible=False)
    _names_beside(figure, axes, places, half)
    return figure


def _names_beside(figure: Figure, axes: Axes, places: Tensor, half: float) -> None:
    """Move each text of a class map to the right, left, bottom or top of its picture, where it meets least."""
    figure.canvas.draw()  # only now is the size of a text known, and where a place lies on the paper
    screen = axes.transData
    ways = np.linspace(0, 1, 40)[:, None]
    taken = [way for x, y in (line.get_xydata() for line in axes.lines) for way in screen.transform(x + ways * (y - x))]
    boxes = [Bbox(screen.transform([place - half, place + half])) for place in places.numpy()]
    reach = (boxes[0].width / 2 + 3) * 72 / figure.dpi  # from the middle of a picture to a name, in points
    for text in axes.texts:
        options = []
        for right, up in ((1, 0), (-1, 0), (0, -1), (0, 1)):
            text.set(ha=["center", "left", "right"][right], va=["center", "bottom", "top"][up])
            text.set_position((right * reach, up * reach))
            box = text.get_window_extent()
            met = 5 * box.count_overlaps(boxes) + sum(box.contains(*point) for point in taken)
            met += 5 * (not axes.bbox.contains(*box.min) or not axes.bbox.contains(*box.max))
            options.append((met, len(options), text.get_ha(), text.get_va(), text.get_position(), box))
        _, _, ha, va, position, box = min(options, key=lambda option: option[:2])
        text.set(ha=ha, va=va, position=position)
        boxes.append(box)
