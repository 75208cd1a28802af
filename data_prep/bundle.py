"""Make the data set that the package carries: the first images of each class of Fashion-MNIST.

    python -m data_prep.bundle --from FOLDER        # FOLDER holds the four original *-ubyte.gz files

Run once by the makers of the package; learners never need it.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from data_prep import originals
from data_prep.arrays import write
from lt_utils.data import datasets
from lt_utils.errors import CourseError

PER_CLASS = {"train": 1000, "test": 300}


def first_of_each_class(labels: np.ndarray, n: int) -> np.ndarray:
    """Return the positions of the first `n` images of each class, class after class: int64 [classes * n]."""
    return np.concatenate([np.flatnonzero(labels == c)[:n] for c in np.unique(labels)])


def bundle(source: Path, folder: Path) -> Path:
    """Write <folder>/fashion-mnist-small.npz and its record from the original files in `source`; return the path."""
    arrays = originals.read("fashion-mnist", source)
    for split, n in PER_CLASS.items():
        kept = first_of_each_class(arrays[f"y_{split}"], n)
        arrays[f"x_{split}"], arrays[f"y_{split}"] = arrays[f"x_{split}"][kept], arrays[f"y_{split}"][kept]
    original = originals.ORIGINALS["fashion-mnist"]
    facts = {
        "source": original.source,
        "licence": f"{original.licence}; full text in LICENSE.fashion-mnist",
        "choice": "the first {train:,} training and {test} test images of each class, in the original order".format(
            **PER_CLASS
        ),
    }
    path = folder / f"{datasets.BUNDLED}.npz"
    write(path, arrays, facts, compressed=True)
    return path


def main() -> int:
    """Read the command line, make the file, say where it is; exit status 2 with one sentence on a user's mistake."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep.bundle", description="Make the data set that the package carries."
    )
    parser.add_argument("--from", dest="source", type=Path, required=True, help="folder of the four original files")
    parser.add_argument("--to", type=Path, default=datasets.BUNDLED_FOLDER, help="default: inside the package")
    options = parser.parse_args()
    try:
        path = bundle(options.source, options.to)
    except CourseError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"wrote {path} ({path.stat().st_size / 1e6:.2f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
