"""What a batch on SLURM does, tested without one: threads, options, sentences, leftovers. tests/cluster has a real one."""

import json
import os
import time
from pathlib import Path

import pytest
import yaml

from course.batch import launch, monitor, plan, slurm
from course.batch.launch import main
from lt_utils.errors import CourseError

DATA = "fashion-mnist-small"
RUN = f"{DATA}-if100-seed0"
NAME = "01_long_tailed_data"
PARAMETERS = {"DATASET": DATA, "IMBALANCE": 100, "SEED": 0, "RUN": ""}
OPEN = f"import os\nfrom lt_utils.runs import open_run\nrun = open_run({NAME!r}, globals())"
TELL = "run.finish([], **{name: os.environ[name] for name in ('OMP_NUM_THREADS', 'MKL_NUM_THREADS')})"


@pytest.fixture
def batch(tmp_path, monkeypatch, notebook):
    """One small notebook that says how many threads it was given, and the configuration that runs it."""
    for name in ("OMP_NUM_THREADS", "LT_JOB_THREADS", "SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE", "MAKELEVEL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LT_NOTEBOOKS", str(tmp_path / "notebooks"))
    monkeypatch.setenv("LT_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    notebook(tmp_path / "notebooks" / f"{NAME}.ipynb", PARAMETERS, OPEN, TELL)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"profile": "tiny", "datasets": [DATA], "seeds": [0], "notebooks": {NAME: {}}}))
    return path


@pytest.fixture
def board(batch):
    """What follows a batch of that notebook on a cluster."""
    (job,) = plan.plan(plan.read_config(batch))
    (job.folder.parent.parent / ".batch").mkdir(parents=True)
    return monitor.ProgressMonitor(job.folder.parent.parent, [job], jobs=1, cluster=True)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """Write programs of SLURM as shell scripts; they come first in PATH and stand in the folder that is returned."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def write(**scripts: str) -> Path:
        for name, script in scripts.items():
            (folder / name).write_text(f"#!/bin/sh\n{script}\n")
            (folder / name).chmod(0o755)
        return folder

    return write


@pytest.mark.parametrize(
    ("said", "given", "threads"), [("", "4", 4), ("2", "4", 2), ("8", "4", 4), ("3", "", 3), ("", "", 1)]
)
def test_a_job_has_as_many_threads_as_slurm_gave_it_cores(said, given, threads, monkeypatch):
    monkeypatch.setenv("LT_JOB_THREADS", said)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    assert slurm.job_threads() == threads


def test_the_notebook_gets_the_cores_of_its_job_not_those_of_the_machine_it_was_started_on(batch, monkeypatch):
    """Snakemake's local executor in the place of SLURM's, which sets SLURM_CPUS_PER_TASK inside a job."""
    monkeypatch.setattr(launch, "cores", lambda: 64)  # a login node
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "2")
    assert main([str(batch), "--jobs", "20", "--", "--executor", "local", "--cores", "2"]) == 0
    facts = json.loads(Path(f"runs/tiny/{NAME}/{RUN}/record.json").read_text())["facts"]
    assert facts == {"OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "LT_JOB_THREADS"])
def test_a_batch_on_a_cluster_asks_for_jobs_and_says_nothing_of_its_own_threads(name, batch, monkeypatch):
    monkeypatch.setenv(name, "1")  # as many login nodes have it for everybody
    monkeypatch.setattr(launch, "cores", lambda: 64)
    jobs = plan.plan(plan.read_config(batch))
    command, environment = launch._snakemake(jobs, 1, Path("runs/tiny"), 20, ["--profile", "profiles/slurm"])
    assert command[command.index("--jobs") + 1] == "20" and "--cores" not in command
    assert environment["LT_JOB_THREADS"] == ""
    assert not {"LT_BATCH", "LT_GPUS"} & environment.keys()
    assert json.loads(Path("runs/tiny/.batch/plan.json").read_text())["gpu"] == 1  # though there is none here
    assert environment["LT_RUNS"] == str(Path("runs").absolute())


def test_a_batch_inside_a_job_shares_the_cores_of_the_job(batch, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "8")
    jobs = plan.plan(plan.read_config(batch))
    command, environment = launch._snakemake(jobs, 0, Path("runs/tiny"), 2, [])
    assert environment["LT_JOB_THREADS"] == "4" and command[command.index("--cores") + 1] == "8"


def test_jobs_of_a_batch_that_could_not_cancel_them_are_cancelled(programs, tmp_path, monkeypatch):
    log = tmp_path / "snakemake.log"
    assert slurm.cancel_leftovers(log) == 0  # no batch before
    log.write_text("Building DAG of jobs...\nSLURM run ID: course_55af8159-1\n")
    folder = programs(
        squeue='case "$*" in *"--name course_55af8159-1 "*) cat "$(dirname "$0")/queue";; esac',
        scancel='echo "$@" > "$(dirname "$0")/cancelled"; : > "$(dirname "$0")/queue"',
    )
    (folder / "queue").write_text("7\n8\n")
    assert slurm.cancel_leftovers(log) == 2
    assert (folder / "cancelled").read_text() == "7 8\n"
    assert slurm.cancel_leftovers(log) == 0

    programs(scancel="exit 1")
    (folder / "queue").write_text("9\n")
    monkeypatch.setattr(slurm, "PATIENCE", 0.1)
    with pytest.raises(CourseError, match="SLURM does not end jobs of an earlier batch: 9; scancel them first"):
        slurm.cancel_leftovers(log)


LOGS = "/runs/tiny/.snakemake/slurm_logs"
SUBMITTED = f"Job 2 has been submitted with SLURM jobid 71 (log: {LOGS}/rule_long_tailed_data/{RUN}/71.log).\n"
ERROR = """[Sun Nov 29 05:28:55 2026]
Error in rule long_tailed_data:
    message: {message}For further error details see the cluster/cloud log and the log files of the involved rule(s).
    jobid: 2
    output: {output}/.done
"""
STATE = (
    "SLURM-job '71' failed, SLURM status is: '{}'. Detailed failure reason unavailable (status command is not 'sacct')."
)
NODE = "SLURM-job '71' failed due to a node failure, SLURM status is: 'NODE_FAIL'. Failed nodes will be excluded."
SBATCH = (
    "SLURM sbatch failed. The error message was 'sbatch: error: invalid partition specified: gpus\n"
    "sbatch: error: Batch job submission failed: Invalid partition name specified'.\n    sbatch call:\n        sbatch -p gpus\n"
)
ACCOUNT = "Job submission failed with exception: The given account my_account appears to be invalid. Available accounts:\na, b"


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            STATE.format("TIMEOUT"),
            "SLURM ended it at its time limit (runtime in the profile); started again, the run goes on",
        ),
        (
            STATE.format("CANCELLED"),
            "its SLURM job was cancelled; started again, the run goes on from its last checkpoint",
        ),
        (
            STATE.format("OUT_OF_MEMORY"),
            "it needed more memory than it had asked for (mem_mb in the profile) (SLURM job 71)",
        ),
        (STATE.format("FAILED"), "its job ended (FAILED) before it could say why (SLURM job 71)"),
        (NODE, "the node it ran on failed; started again, the run goes on from its last checkpoint (SLURM job 71)"),
        (SBATCH, "SLURM did not take it: invalid partition specified: gpus"),
        (ACCOUNT, "SLURM did not take it: The given account my_account appears to be invalid. Available accounts:"),
    ],
)
def test_what_became_of_a_job_is_one_sentence(message, sentence, board, capsys):
    log = board.folder / ".batch" / "snakemake.log"

    def happens(text: str) -> str:
        with open(log, "a") as file:
            file.write(text)
        board.update()
        return capsys.readouterr().out

    board.update()  # before there is a log
    assert happens(SUBMITTED[:40]) == ""  # half a line
    assert happens(SUBMITTED[40:]) == "01_long_tailed_data waits in SLURM's queue as job 71\n"
    assert happens(ERROR.format(message="None", output=f"{NAME}/{RUN}")) == ""  # no error of the executor
    assert happens(ERROR.format(message=message, output="03_encoders/of another batch")) == ""
    said = happens(ERROR.format(message=message, output=f"{NAME}/{RUN}"))
    assert said.startswith(f"[1/1] 01_long_tailed_data FAILED: {sentence}") and said.count("\n") == 1
    assert sentence in board.closing(1) and "the same command goes on" in board.closing(1)


def test_a_run_that_has_said_why_it_failed_is_not_told_twice_and_one_that_slurm_starts_anew_says_so(board, capsys):
    (run,) = board.todo

    def tell(**event: object) -> None:
        with open(board.events, "a") as file:
            file.write(json.dumps({"run": run, "time": time.time(), **event}) + "\n")

    tell(event="start", goes_on=False, node="n1")
    board.update()
    tell(event="start", goes_on=True, node="n2")
    board.update()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("[1/1] 01_long_tailed_data · on n1 · about")
    assert second.startswith("[1/1] 01_long_tailed_data · started again · goes on · on n2 · about")
    tell(event="fail", seconds=1.0, error="ValueError: no")
    (board.folder / ".batch" / "snakemake.log").write_text(
        ERROR.format(message=STATE.format("FAILED"), output=f"{NAME}/{RUN}")
    )
    board.update()
    assert "FAILED after" in capsys.readouterr().out and "ValueError: no" in board.closing(1)
