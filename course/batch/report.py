"""The report of a batch, <profile>/index.html: what was found, a card for each notebook, then every number measured."""

import html
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from course.batch.execute import is_finished
from course.batch.pages import AGAIN, Summary, summary_of, to_html, write_page
from course.batch.plan import Job
from lt_utils.files import read_json, write_whole
from lt_utils.progress import duration
from lt_utils.runs.parameters import notebook_path

SCOREBOARD = "12_scoreboard"  # its picture comes first
SETTINGS = ("imbalance", "omega", "steps", "eta", "images")  # numbers that tell rows apart, as their texts do
MEASURES = 10  # columns of a table, at most; the others are in the record
PAGES, LINES = 1000, 200  # runs that are made readable in a browser, if there are no more; runs named on a card
HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><style>
:root {{ color-scheme: light dark; --line: #8884; --soft: #767676; --bad: #c0392b; --card: #8881; }}
@media (prefers-color-scheme: dark) {{ :root {{ --soft: #a0a0a0; --bad: #ff7b6b; }} }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.7rem; }} h2 {{ font-size: 1.25rem; margin-top: 2.4rem; }} h3 {{ font-size: 1.05rem; margin: .6rem 0 .2rem; }}
p {{ margin: .3rem 0 .6rem; }} li {{ margin: .25rem 0; }} li p {{ display: inline; }}
img {{ max-width: 100%; background: white; border-radius: 6px; }}
.cards {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(20rem, 1fr)); gap: 1.1rem; }}
.card {{ background: var(--card); border-radius: 10px; padding: 1rem; }}
.card img {{ width: 100%; height: 13rem; object-fit: contain; }}
table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ text-align: left; padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); }}
th {{ color: var(--soft); font-weight: 600; }} td.n, th.n {{ text-align: right; white-space: nowrap; }}
.soft {{ color: var(--soft); }} .bad {{ color: var(--bad); }} div.wide {{ overflow-x: auto; }}
summary {{ cursor: pointer; padding: .35rem 0; font-weight: 600; }}
</style><title>Course report: {name}</title></head><body>
<h1>Long-tailed recognition and diffusion: the {name} run</h1>
"""


def build(folder: Path, jobs: list[Job]) -> Path:
    """Convert what was executed to HTML, write <folder>/index.html anew and return its path. CourseError: no room."""
    finished = {job.folder: read_json(job.folder / "batch.json") for job in jobs if is_finished(job.folder)}
    # A page takes about a second: of many thousand runs the first of each notebook has one.
    pages = {job.notebook: job.folder for job in reversed(jobs) if job.folder in finished}.values()
    for run in finished if len(finished) <= PAGES else pages:
        write_page(run / "notebook.ipynb")
    abouts = list(finished.values())
    names = sorted({job.notebook for job in jobs})
    summaries = {name: _summary(name, jobs, finished) for name in names}
    work = f", {duration(sum(about['seconds'] for about in abouts))} of work" if abouts else ""
    parts = [
        f'<p class="soft">{len(abouts)} of {len(jobs)} notebook runs finished{work}.</p>',
        *_findings(summaries),
        "<h2>The notebooks</h2>",
        '<div class="cards">',
        *(
            _card(folder, name, summaries[name], [job for job in jobs if job.notebook == name], finished)
            for name in names
        ),
        "</div>",
        *_measured(jobs, summaries),
        _made_with(abouts),
    ]
    page = HEAD.format(name=html.escape(folder.name)) + "\n".join([*parts, "</body></html>", ""])
    write_whole(folder / "index.html", lambda file: file.write(page.encode()), AGAIN)
    return folder / "index.html"


def _summary(name: str, jobs: Iterable[Job], finished: Mapping[Path, object]) -> Summary:
    """What a notebook says of itself, and its picture as the first finished run shows it."""
    runs = [job.folder / "notebook.ipynb" for job in jobs if job.notebook == name and job.folder in finished]
    return summary_of(next((path for path in runs if path.exists()), notebook_path(name)))


def _findings(summaries: Mapping[str, Summary]) -> list[str]:
    """The scoreboard as a picture, then what each notebook found."""
    found = [
        f"<li><b>{name[:2]}</b> <i>{to_html(summary.question)}</i> {to_html(summary.finding)}</li>"
        for name, summary in summaries.items()
        if summary.finding
    ]
    picture = summaries[SCOREBOARD].figure if SCOREBOARD in summaries else ""
    shown = f'<p><img alt="The scoreboard: every method with its error bar" src="data:image/png;base64,{picture}"></p>'
    parts = ["<h2>What was found</h2>"] if picture or found else []
    return [*parts, *([shown] if picture else []), *(["<ul>", *found, "</ul>"] if found else [])]


def _card(folder: Path, name: str, summary: Summary, jobs: list[Job], finished: Mapping[Path, Mapping]) -> str:
    """Title, picture, question and time of a notebook, and a line for each of its runs."""
    title, first = html.escape(summary.title), next((job for job in jobs if job.folder in finished), None)
    if first:
        title = f'<a href="{_link(folder, first)}/notebook.html">{title}</a>'
    picture = f'<img alt="" src="data:image/png;base64,{summary.figure}">' if summary.figure else ""
    shown = jobs if len(jobs) <= LINES else sorted(jobs, key=lambda job: job.folder in finished)[:LINES]
    lines = [_run(folder, job, finished.get(job.folder)) for job in shown]
    if len(jobs) > LINES:
        lines.append(f"and {len(jobs) - LINES:,} more, each in its folder")
    return f'<div class="card">{picture}<h3>{title}</h3>{to_html(summary.question)}<p>{"<br>".join(lines)}</p></div>'


def _link(folder: Path, job: Job) -> str:
    return job.folder.relative_to(folder).as_posix()


def _run(folder: Path, job: Job, about: Mapping | None) -> str:
    """One run in a line: its data set and seed, how long it took or what became of it, and its log."""
    there, name = _link(folder, job), "" if job.run == "all" else html.escape(job.run)
    if about:
        page = "notebook.html" if (job.folder / "notebook.html").exists() else "notebook.ipynb"
        name = name and f'<a href="{there}/{page}">{name}</a>'
        state = duration(about["seconds"])
    elif (job.folder / "failed.ipynb").exists():
        state = f'<span class="bad">failed</span>: <a href="{there}/failed.ipynb">so far</a>'
    else:
        state = "not finished"
    log = f'<a href="{there}/log.txt">log</a>' if (job.folder / "log.txt").exists() else ""
    return f'<span class="soft">{" · ".join(part for part in (name, state, log) if part)}</span>'


def _measured(jobs: list[Job], summaries: Mapping[str, Summary]) -> list[str]:
    """One folded table for each notebook with rows in its records: means and standard deviations over the seeds."""
    parts = []
    for notebook, about in summaries.items():
        records = [read_json(job.folder / "record.json") for job in jobs if job.notebook == notebook]
        rows = [row for record in records if record for row in record.get("rows", [])]
        if rows and notebook != SCOREBOARD:  # the scoreboard gathers the others' rows; they are here already
            header, cells, notes = summary(rows)
            parts += [
                f"<details><summary>{html.escape(about.title)}</summary>",
                _table(header, cells),
                notes,
                "</details>",
            ]
    return ["<h2>Every number</h2>", *parts] if parts else []


def summary(rows: list[Mapping[str, object]]) -> tuple[list[str], list[list[str]], str]:
    """Header and cells of a table of rows that differ in their seed only: `mean ± std (n)`, or `value` for one run; a note.

    Columns that are no numbers, and SETTINGS, tell the rows apart: different settings are never averaged. Those that are the
    same in all rows go into the note, and so does how many measures are left out. std is the sample's (n - 1).
    """
    table = pd.DataFrame(rows).drop(columns="seed", errors="ignore")
    numbers = [key for key in table.select_dtypes("number") if key not in SETTINGS and table[key].dtype != bool]
    labels = table.drop(columns=numbers)
    labels = labels.map(
        lambda value: "" if pd.isna(value) else f"{value:g}" if isinstance(value, (int, float)) else str(value)
    )
    shared = [key for key in labels if len(labels) > 1 and labels[key].nunique() == 1 and key != "method"]
    note = ", ".join(f"{html.escape(key)} {html.escape(labels[key].iloc[0])}" for key in shared)
    shown, rest = numbers[:MEASURES], len(numbers) - MEASURES
    if rest > 0:
        note += f"; {rest} more columns are in record.json of each run"
    same = pd.Series(["|".join(row) for row in labels.to_numpy()])
    labels = labels.drop(columns=shared)
    cells = []
    for _, members in table[numbers].groupby(same, sort=False):
        group = [html.escape(text) for text in labels.loc[members.index[0]]]
        cells.append([*group, *(_spread(members[key].dropna()) for key in shown), str(len(members))])
    return [*labels, *shown, "runs"], cells, f'<p class="soft">{note.removeprefix("; ")}</p>' if note else ""


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

    lines = "\n".join([line([html.escape(name) for name in header], "th"), *(line(row, "td") for row in rows)])
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
