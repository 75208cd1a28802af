"""Two loops take turns in one process, a second each; prints the rate of each in every turn.

    python -m benchmarks.turns encoder ours peer [--seconds 20]
    python -m benchmarks.turns latent ours/sample peer/sample
    python -m benchmarks.turns images ours/train ours/balanced

A side is the words that `loop` of benchmarks.encoder, latent or images takes, divided by slashes.
"""

import argparse
from importlib import import_module

from benchmarks.measure import report, turns
from course.command import first_line
from lt_utils.errors import CourseError


def main() -> None:
    parser = argparse.ArgumentParser(description=first_line(__doc__))
    parser.add_argument("module", choices=("encoder", "latent", "images"))
    parser.add_argument("one")
    parser.add_argument("other")
    parser.add_argument("--seconds", type=float, default=20)
    options = parser.parse_args()
    loop = import_module(f"benchmarks.{options.module}").loop
    try:
        sides = [loop(*side.split("/")) for side in (options.one, options.other)]
    except (CourseError, TypeError) as error:
        parser.error(str(error))
    report({"pairs": turns(*sides, options.seconds)})


if __name__ == "__main__":
    main()
