"""Lists of images in any form: plain, .csv as mini-ImageNet-LT's, .json as iNaturalist 2018's.

All become `ImageFiles`, with the same search for the files below a folder.

mini-ImageNet-LT (100 classes of ImageNet with 600 images each; for training, a random number in 10 .. 480 of each)
has in one folder, beside the images:

    train.csv, val.csv, test.csv   img,label: a path and a class number
    cls_label.json                 {"0": n, ...}, the training images of each class
    classname.txt                  JSON, {"0": ["n01440764", "tench"], ...}: all 1,000 classes of ImageNet, in its numbering
    gentrain.csv, genimages/       without a header: images from Stable Diffusion that fill each class up to 480

It is not ImageNet-LT of Liu et al. All this is second-hand: taken from its author's README and the programs published
with it (kitsch231/mini-imagenet-LT_longtail-dataset); the images' folder was not seen. So a header is optional, and
labels may be names.
"""

import csv
import json
import os
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch

from data_prep import images
from data_prep.lists.image_files import ImageFiles, check_classes, find_images, read_list
from lt_utils.errors import CourseError
from lt_utils.files import read_json

PATHS = ("path", "img", "image", "file", "filename")  # what the column of paths may be called
BLACK = 8  # of 255: an image without a brighter pixel is a failed one


def read(list_file: str | Path, root: str | Path, like: ImageFiles | None = None) -> ImageFiles:
    """Read a list by its suffix: .csv, .json, or else lines `path label` (`image_files.read_list`).

    like: the training images, for a test list, whose classes it must share; without it every class must have an image.

    Raises CourseError for a test list with an image of the training list, and as these readers do.
    """
    readers = {".csv": read_csv_list, ".json": read_inaturalist}
    if reader := readers.get(Path(list_file).suffix.lower()):
        files = reader(list_file, root, like)
    elif like and like.named:
        raise CourseError(f"{list_file} has numbers as labels and the training list has names: give both the same.")
    else:
        files = read_list(list_file, root, like.num_classes if like else None)
    if like:
        _check_apart(list_file, files, like)
    return files


def _check_apart(list_file: str | Path, files: ImageFiles, train: ImageFiles) -> None:
    """CourseError if a test list names images of the training list, whichever folder each list's paths start from."""
    folder = os.path.realpath(train.root)
    seen = {os.path.join(folder, path) for path in train.paths}
    folder = os.path.realpath(files.root)
    if both := [path for path in files.paths if os.path.join(folder, path) in seen]:
        raise CourseError(
            f"{len(both):,} of the {len(files):,} images that {list_file} names for the test are training images, too, "
            f"{both[0]} first: give a test list of other images."
        )


def read_csv_list(list_file: str | Path, root: str | Path, like: ImageFiles | None = None) -> ImageFiles:
    """Read a .csv with a path and a label in each row, and find its files below `root`, in either style of path.

    A header names the columns (path or img, label), in any place; without one they are the first two. Labels are the
    numbers 0 .. C-1, or names: then the classes are numbered in the order of classname.txt beside the list, if that is
    there, else of the sorted names. `names` of the result: the labels' own; for numbers, the words of classname.txt
    where the images' file names begin with its WordNet ids, else the numbers.

    For train.csv, the counts in a cls_label.json beside it, if it has such, must be those of the list. Generated images
    are never among these: `with_generated` adds them.

    Raises CourseError for what cannot be read, a row without a path or a label, labels that are none, counts that
    differ, a class without an image, and files that are not there: one sentence each.
    """
    list_file = Path(list_file)
    listed, given = _read_rows(list_file)
    known = _classname(list_file.with_name("classname.txt"))
    named = like.named if like else not all(label.isdecimal() for label in given)
    if not named and all(label.isdecimal() for label in given):
        labels = [int(label) for label in given]
        classes = like.num_classes if like else max(labels) + 1
        if max(labels) >= classes:
            raise CourseError(
                f"{list_file} has the label {max(labels)}; with {classes} classes the last is {classes - 1}."
            )
        if like is None:
            check_classes(list_file, labels, classes)
        names = like.names if like else _words(listed, labels, classes, known)
    else:
        names = like.names if like else _ordered(given, known, list_file)
        number = {name: c for c, name in enumerate(names)}
        if unknown := sorted(set(given) - set(number)):
            raise CourseError(f"{list_file} has the label {unknown[0]!r}, which is no class of the training list.")
        labels, classes = [number[label] for label in given], len(names)
    if like is None and list_file.name == "train.csv":
        _check_counts(list_file, labels, names)
    return replace(find_images(list_file, root, listed, labels, classes, names), named=named)


