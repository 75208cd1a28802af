"""The two pictures of notebooks 07 and 08: how far training features are from test features, and a dot plot of methods."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# One colour for each kind of training features, the same in every picture ("-": something that used none of them alone).
VIEW_COLOURS = {"clean": "#555555", "weak": "#56B4E9", "strong": "#009E73", "drawn": "#0072B2", "-": "#CC79A7"}


def gaps_to_test(
    measured: dict[str, dict[str, dict[str, float]]], fair: dict[str, dict[str, tuple[float, float]]], title: str
) -> Figure:
    """How far several sets of training features are from the test features: one panel per measure, one line per set.

    measured[set][measure][group]: "direction", "length" and "spread" of `views.distance_to_test`, averaged over the classes
    of each group. fair[measure][group]: mean and standard deviation of the same for a fair sample of the test set
    (`views.fair_sample`), a grey band two deviations wide to each side.
    """
    labels = {"direction": "cosine of the class means", "length": "test / training", "spread": "test / training"}
    figure, panels = plt.subplots(1, 3, figsize=(9, 3.4))
    for axes, measure in zip(panels, labels, strict=True):
        middle, deviation = zip(*fair[measure].values(), strict=True)
        low, high = ([m + side * d for m, d in zip(middle, deviation, strict=True)] for side in (-2, 2))
        axes.plot(list(fair[measure]), middle, color="#999999", lw=5, alpha=0.5, zorder=0, label="fair sample")
        axes.fill_between(list(fair[measure]), low, high, color="#999999", alpha=0.25, lw=0, zorder=0)
        for name, values in measured.items():
            groups = values[measure]
            axes.plot(list(groups), list(groups.values()), "o-", color=VIEW_COLOURS[name], ms=7, lw=1.5, label=name)
        axes.set(title=measure, ylabel=labels[measure])
        axes.margins(x=0.15, y=0.15)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(measured) + 1)
    figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def method_dots(
    axes: Axes, rungs: Sequence[tuple[str, dict[str, tuple[float, float]]]], lines: dict[str, float], title: str = ""
) -> None:
    """A dot plot of methods, from the bottom up: the mean accuracy and its standard deviation for each kind of views.

    rungs: name and {views: (mean, std)} of each; lines: values to mark from top to bottom, with their names. What lies
    10 points or more below the lowest line is written at the left edge instead of stretching the axis.
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
        names = ["several, or none" if name == "-" else f"{name} views" for name in kinds]
        axes.legend(handles, names, loc="best", fontsize=8)
    for name, value in lines.items():
        axes.axvline(value, color="black", lw=1, ls="--")
        axes.annotate(name, (value, len(rungs) - 0.45), ha="center", va="bottom", fontsize=8, annotation_clip=False)
    axes.set_yticks(range(len(rungs)), [name for name, _ in rungs])
    axes.set(xlabel="accuracy (%)", ylim=(-0.6, len(rungs) - 0.4))
    axes.set_title(title, pad=18)
    axes.grid(axis="y", visible=False)
