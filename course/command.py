"""What command lines share: how arguments of `python -m course` are read, and how a mistake or Ctrl-C ends a command."""

import argparse
import functools
import sys
from collections.abc import Callable

from lt_utils.errors import CourseError


def first_line(text: str | None) -> str:
    """The first line of a docstring; "" where there is none, as under python -OO."""
    return (text or "").partition("\n")[0]


def command(name: str, description: str | None, *arguments: tuple[str, dict]) -> Callable:
    """Make a command line out of a function of the parsed arguments, each given as (its name, options of argparse).

    description: of it, the first line is shown.
    The command returns the function's exit status; 2, with one sentence on stderr, after a CourseError or OSError.
    """

    def decorate(run: Callable[..., int]) -> Callable[..., int]:
        @functools.wraps(run)
        def main(given: list[str] | None = None) -> int:
            parser = argparse.ArgumentParser(prog=f"python -m course {name}", description=first_line(description))
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


def resumable(main: Callable[..., int]) -> Callable[..., int]:
    """A command line of long work that goes on where it was: status 2 and a sentence after a CourseError, 130 after Ctrl-C."""

    @functools.wraps(main)
    def ended(arguments: list[str] | None = None) -> int:
        try:
            return main(arguments)
        except CourseError as error:
            print(error, file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("\nStopped. What is finished stays; the same command goes on from here.", flush=True)
            return 130

    return ended
