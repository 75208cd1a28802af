"""Run folders, parameters and progress: what is refused, what is kept, what is printed."""

import errno
import json
import subprocess
import sys
import time
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch

from lt_utils import files, progress
from lt_utils.errors import CourseError
from lt_utils.runs import parameters
from lt_utils.runs.folder import find_run, open_run, records
from lt_utils.training.loop import train

PARAMETERS = {"DATASET": "fashion-mnist-small", "IMBALANCE": 100, "SEED": 0, "EPOCHS": 3, "RATE": 0.1, "RUN": ""}
HOLD = """
import sys, time
from pathlib import Path
from lt_utils.files import lock
lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


def papermill(**given) -> dict:
    """The names of a notebook after papermill's cell and what IPython keeps of it."""
    lines = "".join(f"{name} = {value!r}\n" for name, value in given.items())
    return given | {"In": ["", "EPOCHS = 3  # its own", f"# Parameters\n{lines}"]}


@pytest.fixture
def course(tmp_path, monkeypatch, notebook):
    """A folder of two small notebooks and an empty folder of runs; returns the folder of runs."""
    monkeypatch.setenv("LT_NOTEBOOKS", str(tmp_path / "notebooks"))
    monkeypatch.setenv("LT_RUNS", str(tmp_path / "runs"))
    setup = "from a import TABLE\nrun = open_run('03_encoders', globals())"
    for name in ("03_encoders", "08_classifier_retraining"):
        more = {"ENCODER_RUN": ""} if name.startswith("08") else {}
        notebook(tmp_path / "notebooks" / f"{name}.ipynb", PARAMETERS | more, setup, "DEPTH = 8")
    return tmp_path / "runs"


def test_default_folder_record_and_neighbour(course):
    run = open_run("03_encoders", dict(PARAMETERS))
    assert run.path == course / "lab/03_encoders/fashion-mnist-small-if100-seed0"
    assert run.name == "lab/03_encoders/fashion-mnist-small-if100-seed0"
    assert run.checkpoint("ce").relative_to(run.path).as_posix() == "checkpoints/ce.safetensors"
    later = PARAMETERS | {"ENCODER_RUN": ""}
    assert find_run("03_encoders", later, key="ENCODER_RUN") is None  # begun, but not finished
    run.finish([{"method": "CE", "accuracy": 69.1}], classes=10)
    record = json.loads((run.path / "record.json").read_text())
    assert record["rows"] == [{"method": "CE", "accuracy": 69.1}] and record["facts"] == {"classes": 10}
    assert {"notebook", "parameters", "versions", "commit", "dirty", "device", "threads"} <= set(record)
    assert record["seconds"] >= 0 and record["finished"].endswith("+00:00")
    found = find_run("03_encoders", later, key="ENCODER_RUN")
    assert found.path == run.path and found.record == record
    assert find_run("03_encoders", later | {"SEED": 1}, key="ENCODER_RUN") is None
    assert find_run("03_encoders", {"ENCODER_RUN": run.name}, key="ENCODER_RUN").path == run.path
    assert [one["notebook"] for one in records(course)] == ["03_encoders"]


def test_neighbour_of_a_run_with_its_own_folder(course):
    name = "fashion-mnist-small-if100-seed0"
    open_run("03_encoders", PARAMETERS | {"RUN": f"quick/03_encoders/{name}"}).finish([])
    names = PARAMETERS | {"RUN": f"quick/08_classifier_retraining/{name}", "ENCODER_RUN": ""}
    assert find_run("03_encoders", names, key="ENCODER_RUN").path == course / "quick/03_encoders" / name
    assert find_run("03_encoders", names | {"RUN": ""}, key="ENCODER_RUN") is None  # the lab has its own


def test_given_neighbour_must_be_a_finished_run_of_that_notebook(course):
    with pytest.raises(CourseError, match="ENCODER_RUN: .*nowhere holds no finished run"):
        find_run("03_encoders", {"ENCODER_RUN": "nowhere"}, key="ENCODER_RUN")
    open_run("03_encoders", PARAMETERS | {"RUN": "x/y/z"}).finish([])
    with pytest.raises(CourseError, match="is a run of 03_encoders, not of 04_ddpm"):
        find_run("04_ddpm", {"ENCODER_RUN": "x/y/z"}, key="ENCODER_RUN")


