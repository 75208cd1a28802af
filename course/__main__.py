"""One command for the course's machinery: python -m course WHAT ..."""

import importlib
import sys

from lt_utils.errors import choose

COMMANDS = {  # what: the module whose main() it is, and what it does
    "run": ("course.batch.launch", "run a batch: run config/quick.yaml [--jobs N] [--again] [-- options of Snakemake]"),
    "cost": ("course.cost", "what configurations cost: cost config/cifar.yaml ... [--gpus 1 8 64]"),
    "exercises": ("course.exercises", "exercises start | build [--execute] | check"),
    "check": ("course.gates", "what a notebook must be before it is committed: check notebooks/*.ipynb"),
    "keep": (
        "course.reference",
        'store a run as a full-scale reference: keep RUN_FOLDER NAME "TITLE" [--by COLUMN ...]',
    ),
    "readme": ("course.readme", "write the README's tables anew [--from RUN_FOLDER]"),
    "refresh": ("course.refresh", "execute notebooks in place: refresh notebooks/03*.ipynb"),
}
HELP = "python -m course WHAT ...\n\n" + "\n".join(f"  {name:10} {words}" for name, (_, words) in COMMANDS.items())


def main(arguments: list[str]) -> int:
    """Hand the arguments to what the first of them names; returns the exit status, 2 for an unknown one."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP)
        return 0
    try:
        module, _ = COMMANDS[choose("command", arguments[0], COMMANDS)]
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    return importlib.import_module(module).main(arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
