"""The quarter of an hour on a GPU, dry: all jobs at tiny size on made data, a failure that harms no other, kill and resume."""

import contextlib
import json
import shutil
import subprocess
import sys
import time
import traceback
import zipfile
from pathlib import Path

import pytest
import torch

from experiments.gpu_quarter_hour import jobs, pack, runner
from experiments.gpu_quarter_hour.__main__ import do_part, main
from lt_utils.data.datasets import ImageData
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY
from lt_utils.models.resnet import ResNet
from lt_utils.training.checkpoints import load, load_model


def made(seed: int = 0, channels: int = 3, counts=(40, 16, 8)) -> ImageData:
    """Three classes, each with a brightness of its own, 8 x 8."""
    torch.manual_seed(seed)
    labels = [torch.arange(3).repeat_interleave(torch.tensor(n)) for n in (counts, (20, 20, 20))]
    images = [(torch.rand(len(y), channels, 8, 8) * 100 + 70 * y.view(-1, 1, 1, 1)).byte() for y in labels]
    return ImageData("made-if5", images[0], labels[0], images[1], labels[1], ("a", "b", "c"))


@pytest.fixture
def packed(tmp_path):
    pack.pack(made(), tmp_path / "made-if5.npz")
    return tmp_path / "made-if5.npz"


class InProcess:
    """In the place of Runner.start: the part, done here; a process takes seconds to import torch."""

    pid = 2**30

    def __init__(self, run: runner.Runner, part: jobs.Part) -> None:
        self.returncode = 0
        with open(run.folder / f"{part.name}.log", "a") as log, contextlib.redirect_stdout(log):
            try:
                do_part(part.job, part.data, part.variant, run.data[part.data], run.folder, run.tiny)
            except Exception:
                self.returncode = 1
                traceback.print_exc(file=log)

    def poll(self) -> int:
        return self.returncode


def results(tmp_path) -> dict:
    return json.loads((tmp_path / "out" / "results.json").read_text())


def command(packed, tmp_path, *options) -> list[str]:
    return ["run", str(packed), "--out", str(tmp_path / "out"), "--folder", str(tmp_path / "work"), "--tiny", *options]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_packed_set_is_the_set(tmp_path, channels):
    data = made(channels=channels)
    pack.pack(data, tmp_path / "p.npz")
    found = pack.unpack(tmp_path / "p.npz")
    assert (found.key, found.class_names) == (data.key, data.class_names)
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert torch.equal(getattr(found, name), getattr(data, name))