def test_given_neighbour_must_have_the_same_data(course):
    run = open_run("03_encoders", PARAMETERS | {"RUN": "x/y/z"})
    run.finish([])
    given = PARAMETERS | {"RUN": "", "ENCODER_RUN": "x/y/z"}
    assert find_run("03_encoders", given | {"SEED": 1, "IMBALANCE": 100.0}, key="ENCODER_RUN").path == run.path
    for name, value in {"DATASET": "cifar10", "IMBALANCE": 10}.items():
        sentence = f"ENCODER_RUN: .*x/y/z has {name} {PARAMETERS[name]!r}, and this run has {value!r}: take another"
        with pytest.raises(CourseError, match=sentence):
            find_run("03_encoders", given | {name: value}, key="ENCODER_RUN")
    record = json.loads((run.path / "record.json").read_text())
    (run.path / "record.json").write_text(json.dumps(record | {"parameters": {}}))
    with pytest.raises(CourseError, match="x/y/z does not say its DATASET, and this run has 'fashion-mnist-small'"):
        find_run("03_encoders", given, key="ENCODER_RUN")


@pytest.mark.parametrize("content", ['{"notebook": "03_enc', "[]", '{"notebook": "03_encoders"}', ""])
@pytest.mark.parametrize("given", ["", "lab/03_encoders/fashion-mnist-small-if100-seed0"])
def test_a_damaged_record_is_not_taken_for_a_missing_one(course, given, content):
    run = open_run("03_encoders", PARAMETERS)
    (run.path / "record.json").write_text(content)
    with pytest.raises(
        CourseError, match="record.json cannot be read as the record of a run .*: run 03_encoders once more"
    ):
        find_run("03_encoders", PARAMETERS | {"ENCODER_RUN": given}, key="ENCODER_RUN")


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (
            papermill(EPOCSH=3),
            "unknown parameter EPOCSH: did you mean EPOCHS[?] Known: DATASET, IMBALANCE, SEED, EPOCHS",
        ),
        (papermill(DEPTH=20), "unknown parameter DEPTH"),  # a later constant of the notebook, not a parameter
        (papermill(depth=20), "unknown parameter depth"),
        ({"EPOCHS": "three"}, "EPOCHS must be a whole number such as 3, not 'three' [(]str[)]"),
        ({"EPOCHS": 2.5}, "EPOCHS must be a whole number"),
        ({"EPOCHS": True}, "EPOCHS must be a whole number"),
        ({"RATE": "0.1"}, "RATE must be a number"),
        ({"DATASET": 3}, "DATASET must be text"),
        ({"SEED": np.int64(1)}, r"SEED must be a whole number such as 0, not np.int64\(1\) \(int64\)"),
        ({"SEED": -1}, "SEED must be a number from 0, not -1"),
        ({"SEED": 2**40}, "SEED must be at most 1000000000, not 1099511627776"),
        ({"IMBALANCE": 0.5}, "IMBALANCE must be a number from 1, not 0.5"),
        ({"EPOCHS": 0}, "EPOCHS must be a number from 1, not 0"),
        ({"RATE": float("nan")}, "RATE must be a number from 0, not nan"),
    ],
)
def test_misspelt_and_mistyped_parameters_are_refused(course, names, sentence):
    with pytest.raises(CourseError, match=sentence):
        open_run("03_encoders", PARAMETERS | names)
    assert not course.exists()


@pytest.mark.parametrize("number", [0, -1])
def test_fewer_than_one_seed_are_refused(number):
    with pytest.raises(CourseError, match=f"parameter RUNS must be a number from 1, not {number}"):
        parameters.check({"RUNS": number}, {"RUNS": 3}, "03_encoders")


def test_constants_of_a_learner_are_no_parameters(course):
    own = {"DEBUG": True, "TOP_K": 5, "TABLE": {"a": 1}, "torch": 3, "PAPERMILL_INPUT_PATH": "x", "DEPTH": 8}
    names = PARAMETERS | papermill(RATE=1) | own
    names["In"] += ["run = open_run('03_encoders', globals())", "# Parameters\nTOP_K = 5", "TOP_K = 5"]
    open_run("03_encoders", names)
    open_run("03_encoders", PARAMETERS | own)  # without IPython
    open_run("03_encoders", PARAMETERS | {"In": ["", "# Parameters\nfor A in (1, 2):\n    pass\n", "%time"]})


