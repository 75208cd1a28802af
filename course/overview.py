"""The whole course in one picture: what flows where, and which notebook builds which part."""

import math
from collections.abc import Collection, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from lt_utils.data.datasets import ImageData
from lt_utils.data.longtail import group_of
from lt_utils.runs.parameters import notebooks_folder
from lt_utils.viz.figures import GROUP_COLOURS, METHOD_COLOURS, pixels

INK, SOFT, LINE, THERE = "#222222", "#5F6B76", "#C3CAD1", "#00507E"

# number: (file, title, what it is about); a notebook is a link as soon as its file is there
COURSE = {
    "00": ("00_start_here", "Start here", "the map, a first taste of the tail, your way"),
    "01": ("01_long_tailed_data", "Building long-tailed data sets", "profiles, seeded subsets, groups, priors"),
    "02": ("02_why_the_tail_is_hard", "Why the tail is hard", "number and similarity of classes"),
    "03": ("03_encoders", "Encoders", "cross-entropy, label shift, WCDAS"),
    "04": ("04_ddpm_from_scratch", "DDPM from scratch", "noise schedules, objectives, the ancestral sampler"),
    "05": ("05_ddim_and_guidance", "DDIM and guidance", "fewer steps, stronger labels"),
    "06": ("06_class_balancing_diffusion", "Class-balancing diffusion", "a loss that lends the head to the tail"),
    "07": ("07_latent_diffusion", "Latent feature diffusion", "the same diffusion on features instead of pixels"),
    "08": ("08_classifier_retraining", "Classifier retraining", "real and generated features, and honest controls"),
    "09": ("09_feature_translation", "Translating features", "from head to tail"),
    "10": ("10_self_supervision", "Self-supervision", "and two-stage training"),
    "11": ("11_vision_transformers", "Vision transformers", "on the long tail"),
    "12": ("12_scoreboard", "The scoreboard", "every method, one protocol, with error bars"),
    "A1": ("A1_measuring_images", "Measuring images", "what each measure sees, and how it is fooled"),
    "A2": ("A2_small_print", "The small print", "proofs and details that the notebooks leave out"),
}


def table() -> list[dict]:
    """The course as rows "no", "notebook", "about", for tables.show; planned notebooks say so."""
    rows, present = [], built()
    for number, (file, title, about) in COURSE.items():
        linked = f"[{title}]({file}.ipynb)" if number in present else f"{title} (planned)"
        rows.append({"no": number, "notebook": linked, "about": about})
    return rows


def built() -> set[str]:
    """The numbers ("00", "01", ...) of the notebooks that are there; the others of the course are planned."""
    return {path.name[:2] for path in notebooks_folder().glob("[0-9A][0-9]_*.ipynb")}


