"""Folder trees of images: one folder for each class.

Two layouts are read:

    PATH/train/<class>/*  and  PATH/test/<class>/*      the test set is given
    PATH/<class>/*                                      a share of each class becomes the test set (see `arrays.split`)

`layout` knows the folders train and test by other names, too.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep import images
from data_prep.images import first
from data_prep.layout import files_of_classes, splits
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
        CourseError: what `layout` refuses, classes that differ between train and test, files that are not readable
            images, or sizes that differ.
    """
    folders, facts = splits(path)
    found = {split: files_of_classes(folder) for split, folder in folders.items()}
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
    return arrays, bad, facts | images.facts_of(remarks)


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
