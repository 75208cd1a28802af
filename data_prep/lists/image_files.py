"""Data sets too large for memory: the images stay in files, which a list names. `imagestream` decodes them for training.

A list has one line for each image, its path and its label, as ImageNet-LT (Liu et al. 2019, arXiv 1904.05160),
Places-LT and iNaturalist are passed on:

    train/n01440764/n01440764_10026.JPEG 0

Blank lines and lines that begin with # are passed over. `formats` reads lists in other forms, .csv and .json.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_prep import images
from lt_utils.errors import CourseError

SHOWN = 3  # missing files that a refusal names


@dataclass(frozen=True, eq=False, repr=False)
class ImageFiles:
    """Images in files: `paths` below `root`, and `labels` int64 [N] in 0 .. classes - 1.

    names: those of the classes, as far as the list says them; else empty. named: its labels are names, not numbers.
    """

    root: Path
    paths: tuple[str, ...]
    labels: Tensor
    num_classes: int
    names: tuple[str, ...] = ()
    named: bool = False

    @property
    def counts(self) -> list[int]:
        """Images of each class."""
        return torch.bincount(self.labels, minlength=self.num_classes).tolist()

    @property
    def key(self) -> str:
        """Eight characters that change with the paths, the labels or their order: what was listed, whatever the list is
        called."""
        digest = hashlib.sha256("\n".join(self.paths).encode(errors="backslashreplace"))
        digest.update(self.labels.numpy())
        return digest.hexdigest()[:8]

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        return f"{len(self):,} images, {self.num_classes:,} classes of {max(self.counts):,} to {min(self.counts):,}"


def read_list(list_file: str | Path, root: str | Path, num_classes: int | None = None) -> ImageFiles:
    """Read a list of images and find its files below `root`.

    Both styles of path are accepted, as a whole list: with leading folders that `root` already holds
    ("ImageNet/train/n01440764/x.JPEG" below .../ImageNet or .../ImageNet/train), and with or without the folder of the
    class before the name ("val/ILSVRC2012_val_00029930.JPEG", "val/n02093991/ILSVRC2012_val_00029930.JPEG"), whichever
    of the two the files lie in.

    Args:
        classes: number of classes, for a test list: those of its training list. Default: the largest label + 1, and
            then every class must have an image.

    Raises CourseError for a list that cannot be read, a line without a path or without a label in 0 .. classes - 1,
    and files that are not there: one sentence with their number and the first names.
    """
    listed, labels = _read_lines(Path(list_file), num_classes)
    if num_classes is None:
        num_classes = max(labels) + 1
        check_classes(list_file, labels, num_classes)
    return find_images(list_file, root, listed, labels, num_classes)


def check_classes(list_file: str | Path, labels: Sequence[int], num_classes: int) -> None:
    """CourseError unless every class 0 .. classes - 1 has an image, as in a training list."""
    there = set(labels)
    absent = next(
        (c for c in range(num_classes) if c not in there), None
    )  # one label may be huge: no set of all classes
    if absent is not None:
        raise CourseError(f"{list_file} has no image of class {absent}: labels must be 0 .. C-1, each with an image.")


def find_images(
    list_file: str | Path,
    root: str | Path,
    listed: Sequence[str],
    labels: Sequence[int],
    num_classes: int,
    names: Sequence[str] = (),
) -> ImageFiles:
    """The images that a list of any form names, found below `root` as `read_list` says; the same refusal of missing ones.

    listed: their paths, with "/" between folders, [N]; labels [N]. CourseError for a file with two labels, too.
    """
    found = _find(listed, str(root))
    if missing := [path for path, there in zip(listed, found, strict=True) if there is None]:
        raise CourseError(
            f"{len(missing):,} of the {len(listed):,} images that {list_file} names are not below {root}: "
            f"{', '.join(missing[:SHOWN])}{' ...' if len(missing) > SHOWN else ''}; give the folder that its paths "
            "start from, or fetch the missing files."
        )
    label: dict[str, int] = {}
    if two := [path for path, c in zip(found, labels, strict=True) if label.setdefault(path, c) != c]:
        raise CourseError(f"{list_file} gives {two[0]} two labels ({len(two):,} such lines in all): give it one.")
    return ImageFiles(Path(root), tuple(found), torch.tensor(labels), num_classes, tuple(names))


def _read_lines(list_file: Path, num_classes: int | None) -> tuple[list[str], list[int]]:
    """The paths and labels of a list."""
    try:
        lines = list_file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"The list {list_file} cannot be read ({error}): give a text file.") from None
    paths, labels = [], []
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        path, *label = line.rsplit(maxsplit=1)
        where = f"{list_file}, line {number}"
        if not label:
            raise CourseError(f"{where}: {line!r} must be a path and a label with a space between them.")
        if not label[0].isdecimal() or (num_classes is not None and int(label[0]) >= num_classes):
            most = "" if num_classes is None else f" to {num_classes - 1}"
            raise CourseError(f"{where}: the label {label[0]!r} must be a whole number from 0{most}.")
        paths.append(path.replace("\\", "/"))
        labels.append(int(label[0]))
    if not paths:
        raise CourseError(f"The list {list_file} names no image: it needs one line `path label` for each.")
    return paths, labels


def _find(listed: Sequence[str], root: str) -> list[str | None]:
    """For each listed path where its file lies below root, or None; all in the one layout that finds the most.

    Folders are listed once each: asking for every file by itself would take minutes on a network drive.
    """
    tree, wanted = _Tree(root), len(set(listed))
    best: list[str | None] = [None] * len(listed)
    for leading in range(min(path.count("/") for path in listed) + 1):
        for place in (tree.as_listed, tree.one_folder_below):
            found = [place(path.split("/", leading)[-1]) for path in listed]
            missing = found.count(None)
            # Two paths may not become one file: where names repeat between classes, the folders must stay.
            if missing < best.count(None) and (missing or len(set(found)) == wanted):
                best = found
            if None not in best:
                return best
    return best


class _Tree:
    """The files below a folder, each directory read once and only when it is asked for."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.known: dict[str, tuple[set[str], list[str]]] = {}  # folder -> names of its files, names of its folders
        self.below: dict[str, dict[str, str | None]] = {}  # folder -> file name in one of its folders -> path

    def names(self, folder: str) -> tuple[set[str], list[str]]:
        if folder not in self.known:
            files: set[str] = set()
            folders: list[str] = []
            try:
                with os.scandir(os.path.join(self.root, folder)) as entries:
                    for entry in entries:
                        folders.append(entry.name) if entry.is_dir() else files.add(entry.name)
            except OSError:  # no such folder: no files
                pass
            self.known[folder] = files, folders
        return self.known[folder]

    def as_listed(self, path: str) -> str | None:
        folder, _, name = path.rpartition("/")
        return path if name in self.names(folder)[0] else None

    def one_folder_below(self, path: str) -> str | None:
        folder, _, name = path.rpartition("/")
        if folder not in self.below:
            self.below[folder] = {}
            for inner in (f"{folder}/{one}".lstrip("/") for one in self.names(folder)[1]):
                for file in self.names(inner)[0]:  # a name that two folders hold says nothing
                    self.below[folder][file] = None if file in self.below[folder] else f"{inner}/{file}"
        return self.below[folder].get(name)


def read_image(path: str | Path) -> Tensor:
    """The image in a file as RGB, uint8 [3, H, W], upright and opaque as `data_prep.images` says.

    CourseError with the file's name if it is not a whole image with 8 bits a channel."""
    try:
        pixels = np.array(images.read_image(Path(path))[0].convert("RGB"))
    except Exception as error:  # damaged bytes make Pillow raise many kinds
        raise CourseError(
            f"{path} is damaged or not an image ({error}): fetch it again, or take it from the list."
        ) from None
    return torch.from_numpy(pixels).permute(2, 0, 1)
