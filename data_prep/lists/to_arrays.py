"""Folders whose images are named by lists: mini-ImageNet-LT (train.csv, test.csv), iNaturalist 2018 (train2018.json ...).

`data_prep.lists.formats` says what the lists look like. They become arrays of one size, which must fit into memory:
N x size x size x 3 bytes, 1.4 GB for iNaturalist 2018 at 32 pixels.
"""

from collections import Counter
from pathlib import Path

import numpy as np

from data_prep import images
from data_prep.lists import formats
from data_prep.lists.image_files import ImageFiles, check_classes
from lt_utils.errors import CourseError

LISTS = {"train.csv": "test.csv", "train2018.json": "val2018.json"}  # the training list and the test list
GENERATED = "gentrain.csv"
SOURCES = {
    "mini-imagenet-lt": "mini-ImageNet-LT, github.com/kitsch231/mini-imagenet-LT_longtail-dataset, with its own counts "
    "(10 to 480); not ImageNet-LT of Liu et al.",
    "inat18": "iNaturalist 2018 (Van Horn et al. 2018), github.com/visipedia/inat_comp; its validation images as test set",
}


def training_list(path: Path) -> str | None:
    """The name of the training list in the folder `path`; None if it has none of those that are known."""
    return next((name for name in LISTS if (path / name).is_file()), None)


def read(
    path: Path, size: int | None, skip_bad: bool = False, generated: bool = False
) -> tuple[dict[str, np.ndarray], list[str], dict[str, object]]:
    """Read the images that the lists in a folder name, each cut to its middle square and resized to size x size, as RGB.

    Args:
        size: height and width; there is no default, because such images differ in size.
        skip_bad: leave out files that are not readable 8-bit images, instead of refusing.
        generated: add the generated images that gentrain.csv names to the training images, without those that are black.

    Returns:
        The arrays x_train, y_train, x_test, y_test, classes; the files left out; what the record should say.

    Raises:
        CourseError: no size, no test list or one without a class, no gentrain.csv though asked for; more images than fit
            into memory; files that are not readable images; and whatever `formats.read` refuses.
    """
    name = training_list(path)
    other = LISTS[name]
    if not (path / other).is_file():
        raise CourseError(f"{path} has {name} but no {other}: add it (or remove {name}, if it is no list of images).")
    if not size:
        raise CourseError(f"The images that {path / name} names may be of any size: add --size N to make them N x N.")
    train = formats.read(path / name, path)
    test = formats.read(path / other, path, train)
    check_classes(path / other, test.labels.tolist(), test.num_classes)
    facts: dict[str, object] = {"lists": f"training {name}, test {other}"}
    if (path / "val.csv").is_file():
        facts["lists"] = f"{facts['lists']}; val.csv is left out"
    if generated:
        if not (path / GENERATED).is_file():
            raise CourseError(f"{path} has no {GENERATED}: leave out --generated.")
        real = len(train)
        train, black = formats.with_generated(train, path / GENERATED)
        facts["generated"] = (
            f"{len(train) - real:,} training images are generated ({GENERATED}); {black:,} black left out"
        )
    images.check_memory(3 * (len(train) + len(test)) * size**2, size)
    classes = np.array(train.names or [str(c) for c in range(train.num_classes)])
    x_train, y_train, bad, remarks = _arrays(train, size, skip_bad)
    x_test, y_test, more, others = _arrays(test, size, skip_bad)
    facts |= images.facts_of(remarks + others)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, "classes": classes}
    return arrays, bad + more, facts


def _arrays(files: ImageFiles, size: int, skip_bad: bool) -> tuple[np.ndarray, np.ndarray, list[str], Counter[str]]:
    """The images [N, size, size, 3] and labels [N] of a list, what was wrong with the files left out, and the remarks."""
    pictures = np.empty((len(files), size, size, 3), np.uint8)  # filled as they come: no image is held twice
    kept: list[int] = []
    bad: list[str] = []
    remarks: Counter[str] = Counter()
    paths = [files.root / path for path in files.paths]
    for i, (image, remark) in enumerate(images.decoded(paths, size)):
        if image is None:
            bad.append(f"{paths[i]} ({remark})")
        else:
            pictures[len(kept)] = image  # grey is repeated three times
            kept.append(i)
            remarks[remark] += 1
    images.check_bad(bad, len(files), skip_bad)
    return pictures[: len(kept)], files.labels.numpy()[kept], bad, remarks
