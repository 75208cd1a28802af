"""iNaturalist 2018: its .json lists become `ImageFiles`, as plain lists do.

It has 8,142 classes, 437,513 training and 24,426 validation images (the usual test set), and train2018.json and
val2018.json in the form of the COCO data set. With the course's own groups, many are the classes of more than 100
training images, medium those of 20 to 100, few those below 20.

    {"images": [{"id": 1, "file_name": "train_val2018/Plantae/7477/3b60.jpg", ...}, ...],
     "annotations": [{"image_id": 1, "category_id": 7477, ...}, ...],
     "categories": [{"id": 7477, "name": ...}, ...]}
"""

import json
from collections import Counter
from pathlib import Path

from lt_utils.errors import CourseError
from lt_utils.imagefiles import ImageFiles, check_classes, find_images

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
