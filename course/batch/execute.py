"""Run one job of a batch with papermill: the rules of the Snakefile call this. Everything about a run lies in its folder.

notebook.ipynb     the executed notebook, renamed to this when complete (notebook.part.ipynb until then)
parameters.yaml    every parameter with its value
record.json        what the notebook measured (written by the notebook, see lt_utils/runs/folder.py)
log.txt            what was printed, with times
batch.json         written last: when it was run, how long it took, with which versions and commit
failed.ipynb       only after an error: the notebook as far as it came
"""

import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
import time
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import yaml

from course.gates import FIGURES, figures_of
from course.kernel import own_kernel
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY, is_damaged, lock, read_json, unlock, write_json
from lt_utils.processes import when_starter_is_gone
from lt_utils.runs.folder import folders, move_aside, root
from lt_utils.runs.parameters import declared, notebook_path, notebooks_folder, read_notebook
from lt_utils.runs.provenance import surroundings

PATIENCE = 30.0  # seconds to wait until the processes of a killed batch have released a folder


def run_one(job: dict, upstream: list[Path]) -> int:
    """Execute a job (see plan.Job.decides) after those whose .done files are `upstream`.

    Returns the exit status: 0 finished (or already was), 1 the notebook failed.
    """
    if "LT_BATCH" in os.environ:
        # The group is Snakemake with its other jobs. Kernels are not in it: they see that their starter is gone, and end.
        when_starter_is_gone(lambda: os.killpg(0, signal.SIGKILL))
    folder = root() / job["parameters"]["RUN"]
    texts = [path.read_text() for path in upstream]
    identity = json.dumps([job, *texts], sort_keys=True)
    fingerprint = hashlib.sha256(identity.encode()).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock(folder.parent, f".{folder.name}.lock", patience=PATIENCE)
    # The batch may have been killed after the run was complete and before Snakemake knew.
    if is_finished(folder) and read_json(folder / "batch.json")["fingerprint"] == fingerprint:
        mark_done(folder)
        log_event(job, "kept")
        return 0
    where = {"node": os.environ["SLURMD_NODENAME"]} if "SLURMD_NODENAME" in os.environ else {}
    log_event(job, "start", goes_on=_prepare_folder(folder, fingerprint), **where)
    begin = time.monotonic()
    error = _execute(job, folder)
    seconds = round(time.monotonic() - begin, 1)
    if error is not None:
        log_event(job, "fail", seconds=seconds, error=error)
        return 1
    about = {"fingerprint": fingerprint, "code": job["code"], "seconds": seconds, **surroundings()}
    about |= {"bytes": (folder / "notebook.ipynb").stat().st_size, "job": job_hash(job)}
    about["upstream"] = (
        {str(path): text for path, text in zip(upstream, texts, strict=True)} if len(upstream) < 10 else None
    )
    write_json(folder / "batch.json", about | {"finished": datetime.now(UTC).isoformat(timespec="seconds")})
    mark_done(folder)
    log_event(job, "finish", seconds=seconds)
    return 0


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds a complete executed run: each of its files is there and whole.

    The notebook, by far the largest, is not read again if batch.json says its length: of many thousand runs that took hours.
    """
    about = read_json(folder / "batch.json")
    if about is None or read_json(folder / "record.json") is None:
        return False
    notebook = folder / "notebook.ipynb"
    if "bytes" in about:
        return notebook.exists() and notebook.stat().st_size == about["bytes"]
    return read_json(notebook) is not None


def is_current(folder: Path, job: dict, profile: Path) -> bool:
    """Whether a run is finished and surely what would come out now: the same job, on the same runs that it built on.

    Costs no Snakemake, which decides where this says False. profile: the folder of the batch.
    """
    about = read_json(folder / "batch.json") or {}
    built_on = about.get("upstream")
    if about.get("job") != job_hash(job) or built_on is None or not is_finished(folder):
        return False
    expected = {folder / ".done": _mark(about)}
    expected |= {profile / path: text for path, text in built_on.items()}
    try:
        return all(path.read_text() == text for path, text in expected.items())
    except OSError:
        return False


def job_hash(job: dict) -> str:
    """Hash of a job and of the Snakefile, which says what it builds on."""
    content = json.dumps(job, sort_keys=True).encode() + _snakefile()
    return hashlib.sha256(content).hexdigest()[:16]


@cache
def _snakefile() -> bytes:
    return (REPOSITORY / "Snakefile").read_bytes()


def mark_done(folder: Path) -> None:
    """Write .done, the file that Snakemake looks at.

    Its content changes with every execution: Snakemake repeats no run for an input that is newer but has the same content.
    """
    about = read_json(folder / "batch.json")
    (folder / ".done").write_text(_mark(about))


def _mark(about: dict) -> str:
    """What stands in the .done of a finished run, whose batch.json holds `about`."""
    return f"{about['fingerprint']} {about['finished']}\n"


def _prepare_folder(folder: Path, fingerprint: str) -> bool:
    """Keep the folder if it holds this same run, killed in the middle: it goes on. Else move it aside and begin afresh.

    Returns whether it goes on.
    """
    begun = {}
    if folder.exists():
        lock(folder, patience=PATIENCE)  # the kernel of a killed batch needs a second to notice
        unlock(folder)
        begun = {} if is_damaged(folder / "run.json") else read_json(folder / "begun.json") or {}
        empty = all(path.name.startswith(".") for path in folder.iterdir())  # made by Snakemake just now
        if not empty and (begun.get("fingerprint") != fingerprint or (folder / "batch.json").exists()):
            move_aside(folder)
            begun = {}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "begun.json", {"fingerprint": fingerprint})
    (folder / "failed.ipynb").unlink(missing_ok=True)
    return bool(begun)


def _execute(job: dict, folder: Path) -> str | None:
    """Execute the notebook in this folder; None if all went well, else the error in one line."""
    notebook, parameters = notebook_path(job["notebook"]), job["parameters"]
    values = yaml.safe_dump(declared(notebook) | parameters, sort_keys=False, allow_unicode=True)
    (folder / "parameters.yaml").write_text(values, encoding="utf-8")
    part = folder / "notebook.part.ipynb"
    os.environ |= folders()  # the kernel starts in the folder of notebooks
    _take_gpus()
    with open(folder / "log.txt", "ab") as file:
        for descriptor in (1, 2):  # all that this process and its kernel print from here on
            os.dup2(file.fileno(), descriptor)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    log = logging.getLogger("papermill")

    import nbformat  # here, because these imports take longer than a run that is kept
    import papermill
    from papermill.exceptions import PapermillExecutionError

    try:
        how = dict(kernel_name="python3", cwd=str(notebooks_folder()), progress_bar=False, log_output=True)
        with own_kernel():
            executed = papermill.execute_notebook(_as_path(notebook), _as_path(part), parameters, **how)
    except KeyboardInterrupt:
        return "stopped"
    except PapermillExecutionError as error:
        log.error("%s", error)
        failure = f"{error.ename}: {error.evalue}"
    except Exception as error:  # the kernel died, the disk is full ...: one line, the rest is in the log
        log.exception("The run failed outside of the notebook's own code.")
        died = type(error).__name__ == "DeadKernelError"
        failure = "the kernel was killed (for lack of memory?)" if died else f"{type(error).__name__}: {error}"
    else:
        for key in ("input_path", "output_path"):  # no machine paths in what may be published
            executed.metadata.papermill.pop(key, None)
        nbformat.write(executed, part)
        failure = lost_figures(read_notebook(notebook), executed)
        if not failure:
            part.replace(folder / "notebook.ipynb")
            return None
        log.error("%s", failure)
    if part.exists():
        part.replace(folder / "failed.ipynb")
    return failure.strip().splitlines()[0]


def _as_path(path: Path) -> str:
    """A path for papermill, which would put a parameter's value in the place of braces."""
    return str(path).replace("{", "{{").replace("}", "}}")


