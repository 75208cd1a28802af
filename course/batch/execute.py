"""Run one notebook of a batch with papermill, so that its folder tells the whole story.

notebook.ipynb     the executed notebook, renamed to this when complete (notebook.part.ipynb until then)
parameters.yaml    every parameter with its value
record.json        what the notebook measured (written by the notebook, see folder.py)
log.txt            what was printed, with times
batch.json         written last: what was run, when, how long, with which versions and commit
failed.ipynb       only after an error: the notebook as far as it came
"""

import contextlib
import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from lt_utils.errors import CourseError
from lt_utils.files import is_damaged, lock, locked_by, read_json, unlock, write_json
from lt_utils.runs.folder import folders, move_aside, root
from lt_utils.runs.parameters import declared, notebook_path, notebooks_folder
from lt_utils.runs.provenance import surroundings

PATIENCE = 30.0  # seconds to wait for the rest of a killed batch to let go of a folder


def run_one(paper: Path, upstream: list[Path]) -> int:
    """Execute the run that `paper` describes (see plan.py), after those whose .done files are `upstream`.

    Returns the exit status: 0 finished (or already was), 1 the notebook failed, 2 it was refused.
    """
    want = read_json(paper)
    if not {"notebook", "folder", "parameters"} <= set(want or ()):
        raise CourseError(f"{paper} is no paper of a run; start the batch with python -m course run, which writes it.")
    folder = root() / want["folder"]
    watch_batch()
    earlier = [read_json(path) or {} for path in upstream]
    identity = [want, [[one.get("fingerprint"), one.get("finished")] for one in earlier]]
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock(folder.parent, f".{folder.name}.lock", patience=PATIENCE)
    if is_finished(folder) and read_json(folder / "batch.json")["fingerprint"] == fingerprint:
        tell(want, "kept")
        _stamp(folder)
        return 0
    _make_ready(folder, fingerprint)
    tell(want, "start")
    begin = time.monotonic()
    error = _execute(want, folder)
    seconds = round(time.monotonic() - begin, 1)
    if error is not None:
        tell(want, "fail", seconds=seconds, error=error)
        return 1
    facts = {"fingerprint": fingerprint, **want, "seconds": seconds, **surroundings()}
    write_json(folder / "batch.json", facts | {"finished": datetime.now(UTC).isoformat(timespec="seconds")})
    _stamp(folder)
    tell(want, "finish", seconds=seconds)
    return 0


def is_finished(folder: Path) -> bool:
    """Whether a run folder holds a whole, executed run: each of its files is there and can be read."""
    return all(read_json(folder / name) is not None for name in ("batch.json", "record.json", "notebook.ipynb"))


def _stamp(folder: Path) -> None:
    """Write .done, the file that Snakemake looks at: a copy of batch.json, as old as that."""
    (folder / ".done").write_bytes((folder / "batch.json").read_bytes())
    times = (folder / "batch.json").stat()
    os.utime(folder / ".done", ns=(times.st_atime_ns, times.st_mtime_ns))


def _make_ready(folder: Path, fingerprint: str) -> None:
    """A folder of the right run: continued if it was killed in the middle of just this one, else begun afresh."""
    if folder.exists():
        lock(folder, patience=PATIENCE)  # the kernel of a killed batch needs a second to notice
        unlock(folder)
        begun = {} if is_damaged(folder / "run.json") else read_json(folder / "begun.json") or {}
        empty = all(path.name.startswith(".") for path in folder.iterdir())  # made by Snakemake just now
        if not empty and (begun.get("fingerprint") != fingerprint or (folder / "batch.json").exists()):
            move_aside(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "begun.json", {"fingerprint": fingerprint})
    (folder / "failed.ipynb").unlink(missing_ok=True)


