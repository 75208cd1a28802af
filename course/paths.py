"""Two ways through the course, read off its notebooks: a short one of two hours, and all of it with the minutes of each.

A section's heading says its minutes, and whether it is optional: "## 4. Guidance · 10 min, optional".
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from course.overview import COURSE, built
from lt_utils.errors import CourseError
from lt_utils.runs.parameters import notebooks_folder, prose, read_notebook

HEADING = re.compile(r"^## +(\d+)\. +(.+?)(?: · (\d+) min(, optional)?)?$", re.M)
SHORT: dict[str, tuple[int, ...]] = {  # number of a notebook: its sections on the short path
    "00": (1, 2),
    "01": (4,),
    "03": (2,),
    "04": (1,),
    "05": (5,),
    "08": (1, 2),
    "12": (3,),
}


@dataclass(frozen=True)
class Section:
    """A numbered section of a notebook; its minutes are 0 if the heading says none."""

    number: int
    title: str
    minutes: int
    optional: bool


def sections(notebook: str) -> list[Section]:
    """The numbered sections of a notebook ("00", "A1"), in order. CourseError for one that is not there."""
    if notebook not in COURSE or notebook not in built():
        raise CourseError(
            f"There is no notebook {notebook} yet: course/paths.py names it, notebooks/ does not hold it."
        )
    found = HEADING.findall(prose(read_notebook(notebooks_folder() / f"{COURSE[notebook][0]}.ipynb")))
    return [Section(int(number), title, int(minutes or 0), bool(rest)) for number, title, minutes, rest in found]


def minutes(notebook: str) -> dict[str, int | None]:
    """The sum of a notebook's minutes, "core" and "optional"; None for both of one that is only planned."""
    if notebook not in built():
        return {"core": None, "optional": None}
    parts = sections(notebook)
    return {
        "core": sum(part.minutes for part in parts if not part.optional),
        "optional": sum(part.minutes for part in parts if part.optional),
    }


def short_path(path: Mapping[str, Sequence[int]] = SHORT) -> list[dict]:
    """The short path as rows "notebook", "section", "minutes", the last one their sum. CourseError for an unknown section."""
    rows = []
    for notebook, numbers in path.items():
        file, title, _ = COURSE.get(notebook, ("", "", ""))
        known = {part.number: part for part in sections(notebook)}
        for number in numbers:
            if number not in known:
                raise CourseError(f"Notebook {notebook} has no section {number}: mend the short path, course/paths.py.")
            part = known[number]
            link = f"[{notebook} {title}]({file}.ipynb)" if number == numbers[0] else ""
            rows.append({"notebook": link, "section": f"{part.number}. {part.title}", "minutes": part.minutes})
    return [*rows, {"notebook": "", "section": "**in all**", "minutes": sum(row["minutes"] for row in rows)}]