def lost_figures(stored: dict, executed: dict) -> str:
    """ "" if an executed notebook has its figures, else what is wrong: the one in the repository stores how many it makes.

    Three are enough, if it stores more: which of them are drawn may depend on the parameters.
    """
    has, needs = len(figures_of(executed)), min(len(figures_of(stored)), FIGURES[0])
    if has >= needs:
        return ""
    return f"{has} figures, and the notebook makes {needs} at least: has a cell chosen another matplotlib backend?"


def _take_gpus() -> None:
    """Lock the GPUs that a run needs: Snakemake counts them (LT_GPUS lists them), but not which of them are free.

    Of several each gets a process of every training and sampling that can be divided (LT_RANKS).
    """
    needs, taken = int(os.environ.get("LT_NEEDS_GPU", "0")), []
    if needs > 1:
        os.environ["LT_RANKS"] = str(needs)
    numbers = [number for number in os.environ.get("LT_GPUS", "").split(",") if number]
    if not needs or not numbers:
        return
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for number in numbers:
            if number not in taken and len(taken) < needs:
                with contextlib.suppress(CourseError):
                    lock(root(), f".gpu-{number}.lock")
                    taken.append(number)
        if len(taken) == needs:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
            return
        time.sleep(0.5)
    free = f"Only {len(taken)} of {needs} GPUs are" if taken else "No GPU is"
    raise CourseError(f"{free} free ({', '.join(numbers)}): another batch uses them; start again when it has ended.")


def log_event(job: dict, event: str, **facts: object) -> None:
    """Append one line to <profile>/.batch/events.jsonl, which the batch follows (see monitor.py)."""
    name = job["parameters"]["RUN"]
    events = root() / name.split("/")[0] / ".batch" / "events.jsonl"
    events.parent.mkdir(parents=True, exist_ok=True)  # started by hand, there may be no batch
    # On a file system that nodes share, only who holds a lock appends where the file ends now.
    with contextlib.suppress(CourseError):
        lock(events.parent, ".events.lock", patience=PATIENCE)
    with open(events, "a", encoding="utf-8") as file:
        file.write(json.dumps({"event": event, "run": name, "time": time.time(), **facts}, ensure_ascii=False) + "\n")
    unlock(events.parent, ".events.lock")


def main(arguments: list[str]) -> int:
    """python -m course.batch.execute JOB [.done of the runs it builds on ...], JOB being the JSON of plan.Job.decides."""
    job = None
    try:
        if not arguments:
            raise CourseError("Give a job; python -m course run starts this and does so.")
        with contextlib.suppress(ValueError):
            job = json.loads(arguments[0])
        if not (isinstance(job, dict) and "RUN" in job.get("parameters", ())):
            raise CourseError(f"{arguments[0]} is no job; start the batch with python -m course run, which makes it.")
        return run_one(job, [Path(name) for name in arguments[1:]])
    except CourseError as error:
        if isinstance(job, dict) and "RUN" in job.get("parameters", ()):
            log_event(job, "fail", seconds=0.0, error=str(error))
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
