"""The quarter of an hour on a GPU, dry: all jobs at tiny size on made data, a failure that harms no other, kill and resume."""

import contextlib
import copy
import functools
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

from experiments.gpu_quarter_hour import jobs, pack, runner, speed, ways
from experiments.gpu_quarter_hour.__main__ import do_part, main
from lt_utils.data.datasets import ImageData
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY, read_json, write_json
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


def speed_row(
    seeds: int, rate: float | None, way: str = "eager", begin: float = 0.0, network: str = "resnet32"
) -> dict:
    """A row as the jobs speed and side write it, measured for 10 s; no rate: that way failed."""
    row = {"network": network, "way": way, "seeds": seeds, "from": begin, "to": begin + 10}
    return row | ({"error": "no"} if rate is None else {"images/s": rate})


def measured_before(out: Path, one: float, three: float, **more) -> None:
    """Write results.json as if the job speed had measured so on this device."""
    rows = [speed_row(n, rate, network=net) for net in ("resnet32", "wcdas") for n, rate in ((1, one), (3, three))]
    record = {"made-if5 x": {"rows": rows, "device": runner.surroundings()["device"]}}
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "results.json", {"jobs": {"speed": record}, **more})


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
    assert len(parts) == 4 + 3 + 3 + 1 + 3 + 2
    failed = [name for name, record in parts.items() if record["status"] != "done"]
    assert failed == ["cbdm made-if5 regular"]
    assert "is not a readable checkpoint of this course" in parts[failed[0]]["error"]
    for record in parts.values():
        assert record["seconds"] >= 0 and record["device"].startswith("CPU") and "commit" in record
    assert parts["speed made-if5 unet"]["rows"][0]["images/s"] > 0
    for job, network in {"ce": "resnet32", "wcdas": "wcdas"}.items():
        one, three = rows = parts[f"speed made-if5 {network}"]["rows"]
        assert (one["seeds"], three["seeds"]) == (1, 3)
        for row in rows:
            assert row["images/s"] == pytest.approx(row["seeds"] * row["batch"] * 1000 / row["ms a step"], rel=0.01)
        faster = ways.TOGETHER if three["images/s"] >= one["images/s"] else ways.ONE
        assert results(tmp_path)["ways"][job]["way"] == faster
    for seed in range(3):
        assert parts[f"side made-if5 seed{seed}"]["rows"][0]["images/s"] > 0
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


BEST = "compiled, CUDA graphs"
ALONE = [speed_row(1, 12_000, BEST), speed_row(1, 20_000, "compiled"), speed_row(1, 4_000)]
TOGETHER = [speed_row(3, 30_000, BEST), speed_row(3, 9_000)]
ABREAST = [speed_row(1, 11_000, BEST, begin) for begin in (0, 1, 2)]


@pytest.mark.parametrize(
    ("speed", "side", "expected", "told"),
    [
        (ALONE + TOGETHER, [], "together", "together 30,000, one by one 12,000"),
        (ALONE + TOGETHER, ABREAST, "side by side", "together 30,000, side by side 33,000, one by one 12,000"),
        (
            ALONE + TOGETHER,
            [*ABREAST[:2], ABREAST[2] | {"from": 4, "to": 14}],
            "together",
            "30,000, one",
        ),  # not at a time
        (ALONE + TOGETHER, ABREAST[:2], "together", "30,000, one"),  # one is missing
        (ALONE + TOGETHER, [*ABREAST[:2], speed_row(1, None, BEST)], "together", "30,000, one"),  # one failed
        ([speed_row(1, 40_000, BEST), *TOGETHER], [], "one by one", "together 30,000, one by one 40,000"),
        ([*ALONE, speed_row(3, None, BEST), TOGETHER[1]], [], "one by one", "together 9,000"),  # it would train eagerly
        ([*ALONE, speed_row(3, None, BEST), speed_row(3, None)], [], "one by one", "together 0"),
        (ALONE, ABREAST, "together", "not compared on this device; images/s of all seeds: side by side 33,000, one by"),
        (TOGETHER, [], "together", "not compared"),
        ([], [], "together", "not compared on this device; images/s of all seeds: none"),
    ],
)
def test_the_fastest_way_is_taken_and_a_line_says_why(speed, side, expected, told):
    other = [speed_row(1, 10**6), speed_row(1, 10**6, network="wcdas")]
    found = {
        "speed": {"a": {"rows": speed, "device": "this"}, "b": {"rows": other[1:], "device": "this"}},
        "side": {str(number): {"rows": [row], "device": "this"} for number, row in enumerate(side)},
    }
    found["speed"] |= {"c": {"rows": other, "device": "another"}, "d": {"status": "failed", "device": "this"}}
    way, why = ways.fastest(ways.rates(found, "resnet32", "this"))
    assert way == expected and why.startswith(expected) and told in why and "\n" not in why


