"""Images that are there twice, equal pixel for pixel: in one split, in both, or in two classes."""

import hashlib
from collections.abc import Mapping

import numpy as np

from lt_utils.errors import CourseError


def numbered(*stacks: np.ndarray) -> list[np.ndarray]:
    """For stacks of images [N, ...], a number for each image: the same for equal pixels, in whichever stack. int64 [N] each."""
    known: dict[bytes, int] = {}
    digests = ((hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in stack) for stack in stacks)
    return [np.array([known.setdefault(digest, len(known)) for digest in each], dtype=np.int64) for each in digests]


def count(arrays: Mapping[str, np.ndarray], where: str) -> dict[str, object]:
    """What the record should say of copies in a data set: {"copies": "images in more than one class: 3 ..."} or {}.

    Raises CourseError where it can only be a mistake: most test images are training images, or a class has none that is not
    in another class as well.
    """
    labels, tests, classes = arrays["y_train"], arrays["y_test"], arrays["classes"]
    train, test = numbered(arrays["x_train"], arrays["x_test"])
    pairs = np.unique(np.stack([np.concatenate([train, test]), np.concatenate([labels, tests])], 1), axis=0)
    seen_in_both = int(np.isin(test, train).sum())
    if 2 * seen_in_both > len(test):
        raise CourseError(
            f"{where}: {seen_in_both:,} of the {len(test):,} test images are training images, too. Give other test images, or "
            "only the training images: a share of them becomes the test set."
        )
    of_two = (np.bincount(pairs[:, 0]) > 1)[pairs[:, 0]]
    for c, name in enumerate(classes):
        if of_two[pairs[:, 1] == c].all():
            other = next(d for d in pairs[np.isin(pairs[:, 0], pairs[pairs[:, 1] == c, 0]), 1] if d != c)
            raise CourseError(
                f"{where}: every image of class {name} is in another class, too ({classes[other]} has the first): is one of "
                "them a copy? Remove it."
            )
    found = {
        "test images that are training images, too": seen_in_both,
        "training images that are copies of others": len(train) - len(np.unique(train)),
        "images in more than one class": len(np.unique(pairs[of_two, 0])),
    }
    said = "; ".join(f"{words}: {n:,}" for words, n in found.items() if n)
    return {"copies": f"{said} (equal pixel for pixel)"} if said else {}
