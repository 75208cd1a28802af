"""Lists of training images, to share a split: a long tail is written as one, and a published one is cut out again.

A list is three files of one stem. NAME.csv has a line for each image, with a header and nothing else; NAME.npy has its first
column alone, int64; NAME.json says in words which rule chose the images, and of which set. The columns:

    index   place among the training images of the whole set, from 0
    label   class, from 0
    image   first 16 hex digits of the SHA-256 of its pixels, uint8, height x width x channels

Whole sets exist in several orders (CIFAR: pickles, folders of PNGs, parquet), and an index says nothing in another one. So
an image that is not at its index is looked for by its pixels.
"""

import csv
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lt_utils.data import longtail
from lt_utils.errors import CourseError
from lt_utils.files import write_json, write_whole

COLUMNS = {
    "index": "place among the training images of the whole set, from 0",
    "label": "class, from 0",
    "image": "first 16 hex digits of the SHA-256 of its pixels, uint8, height x width x channels",
}
# The sets whose lists are in splits/, and which set each is a part of.
PUBLISHED = {"cifar10-ldmlr": "cifar10", "cifar100-ldmlr": "cifar100"}
SORTED = "SHA-256 of the column's values, sorted (numbers as numbers, hashes as text), each followed by a line feed"


@dataclass(frozen=True)
class List:
    """What a file lists, in its order; what it does not say is None. One of `index` and `image` is there."""

    path: Path
    index: np.ndarray | None = None  # int64 [N], none below 0, each once
    label: np.ndarray | None = None  # int64 [N]
    image: list[str] | None = None  # [N]

    def __len__(self) -> int:
        return len(self.image if self.index is None else self.index)

    def name(self, row: int) -> str:
        """How a sentence calls one of its images."""
        return f"image {self.image[row]}" if self.index is None else f"index {self.index[row]}"


def list_beside(path: Path) -> Path:
    """Where the list of a prepared set that is a part of another lies: <name>.indices.csv beside <name>.npz."""
    return path.with_name(f"{path.stem}.indices.csv")


def published_list(name: str) -> Path:
    """The list of one of PUBLISHED."""
    return Path(__file__).parent / "splits" / f"{name}.csv"


def image_hashes(x: np.ndarray) -> list[str]:
    """The column `image` for images uint8 [N, H, W, C]: equal for equal pixels, wherever and in whichever format they lay."""
    return [hashlib.sha256(image.tobytes()).hexdigest()[:16] for image in x]


def long_tail(
    y: np.ndarray, classes: list[str], imbalance: float, profile: str, n_max: int | None, seed: int
) -> tuple[np.ndarray, str]:
    """Choose the images of a long tail as `ImageData.long_tailed` does; returns indices int64 [M] into y, and the rule in words.

    Raises CourseError for a factor below 1, an unknown profile, and a class with too few images.
    """
    n_max = int(np.bincount(y).max()) if n_max is None else n_max
    counts = longtail.class_counts(n_max, len(classes), imbalance, profile, classes)
    last, half = len(classes) - 1, (len(classes) + 1) // 2
    falling = f"class i = 0 .. {last} keeps floor({n_max} * {imbalance:g} ** (-i / {last})) training images"
    step = f"classes 0 .. {half - 1} keep {n_max} training images, the others floor({n_max} / {imbalance:g})"
    which = (
        f"one generator numpy.random.RandomState({seed}) shuffles the places of each class, which stand in ascending "
        "order, class after class, and the first ones are kept"
    )
    rule = f"{profile} with imbalance factor {imbalance:g}: {falling if profile == 'exponential' else step}; {which}"
    return longtail.subset(y, counts, seed, classes).numpy(), rule


def write(path: Path, kept: np.ndarray, arrays: Mapping[str, np.ndarray], facts: Mapping[str, object]) -> dict:
    """Write the list of the training images `kept` of `arrays` as <path>.csv, .npy and .json; returns what the .json says.

    path: of the .csv. kept: int64 [M] into arrays["x_train"]; the lines keep its order. facts: what else the .json says.

    Raises CourseError if nothing can be written there.
    """
    labels, images = arrays["y_train"][kept], image_hashes(arrays["x_train"][kept])
    lines = [f"{index},{label},{image}\n" for index, label, image in zip(kept, labels, images, strict=True)]
    said = {
        "file": path.name,
        **facts,
        "images": len(kept),
        "classes": arrays["classes"].tolist(),
        "counts": np.bincount(labels, minlength=len(arrays["classes"])).tolist(),
        "columns": COLUMNS,
        "sha256_of_index": _hash_of(sorted(kept.tolist())),
        "sha256_of_image": _hash_of(sorted(images)),
        "sha256_is": SORTED,
    }
    text = (",".join(COLUMNS) + "\n" + "".join(lines)).encode()
    write_whole(path, lambda file: file.write(text))
    write_whole(path.with_suffix(".npy"), lambda file: np.save(file, kept.astype(np.int64)))
    write_json(path.with_suffix(".json"), said)
    return said


def _hash_of(values: Iterable[object]) -> str:
    return hashlib.sha256("".join(f"{value}\n" for value in values).encode()).hexdigest()