def draw(data: ImageData, present: Collection[str] | None = None) -> Figure:
    """Draw the course for a long-tailed `data` set; notebooks whose number is in `present` are filled, others outlined.

    All images are of the training set. What is random in the drawing has a fixed seed, so it looks the same each time.
    """
    present = built() if present is None else present
    figure, axes = plt.subplots(figsize=(11.4, 6.3), layout="none")
    figure.subplots_adjust(0, 0, 1, 1)
    _images(axes, data)
    _image_diffusion(axes, data)
    _encoder(axes)
    _features(axes)
    _feature_diffusion(axes)
    _retraining(axes)
    _scoreboard(axes)
    for start, end, bend in (
        ((31, 33), (37, 33), 0),
        ((51, 33), (57, 33), 0),
        ((75, 33), (81, 33), 0),
        ((95, 33), (100, 33), 0),
        ((17, 50), (37, 56), -0.28),
        ((75, 56), (107, 45), -0.2),
        ((66, 21), (66, 15), 0),
        ((82, 8), (88, 21), 0.28),
    ):
        style = {"arrowstyle": "-|>", "mutation_scale": 15, "lw": 1.8, "color": SOFT, "shrinkA": 0, "shrinkB": 0}
        axes.add_patch(FancyArrowPatch(start, end, connectionstyle=f"arc3,rad={bend}", **style))
    axes.text(92, 57.6, "generated images", fontsize=9, style="italic", color=SOFT)
    axes.text(88, 10.5, "generated features", fontsize=9, style="italic", color=SOFT)
    places = {"00": (3.2, 60), "01": (3.4, 50), "02": (7.6, 50), "03": (39.2, 45), "10": (43.4, 45), "11": (47.6, 45)}
    places |= {"04": (39.2, 62), "05": (43.4, 62), "06": (47.6, 62), "07": (52.2, 15), "09": (56.4, 15)}
    places |= {"08": (83.2, 45), "12": (102.2, 45)}
    for number, place in places.items():
        _badge(axes, number, place, number in present)
    axes.text(6, 60, "start here: the map, a first taste", fontsize=10, va="center", color=INK)
    if not places.keys() <= set(present):
        _badge(axes, "", (3.2, 4.4), True)
        axes.text(6, 4.4, "notebook that is here", fontsize=9, va="center", color=SOFT)
        _badge(axes, "", (24.2, 4.4), False)
        axes.text(27, 4.4, "planned", fontsize=9, va="center", color=SOFT)
    axes.set(xlim=(0, 114), ylim=(0, 65), aspect="equal")  # last: imshow above changes the limits
    axes.set_axis_off()
    return figure


def _panel(axes: Axes, x: float, y: float, width: float, height: float, title: str, down=3.6, left=None) -> None:
    """A box and its title, centred unless it begins at `left`, `down` below the upper edge."""
    style = {"boxstyle": "round,pad=0,rounding_size=1.3", "fc": "#F6F8FA", "ec": LINE, "lw": 1.3}
    axes.add_patch(FancyBboxPatch((x, y), width, height, **style))
    place, align = (x + width / 2, "center") if left is None else (left, "left")
    bold = {"fontsize": 10, "fontweight": "bold", "color": INK, "linespacing": 1.1}
    axes.text(place, y + height - down, title, ha=align, **bold)


def _badge(axes: Axes, number: str, place: tuple[float, float], there: bool) -> None:
    style = {"ec": THERE, "fc": THERE} if there else {"ec": SOFT, "fc": "white", "ls": (0, (2.5, 1.5))}
    axes.add_patch(plt.Circle(place, 1.9, lw=1.4, zorder=5, **style))
    colour = "white" if there else SOFT
    axes.text(*place, number, ha="center", va="center_baseline", fontsize=9, fontweight="bold", color=colour, zorder=6)


def _picture(axes: Axes, image: np.ndarray, x: float, y: float, side: float) -> None:
    axes.imshow(image, extent=(x, x + side, y, y + side), vmin=0, vmax=255, cmap="gray", zorder=3)


def _images(axes: Axes, data: ImageData) -> None:
    """Ten classes from head to tail, each a stack of its own images, one more for each step of log(images)."""
    _panel(axes, 1, 16, 30, 34, "Long-tailed images")
    shown = np.linspace(0, data.num_classes - 1, min(10, data.num_classes)).round().astype(int)
    groups, labels = group_of(data.counts), data.train_labels.cpu()
    low, high = math.log(min(data.counts)), math.log(max(data.counts))
    for column, c in enumerate(shown):
        steps = round(8 * (math.log(data.counts[c]) - low) / max(high - low, 1e-9)) if high > low else 8
        x = 2.2 + 2.78 * column
        axes.add_patch(Rectangle((x, 19.4), 2.5, 0.8, color=GROUP_COLOURS[groups[c]]))
        for row, index in enumerate((labels == c).nonzero().flatten()[: steps + 1].tolist()):
            _picture(axes, pixels(data.train_images[index]), x, 20.6 + 2.6 * row, 2.5)
    for name, colour in GROUP_COLOURS.items():
        if columns := [column for column, c in enumerate(shown) if groups[c] == name]:
            x = 2.2 + 2.78 * sum(columns) / len(columns) + 1.25
            axes.text(x, 17, name, ha="center", fontsize=9, color=colour, fontweight="bold")