def test_what_is_damaged_or_too_large_is_refused(packed, tmp_path, monkeypatch):
    content = packed.read_bytes()
    packed.write_bytes(content[: len(content) // 2])
    with pytest.raises(CourseError, match="damaged"):
        pack.unpack(packed)
    monkeypatch.setattr(pack, "digest", lambda data: str(data.test_images.sum()))
    pack.pack(made(), packed)
    monkeypatch.undo()
    with pytest.raises(CourseError, match="other images than were packed"):
        pack.unpack(packed)
    monkeypatch.setattr(pack, "MOST", 1000)
    with pytest.raises(CourseError, match="more than 0: pack a smaller part"):
        pack.pack(made(), packed)


def test_a_compiler_that_fails_does_not_cost_the_training(tmp_path, capsys):
    def train(compiled: bool) -> torch.nn.Module:
        if compiled:
            raise RuntimeError("no such GPU")
        return torch.nn.Identity()

    class OnGpu(jobs.Context):
        compiled = True

    model, way = jobs.compiled_or_not(train, OnGpu(made(), tmp_path, True))
    assert isinstance(model, torch.nn.Identity)
    assert way == "eager, for compiling failed: RuntimeError: no such GPU"


def test_a_dry_run_of_all_jobs_survives_a_failure_and_repeats_only_that(packed, tmp_path, monkeypatch):
    """The generator's data are spoiled for the first try: its job fails alone, is recorded, and is done by the second."""
    monkeypatch.setattr(runner.Runner, "start", lambda run, part: InProcess(run, part))
    spoilt = tmp_path / "work" / "cbdm-made-if5-regular.training"
    spoilt.parent.mkdir()
    spoilt.write_text("no checkpoint")
    assert main(command(packed, tmp_path)) == 0
    found = results(tmp_path)["jobs"]
    parts = {f"{job} {part}": record for job, entries in found.items() for part, record in entries.items()}
    assert len(parts) == 3 + 3 + 1 + 1 + 2
    failed = [name for name, record in parts.items() if record["status"] != "done"]
    assert failed == ["cbdm made-if5 regular"]
    assert "is not a readable checkpoint of this course" in parts[failed[0]]["error"]
    for record in parts.values():
        assert record["seconds"] >= 0 and record["device"].startswith("CPU") and "commit" in record
    assert parts["speed made-if5 unet"]["rows"][0]["images/s"] > 0
    assert set(parts["ce made-if5 seed1"]["scores"]) == {"plain", "label shift"}
    assert "first stage" in parts["wcdas made-if5 seed0"]
    assert "label_accuracy" in parts["cbdm made-if5 balanced"]["measures"]["all"]

    spoilt.unlink()
    assert main(command(packed, tmp_path)) == 0
    again = results(tmp_path)["jobs"]
    assert again["cbdm"]["made-if5 regular"]["status"] == "done"
    assert again["ce"] == found["ce"]  # not run again

    with zipfile.ZipFile(tmp_path / "out" / "weights-ce.zip") as archive:
        assert len(archive.namelist()) == 3
        archive.extract("ce-made-if5-seed1.safetensors", tmp_path)
    model, facts = load_model(tmp_path / "ce-made-if5-seed1.safetensors", ResNet)
    assert facts["data"] == made().key
    scores = jobs.measured(model, made(), True)
    assert scores == again["ce"]["made-if5 seed1"]["scores"]


def test_a_deadline_stops_with_a_checkpoint_and_the_same_command_goes_on(tmp_path, monkeypatch):
    """A clock that jumps into the last seconds once the training runs: the part saves, says how far it is, and goes on later."""
    pack.pack(made(counts=(6000, 200, 20)), tmp_path / "made-if5.npz")
    progress = tmp_path / "work" / "strong-made-if5-seed0.progress"

    class Clock:
        sleep = staticmethod(time.sleep)

        @staticmethod
        def monotonic() -> float:
            return time.monotonic() + (500 if progress.exists() else 0)

    monkeypatch.setattr(runner, "GRACE", 900.0)
    monkeypatch.setattr(runner, "time", Clock)
    monkeypatch.setitem(runner.JOBS, "strong", jobs.Job(1000, jobs.encoder, ("seed0", "seed1"), side=1))
    given = dict(
        data=[tmp_path / "made-if5.npz"], out=tmp_path / "out", folder=tmp_path / "work", only=["strong"], tiny=True
    )
    runner.Runner(minutes=20, **given).run()
    record, other = (results(tmp_path)["jobs"]["strong"][f"made-if5 seed{seed}"] for seed in (0, 1))
    assert record["status"] == "stopped at its deadline" and 0 < record["step"] < record["of"]
    assert other["status"] == "not begun: its job's time was up"
    saved = load(tmp_path / "work" / "strong-made-if5-seed0.training")[1]["step"]
    assert record["step"] <= saved < record["of"]  # the line of progress may be two seconds old

    monkeypatch.undo()  # on another machine: only what was carried away is there
    shutil.rmtree(tmp_path / "work")
    monkeypatch.setattr(runner.Runner, "start", lambda run, part: InProcess(run, part))
    runner.Runner(minutes=20, **given).run()
    record = results(tmp_path)["jobs"]["strong"]["made-if5 seed0"]
    assert record["status"] == "done" and "step" not in record
    assert f"going on from step {saved:,}" in (tmp_path / "work" / "strong-made-if5-seed0.log").read_text()


def test_ctrl_c_asks_the_parts_to_save_and_waits_for_them(packed, tmp_path, monkeypatch):
    """Here a part is a process that takes a moment to end when it is asked."""
    ends = """import signal, sys, time
signal.signal(2, lambda *_: (time.sleep(0.5), sys.exit(130)))
print(1, flush=True)
time.sleep(60)"""

    def start(run: runner.Runner, part: jobs.Part) -> subprocess.Popen:
        (run.folder / f"{part.name}.log").write_text("")
        process = subprocess.Popen([sys.executable, "-c", ends], start_new_session=True, stdout=subprocess.PIPE)
        process.stdout.readline()
        return process

    class Clock:
        monotonic, naps = staticmethod(time.monotonic), 0

        @classmethod
        def sleep(cls, seconds: float) -> None:
            cls.naps += 1
            if cls.naps == 1:
                raise KeyboardInterrupt
            time.sleep(seconds)

    monkeypatch.setattr(runner.Runner, "start", start)
    monkeypatch.setattr(runner, "time", Clock)
    assert main(command(packed, tmp_path, "--only", "ce")) == 130
    assert [record["status"] for record in results(tmp_path)["jobs"]["ce"].values()] == ["stopped at its deadline"] * 3


def test_a_killed_run_leaves_no_process_and_goes_on(packed, tmp_path, monkeypatch):
    whole = [sys.executable, "-m", "experiments.gpu_quarter_hour", *command(packed, tmp_path, "--only", "strong")]
    process = subprocess.Popen(whole, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    while "begins" not in process.stdout.readline():
        pass
    process.kill()
    process.communicate()

    def running() -> bool:
        mine = str(tmp_path / "work").encode()
        return any(mine in path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())

    deadline = time.monotonic() + 120
    while running() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not running()
    assert not (tmp_path / "out" / "results.json").exists()
    monkeypatch.setattr(runner.Runner, "start", lambda run, part: InProcess(run, part))
    assert main(command(packed, tmp_path, "--only", "strong")) == 0
    assert results(tmp_path)["jobs"]["strong"]["made-if5 seed0"]["status"] == "done"
