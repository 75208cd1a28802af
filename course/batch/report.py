"""The report of a batch: <profile>/index.html links every executed notebook and shows all that was measured."""

import html
import re
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from course.batch.execute import is_finished
from course.batch.plan import Job
from lt_utils.files import read_json, write_whole
from lt_utils.progress import duration
from lt_utils.runs.parameters import notebook_path, read_notebook

HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>
:root {{ color-scheme: light dark; --line: #8884; --soft: #888; --bad: #c0392b; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.6rem; }} h2 {{ font-size: 1.2rem; margin-top: 2.2rem; }}
table {{ border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); }}
th {{ color: var(--soft); font-weight: 600; }} td.n, th.n {{ text-align: right; white-space: nowrap; }}
.soft {{ color: var(--soft); }} .bad {{ color: var(--bad); }} div.wide {{ overflow-x: auto; }}
</style><title>Course report: {name}</title></head><body>
<h1>Long-tailed recognition and diffusion: the {name} run</h1>
"""
# What to do about a page that cannot be written.
AGAIN = "make room and give the same command again"


def build(folder: Path, jobs: list[Job]) -> Path:
    """Convert what was executed to HTML, write <folder>/index.html anew and return its path. CourseError: no room."""
    finished = {job.folder: read_json(job.folder / "batch.json") for job in jobs if is_finished(job.folder)}
    for run in finished:
        _convert(run / "notebook.ipynb")
    abouts = list(finished.values())
    parts = [
        f"<p>{len(abouts)} of {len(jobs)} notebook runs finished"
        f"{', ' + duration(sum(about['seconds'] for about in abouts)) + ' of work' if abouts else ''}.</p>",
        _notebook_table(folder, jobs, finished),
        *_measured(jobs),
        _made_with(abouts),
    ]
    page = HEAD.format(name=html.escape(folder.name)) + "\n".join([*parts, "</body></html>", ""])
    write_whole(folder / "index.html", lambda file: file.write(page.encode()), AGAIN)
    return folder / "index.html"


def _convert(notebook: Path) -> None:
    """notebook.html beside notebook.ipynb, unless it is there and newer."""
    page = notebook.with_suffix(".html")
    if not notebook.exists() or (page.exists() and page.stat().st_mtime >= notebook.stat().st_mtime):
        return
    from nbconvert import HTMLExporter  # here, because its import takes longer than a batch with nothing to do

    body, _ = HTMLExporter().from_filename(str(notebook))
    # Half a page, newer than its notebook, would stay.
    write_whole(page, lambda file: file.write(body.encode()), AGAIN)


def title_of(notebook: Path) -> str:
    """The text of a notebook's H1."""
    texts = ["".join(cell["source"]) for cell in read_notebook(notebook)["cells"] if cell["cell_type"] == "markdown"]
    found = re.search(r"^# (.+)$", "\n".join(texts), re.M)
    return found[1].strip() if found else notebook.stem


def _notebook_table(folder: Path, jobs: list[Job], finished: Mapping[Path, Mapping]) -> str:
    """One line for each planned run; `finished` holds the batch.json of those that are."""
    rows = []
    for job in jobs:
        about, there = finished.get(job.folder), job.folder.relative_to(folder).as_posix()
        title = html.escape(title_of(notebook_path(job.notebook)))
        run = "" if job.run == "all" else html.escape(job.run)
        log = f'<a href="{there}/log.txt">log</a>' if (job.folder / "log.txt").exists() else ""
        if about:
            title = f'<a href="{there}/notebook.html">{title}</a>'
            state = duration(about["seconds"])
        elif (job.folder / "failed.ipynb").exists():
            state = f'<span class="bad">failed</span>: <a href="{there}/failed.ipynb">so far</a>'
        else:
            state = '<span class="soft">not finished</span>'
        rows.append([job.notebook[:2], title, run, state, log])
    return _table(["", "Notebook", "Run", "Time", ""], rows)


def _measured(jobs: list[Job]) -> list[str]:
    """One table for each notebook with rows in its records: means and standard deviations over the seeds."""
    parts = []
    for notebook in dict.fromkeys(job.notebook for job in jobs):
        records = [read_json(job.folder / "record.json") for job in jobs if job.notebook == notebook]
        rows = [row for record in records if record for row in record.get("rows", [])]
        if rows and notebook != "12_scoreboard":  # the scoreboard gathers the others' rows; they are here already
            title = html.escape(title_of(notebook_path(notebook)))
            parts += [f"<h2>{title}</h2>", _table(*summary(rows))]
    return parts


def summary(rows: list[Mapping[str, object]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells of a table of rows that differ in their seed only: `mean ± std (n)`, or `value` for one run.

    Columns that are not numbers, and the imbalance factor, tell the rows apart; std is the sample's (n - 1).
    """
    table = pd.DataFrame(rows).drop(columns="seed", errors="ignore")
    numbers = [key for key in table.select_dtypes("number") if key != "imbalance"]
    labels = table.drop(columns=numbers)
    labels = labels.where(labels.notna(), "").astype(str)
    same = pd.Series(["|".join(row) for row in labels.to_numpy()])
    cells = []
    for _, members in table[numbers].groupby(same, sort=False):
        group = [html.escape(text) for text in labels.loc[members.index[0]]]
        cells.append([*group, *(_spread(members[key].dropna()) for key in numbers), str(len(members))])
    return [*labels, *numbers, "runs"], cells


def _spread(values: pd.Series) -> str:
    if values.empty:
        return ""
    mean = values.mean()
    digits = 0 if (values % 1 == 0).all() else 1 if abs(mean) >= 1 else 3
    if len(values) == 1:
        return f"{mean:,.{digits}f}"
    digits = max(digits, 1)
    return f"{mean:,.{digits}f} ± {values.std():.{digits}f}"


def _table(header: list[str], rows: list[list[str]]) -> str:
    """An HTML table; columns of numbers are set flush right, their headings with them."""
    numeric = [all(re.fullmatch(r"-?[\d,.]*( ± .*)?", row[place]) for row in rows) for place in range(len(header))]
    marks = [' class="n"' if right else "" for right in numeric]

    def line(cells: list[str], tag: str) -> str:
        filled = [f"<{tag}{mark}>{cell}</{tag}>" for mark, cell in zip(marks, cells, strict=True)]
        return f"<tr>{''.join(filled)}</tr>"

    lines = "\n".join([line(header, "th"), *(line(row, "td") for row in rows)])
    return f'<div class="wide"><table>\n{lines}\n</table></div>'


def _made_with(abouts: list[dict]) -> str:
    """Versions, commit and device, once if all runs agree."""
    said = []
    for about in abouts:
        commit = (about.get("commit") or "no commit")[:10] + (" with changes" if about.get("dirty") else "")
        versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items() if number)
        said.append(f"commit {commit} · {about['device']} · {versions}")
    lines = "<br>".join(html.escape(line) for line in dict.fromkeys(said))
    return f'<h2>Made with</h2><p class="soft">{lines or "nothing yet"}</p>'
