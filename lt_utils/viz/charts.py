"""Pictures of notebooks 07 and 08: two clouds, how far training features are from test features, a dot plot of methods."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from lt_utils.viz.figures import headline

# One colour for each kind of training features, the same in every picture ("-": none, the encoder's own head).
VIEW_COLOURS = {"clean": "#555555", "weak": "#56B4E9", "strong": "#009E73", "drawn": "#0072B2", "-": "#CC79A7"}


def two_clouds(clouds: dict[str, Tensor], numbers: dict[str, float]) -> Figure:
    """A drawing of two clouds of points [N, 2] around the same centre, the origin, and of what compares them.

    clouds: two, by name, the mean of the first to the right of the centre. An arrow leads to the mean of each; a circle shows
    how widely its points lie around it. Below, two bars show how long the first arrow is, and how far the second reaches
    along it. numbers: "direction", "length" and "spread", written beside what they measure.
    """
    figure, axes = plt.subplots(figsize=(8, 4.2))
    low = min(points[:, 1].min().item() for points in clouds.values())
    first, second = (points.mean(0) for points in clouds.values())
    foot = first * (first @ second) / first.square().sum()
    bars = (("whole arrow", first, low - 0.5), ("up to the dot", foot, low - 1.5))
    for (name, points), (said, end, height), colour in zip(clouds.items(), bars, ("#555555", "#E69F00"), strict=True):
        mean = points.mean(0)
        radius = (points - mean).square().sum(1).mean().sqrt().item()
        axes.plot(*points.T, ".", color=colour, ms=3, alpha=0.4)
        axes.add_patch(plt.Circle(mean.tolist(), radius, fill=False, ec=colour, lw=2, ls="--"))
        axes.plot([mean[0], mean[0]], [mean[1], mean[1] + radius], color=colour, lw=2)
        axes.annotate(
            name,
            (mean[0], mean[1] + radius),
            (0, 4),
            textcoords="offset points",
            ha="center",
            fontsize=10,
            fontweight="bold",
            color=colour,
        )
        axes.annotate("", mean.tolist(), (0, 0), arrowprops=dict(color=colour, width=2.5, headwidth=10, headlength=11))
        axes.plot([0, end[0]], [height, height], "|-", color=colour, lw=3, ms=9)
        axes.annotate(said, (end[0], height), (9, 0), textcoords="offset points", va="center", fontsize=9, color=colour)
    axes.plot([second[0], foot[0]], [second[1], foot[1]], ":", color="black", lw=1.5)
    axes.plot(*foot, "o", color="black", ms=6)
    axes.plot(0, 0, "P", color="black", ms=11)
    axes.annotate("centre", (0, 0), (0, -18), textcoords="offset points", ha="center", fontsize=9)
    said = ("cosine of the angle between the arrows", "upper bar / lower bar", "grey radius / orange radius")
    for place, (name, meaning) in enumerate(zip(("direction", "length", "spread"), said, strict=True)):
        where = dict(xy=(1.02, 0.75 - 0.25 * place), xycoords="axes fraction")
        axes.annotate(f"{name} {numbers[name]:.2f}", **where, fontweight="bold")
        axes.annotate(meaning, **where, xytext=(0, -14), textcoords="offset points", fontsize=9)
    axes.set(aspect="equal", xlabel="dimension 1", ylabel="dimension 2")
    return figure


def gaps_to_test(
    records: dict[str, tuple[dict[str, dict[str, dict[str, float]]], dict[str, dict[str, tuple[float, float]]]]],
) -> Figure:
    """How far several sets of training features are from the test features: one panel per measure, one line per set.

    records: by title, measured and fair; each is a row of panels, whose scales they share. measured[set][measure][group]:
    "direction", "length" and "spread" of `views.distance_to_test`, averaged over the classes of each group.
    fair[measure][group]: mean and standard deviation of the same for a fair sample of the test set (`views.fair_sample`), a
    grey band two deviations wide to each side. Length and spread, which are test / training there, are shown the other way
    round: features that are too long lie above 1, features that are too tight below.
    """
    titles = {
        "direction": ("direction", "cosine of the angle"),
        "length": ("length", "set / test"),
        "spread": ("spread", "set / test"),
    }
    names = {"clean": "training", "drawn": "drawn", "weak": "weak views", "strong": "strong views"}
    figure = plt.figure(figsize=(9, 0.4 + 3 * len(records)))
    above = dict.fromkeys(titles)  # the panel of the row above
    for row, (title, (measured, fair)) in zip(
        figure.subfigures(len(records), squeeze=False).flat, records.items(), strict=True
    ):
        for place, (measure, (head, label)) in enumerate(titles.items(), start=1):
            axes = above[measure] = row.add_subplot(1, len(titles), place, sharey=above[measure])
            groups, power = list(fair[measure]), 1 if measure == "direction" else -1
            low, middle, high = ([(m + side * d) ** power for m, d in fair[measure].values()] for side in (-2, 0, 2))
            axes.axhline(1, color="black", lw=0.8, zorder=1)
            axes.plot(groups, middle, color="#777777", lw=5, alpha=0.6, zorder=0, label="fair sample")
            axes.fill_between(groups, low, high, color="#999999", alpha=0.4, lw=0, zorder=0)
            for name, values in measured.items():
                shown = [value**power for value in values[measure].values()]
                axes.plot(groups, shown, "o-", color=VIEW_COLOURS[name], ms=7, lw=1.5, label=names[name])
            axes.set(title=head, ylabel=label)
            axes.margins(x=0.15, y=0.15)
        headline(row, title)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=len(measured) + 1)
    return figure


def method_dots(
    axes: Axes, rungs: Sequence[tuple[str, dict[str, tuple[float, float]]]], lines: dict[str, float], title: str = ""
) -> None:
    """A dot plot of methods, from the bottom up: the mean accuracy and its standard deviation for each kind of views.

    rungs: name and {views: (mean, std)} of each; the views "-" are called "the encoder's own head". lines: values to mark
    from top to bottom, with their names. What lies 10 points or more below the lowest line is written at the left edge
    instead of stretching the axis.
    """
    floor = min(lines.values()) - 10
    for place, (_, values) in enumerate(rungs):
        axes.axhline(place, color="#EEEEEE", lw=8, zorder=0)
        for name, (mean, std) in values.items():
            if mean >= floor:
                bar = 0 if std != std else std
                axes.errorbar(mean, place, xerr=bar, fmt="o", ms=8, capsize=3, color=VIEW_COLOURS[name], alpha=0.9)
        below = [f"{mean:.1f} ({name})" for name, (mean, _) in values.items() if mean < floor]
        if below:
            how = dict(va="center", fontsize=8, bbox=dict(facecolor="#EEEEEE", edgecolor="none", pad=1))
            axes.text(0.01, place, "← " + ", ".join(below), transform=axes.get_yaxis_transform(), **how)
    kinds = dict.fromkeys(name for _, values in rungs for name in values)
    if len(kinds) > 1:
        handles = [plt.Line2D([], [], marker="o", ls="", ms=8, color=VIEW_COLOURS[name], alpha=0.9) for name in kinds]
        names = ["the encoder's own head" if name == "-" else f"{name} views" for name in kinds]
        axes.legend(handles, names, loc="best", fontsize=8)
    for name, value in lines.items():
        axes.axvline(value, color="black", lw=1, ls="--")
        axes.annotate(name, (value, len(rungs) - 0.45), ha="center", va="bottom", fontsize=8, annotation_clip=False)
    axes.set_yticks(range(len(rungs)), [name for name, _ in rungs])
    axes.set(xlabel="accuracy (%)", ylim=(-0.6, len(rungs) - 0.4))
    axes.set_title(title, pad=18)
    axes.grid(axis="y", visible=False)
