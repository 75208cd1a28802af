"""Files of prepared data sets: how they are read and checked; data_prep writes them.

A data set is one file `<name>.npz` with five plain arrays:

    x_train, x_test   uint8 [N, H, H, C], C = 1 (grey) or 3 (RGB)
    y_train, y_test   integers [N], 0 .. classes - 1
    classes           the names of the classes, text [classes]

and beside it a record `<name>.json`: source, licence, length and SHA-256 of the file, counts, date.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lt_utils.errors import CourseError

ARRAYS = ("x_train", "y_train", "x_test", "y_test", "classes")


def check_file(path: Path, thorough: bool, remedy: str = "") -> dict | None:
    """Compare a prepared file with the record beside it and return the record; None if there is none.

    The length is always compared, the SHA-256 if `thorough`. Raises CourseError where they differ, with the remedy.
    """
    remedy = remedy or f"`python -m data_prep {path.stem} --again` (with the --from of before) makes both anew."
    record_path = path.with_suffix(".json")
    if not record_path.exists():
        return None
    try:
        record = json.loads(record_path.read_text(encoding="utf-8"))
        same = path.stat().st_size == record["bytes"] and (not thorough or sha256(path) == record["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{path} or its record {record_path.name} cannot be read ({error!r}): {remedy}") from None
    if not same:
        raise CourseError(
            f"{path} is not the file that {record_path.name} describes (altered, damaged or half copied): {remedy}"
        )
    return record


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Read all arrays of an .npz; CourseError if it is damaged, or holds pickled objects (which are never loaded)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {key: archive[key] for key in archive.files}
    except Exception as error:  # damaged bytes make numpy, zipfile and zlib raise many kinds
        raise CourseError(f"{path} is damaged, half copied, or no .npz of plain arrays ({error}).") from None


def check_arrays(arrays: Mapping[str, np.ndarray], where: str) -> Mapping[str, np.ndarray]:
    """Return `arrays` if they are as described at the top of this module; otherwise raise CourseError, which names `where`.

    Beyond shapes and types: labels are in range, and every class has at least one training and one test image.
    """
    missing = [key for key in ARRAYS if key not in arrays]
    if missing:
        raise CourseError(f"{where} lacks the arrays {', '.join(missing)}.")
    classes = arrays["classes"]
    if classes.ndim != 1 or classes.dtype.kind != "U":
        raise CourseError(f"{where}: classes must be a list of names, not {classes.dtype} {list(classes.shape)}.")
    for split in ("train", "test"):
        x, y = arrays[f"x_{split}"], arrays[f"y_{split}"]
        if x.dtype != np.uint8:
            raise CourseError(f"{where}: x_{split} holds {x.dtype}; images must be uint8 in 0 .. 255.")
        if x.ndim != 4 or x.shape[3] not in (1, 3) or x.shape[1] != x.shape[2]:
            raise CourseError(f"{where}: x_{split} is {list(x.shape)}, not [N, H, H, 1 or 3] (square images).")
        if x.shape[1:] != arrays["x_train"].shape[1:]:
            raise CourseError(f"{where}: training and test images differ in shape.")
        if y.dtype.kind not in "iu" or y.shape != x.shape[:1]:
            raise CourseError(
                f"{where}: y_{split} is {y.dtype} {list(y.shape)}, not one integer for each of {len(x):,} images."
            )
        if len(y) and not 0 <= int(y.min()) <= int(y.max()) < len(classes):
            raise CourseError(
                f"{where}: y_{split} has labels {y.min()} .. {y.max()}; with {len(classes)} classes they must be in "
                f"0 .. {len(classes) - 1}."
            )
        empty = np.flatnonzero(np.bincount(y.astype(np.int64), minlength=len(classes)) == 0)
        if len(empty):
            raise CourseError(f"{where}: class {empty[0]} ({classes[empty[0]]}) has no {split} image.")
    return arrays


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