def with_generated(files: ImageFiles, list_file: str | Path) -> tuple[ImageFiles, int]:
    """`files` and after them the generated images that `list_file` names, and how many of these were left out.

    Left out is what has no pixel brighter than 8 of 255 (the published fill-up holds images that failed and are black)
    or cannot be read. Every image is opened, which takes a while. Errors are those of `read_csv_list`.
    """
    made = read_csv_list(list_file, files.root, files)
    with ThreadPoolExecutor() as threads:
        good = list(threads.map(_shows_something, (made.root / path for path in made.paths)))
    paths = tuple(path for path, is_good in zip(made.paths, good, strict=True) if is_good)
    labels = torch.cat([files.labels, made.labels[torch.tensor(good)]])
    return replace(files, paths=files.paths + paths, labels=labels), good.count(False)


def _shows_something(path: Path) -> bool:
    try:
        image, _ = images.read_image(path)
        return max(most for _, most in image.convert("RGB").getextrema()) > BLACK
    except Exception:  # damaged bytes make Pillow raise many kinds
        return False


def _read_rows(list_file: Path) -> tuple[list[str], list[str]]:
    """The paths and the labels of a .csv, as they stand there."""
    try:
        with open(list_file, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if any(map(str.strip, row))]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CourseError(f"The list {list_file} cannot be read ({error}): give a .csv file.") from None
    at, to = 0, 1
    if rows and "label" in (header := [cell.lower() for cell in rows[0][1]]):
        to, at = header.index("label"), next((i for i, cell in enumerate(header) if cell in PATHS), -1)
        if at < 0:
            raise CourseError(f"{list_file} has a header without a column of paths: call it path, beside label.")
        rows = rows[1:]
    elif rows and header[0] in PATHS:
        raise CourseError(f"{list_file} has a header without a column of labels: call it label, beside {header[0]}.")
    if not rows:
        raise CourseError(f"The list {list_file} names no image: it needs one row path,label for each.")
    for number, row in rows:
        if len(row) <= max(at, to) or not row[at] or not row[to]:
            raise CourseError(f"{list_file}, line {number}: a path and a label are needed, not {','.join(row)!r}.")
        if re.fullmatch(r"[-+.\d]+", row[to]) and not row[to].isdecimal():
            raise CourseError(
                f"{list_file}, line {number}: the label {row[to]!r} must be a whole number from 0 or a name."
            )
    paths = (row[at].replace("\\", "/").removeprefix("./") for _, row in rows)
    return list(paths), [row[to] for _, row in rows]