def test_on_a_gpu_the_compiled_ways_are_compared_before_the_others(monkeypatch):
    monkeypatch.setattr(speed, "device", lambda: torch.device("cuda"))
    found = speed.ways("resnet32")
    assert set(found[:3]) == {(1, "eager"), (1, BEST), (3, BEST)}
    assert set(found[3:]) == {(3, "eager"), (1, "CUDA graphs"), (1, "compiled")}
    assert speed.ways("wcdas") == [(1, BEST), (3, BEST)]
    assert speed.ways("unet") == [(1, way) for way in ("eager", BEST, "CUDA graphs", "compiled")]


def test_on_a_gpu_seeds_together_are_compiled_and_their_checkpoint_can_be_carried_away(tmp_path, monkeypatch):
    class OnGpu(jobs.Context):
        compiled = True

    asked = []
    monkeypatch.setattr(jobs, "train_encoders", lambda data, **recipe: asked.append(recipe))
    part = jobs.Part("ce", "made-if5", "seed0-seed1-seed2")
    assert jobs.compiled_or_not(
        functools.partial(jobs.encoders, part, context := OnGpu(made(), tmp_path, False)), context
    )
    assert (asked[0]["compiled"], asked[0]["seeds"], asked[0]["depth"]) == (True, [0, 1, 2], 32)
    weights = sum(weight.numel() for weight in ResNet(100, depth=32).parameters())
    assert 3 * weights * 4 * 2 + 10**6 < runner.MOST  # weights and momentum; losses and statistics are far below a MB


@pytest.fixture
def double(encoders_in_double, monkeypatch):
    """Encoders in float64, which are measured in float32."""
    measured = jobs.measured
    monkeypatch.setattr(jobs, "measured", lambda model, *more: measured(copy.deepcopy(model).float(), *more))


@pytest.mark.parametrize(("job", "tolerance"), [("ce", 1e-12), ("wcdas", 1e-5)])  # a WCDAS head computes in float32
def test_seeds_together_become_what_they_become_one_by_one(
    packed, tmp_path, monkeypatch, double, capsys, job, tolerance
):
    monkeypatch.setattr(runner.Runner, "start", lambda run, part: InProcess(run, part))
    weights, rows = {}, {}
    for way, three in (("together", 30), ("one by one", 5)):
        measured_before(tmp_path / way / "out", 10, three)
        assert main(command(packed, tmp_path / way, "--only", job)) == 0
        assert f"{job}: seeds {way}, the most images/s of all seeds: together {three}" in capsys.readouterr().out
        rows[way] = results(tmp_path / way)["jobs"][job]
        with zipfile.ZipFile(tmp_path / way / "out" / f"weights-{job}.zip") as archive:
            archive.extractall(tmp_path / way)
        weights[way] = [load(tmp_path / way / f"{job}-made-if5-seed{seed}.safetensors")[0] for seed in range(3)]
    assert (tmp_path / "together" / "work" / f"{job}-made-if5-seed0-seed1-seed2.training").exists()
    assert not list((tmp_path / "one by one" / "work").glob("*seed0-seed1*"))
    for one, other in zip(*weights.values(), strict=True):
        assert one.keys() == other.keys()
        assert max(float((one[name].double() - other[name].double()).abs().max()) for name in one) < tolerance
    assert not torch.equal(weights["together"][0]["conv1.weight"], weights["together"][1]["conv1.weight"])
    assert rows["together"].keys() == {f"made-if5 seed{seed}" for seed in range(3)}
    for name, record in rows["together"].items():
        assert record["status"] == "done" and record["seeds at once"] == 3
        assert record["scores"] == rows["one by one"][name]["scores"]
        assert record.get("first stage") == rows["one by one"][name].get("first stage")