def _execute(want: dict, folder: Path) -> str | None:
    """Execute the notebook in this folder; None if all went well, else the error in one line."""
    import yaml

    notebook, parameters = want["notebook"], want["parameters"]
    values = declared(notebook_path(notebook)) | parameters
    (folder / "parameters.yaml").write_text(
        yaml.safe_dump(values, sort_keys=False, allow_unicode=True), encoding="utf-8"
    )
    part = folder / "notebook.part.ipynb"
    os.environ |= {**folders(), "JUPYTER_PREFER_ENV_PATH": "1"}  # the kernel starts in the folder of notebooks
    _take_gpu()
    with _log_to(folder / "log.txt"):
        import papermill
        from papermill.exceptions import PapermillExecutionError

        try:
            papermill.execute_notebook(
                str(notebook_path(notebook)),
                str(part),
                parameters=parameters,
                kernel_name="python3",
                cwd=str(notebooks_folder()),
                progress_bar=False,
                log_output=True,
            )
        except KeyboardInterrupt:
            return "stopped"
        except PapermillExecutionError as error:
            logging.getLogger("papermill").error("%s", error)
            failure = f"{error.ename}: {error.evalue}".strip()
        except Exception as error:  # the kernel died, the disk is full ...: one line, the rest is in the log
            logging.getLogger("papermill").exception("The run failed outside of the notebook's own code.")
            died = type(error).__name__ == "DeadKernelError"
            failure = (
                "the kernel was killed (for lack of memory?)" if died else f"{type(error).__name__}: {error}".strip()
            )
        else:
            failure = None
    if failure is not None:
        if part.exists():
            part.replace(folder / "failed.ipynb")
        return failure.splitlines()[0]
    _tidy(part)
    part.replace(folder / "notebook.ipynb")
    return None


def _tidy(path: Path) -> None:
    """Take the machine's paths out of an executed notebook's metadata."""
    content = json.loads(path.read_text(encoding="utf-8"))
    about = content["metadata"].get("papermill", {})
    for key in ("input_path", "output_path"):
        about.pop(key, None)
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _log_to(path: Path):
    """Everything that this process and its kernel say goes to the log."""
    sys.stdout.flush()
    kept = os.dup(1), os.dup(2)
    with open(path, "ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)
        try:
            yield
        finally:
            sys.stdout.flush()
            os.dup2(kept[0], 1)
            os.dup2(kept[1], 2)


def _take_gpu() -> None:
    """Give a run that needs one a GPU of its own: Snakemake counts GPUs (LT_GPUS lists them), but not which is free."""
    numbers = [number for number in os.environ.get("LT_GPUS", "").split(",") if number]
    if os.environ.get("LT_NEEDS_GPU", "0") == "0" or not numbers:
        return
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for number in numbers:
            try:
                lock(root(), f".gpu-{number}.lock")
            except CourseError:
                continue
            os.environ["CUDA_VISIBLE_DEVICES"] = number
            return
        time.sleep(0.5)
    raise CourseError(f"No GPU is free ({', '.join(numbers)}): another batch uses them; start again when it has ended.")


def tell(want: dict, event: str, **facts: object) -> None:
    """One line for the batch that watches (see launch.py)."""
    profile = want["folder"].split("/")[0]
    line = {"event": event, "folder": want["folder"], "time": round(time.time(), 2), **facts}
    events = root() / profile / ".batch" / "events.jsonl"
    events.parent.mkdir(parents=True, exist_ok=True)  # started by hand, there may be no batch
    with open(events, "a", encoding="utf-8") as file:
        file.write(json.dumps(line, ensure_ascii=False) + "\n")


def watch_batch(every: float = 1.0) -> None:
    """End this process and its group as soon as the batch that started it is gone, however it went (even kill -9).

    The batch holds a lock for as long as it lives; LT_BATCH names the lock's file and the process that must hold it.
    """
    if not os.environ.get("LT_BATCH"):
        return
    holder, path = os.environ["LT_BATCH"].split(":", 1)

    def look() -> None:
        while locked_by(Path(path)) == holder:
            time.sleep(every)
        if os.environ.get("LT_BATCH_GROUP") == str(os.getpgrp()):
            os.killpg(os.getpgrp(), signal.SIGKILL)  # Snakemake and its other jobs, too; kernels see it and end
        os._exit(1)

    threading.Thread(target=look, daemon=True).start()


def main(arguments: list[str]) -> int:
    """python -m course.batch.execute PAPER [.done of the runs it builds on ...]: what the rules of the Snakefile call."""
    if not arguments:
        print("Give the paper of a run; python -m course run starts this and does so.", file=sys.stderr)
        return 2
    paper, *upstream = map(Path, arguments)
    try:
        return run_one(paper, upstream)
    except CourseError as error:
        want = read_json(paper)
        if "folder" in (want or ()):
            tell(want, "fail", seconds=0.0, error=str(error))
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
