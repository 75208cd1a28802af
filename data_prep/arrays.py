"""Arrays from elsewhere (an .npz in one of the usual shapes, a test set cut from a training set), and writing a prepared set."""

import contextlib
import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from data_prep.copies import numbered
from data_prep.images import middle_square
from data_prep.lists.image_files import check_classes
from lt_utils.data import longtail, npz
from lt_utils.errors import CourseError


def read(path: Path, size: int | None = None) -> dict[str, np.ndarray]:
    """Read an .npz with x_train, y_train and, if there are any, x_test, y_test, classes.

    Images may be [N, H, W, C], [N, C, H, W] or grey [N, H, W]; labels [N] or [N, 1]; without `classes` the classes are
    named by their numbers. Pickled objects are never loaded. size: make every image size x size, as in a folder of images.

    Raises:
        CourseError: the file is damaged, an array is missing, or images have another shape or type.
    """
    found = npz.read_npz(path)
    missing = [key for key in ("x_train", "y_train") if key not in found]
    if missing or ("x_test" in found) != ("y_test" in found):
        raise CourseError(
            f"{path} holds {', '.join(found) or 'nothing'}; it needs x_train and y_train, "
            "and either both or none of x_test and y_test."
        )
    arrays = {}
    for split in ("train", "test"):
        if f"x_{split}" in found:
            arrays[f"x_{split}"] = _resized(_channels_last(found[f"x_{split}"], f"{path}: x_{split}"), size)
            arrays[f"y_{split}"] = _labels(found[f"y_{split}"], len(arrays[f"x_{split}"]), f"{path}: y_{split}")
    if "classes" not in found:
        labels = arrays["y_train"].tolist()
        check_classes(path, labels, max(labels) + 1)
        found["classes"] = np.arange(max(labels) + 1)
    return {**arrays, "classes": _names(np.atleast_1d(found["classes"]), path)}


def split(arrays: dict[str, np.ndarray], fraction: float, seed: int) -> dict[str, np.ndarray]:
    """Return `arrays` with a test set: `fraction` of the images of each class, at least one, drawn with `seed`.

    Copies of an image go where its first goes: no test image is a training image as well.
    """
    x, y, classes = arrays["x_train"], arrays["y_train"], arrays["classes"]
    if len(y) and not 0 <= y.min() <= y.max() < len(classes):
        raise CourseError(f"y_train has labels {y.min()} .. {y.max()}, but there are {len(classes)} classes.")
    (number,) = numbered(x)
    _, firsts = np.unique(number, return_index=True)
    firsts.sort()  # all images, in their order, if none is a copy
    _, moved = longtail.hold_out(y[firsts], classes.tolist(), fraction=fraction, seed=seed)
    moved = firsts[moved.numpy()]
    copies = np.setdiff1d(np.flatnonzero(np.isin(number, number[moved])), moved)
    moved = np.concatenate([moved, copies])
    stays = np.setdiff1d(np.arange(len(y)), moved)
    return {"x_train": x[stays], "y_train": y[stays], "x_test": x[moved], "y_test": y[moved], "classes": classes}


def _resized(x: np.ndarray, size: int | None) -> np.ndarray:
    """Images [N, H, W, C] as [N, size, size, C]; unchanged without a size, and where they have other channels than 1 or 3."""
    if size is None or x.ndim != 4 or x.shape[3] not in (1, 3):
        return x
    squares = [middle_square(Image.fromarray(image.squeeze(2) if x.shape[3] == 1 else image), size) for image in x]
    return np.stack([np.asarray(square).reshape(size, size, x.shape[3]) for square in squares])


def _channels_last(x: np.ndarray, where: str) -> np.ndarray:
    if x.dtype != np.uint8:
        raise CourseError(f"{where} holds {x.dtype}: images must be uint8 in 0 .. 255 (scale and round them).")
    if not x.size:
        raise CourseError(f"{where} is {list(x.shape)}: it needs at least one image, of at least one pixel.")
    if x.ndim == 3:
        x = x[..., None]
    elif x.ndim == 4 and x.shape[3] not in (1, 3) and x.shape[1] in (1, 3):
        x = x.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(x)


def _names(classes: np.ndarray, path: Path) -> np.ndarray:
    """Class names as text; those that were stored as bytes must be UTF-8."""
    try:
        return np.char.decode(classes, "utf-8") if classes.dtype.kind == "S" else classes.astype(str)
    except UnicodeDecodeError as error:
        raise CourseError(f"{path}: classes are bytes that are not UTF-8 ({error}): store them as text.") from None


def _labels(y: np.ndarray, images: int, where: str) -> np.ndarray:
    if y.dtype.kind not in "iu" or y.shape not in ((images,), (images, 1)):
        raise CourseError(f"{where} is {y.dtype} {list(y.shape)}: it must hold {images:,} integers, one an image.")
    return y.reshape(-1).astype(np.int64)


def write(path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, object], compressed: bool = False) -> dict:
    """Write a data set and its record and return the record; each appears whole or not at all.

    Both are written under temporary names in the same folder and renamed when complete, the data file last: a file
    under its final name is whole, whenever the program was stopped.

    Args:
        path: the .npz to write; its folder is made if need be.
        arrays: as `npz.check_arrays` wants them; checked here.
        facts: what else the record says: source, licence ...
        compressed: smaller, but slower to load; for files that are passed on.

    Raises:
        CourseError: no permission, no space, or arrays that are not as they should be.
    """
    npz.check_arrays(arrays, path.name)
    arrays = {key: arrays[key] for key in npz.ARRAYS}  # in one order always: equal data give equal files
    classes, x = arrays["classes"], arrays["x_train"]
    part, record_part = (path.with_name(f".{path.stem}~{os.getpid()}.{end}.part") for end in ("npz", "json"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_over in path.parent.glob(f".{path.stem}~*.part"):  # of a run that was killed
            left_over.unlink()
        with open(part, "wb") as file:
            (np.savez_compressed if compressed else np.savez)(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        record = {
            "name": path.stem,
            **facts,
            "date": datetime.now(UTC).strftime("%Y-%m-%d"),
            "image": [int(side) for side in x.shape[1:]],
            "classes": classes.tolist(),
            "train_counts": np.bincount(arrays["y_train"].astype(np.int64), minlength=len(classes)).tolist(),
            "test_counts": np.bincount(arrays["y_test"].astype(np.int64), minlength=len(classes)).tolist(),
            "bytes": part.stat().st_size,
            "sha256": npz.sha256(part),
        }
        lines = [f" {json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in record.items()]
        record_part.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
        os.replace(record_part, path.with_suffix(".json"))
        os.replace(part, path)
    except OSError as error:
        size = sum(a.nbytes for a in arrays.values()) / 1e6
        raise CourseError(
            f"{path} cannot be written ({error.strerror or error}): it needs about {size:,.0f} MB in a folder where "
            "you may write; choose another one with --to."
        ) from None
    finally:
        for unfinished in (part, record_part):
            with contextlib.suppress(OSError):  # already renamed, or never made
                unfinished.unlink()
    return record
