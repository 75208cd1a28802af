"""Errors that a user can mend: one-sentence messages."""

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from types import TracebackType


class CourseError(ValueError):
    """A mistake in what was asked for: its text says what was wrong and what to do.

    IPython shows the sentence alone, without a traceback wall; command lines print it and exit with status 2.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


def short_interrupts() -> None:
    """In a notebook, let Ctrl-C (the square button) end a cell with one sentence instead of a traceback wall."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None and not shell.custom_exceptions:
        shell.set_custom_exc((KeyboardInterrupt,), _show_interrupt)


def _show_interrupt(
    shell: object, kind: type, error: KeyboardInterrupt, trace: TracebackType, tb_offset: int | None = None
) -> list[str]:
    said = [f"Interrupted: {str(error) or 'the cell was not finished; run it again'}."]
    shell._showtraceback(kind, error, said)  # IPython shows what a handler returns to nobody
    return said


def choose(kind: str, name: str, known: Iterable[str]) -> str:
    """Return `name` if it is one of `known`; otherwise raise CourseError, which suggests the nearest and lists them all.

    >>> choose("profile", "step", ["exponential", "step"])
    'step'
    """
    known = list(known)
    if name in known:
        return name
    near = get_close_matches(name, known, n=1) if isinstance(name, str) else []
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise CourseError(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")
