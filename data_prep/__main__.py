"""The command `python -m data_prep`: makes a data set that the course can load."""

import argparse
import sys
from pathlib import Path

from data_prep.prepare import TEST_FRACTION, Request, prepare, source_path
from lt_utils.data import longtail
from lt_utils.data.datasets import FETCHABLE
from lt_utils.errors import CourseError


def read_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line; argparse itself ends with status 2 where an option is unknown or has the wrong type."""
    parser = argparse.ArgumentParser(
        prog="python -m data_prep",
        description="Make a data set that the course can load: fetch or read, verify, convert.",
        epilog=f"Without --from these can be made: {', '.join(FETCHABLE)}.",
    )
    add = parser.add_argument
    add("name", help="name of the data set; with --from any name you like")
    add(
        "--from",
        dest="source",
        type=Path,
        metavar="PATH",
        help="folder of images or lists, .npz, the original files, or the name of a prepared set",
    )
    add("--to", type=Path, metavar="FOLDER", help="where to put it (default: $LT_DATA, else the repository's data/)")
    add("--size", type=int, metavar="N", help="make images N x N (folders of images, lists, an .npz)")
    add("--test-fraction", type=float, metavar="F", help=f"test share if none is given (default {TEST_FRACTION})")
    add("--seed", type=int, default=0, help="which images become the test set, or stay in the tail (default 0)")
    add(
        "--imbalance",
        type=float,
        metavar="F",
        help="cut the training set to a long tail: largest class / smallest class",
    )
    add("--profile", choices=longtail.PROFILES, default="exponential", help="how the tail falls (default exponential)")
    add("--n-max", type=int, metavar="N", help="images of the largest class (default: all it has)")
    add(
        "--indices",
        type=Path,
        metavar="FILE",
        help="list of training images (.csv, .txt, .npy) to make a set of exactly these; with --imbalance: where to write "
        "the list (default: NAME.indices.csv beside the set)",
    )
    add("--skip-bad", action="store_true", help="go on without files that are not readable images")
    add("--generated", action="store_true", help="mini-ImageNet-LT only: add the generated images of gentrain.csv")
    add("--again", action="store_true", help="make it anew although it is there")
    options = parser.parse_args(arguments)
    if options.size is not None and options.size < 1:
        parser.error(f"--size must be at least 1, not {options.size}")
    if not 0 <= options.seed < 2**32:
        parser.error(f"--seed must be in 0 .. {2**32 - 1}, not {options.seed}")
    if options.imbalance is None and (options.n_max is not None or options.profile != "exponential"):
        parser.error("--profile and --n-max belong to --imbalance")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0; 2 for a user's mistake, told in one sentence; 130 for Ctrl-C."""
    options = read_arguments(arguments)
    source = None if options.source is None else str(source_path(options.source, options.to))
    indices = None if options.indices is None else str(options.indices.expanduser().resolve())
    request = Request(
        source,
        options.size,
        options.test_fraction,
        options.seed,
        options.skip_bad,
        options.generated,
        options.imbalance,
        options.profile,
        options.n_max,
        indices,
    )
    try:
        prepare(options.name, request, options.to, options.again)
    except (CourseError, OSError) as error:  # OSError: a source that may not be read, and the like
        print(f"data_prep: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("data_prep: interrupted; no data set was written.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
