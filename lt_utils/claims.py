"""What texts may say of TDFA, of which nothing but a README is known: no paper, no code, no numbers.

So whatever the course says of its method is either what that README shows or a reconstruction, and says which; and
nowhere does a number stand in a row of its name.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Mapping

NAME = re.compile(r"\bTDFA\b")
MARKS = re.compile(r"\b(reconstruct(ion|ions|ed)|README)\b")
# A row of a Markdown table whose first cell has the name, or a line of printed text that begins with it.
ROW = re.compile(r"^\s*\|[^|\n]*\bTDFA\b.*\|.*\d.*", re.M)
LINE = re.compile(r"^[\s|*]*TDFA\b.*\d.*", re.M)


def unmarked(text: str) -> list[str]:
    """The beginning of each paragraph that names TDFA and says neither "reconstruction" nor "README", and of each table
    row of its name with a number (a row may have one if it says itself that it is a reconstruction)."""
    paragraphs = re.split(r"\n\s*\n", text)
    found = [part for part in paragraphs if NAME.search(part) and not MARKS.search(part)]
    return [part.strip()[:60] for part in found] + rows_with_numbers(text, ROW)


def rows_with_numbers(text: str, row: re.Pattern = LINE) -> list[str]:
    """The beginning of each line of a printed text whose name it is and that has a number, unless a reconstruction's."""
    return [found[0].strip()[:60] for found in row.finditer(text) if "reconstruct" not in found[0]]


def named_rows(rows: Iterable[Mapping[str, object]]) -> list[Mapping[str, object]]:
    """The rows of stored results that name TDFA, have a number, and do not say that it is a reconstruction's."""

    def is_claim(row: Mapping[str, object]) -> bool:
        text = " ".join(value for value in row.values() if isinstance(value, str))
        return (
            bool(NAME.search(text)) and "reconstruct" not in text and any(type(v) in (int, float) for v in row.values())
        )

    return [row for row in rows if is_claim(row)]


def docstrings(source: str) -> Iterator[str]:
    """All docstrings of a module: its own, and those of its classes and functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
