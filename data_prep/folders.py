"""Folder trees of images: one folder for each class.

Two layouts are read:

    PATH/train/<class>/*  and  PATH/test/<class>/*      the test set is given
    PATH/<class>/*                                      a share of each class becomes the test set (see `arrays.split`)
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
from PIL import Image, ImageOps

from lt_utils.errors import CourseError

GB = 1e9

BLOCK = 2048  # images handed to the threads at a time: bounds what is still to be finished after Ctrl-C
SECONDS_BETWEEN_LINES = 3


def read(path: Path, size: int | None = None, skip_bad: bool = False) -> tuple[dict[str, np.ndarray], list[str]]:
    """Read a folder tree of images, several threads at once (Pillow decodes outside Python's lock).

    Args:
        path: the folder, in one of the two layouts above.
        size: make every image size x size: its middle square is cut out and resized. Without it, all images must be
            square and of one size already, and are taken as they are.
        skip_bad: leave out files that are not readable 8-bit images, instead of refusing.

    Returns:
        The arrays x_train, y_train, classes and, in the first layout, x_test, y_test; and the files left out.
        Images are grey (C = 1) if all files are, else RGB.

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
                raise CourseError(f"{path} has classes only in {split}: {_first(only)}; give train and test the same.")

    files = [(split, c, file) for split in folders for c, name in enumerate(names) for file in found[split][name]]
    check_names(file for _, _, file in files)
    if size:
        check_memory(2 * len(files) * size**2, size)  # at least: grey; one by one, then stacked
    images, bad = _decode_all([file for _, _, file in files], size, keep_going=skip_bad)
    good = [(split, c, image) for (split, c, _), image in zip(files, images, strict=True) if image is not None]
    channels = max((image.shape[2] for _, _, image in good), default=1)
    arrays = {"classes": np.array(names)}
    for split, folder in folders.items():
        labels = np.array([c for s, c, _ in good if s == split], dtype=np.int64)
        gone = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0)
        if len(gone):
            raise CourseError(f"{folder / names[gone[0]]} has no readable image left: mend it or remove the class.")
        arrays[f"x_{split}"] = np.stack([_with_channels(image, channels) for s, _, image in good if s == split])
        arrays[f"y_{split}"] = labels
    return arrays, bad


def check_names(paths: Iterable[Path]) -> None:
    """CourseError for a path that is not UTF-8: neither the record nor a printed line could name it."""
    for path in map(str, paths):
        try:
            path.encode()
        except UnicodeEncodeError:
            raise CourseError(f"The name {path!r} is not UTF-8: rename it.") from None


def check_memory(needed: int, size: int) -> None:
    """CourseError if the images, made size x size, need more bytes than are free."""
    if needed > (free := psutil.virtual_memory().available):
        raise CourseError(
            f"The images at {size} x {size} need {needed / GB:,.1f} GB of memory, and {free / GB:,.1f} GB are free: "
            "choose a smaller --size."
        )


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


def _decode_all(files: Sequence[Path], size: int | None, keep_going: bool) -> tuple[list[np.ndarray | None], list[str]]:
    """Decode all files; returns for each its image or None, and what was wrong with those that are None."""
    images: list[np.ndarray | None] = []
    bad: list[str] = []
    first: tuple[Path, np.ndarray] | None = None
    for file, image in zip(files, decoded(files, size), strict=True):
        if isinstance(image, str):
            bad.append(f"{file} ({image})")
            images.append(None)
            continue
        first = first or (file, image)
        _check_size(first, (file, image))
        images.append(image)
    check_bad(bad, len(files), keep_going)
    return images, bad


def decoded(files: Sequence[Path], size: int | None) -> Iterator[np.ndarray | str]:
    """What `decode` says of each file, in their order; several at once, and now and then a line on how far it is."""
    start = told = time.monotonic()
    with ThreadPoolExecutor() as threads:
        for block in range(0, len(files), BLOCK):
            some = files[block : block + BLOCK]
            for done, image in enumerate(threads.map(lambda f: decode(f, size), some), start=block + 1):
                yield image
                now = time.monotonic()
                if now - told > SECONDS_BETWEEN_LINES:
                    told, rate = now, done / (now - start)
                    left = (len(files) - done) / rate
                    print(f"  {done:,} of {len(files):,} images · {rate:,.0f}/s · {left:,.0f} s left", flush=True)


def check_bad(bad: Sequence[str], files: int, keep_going: bool) -> None:
    """CourseError if some of so many files could not be read, unless it shall go on without them."""
    if bad and not keep_going:
        raise CourseError(
            f"{len(bad)} of {files:,} files are not readable 8-bit images: {_first(bad)}. Mend or remove them, "
            "or add --skip-bad to go on without them."
        )


def _check_size(first: tuple[Path, np.ndarray], other: tuple[Path, np.ndarray]) -> None:
    (height, width), (h, w) = first[1].shape[:2], other[1].shape[:2]
    if (h, w) != (height, width):
        raise CourseError(
            f"Images differ in size ({first[0]} is {width} x {height}, {other[0]} is {w} x {h}): add --size N "
            "to make all of them N x N."
        )
    if height != width:
        raise CourseError(f"{first[0]} is {width} x {height}, not square: add --size N to make all images N x N.")


def decode(file: Path, size: int | None) -> np.ndarray | str:
    """Return the image in `file`, upright and opaque, as uint8 [H, W, 1 or 3]; or why it cannot be read."""
    try:
        with Image.open(file) as image:
            if image.mode.startswith(("I", "F")):
                return f"{image.mode} pixels, not 8 bits a channel"
            image = ImageOps.exif_transpose(image)  # photographs are often stored lying on their side
            image = image.convert("L" if image.mode in ("1", "L", "LA", "La") else "RGB")
            if size:
                image = ImageOps.fit(image, (size, size), Image.Resampling.LANCZOS)
            pixels = np.array(image)
    except Exception as error:  # Pillow's many formats raise many kinds; whatever it is, the file is of no use here
        return "not an image" if isinstance(error, Image.UnidentifiedImageError) else str(error) or repr(error)
    return pixels.reshape(*pixels.shape[:2], -1)


def _with_channels(image: np.ndarray, channels: int) -> np.ndarray:
    return np.broadcast_to(image, (*image.shape[:2], channels))  # a grey image among RGB ones is repeated three times


def _first(things: Sequence[str], n: int = 3) -> str:
    return ", ".join(things[:n]) + (" …" if len(things) > n else "")
