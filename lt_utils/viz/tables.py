"""Tables: rows of a record, averaged over seeds and shown; and the full-scale results stored beside the notebooks."""

from collections.abc import Callable, Iterable, Sequence

from IPython.display import Markdown

from lt_utils.errors import CourseError, choose
from lt_utils.files import REPOSITORY, read_json
from lt_utils.metrics.statistics import mean_error, mean_std, student

MEASURES = ("accuracy", "many", "medium", "few", "ece")
REFERENCES = REPOSITORY / "notebooks" / "reference"


def average(rows: Iterable[dict], by: Sequence[str] = ("method",), measures: Sequence[str] = MEASURES) -> list[dict]:
    """One row per combination of the columns `by`, in order of appearance: "n" seeds and, per measure, (mean, std).

    The standard deviation has n - 1 in its denominator and is nan for one seed. Measures that no row has are left out.
    """
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(column) for column in by), []).append(row)
    result = []
    for key, members in groups.items():
        line = dict(zip(by, key, strict=True)) | {"n": len(members)}
        for measure in measures:
            if values := [row[measure] for row in members if row.get(measure) is not None]:
                line[measure] = mean_std(values)
        result.append(line)
    return result


def pivot(rows: Iterable[dict], line: str, column: Callable[[dict], str | None], value: str = "accuracy") -> list[dict]:
    """One line for each value of the column `line`, and in it one column for each name that `column(row)` gives.

    Rows for which `column` gives None, or that have no `value`, are left out. Raises CourseError if two rows meet in a cell.
    """
    lines: dict[object, dict] = {}
    for row in rows:
        name = column(row)
        if name is None or row.get(value) is None:
            continue
        here = lines.setdefault(row[line], {line: row[line]})
        if name in here:
            raise CourseError(f"Two rows of {row[line]!r} belong to the column {name!r}: tell them apart by its name.")
        here[name] = row[value]
    return list(lines.values())


def paired(
    rows: Sequence[dict], baseline: str, measure: str = "accuracy", pair: Sequence[str] = ("data", "imbalance", "seed")
) -> list[dict]:
    """How far each method lies above a baseline method, seed by seed.

    Each row is compared with the baseline's row that agrees in the columns `pair`; rows without a partner are left out.
    So what a seed does to both, such as the encoder they share, cancels.

    Returns one row per method, in order of appearance: "method", "n" pairs, "difference" (mean), "se" (its standard
    error: standard deviation of the differences / sqrt(n); nan for one pair), "half" (half of the 95 % interval:
    student(n) * se), "differences" (all of them). Raises CourseError for an unknown baseline, or two rows of one method
    and seed.
    """
    choose("method", baseline, list(dict.fromkeys(row["method"] for row in rows)))
    measured: dict[str, dict[tuple, float]] = {}
    for row in rows:
        if row.get(measure) is not None:
            key, values = tuple(row.get(column) for column in pair), measured.setdefault(row["method"], {})
            if key in values:
                raise CourseError(f"Two rows of {row['method']!r} share {dict(zip(pair, key, strict=True))}: keep one.")
            values[key] = row[measure]
    base, lines = measured.get(baseline, {}), []
    for method, values in measured.items():
        differences = [value - base[key] for key, value in values.items() if key in base]
        if method == baseline or not differences:
            continue
        (mean, se), n = mean_error(differences), len(differences)
        half = student(n) * se if n > 1 else float("nan")
        numbers = {"n": n, "difference": mean, "se": se, "half": half, "differences": differences}
        lines.append({"method": method, **numbers})
    return lines


