"""The pictures of notebooks 02 and 03: recall at each count, angles on a circle, accuracy by class, reliability diagrams."""

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from lt_utils.metrics.recognition import reliability
from lt_utils.viz.figures import METHOD_COLOURS, headline

BINS = 15  # of confidence, as in the calibration error
MARKERS = "osD^vPX"  # of classes in a black and white figure
READ_OUTS = (("-", "black", "raw"), ("--", "white", "prior taken out"))  # line, filling, name


def angles_on_circle(draws: dict[str, Tensor], directions: dict[str, float], title: str = "") -> Figure:
    """Left, angles as dots on a circle, one ring and one arrow for each class; right, their histogram around the arrow.

    draws: angles [S] to the direction of the class, in radians from -pi to pi; the circle shows 300 of them.
    directions: where the arrow of each class points, in degrees.
    """
    figure = plt.figure(figsize=(10, 3.7))
    circle, line = figure.add_subplot(1, 2, 1, projection="polar"), figure.add_subplot(1, 2, 2)
    colours = dict(zip(draws, METHOD_COLOURS[1:], strict=False))
    random = np.random.default_rng(0)
    for ring, (name, angles) in enumerate(draws.items()):
        colour, at = colours[name], math.radians(directions[name])
        shown = angles[:300].numpy() + at
        circle.scatter(shown, 1 + 0.2 * ring + 0.13 * random.random(len(shown)), s=5, color=colour, alpha=0.6)
        circle.annotate("", (at, 0.93), (0, 0), arrowprops={"arrowstyle": "-|>", "color": colour, "lw": 2.5})
        line.hist(
            angles.rad2deg().numpy(),
            np.arange(-180, 181, 6),
            density=True,
            histtype="step",
            color=colour,
            lw=1.8,
            label=name,
        )
    circle.set(ylim=(0, 1 + 0.2 * len(draws)), yticks=[], xticks=[])
    circle.set_xlabel(
        f"{len(shown)} angles of each class, arrows: weight vectors\n(the rings only keep the colours apart)"
    )
    circle.grid(alpha=0.5)
    line.set(xlabel="angle to the arrow (degrees)", ylabel="share per degree", xticks=range(-180, 181, 90))
    line.legend()
    headline(figure, title)
    return figure


def accuracy_by_class(values: dict[str, Tensor], counts: Sequence[int], names: Sequence[str], title: str) -> Figure:
    """Accuracy of each class by several methods, values[method] [S, C] of S seeds: bars with their deviation, lines for
    more than 20 classes."""
    figure, axes = plt.subplots(figsize=(10, 3.7))
    place, few = np.arange(len(counts)), len(counts) <= 20
    for number, (method, several) in enumerate(values.items()):
        mean = several.mean(0).tolist()
        if few:
            spread = several.std(0).tolist() if len(several) > 1 else None
            at = place + 0.81 / len(values) * (number - (len(values) - 1) / 2)
            axes.bar(at, mean, 0.78 / len(values), yerr=spread, label=method, error_kw={"lw": 1, "capsize": 2})
        else:
            axes.plot(place, mean, label=method, lw=1.3)
    if few:
        axes.set_xticks(place, [f"{name}\n{count:,}" for name, count in zip(names, counts, strict=True)], rotation=25)
    axes.set_xlabel("class, and its training images" if few else "class, from the most frequent to the rarest")
    axes.set(ylabel="accuracy (%)", ylim=(0, 108), title=title)
    axes.grid(axis="x", visible=False)
    figure.legend(loc="outside lower center", ncols=len(values))
    return figure


def reliability_diagrams(probabilities: dict[str, Tensor], labels: Tensor, title: str) -> Figure:
    """One panel for each method: how often it is right in each bin of confidence, and how many images are there.

    probabilities[method] [S N, C]: those of S seeds one after the other, for the same N labels.
    """
    figure, axes = plt.subplots(
        1, len(probabilities), figsize=(3.7 * len(probabilities), 3.5), sharey=True, squeeze=False
    )
    for number, ((method, p), spot) in enumerate(zip(probabilities.items(), axes[0], strict=True)):
        share, _, right = (part.tolist() for part in reliability(p, labels.repeat(len(p) // len(labels)), BINS))
        middle = (np.arange(BINS) + 0.5) / BINS
        colour = METHOD_COLOURS[number % len(METHOD_COLOURS)]
        spot.bar(middle, right, 1 / BINS, color=colour, edgecolor="white", label="accuracy of the bin")
        spot.stairs(share, np.linspace(0, 1, BINS + 1), color="black", lw=1, label="share of the images")
        spot.plot([0, 1], [0, 1], "k--", lw=1, label="perfectly calibrated")
        spot.set(xlabel="confidence", title=method, xlim=(0, 1), ylim=(0, 1))
    axes[0, 0].set_ylabel("accuracy, share")
    axes[0, 0].legend(loc="upper left")
    figure.suptitle(title, fontsize=10)
    return figure


def recall_squares(squares: dict[str, Tensor], rows: Sequence[str], columns: Sequence[int], title: str = "") -> Figure:
    """Tables of recall in per cent, squares[name] [C, K], as colours side by side: a row for each class, a column for each count.

    rows: names of the classes; columns: training images. With at most 20 rows each cell has its number.
    """
    figure, panels = plt.subplots(1, len(squares), figsize=(5 * len(squares), 4.1), sharey=True, squeeze=False)
    for axes, (name, values) in zip(panels.flat, squares.items(), strict=True):
        axes.imshow(values.numpy(), vmin=0, vmax=100, cmap="cividis", aspect="auto")
        if len(rows) <= 20:
            for (row, column), value in np.ndenumerate(values.numpy()):
                ink = "black" if value > 55 else "white"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=8, color=ink)
            axes.set_yticks(range(len(rows)), rows)
        axes.set_xticks(range(len(columns)), [f"{n:,}" for n in columns], rotation=45)
        axes.set(xlabel="training images of the class", title=f"Recall (%), {name}")
        axes.grid(visible=False)
    headline(figure, title)
    return figure


def recall_sweeps(
    panels: Sequence[tuple[str, str, Sequence[int], dict[str, Tensor]]], title: str = "", falling: Sequence[int] = ()
) -> Figure:
    """Recall along a sweep of counts, a panel each: (title, x label, counts [K], {class: recall in per cent [2, K, seeds]}).

    The first of the two read-outs is drawn full (raw), the second dashed and hollow (prior taken out): means with their
    deviation over seeds; each class has its marker. falling: which panels run from large counts to small ones.
    """
    figure, spots = plt.subplots(1, len(panels), figsize=(10, 4.1), sharey=True, squeeze=False)
    for number, (spot, (name, label, counts, recall)) in enumerate(zip(spots[0], panels, strict=True)):
        for marker, (drawn, values) in zip(MARKERS, recall.items(), strict=False):
            for (line, fill, test), several in zip(READ_OUTS, values, strict=True):
                spread = several.std(1) if several.shape[1] > 1 else None
                look = dict(fmt=marker + line, ms=6, color="black", mfc=fill, label=f"{drawn}, {test}")
                spot.errorbar(counts, several.mean(1), spread, **look)
        spot.set(xscale="log", xticks=counts, xticklabels=[f"{n:,}" for n in counts], xlabel=label, title=name)
        spot.minorticks_off()
        if number in falling:
            spot.invert_xaxis()
    spots[0, 0].set(ylabel="recall (%)", ylim=(-3, 101))  # below 0, so that a line at 0 is seen
    figure.legend(*spots[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    headline(figure, title)
    return figure