def test_what_came_through_papermill_is_checked_in_a_kernel_and_what_was_typed_is_not(course, tmp_path):
    """A constant, and the set-up cell again: run. A misspelt parameter: refused."""
    papermill = pytest.importorskip("papermill")
    name = "08_classifier_retraining"
    source, out = tmp_path / "notebooks" / f"{name}.ipynb", tmp_path / "out.ipynb"
    content = json.loads(source.read_text())
    setup = f"from lt_utils.runs import open_run\nrun = open_run({name!r}, globals())"
    for cell, code in zip(content["cells"][2:], (setup, f"DEBUG = True\n{setup}"), strict=True):
        cell["source"] = code
    source.write_text(json.dumps(content))
    papermill.execute_notebook(source, out, {"EPOCHS": 1}, progress_bar=False)
    assert (
        json.loads((course / f"lab/{name}/fashion-mnist-small-if100-seed0/run.json").read_text())["parameters"][
            "EPOCHS"
        ]
        == 1
    )
    with pytest.raises(papermill.PapermillExecutionError, match="unknown parameter EPOCSH: did you mean EPOCHS"):
        papermill.execute_notebook(source, out, {"EPOCSH": 1}, progress_bar=False)


def test_ctrl_c_in_a_cell_is_one_sentence(course):
    """However deep it comes, with what the training says or without a word. The cell still counts as failed."""
    nbclient = pytest.importorskip("nbclient")
    setup = "\n".join(f"{name} = {value!r}" for name, value in PARAMETERS.items())
    setup += "\nfrom lt_utils.runs import open_run\nrun = open_run('03_encoders', globals())"
    deep = "def deep(n):\n    if not n:\n        raise KeyboardInterrupt({})\n    deep(n - 1)\ndeep(9)"
    cells = [
        nbformat.v4.new_code_cell(code) for code in (setup, deep.format("'stopped after step 3'"), deep.format(""))
    ]
    shown = nbformat.v4.new_notebook(cells=cells)
    nbclient.NotebookClient(shown, kernel_name="python3", allow_errors=True).execute()
    said = [output for cell in shown.cells[1:] for output in cell.outputs]
    assert [(one.ename, one.traceback) for one in said] == [
        ("KeyboardInterrupt", ["Interrupted: stopped after step 3."]),
        ("KeyboardInterrupt", ["Interrupted: the cell was not finished; run it again."]),
    ]


def test_unknown_notebook_and_missing_parameter(course):
    with pytest.raises(CourseError, match="Unknown notebook '03_encoder'. Did you mean '03_encoders'"):
        open_run("03_encoder", PARAMETERS)
    with pytest.raises(CourseError, match="DATASET is not set; run the parameters cell first"):
        open_run("03_encoders", {"EPOCHS": 3})


def test_same_parameters_continue_and_others_move_the_old_run_aside(course, capsys):
    run = open_run("03_encoders", PARAMETERS)
    run.checkpoint("ce").write_text("weights")
    run.finish([])
    assert open_run("03_encoders", PARAMETERS).checkpoint("ce").exists()
    assert capsys.readouterr().out == ""
    again = open_run("03_encoders", PARAMETERS | {"EPOCHS": 4})
    assert again.path == run.path and not again.checkpoint("ce").exists() and again.record is None
    aside = run.path.with_name(run.path.name + ".old-1")
    assert (aside / "record.json").exists() and (aside / "checkpoints/ce.safetensors").read_text() == "weights"
    said = f"{run.path.name} held a run with other parameters: moved aside to {aside.name}.\n"
    assert capsys.readouterr().out == said
    assert records(course) == []


def test_a_run_with_unreadable_parameters_is_moved_aside(course, capsys):
    run = open_run("03_encoders", PARAMETERS)
    run.checkpoint("ce").write_text("weights")
    (run.path / "run.json").write_text('{"notebook": "03_enc')
    again = open_run("03_encoders", PARAMETERS | {"EPOCHS": 4})
    assert again.path == run.path and not again.checkpoint("ce").exists()
    aside = run.path.with_name(run.path.name + ".old-1")
    assert (aside / "checkpoints/ce.safetensors").read_text() == "weights"
    said = f"{run.path.name} held a run whose run.json cannot be read: moved aside to {aside.name}.\n"
    assert capsys.readouterr().out == said


def test_a_folder_that_another_process_writes_is_refused(course):
    folder = course / "one"
    folder.mkdir(parents=True)
    other = subprocess.Popen([sys.executable, "-c", HOLD, folder, "60"], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CourseError, match=rf"process {other.pid} on \S+ is writing"):
            open_run("03_encoders", PARAMETERS | {"RUN": "one"})
    finally:
        other.kill()
        other.wait()
    open_run("03_encoders", PARAMETERS | {"RUN": "one"})  # free again, though the other was killed


def test_a_folder_that_cannot_be_written_is_one_sentence(course):
    course.mkdir()
    (course / "lab").write_text("a file where the folder should be")
    with pytest.raises(CourseError, match="cannot be written .*; set LT_RUNS to a folder of your own"):
        open_run("03_encoders", PARAMETERS)