def cell(value: object, digits: int = 1) -> str:
    """How a value is shown: (mean, std) as "79.1 ± 0.4", a single run without ±, a number with `digits` decimals.

    A mean or number that is nan, such as the accuracy of a group without class, is "n/a"; None, a value not there, is "–".
    """
    mean, std = value if isinstance(value, tuple) else (value, None)
    if mean != mean:
        return "n/a"
    if std is not None:
        spread = "" if std != std else f" ± {std:.{digits}f}"  # nan: one run, no spread to show
        return f"{mean:.{digits}f}{spread}"
    if isinstance(value, float):
        return f"{value:.{digits}f}"
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def markdown(rows: Sequence[dict], columns: Sequence[str] | None = None, digits: int = 1) -> str:
    """Rows as a Markdown table; text columns left, numbers right. Columns default to those of the first row."""
    columns = list(columns or (rows[0] if rows else ()))
    numeric = [all(isinstance(row.get(column), int | float | tuple | None) for row in rows) for column in columns]
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("--:" if right else ":--" for right in numeric) + "|"]
    lines += ["| " + " | ".join(cell(row.get(column), digits) for column in columns) + " |" for row in rows]
    return "\n".join(lines)


def show(rows: Sequence[dict], columns: Sequence[str] | None = None, note: str = "") -> Markdown:
    """The rows as a table for the notebook, with an optional note below it."""
    return Markdown(markdown(rows, columns) + (f"\n\n{note}" if note else ""))


def reference(notebook: str) -> list[dict]:
    """The full-scale records of a notebook (notebooks/reference/<notebook>*.json), in order of name; may be none.

    Each holds rows like a run's record, and the device, commit and date they were measured with.
    """
    return [read_json(path) for path in sorted(REFERENCES.glob(f"{notebook}*.json"))]


def with_spread(row: dict) -> dict:
    """A stored row with each pair of columns "x" and "x std" as one column (x, std), as `average` gives them."""
    pairs = {name: (value, row[f"{name} std"]) if f"{name} std" in row else value for name, value in row.items()}
    return {name: value for name, value in pairs.items() if not name.endswith(" std")}


def rungs(rows: Iterable[dict], value: str = "accuracy") -> list[tuple[str, dict[str, tuple[float, float]]]]:
    """For `charts.method_dots`: each method, in order of appearance, with (mean, std) by "views"; nan for a missing std.

    rows: as `average` or `with_spread` gives them. Of two rows of a method and its views the later one counts.
    """
    found: dict[str, dict[str, tuple[float, float]]] = {}
    for row in rows:
        number = row[value] if isinstance(row[value], tuple) else (row[value], float("nan"))
        found.setdefault(row["method"], {})[row["views"]] = number
    return list(found.items())


def side_by_side(
    records: dict[str, dict], column: Callable[[dict], str | None], value: str = "accuracy"
) -> dict[str, dict]:
    """The rows of several stored records, pivoted: one line for each method, by its name, with columns "<record>, <column>"."""
    lines: dict[str, dict] = {}
    for source, record in records.items():
        for line in pivot(map(with_spread, record["rows"]), "method", column, value):
            name = line.pop("method")
            here = lines.setdefault(name, {"method": name})
            here |= {f"{source}, {key}": number for key, number in line.items()}
    return lines


def made_with(record: dict) -> str:
    """ "CPU (AMD EPYC), commit 41be8b9, 2026-11-22": where, with which code and when a stored record was measured."""
    return f"{record['device']}, commit {str(record['commit'])[:7]}, {record['finished'][:10]}"


def reference_markdown(
    notebook: str, columns: Sequence[str] | None = None, only: Callable[[dict], bool] | None = None
) -> str:
    """The stored full-scale results of a notebook, two decimals, and what they were measured on; "" if there is none.

    only: which rows to show; by default all.
    """
    parts = []
    for record in reference(notebook):
        rows = [with_spread(row) for row in record["rows"] if only is None or only(row)]
        parts += [
            f"**{record['title']} – {made_with(record)}.**",
            markdown(rows, columns, digits=2),
            record.get("note"),
        ]
    return "\n\n".join(part for part in parts if part)


def show_reference(
    notebook: str, columns: Sequence[str] | None = None, only: Callable[[dict], bool] | None = None
) -> Markdown:
    """`reference_markdown` for the notebook, or a sentence that no full-scale run is stored yet."""
    none = "*No full-scale run of this notebook is stored yet; its place is* `notebooks/reference/`."
    return Markdown(reference_markdown(notebook, columns, only) or none)
