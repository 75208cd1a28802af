"""Errors that a user can mend: one-sentence messages."""

from collections.abc import Iterable
from difflib import get_close_matches


class CourseError(ValueError):
    """A mistake in what was asked for: its text says what was wrong and what to do.

    IPython shows the sentence alone, without a traceback wall; command lines print it and exit with status 2.
    """

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


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