def _image_diffusion(axes: Axes, data: ImageData) -> None:
    """One image as the sampler meets it: from noise to garment."""
    _panel(axes, 37, 49.6, 38, 12.4, "Diffusion on images", down=3, left=51)
    image = data.train_images[0].cpu().float() / 127.5 - 1
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    for place, signal in enumerate((0.0, 0.35, 0.62, 0.85, 1.0)):
        mixed = signal * image + math.sqrt(1 - signal**2) * noise
        _picture(axes, pixels(mixed.add(1).mul(127.5).clamp(0, 255).byte()), 38.6 + 7.1 * place, 51, 6.4)


def _encoder(axes: Axes) -> None:
    """Layers that get smaller and deeper."""
    _panel(axes, 37, 21, 14, 24, "Encoder", down=5.6)
    for place, height in enumerate((13.5, 10, 6.5, 3.6)):
        axes.add_patch(Rectangle((39.1 + 2.8 * place, 31 - height / 2), 1.7, height, fc=METHOD_COLOURS[1], alpha=0.85))


def _cloud(axes: Axes, x: float, y: float, sizes: Sequence[int], new: int = 0, spread: float = 1.15) -> None:
    """Three classes as clouds of points; `new` generated ones, hollow, are added to the rarest."""
    generator = np.random.RandomState(3)
    centres = ((-3.4, 2.4), (3.0, 2.9), (0.4, -3.6))
    for name, centre, size in zip(("many", "medium", "few"), centres, sizes, strict=True):
        points = generator.randn(size, 2) * spread + np.add(centre, (x, y))
        axes.scatter(*points.T, s=11, color=GROUP_COLOURS[name], zorder=3, linewidths=0)
    points = generator.randn(new, 2) * spread * 1.2 + np.add(centres[2], (x, y))
    axes.scatter(*points.T, s=13, facecolors="none", edgecolors=GROUP_COLOURS["few"], zorder=3, linewidths=0.9)


def _features(axes: Axes) -> None:
    _panel(axes, 57, 21, 18, 24, "Features", down=5.6)
    _cloud(axes, 66, 31.5, (55, 14, 3))


def _feature_diffusion(axes: Axes) -> None:
    _panel(axes, 50, 1, 32, 14, "Diffusion on features", down=3, left=59.4)
    generator = np.random.RandomState(5)
    final = generator.randn(22, 2)
    for place, (signal, alpha) in enumerate(((0.0, 0.35), (0.6, 0.5), (0.9, 0.75), (1.0, 1.0))):
        points = signal * final * 0.55 + math.sqrt(1 - signal**2) * generator.randn(22, 2) * 1.35
        points = np.clip(points, -3.2, 3.2) + (54.6 + 7.7 * place, 6)
        axes.scatter(*points.T, s=11, color=GROUP_COLOURS["few"], alpha=alpha, zorder=3, linewidths=0)


def _retraining(axes: Axes) -> None:
    _panel(axes, 81, 21, 14, 24, "Classifier\nretraining", down=6.8)
    _cloud(axes, 88, 30.2, (26, 12, 3), new=12, spread=0.9)
    for x, y in ((83, 27.6), (93.4, 28.6), (87.6, 36.6)):
        axes.plot([87.9, x], [30.6, y], color=INK, lw=1.3, zorder=4)


def _scoreboard(axes: Axes) -> None:
    _panel(axes, 100, 21, 13, 24, "Scoreboard", down=5.6)
    for row, (length, colour) in enumerate(zip((5.0, 7.4, 8.3, 7.8), METHOD_COLOURS, strict=False)):
        y = 34.6 - 3.7 * row
        axes.add_patch(Rectangle((101.6, y), length, 2.2, color=colour))
        axes.plot([100.7 + length, 102.5 + length], [y + 1.1, y + 1.1], color=INK, lw=1.4)