def _classname(path: Path) -> list[tuple[str, ...]]:
    """What classname.txt calls each class, in its order: (id, word) if it is JSON, else one name a line; [] without."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return []
    try:
        found = json.loads(text)
        return [tuple(map(str, found[number])) for number in sorted(found, key=int)]
    except (ValueError, TypeError):
        return [(line.strip(),) for line in text.splitlines() if line.strip()]


def _ordered(given: Sequence[str], known: Sequence[tuple[str, ...]], list_file: Path) -> list[str]:
    """The distinct labels in the order of their classes."""
    place = {name: number for number, names in enumerate(known) for name in names}
    if known and (unknown := sorted(set(given) - set(place))):
        raise CourseError(f"{list_file} has the label {unknown[0]!r}, which classname.txt beside it does not have.")
    return sorted(set(given), key=lambda name: (place.get(name, 0), name))


def _words(
    listed: Sequence[str], labels: Sequence[int], num_classes: int, known: Sequence[tuple[str, ...]]
) -> list[str]:
    """A name for each numbered class: n0144076400000007.jpg is of the class with the id n01440764."""
    word = {names[0]: names[-1] for names in known if len(names) > 1}
    found: list[set[str]] = [set() for _ in range(num_classes)]
    for path, label in zip(listed, labels, strict=True):
        found[label].add(path.rpartition("/")[2][:9])
    named = all(len(ids) == 1 and ids <= word.keys() for ids in found)
    return [word[ids.pop()] if named else str(c) for c, ids in enumerate(found)]


def _check_counts(list_file: Path, labels: Sequence[int], names: Sequence[str]) -> None:
    """Compare the counts of a list with those that cls_label.json beside it says, if it says such."""
    said = read_json(list_file.with_name("cls_label.json"))
    numbers = [str(c) for c in range(len(names))]
    key = next((keys for keys in (numbers, names) if isinstance(said, dict) and said.keys() == set(keys)), None)
    if key is None or not all(type(n) is int and n > 0 for n in said.values()):
        return
    have = Counter(labels)
    if wrong := [c for c in range(len(names)) if have[c] != said[key[c]]]:
        c = wrong[0]
        raise CourseError(
            f"{list_file} has {have[c]:,} images of class {c} ({names[c]}) and cls_label.json beside it says "
            f"{said[key[c]]:,} ({len(wrong)} of {len(names)} classes differ): fetch both again."
        )


PARTS = {"images": ("id", "file_name"), "annotations": ("image_id", "category_id"), "categories": ("id", "name")}


def read_inaturalist(list_file: str | Path, root: str | Path, like: ImageFiles | None = None) -> ImageFiles:
    """Read train2018.json or val2018.json of iNaturalist 2018, and find its files below `root`, in either style of path.

    The categories' ids, in ascending order, become the labels 0 .. C-1.

    Raises CourseError for what is no such file, an id that is there twice, an annotation of an image or category that
    is not there, an image with no label or with two, a class without an image in a training list, other categories
    than the training list's, and files that are not there: one sentence each.
    """
    images, annotations, categories = _read_parts(Path(list_file))
    for what, ids in (("image", [i for i, _ in images]), ("category", [c for c, _ in categories])):
        if len(set(ids)) < len(ids):
            raise CourseError(f"{list_file} has the {what} id {Counter(ids).most_common(1)[0][0]} more than once.")
    paths, names = dict(images), dict(sorted(categories))
    number = {category: c for c, category in enumerate(names)}
    label: dict[int, int] = {}
    for image, category in annotations:
        if image not in paths:
            raise CourseError(f"{list_file} has an annotation of the image {image}, which is not among its images.")
        if category not in number:
            raise CourseError(f"{list_file} gives image {image} the category {category}, which is not among its own.")
        if label.setdefault(image, number[category]) != number[category]:
            raise CourseError(f"{list_file} gives image {image} two categories: it must have one.")
    if bare := [path for image, path in images if image not in label]:
        raise CourseError(f"{list_file} has {len(bare):,} images without an annotation, the first: {bare[0]}.")
    labels = [label[image] for image, _ in images]
    if like is None:
        check_classes(list_file, labels, len(names))
    elif list(like.names) != [str(name) for name in names.values()]:
        raise CourseError(f"{list_file} has other categories than the training list: give two files of one release.")
    listed = [str(path).replace("\\", "/") for path in paths.values()]
    return find_images(list_file, root, listed, labels, len(names), [str(name) for name in names.values()])


def _read_parts(list_file: Path) -> list[list[tuple]]:
    """The pairs of `PARTS` that the file holds: (id, file_name), (image_id, category_id), (id, name)."""
    try:
        content = json.loads(list_file.read_text(encoding="utf-8-sig"))
        parts = [[tuple(entry[key] for key in keys) for entry in content[part]] for part, keys in PARTS.items()]
        kinds = {type(pair[0]) for part in parts for pair in part} | {type(category) for _, category in parts[1]}
        if kinds - {int}:
            raise ValueError("an id is no whole number")
    except OSError as error:
        raise CourseError(f"The list {list_file} cannot be read ({error}): give a .json file.") from None
    except (ValueError, KeyError, TypeError) as error:
        needs = "; ".join(f"{part} with {' and '.join(keys)}" for part, keys in PARTS.items())
        raise CourseError(f"{list_file} is no list of images ({error!r}): it needs {needs}.") from None
    if not parts[0] or not parts[1]:
        raise CourseError(f"{list_file} names no image with a category: it needs images and annotations.")
    return parts
