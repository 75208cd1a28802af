"""Keep a full-scale run as a reference: python -m course keep RUN_FOLDER NAME "TITLE" [--by recipe method test].

Writes notebooks/reference/NAME.json from the run's record.json. The rows stand as they are or, with --by, averaged
over seeds: n, and the mean and standard deviation of every measure. Of the record's facts the paired differences and
the masked losses (notebook 11) are kept as they are, and the classifiers trained on generated images (notebook 06)
averaged over seeds. Notebooks show it with tables.show_reference. The references of notebooks 07 and 08 come from
config/ldmlr_controls.yaml:

    python -m course run config/ldmlr_controls.yaml --jobs 2
    python -m course keep RUN_FOLDER 07_latent_diffusion_cifar10 "TITLE"
    python -m course keep RUN_FOLDER 08_classifier_retraining_cifar10 "TITLE" --by recipe views method test
"""

from collections.abc import Sequence
from pathlib import Path

from course.command import command
from lt_utils.errors import CourseError, choose
from lt_utils.files import REPOSITORY, is_name, read_json, write_json
from lt_utils.viz.tables import REFERENCES, average, reference

FROM_RECORD = ("versions", "commit", "dirty", "device", "threads", "seconds", "finished")
NON_METRICS = ("data", "imbalance", "seed")  # columns that are not measured


def averaged(rows: Sequence[dict], by: Sequence[str]) -> list[dict]:
    """One row for each combination of the columns `by`: n, and mean and "<measure> std" of every number.

    The deviation, n - 1 in its denominator, is left out for a single row. Values are rounded to two decimals, those of a
    measure that stays below 1, such as a kernel distance, to four.
    """
    names = dict.fromkeys(name for row in rows for name in row if name not in (*by, *NON_METRICS))
    measures = [name for name in names if any(isinstance(row.get(name), int | float) for row in rows)]
    small = {name for name in measures if all(abs(row.get(name) or 0) < 1 for row in rows)}
    result = []
    for line in average(rows, by, measures):
        for name in [name for name in measures if name in line]:
            mean, std = line[name]
            digits = 4 if name in small else 2
            line[name] = round(mean, digits)
            line |= {} if std != std else {f"{name} std": round(std, digits)}
        result.append(line)
    return result


def published_accuracy() -> dict[tuple, float]:
    """The accuracies that LDMLR published, by method, data set and imbalance factor."""
    rows = reference("published_ldmlr")[0]["rows"]
    return {(row["method"], row["data"], row["imbalance"]): row["accuracy"] for row in rows}


def beside_published(rows: Sequence[dict]) -> list[dict]:
    """The rows, each with the number that LDMLR published for its method, data set and imbalance factor, or None.

    Raises CourseError for rows without one of these columns.
    """
    columns = ("method", "data", "imbalance")
    for column in columns:
        if any(column not in row for row in rows):
            raise CourseError(
                f"--published looks LDMLR's numbers up by {column}, which not every row has: leave it out."
            )
    theirs = published_accuracy()
    return [row | {"published": theirs.get(tuple(row[column] for column in columns))} for row in rows]


def save_reference(
    folder: Path,
    name: str,
    title: str,
    note: str = "",
    by: Sequence[str] = (),
    target: Path | None = None,
    published: bool = False,
) -> Path:
    """Write the reference and return its path.

    Raises CourseError if the folder holds no finished run, for a name that is not the notebook's, and for an unknown
    column in `by`.
    """
    record = read_json(Path(folder) / "record.json")
    if not {"parameters", "rows"} <= set(record or ()):
        raise CourseError(
            f"{folder} holds no finished run (no whole record.json): give the folder of a run that has ended."
        )
    notebook = record.get("notebook", "")
    if not is_name(name) or name.endswith(".json") or not name.startswith(notebook):
        raise CourseError(
            f"A reference of this run cannot be named {name!r}: begin with {notebook or 'the name of its notebook'}, go on "
            "with letters, digits and . _ - alone, and leave .json out."
        )
    for column in by:
        choose("column", column, dict.fromkeys(key for row in record["rows"] for key in row))
    # Paths of this machine say nothing to a reader elsewhere: of a file its name is kept.
    parameters = {
        key: Path(value).name if isinstance(value, str) and "/" in value else value
        for key, value in record["parameters"].items()
    }
    rows = averaged(record["rows"], by) if by else record["rows"]
    facts = record.get("facts", {})
    if size := facts.get("parameters_of_encoder"):
        rows = [row | {"parameters": size} for row in rows]
    if published:
        rows = beside_published(rows)
    content = {"title": title, "parameters": parameters} | {key: record[key] for key in FROM_RECORD if key in record}
    content["rows"] = rows
    content |= {key: facts[key] for key in ("paired", "masked loss") if facts.get(key)}
    if facts.get("classifiers"):
        content["classifiers"] = averaged(facts["classifiers"], ["filled"])
    path = (target or REFERENCES) / f"{name}.json"
    write_json(path, content | {"note": note})
    return path


@command(
    "keep",
    __doc__,
    ("folder", dict(type=Path, help="folder of a finished run")),
    ("name", dict(help="name of the reference, beginning with the notebook's")),
    ("title", dict(help="data, encoder, seeds: one line")),
    ("--note", dict(default="", help="what a reader has to know")),
    ("--by", dict(nargs="*", default=(), help="columns to average over seeds by")),
    ("--published", dict(action="store_true", help="beside each row LDMLR's number, for encoders")),
)
def main(**chosen: object) -> int:
    """The command line; exit status 0, or 2 with one sentence."""
    print(f"wrote {save_reference(**chosen).relative_to(REPOSITORY)}")
    return 0