def test_a_job_goes_on_in_the_way_it_has_begun_and_from_no_other_checkpoint(packed, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(runner.Runner, "start", lambda run, part: InProcess(run, part))
    measured_before(tmp_path / "out", 10, 30, ways={"ce": {"way": "one by one", "why": "one by one, before"}})
    assert main(command(packed, tmp_path, "--only", "ce")) == 0
    assert "ce: as it has begun, seeds one by one, before" in capsys.readouterr().out
    assert "seeds at once" not in results(tmp_path)["jobs"]["ce"]["made-if5 seed0"]

    alone = tmp_path / "work" / "ce-made-if5-seed0.training"
    for method, other in (("ce", "ce-made-if5-seed0-seed1-seed2"), ("wcdas", "wcdas-made-if5-seed0-seed1-seed2")):
        shutil.copy(alone, tmp_path / "work" / f"{other}.training")
        measured_before(tmp_path / "again", 10, 30)
        given = command(packed, tmp_path, "--only", method)
        assert main([*given[:3], str(tmp_path / "again"), *given[4:]]) == 0
        for record in read_json(tmp_path / "again" / "results.json")["jobs"][method].values():
            assert record["status"] == "failed" and "is of another training" in record["error"]


def test_what_one_way_has_left_does_not_disturb_another(packed, tmp_path, monkeypatch):
    """The results are lost, the folder is not: WCDAS' second stages stand on first stages that differ in their last digits."""
    monkeypatch.setattr(runner.Runner, "start", lambda run, part: InProcess(run, part))
    for three in (30, 5):
        measured_before(tmp_path / "out", 10, three)
        assert main(command(packed, tmp_path, "--only", "wcdas")) == 0
        assert [record["status"] for record in results(tmp_path)["jobs"]["wcdas"].values()] == ["done"] * 3


@pytest.mark.parametrize(
    ("way", "parts", "side"),
    [
        ("together", ["made-if5-seed0-seed1-seed2", "other-seed0-seed1-seed2"], 1),
        ("side by side", [f"{data}-seed{seed}" for seed in range(3) for data in ("made-if5", "other")], 3),
        ("one by one", [f"{data}-seed{seed}" for seed in range(3) for data in ("made-if5", "other")], 1),
    ],
)
def test_what_each_way_runs_at_a_time(packed, tmp_path, monkeypatch, way, parts, side):
    shutil.copy(packed, tmp_path / "other.npz")
    seen = []
    monkeypatch.setattr(
        runner.Runner, "job", lambda run, waiting, deadline, side: seen.append(([part.name for part in waiting], side))
    )
    measured_before(tmp_path / "out", 10, 30, ways={"ce": {"way": way, "why": way}})
    given = command(packed, tmp_path, "--only", "ce", "strong")
    assert main([*given[:2], str(tmp_path / "other.npz"), *given[2:]]) == 0
    assert seen == [([f"ce-{part}" for part in parts], side), (["strong-made-if5-seed0", "strong-other-seed0"], 2)]


def test_a_way_is_settled_when_its_job_begins(packed, tmp_path):
    """No time is left here: what a later run measures may still decide."""
    assert main(command(packed, tmp_path, "--only", "ce", "--minutes", "0")) == 0
    found = results(tmp_path)
    assert found["ways"] == {}
    assert [record["status"] for record in found["jobs"]["ce"].values()] == ["not begun: its job's time was up"] * 3


@pytest.mark.parametrize(
    ("job", "stopped", "waiting"),
    [("strong", ["made-if5 seed0"], ["made-if5 seed1"]), ("ce", ["made-if5 seed0", "made-if5 seed1"], [])],
)
def test_a_deadline_stops_with_a_checkpoint_and_the_same_command_goes_on(tmp_path, monkeypatch, job, stopped, waiting):
    """A clock that jumps into the last seconds once the training runs: the part saves, says how far it is, and goes on later.

    Once with the seeds apart, once together.
    """
    pack.pack(made(counts=(3000, 200, 20)), tmp_path / "made-if5.npz")
    name = f"{job}-made-if5-seed0" + "-seed1" * (job == "ce")
    progress = tmp_path / "work" / f"{name}.progress"

    class Clock:
        sleep = staticmethod(time.sleep)

        @staticmethod
        def monotonic() -> float:
            return time.monotonic() + (500 if progress.exists() else 0)

    monkeypatch.setattr(runner, "GRACE", 900.0)
    monkeypatch.setattr(runner, "time", Clock)
    changed = jobs.Job(1000, jobs.encoder, ("seed0", "seed1"), side=1, speed_of="resnet32" * (job == "ce"))
    monkeypatch.setitem(runner.JOBS, job, changed)
    given = dict(
        data=[tmp_path / "made-if5.npz"], out=tmp_path / "out", folder=tmp_path / "work", only=[job], tiny=True
    )
    runner.Runner(minutes=20, **given).run()
    records = results(tmp_path)["jobs"][job]
    saved = load(tmp_path / "work" / f"{name}.training")[1]["step"]
    for row in stopped:
        record = records[row]
        assert record["status"] == "stopped at its deadline" and 0 < record["step"] < record["of"]
        assert record["step"] <= saved < record["of"]  # the line of progress may be two seconds old
    for row in waiting:
        assert records[row]["status"] == "not begun: its job's time was up"
    with zipfile.ZipFile(tmp_path / "out" / f"training-{job}.zip") as archive:
        assert archive.namelist() == [f"{name}.training"]

    monkeypatch.undo()  # on another machine: only what was carried away is there
    shutil.rmtree(tmp_path / "work")
    monkeypatch.setitem(runner.JOBS, job, changed)
    monkeypatch.setattr(runner.Runner, "start", lambda run, part: InProcess(run, part))
    runner.Runner(minutes=20, **given).run()
    for row in stopped:
        record = results(tmp_path)["jobs"][job][row]
        assert record["status"] == "done" and "step" not in record
    assert f"going on from step {saved:,}" in (tmp_path / "work" / f"{name}.log").read_text()


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
    whole = [sys.executable, "-m", "experiments.gpu_quarter_hour", *command(packed, tmp_path, "--only", "ce")]
    process = subprocess.Popen(whole, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    while "begins" not in (line := process.stdout.readline()):
        pass
    assert "ce-made-if5-seed0-seed1-seed2" in line
    process.kill()
    process.communicate()

    def running() -> bool:
        mine = str(tmp_path / "work").encode()
        return any(mine in path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.exists())

    deadline = time.monotonic() + 120
    while running() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not running()
    found = results(tmp_path)  # only the way that it has begun with
    assert found["jobs"] == {} and found["ways"]["ce"]["way"] == "together"
    monkeypatch.setattr(runner.Runner, "start", lambda run, part: InProcess(run, part))
    assert main(command(packed, tmp_path, "--only", "ce")) == 0
    assert [record["status"] for record in results(tmp_path)["jobs"]["ce"].values()] == ["done"] * 3