def read(path: Path) -> List:
    """Read a list: .npy of integers, or text with one image a line.

    Text begins with a line that names its columns (`index` or `image`, as above; `label` and others may stand beside), or has
    integers alone, the indices. Lines that begin with # are passed over.

    Raises CourseError for a file that is none of these, and for an image that is listed twice.
    """
    if not path.is_file():
        raise CourseError(f"{path} does not exist: --indices needs a list of images, a .csv, .txt or .npy.")
    if path.suffix == ".npy":
        try:
            found = List(path, np.load(path, allow_pickle=False))
        except (OSError, ValueError, EOFError) as error:
            raise CourseError(f"{path} is damaged, or no .npy of plain numbers ({error}).") from None
        if found.index.ndim != 1 or found.index.dtype.kind not in "iu":
            raise CourseError(
                f"{path} holds {found.index.dtype} {list(found.index.shape)}, not a list of whole numbers."
            )
    else:
        found = _read_text(path)
    if not len(found):
        raise CourseError(f"{path} lists no image.")
    if found.index is not None:
        if found.index.min() < 0:
            raise CourseError(f"{path} has the index {found.index.min()}: indices are counted from 0.")
        [(index, times)] = Counter(found.index.tolist()).most_common(1)
        if times > 1:
            raise CourseError(f"{path} lists index {index} {times} times: an image is in a set once.")
    return found


def _read_text(path: Path) -> List:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise CourseError(f"{path} cannot be read as text ({error}): give a .csv, .txt or .npy.") from None
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    separator = next((s for s in ",;\t" if lines and s in lines[0]), ",")
    rows = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)]
    names = ["index"] if not rows or rows[0][0].lstrip("-").isdecimal() else [name.lower() for name in rows.pop(0)]
    bad = next((row for row in rows if len(row) != len(names)), None)
    if bad:
        raise CourseError(
            f"{path}: {separator.join(bad)!r} does not fit the columns {', '.join(names)} (name them in line 1)."
        )
    columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else {"index": ()}
    if not {"index", "image"} & columns.keys():
        raise CourseError(f"{path} has the columns {', '.join(names)}: one must be called index, or image, its hash.")
    for name in ("index", "label"):
        wrong = next((cell for cell in columns.get(name, ()) if not re.fullmatch(r"-?\d{1,18}", cell)), None)
        if wrong is not None:
            raise CourseError(f"{path}: {wrong!r} in column {name} is no whole number.")
    wrong = next((cell for cell in columns.get("image", ()) if not re.fullmatch(r"[0-9a-fA-F]{16}", cell)), None)
    if wrong is not None:
        raise CourseError(f"{path}: {wrong!r} in column image is not {COLUMNS['image']}.")
    numbers = {name: np.array(columns[name], dtype=np.int64) for name in ("index", "label") if name in columns}
    image = [cell.lower() for cell in columns["image"]] if "image" in columns else None
    return List(path, numbers.get("index"), numbers.get("label"), image)


def find(listed: List, x: np.ndarray, y: np.ndarray, where: str) -> tuple[np.ndarray, str]:
    """Where the listed images are among the training images x uint8 [N, H, W, C], labels y [N], of the set called `where`.

    Returns places int64 [M] in the order of the list, and in words how they were found: by index if the list has no hashes,
    or all agree; else by content, a copy with the listed label before others.

    Raises CourseError for what is not there.
    """
    index, count = listed.index, f"{len(x):,} training images"
    fits = index is not None and index.max() < len(x)
    if listed.image is None:
        hint = "is it the list of another set, or of another order (then it needs the column image)?"
        if not fits:
            raise CourseError(f"{listed.path} names index {index.max()}, but {where} has {count}: {hint}")
        other = np.flatnonzero(y[index] != listed.label) if listed.label is not None else ()
        if len(other):
            row = other[0]
            raise CourseError(
                f"{listed.path} has {len(other):,} images of another class than {where} ({listed.name(row)}: "
                f"{listed.label[row]}, not {y[index[row]]}): {hint}"
            )
        return index, "by index; the list has no hashes to check the order with"
    hashes = image_hashes(x)
    if fits and [hashes[i] for i in index] == listed.image:
        return index, "by index, and every image has its hash"

    places = defaultdict(list)
    for place, image in enumerate(hashes):
        places[image].append(place)
    found, lacking = [], []
    labels = [None] * len(listed) if listed.label is None else listed.label.tolist()
    for row, (image, label) in enumerate(zip(listed.image, labels, strict=True)):
        copies = places[image]
        if not copies:
            lacking.append(row)
        else:
            found.append(copies.pop(next((k for k, place in enumerate(copies) if y[place] == label), 0)))
    if lacking:
        raise CourseError(
            f"{len(lacking):,} of the {len(listed):,} images of {listed.path} are not among the {count} of {where} (the first: "
            f"{listed.name(lacking[0])}): is it the list of another set, or are the images in another size or colour order?"
        )
    numbered = "" if index is None else ": the list numbers them in another order"
    return np.array(found, dtype=np.int64), f"by content{numbered}"
