"""Folder trees of images: one folder for each class.

Two layouts are read:

    PATH/train/<class>/*  and  PATH/test/<class>/*      the test set is given
    PATH/<class>/*                                      a share of each class becomes the test set (see `arrays.split`)
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep import images
from data_prep.images import first
from lt_utils.errors import CourseError


def read(
    path: Path, size: int | None = None, skip_bad: bool = False
) -> tuple[dict[str, np.ndarray], list[str], dict[str, object]]:
    """Read a folder tree of images, several threads at once (Pillow decodes outside Python's lock).

    Args:
        path: the folder, in one of the two layouts above.
        size: make every image size x size: its middle square is cut out and resized. Without it, all images must be
            square and of one size already, and are taken as they are.
        skip_bad: leave out files that are not readable 8-bit images, instead of refusing.

    Returns:
        The arrays x_train, y_train, classes and, in the first layout, x_test, y_test; the files left out; and what the
        record should say. Images are grey (C = 1) if all files are, else RGB.

    Raises:
        CourseError: no class folders, an empty class, classes that differ between train and test, files that are not
            readable images, or sizes that differ.
    """
    folders = splits(path)
    found = {split: _files_of_classes(folder) for split, folder in folders.items()}
    names = list(found["train"])
    if "test" in found:
        for split, other in (("train", "test"), ("test", "train")):
            only = [name for name in found[split] if name not in found[other]]
            if only:
                raise CourseError(f"{path} has classes only in {split}: {first(only)}; give train and test the same.")

    files = [(split, c, file) for split in folders for c, name in enumerate(names) for file in found[split][name]]
    images.check_names(file for _, _, file in files)
    if size:
        images.check_memory(2 * len(files) * size**2, size)  # at least: grey; one by one, then stacked
    pictures, bad, remarks = _decode_all([file for _, _, file in files], size, keep_going=skip_bad)
    good = [(split, c, image) for (split, c, _), image in zip(files, pictures, strict=True) if image is not None]
    channels = max((image.shape[2] for _, _, image in good), default=1)
    arrays = {"classes": np.array(names)}
    for split, folder in folders.items():
        labels = np.array([c for s, c, _ in good if s == split], dtype=np.int64)
        gone = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
        if len(gone):
            raise CourseError(f"{folder / names[gone[0]]} has no readable image left: mend it or remove the class.")
        arrays[f"x_{split}"] = np.stack([_with_channels(image, channels) for s, _, image in good if s == split])
        arrays[f"y_{split}"] = labels
    return arrays, bad, images.facts_of(remarks)


def splits(path: Path) -> dict[str, Path]:
    """Return the folder of the training and, if it is given, of the test images."""
    given = {split: path / split for split in ("train", "test") if (path / split).is_dir()}
    if len(given) == 1:
        has, lacks = ("train", "test") if "train" in given else ("test", "train")
        raise CourseError(
            f"{path} has a folder {has} but no folder {lacks}: add it (or rename {has}, if it is a class)."
        )
    return given or {"train": path}


def _files_of_classes(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each class, also those in folders within; hidden ones are passed over.

    Classes are ordered by number if all their names are numbers, else as text; files as text.
    """
    names = sorted(sub.name for sub in folder.iterdir() if sub.is_dir() and not sub.name.startswith("."))
    if all(name.isdecimal() for name in names):
        names.sort(key=int)
    found = {}
    for name in names:
        files = (file for file in (folder / name).rglob("*") if not file.name.startswith(".") and file.is_file())
        found[name] = sorted(files)
        if not found[name]:
            raise CourseError(f"The class folder {folder / name} is empty: put images there or remove it.")
    if not found:
        raise CourseError(f"{folder} has no class folders: it must hold one folder of images for each class.")
    return found


def _decode_all(
    files: Sequence[Path], size: int | None, keep_going: bool
) -> tuple[list[np.ndarray | None], list[str], Counter[str]]:
    """Decode all files: for each its image or None, what was wrong with those that are None, how often which remark."""
    pictures: list[np.ndarray | None] = []
    bad: list[str] = []
    remarks: Counter[str] = Counter()
    reference: tuple[Path, np.ndarray] | None = None
    for file, (image, remark) in zip(files, images.decoded(files, size), strict=True):
        pictures.append(image)
        if image is None:
            bad.append(f"{file} ({remark})")
            continue
        reference = reference or (file, image)
        _check_size(reference, (file, image))
        remarks[remark] += 1
    images.check_bad(bad, len(files), keep_going)
    return pictures, bad, remarks


def _check_size(first: tuple[Path, np.ndarray], other: tuple[Path, np.ndarray]) -> None:
    (height, width), (h, w) = first[1].shape[:2], other[1].shape[:2]
    if (h, w) != (height, width):
        raise CourseError(
            f"Images differ in size ({first[0]} is {width} x {height}, {other[0]} is {w} x {h}): add --size N "
            "to make all of them N x N."
        )
    if height != width:
        raise CourseError(f"{first[0]} is {width} x {height}, not square: add --size N to make all images N x N.")


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    return np.broadcast_to(image, (*image.shape[:2], channels))  # a grey image among RGB ones is repeated three times