def test_a_half_written_record_is_not_a_record(course):
    run = open_run("03_encoders", PARAMETERS)
    (run.path / "record.json").write_text('{"notebook": "03_enc')
    assert run.record is None and records(course) == []


def test_short_training_prints_one_line(course, capsys):
    open_run("03_encoders", PARAMETERS)
    steps = [SimpleNamespace(step=k, total=40, loss=0.5, images=128 * k) for k in range(1, 41)]
    assert list(progress.track(steps, "CE, seed 0")) == steps
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("CE, seed 0: step 40/40 · loss 0.5 · ") and lines[0].endswith(" 0.0 s")


@pytest.mark.parametrize("unit", ["images", "features"])
def test_long_training_prints_four_lines_and_writes_progress(unit, course, capsys, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock.now)
    run = open_run("03_encoders", PARAMETERS)
    steps = (SimpleNamespace(step=k, total=600, loss=0.91, images=64 * k) for k in range(1, 601))
    for _ in progress.track(steps, "CE", unit=unit):
        clock.now += 0.02
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"CE: step 150/600 · loss 0.91 · 3,200 {unit}/s · 9 s left",
        f"CE: step 300/600 · loss 0.91 · 3,200 {unit}/s · 6 s left",
        f"CE: step 450/600 · loss 0.91 · 3,200 {unit}/s · 3 s left",
        f"CE: step 600/600 · loss 0.91 · 3,200 {unit}/s · 12 s",
    ]
    told = [json.loads(line) for line in (run.path / "progress.jsonl").read_text().splitlines()]
    assert len(told) == 6 and told[-1]["done"] == told[-1]["total"] == 600 and told[-1]["seconds_left"] == 0
    assert told[0]["label"] == "CE" and told[0]["seconds_left"] == pytest.approx(10, abs=0.1)


def test_a_training_that_goes_on_says_from_where_and_a_finished_one_that_nothing_was_trained(tmp_path, capsys):
    def training(upto: int | None) -> str:
        """What is printed when a training of 6 steps is followed up to a step; None: to its end."""
        torch.manual_seed(0)
        model = torch.nn.Linear(2, 1)
        steps = train(
            model,
            lambda model, index: model(torch.ones(len(index), 2)).square().mean(),
            n=4,
            steps=6,
            batch_size=2,
            optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
            checkpoint=tmp_path / "x.safetensors",
        )
        for item in progress.track(steps, "CE"):
            if item.step == upto:
                break
        return capsys.readouterr().out

    training(4)
    lines = training(None).splitlines()
    assert lines[0] == "CE: going on from step 4 of 6." and len(lines) == 2 and lines[1].startswith("CE: step 6/6")
    assert training(None) == "CE: trained already (6 steps); its checkpoint is loaded.\n"


def test_resumed_finished_and_plain_iterables(course, capsys, monkeypatch):
    assert list(progress.track([], "CE")) == []
    resumed = [SimpleNamespace(step=k, total=40, loss=0.5, images=128 * k) for k in range(31, 41)]
    assert list(progress.track(resumed, "CE")) == resumed
    assert list(progress.track(range(3), "FID")) == [0, 1, 2]
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CE: already done, nothing left to train."
    assert lines[1].startswith("CE: step 40/40 · ") and lines[2].startswith("FID: step 3/3 · ")


def test_lock_waits_for_the_holder_with_patience(course):
    course.mkdir()
    with subprocess.Popen([sys.executable, "-c", HOLD, course, "1"], stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        begin = time.monotonic()
        files.lock(course, patience=20)
        assert time.monotonic() - begin < 10


def test_a_file_system_without_locks_goes_on_and_any_other_failure_is_told(course, monkeypatch):
    def acquire(self) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(files.FileLock, "acquire", acquire)
    course.mkdir()
    for number in files.NO_LOCKS:
        files.lock(course, f"{number}.lock")
        files.unlock(course, f"{number}.lock")
    number = errno.EACCES
    with pytest.raises(OSError, match="no"):
        files.lock(course)


def test_a_lock_may_be_asked_for_again_and_ends_with_its_process_though_a_child_lives(course):
    course.mkdir()
    fork = HOLD.replace(
        'print("held"',
        'lock(Path(sys.argv[1]))\nimport os\nif os.fork() == 0: time.sleep(3), os._exit(0)\nprint("held"',
    )
    with subprocess.Popen([sys.executable, "-c", fork, course, "3"], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "held\n"
        other.kill()
        files.lock(course, patience=1.5)  # the child gives its copy up when it starts, which may take a moment
        files.lock(course)
        files.unlock(course)
