"""What the commands of `python -m course` share: how arguments are read, and how a mistake ends one."""

import argparse
import functools
import sys
from collections.abc import Callable

from lt_utils.errors import CourseError


def command(name: str, description: str, *arguments: tuple[str, dict]) -> Callable:
    """Make a command line out of a function of the parsed arguments, each given as (its name, options of argparse).

    The command returns the function's exit status; 2, with one sentence on stderr, after a CourseError or OSError.
    """

    def decorate(run: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(run)
        def main(given: list[str] | None = None) -> int:
            parser = argparse.ArgumentParser(prog=f"python -m course {name}", description=description)
            for argument, options in arguments:
                parser.add_argument(argument, **options)
            try:
                return run(**vars(parser.parse_args(given)))
            except CourseError as error:
                print(error, file=sys.stderr)
            except OSError as error:
                sentence = f"{error.filename} cannot be read or written ({error.strerror}): mend that and try again."
                print(sentence, file=sys.stderr)
            return 2

        return main

    return decorate
