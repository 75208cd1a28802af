"""Batches on a SLURM that this test starts: killed, cut off, cancelled, on nodes that fail. `make cluster-test` runs it.

What is compared is a batch on this machine without SLURM, to the last digit. In CONFIG stands what the first test runs.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import pytest
import yaml
from small_slurm import Slurm, missing

from course.batch.plan import plan, read_config
from lt_utils.files import REPOSITORY

if not os.environ.get("LT_CLUSTER_TEST"):
    pytest.skip("minutes on a SLURM of its own: make cluster-test", allow_module_level=True)
if lacking := missing():
    why = f"SLURM is not installed here (no {', '.join(lacking)}): apt install slurm-wlm munge"
    pytest.skip(why, allow_module_level=True)
pytest.importorskip(
    "snakemake_executor_plugin_slurm", reason="Snakemake's executor for SLURM is not installed here: make run"
)

CONFIG = REPOSITORY / (os.environ.get("LT_CLUSTER_CONFIG") or "tests/cluster/two_notebooks.yaml")
PATIENCE = 3600 if os.environ.get("LT_CLUSTER_CONFIG") else 600  # seconds for one batch
DATA = "fashion-mnist-small"
TRAINING = "03_encoders"
PARAMETERS = {"DATASET": DATA, "IMBALANCE": 100, "SEED": 0, "RUN": ""}
# A training with a checkpoint each second. It is slow as long as there is a file of its seed: no parameter, results must not
# know of it.
TRAIN = """import os, time, torch
from pathlib import Path
from lt_utils.progress import track
from lt_utils.runs import open_run
from lt_utils.training import train
run = open_run("03_encoders", globals())
torch.manual_seed(SEED)
model, data, slow = torch.nn.Linear(8, 4), torch.randn(64, 8), Path(os.environ["SLOW"]) / str(SEED)
def loss(model, index):
    time.sleep(slow.exists())
    return (model(data[index]) + torch.randn(len(index), 4)).square().mean()
optimizer = torch.optim.SGD(model.parameters(), 0.01)
options = dict(n=64, steps=300, batch_size=16, optimizer=optimizer, seed=SEED, save_every=1.0)
for step in track(train(model, loss, checkpoint=run.checkpoint("net"), **options), f"net {SEED}"):
    pass
seen = {name: os.environ.get(name) for name in ("SLURMD_NODENAME", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")}
run.finish([{"method": "net", "seed": SEED, "weight": w.item()} for w in model.weight.flatten()], seen=seen)"""


@pytest.fixture(scope="module")
def slurm():
    folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    cluster = Slurm(folder, nodes=3)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def nodes(slurm):
    """The cluster with all of its nodes in order and nothing in its queue."""
    yield slurm
    while Batch.processes:
        running = Batch.processes.pop()
        if running.poll() is None:
            running.send_signal(signal.SIGINT)
            running.wait(120)
    if busy := [number for number, state in slurm.jobs().items() if state in ("RUNNING", "PENDING")]:
        slurm.ask("scancel", *busy)
    for node, state in slurm.states().items():
        if state.rstrip("*") in ("down", "drained"):
            if "*" in state:
                slurm.start_node(node)
            slurm.ask("scontrol", "update", f"nodename={node}", "state=resume")
    slurm.wait_for(lambda: set(slurm.states().values()) == {"idle"}, "the nodes are not idle", seconds=60)


class Batch:
    """`python -m course run` of a configuration in a folder of runs of its own, with or without SLURM."""

    processes: list[subprocess.Popen] = []  # of all batches, to be ended after a test

    def __init__(
        self, folder: Path, config: Path, slurm: Slurm | None = None, profile: Path | None = None, **variables
    ):
        self.folder, self.config, self.profile = folder, config, profile
        self.environment = {name: value for name, value in os.environ.items() if name not in ("MAKELEVEL", "LT_RUNS")}
        self.environment |= {"LT_RUNS": str(folder), **(slurm.environment if slurm else {}), **variables}
        self.base = folder / read_config(config)["profile"]
        self.output = folder / "said.txt"

    def start(self) -> subprocess.Popen:
        words = [sys.executable, "-m", "course", "run", str(self.config), "--jobs", "3" if self.profile else "1"]
        self.folder.mkdir(exist_ok=True)
        with open(self.output, "w") as out:
            words += ["--", "--profile", str(self.profile)] if self.profile else []
            self.processes.append(subprocess.Popen(words, env=self.environment, cwd=REPOSITORY, stdout=out, stderr=out))
        return self.processes[-1]

    def run(self, status: int = 0) -> str:
        """Run it to its end; what it said."""
        assert self.start().wait(PATIENCE) == status, self.said()
        return self.said()

    def said(self) -> str:
        return self.output.read_text()

    def wait_for(self, condition, seconds: float = 300) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.2)

    def file(self, seed: int, name: str) -> Path:
        """A file of the training's run with this seed."""
        return self.base / TRAINING / f"{DATA}-if100-seed{seed}" / name

    def records(self) -> dict[str, dict]:
        """Run -> its record, without moments, durations and what else depends on the machine."""
        found = {}
        for path in sorted(self.base.glob("*/*/record.json")):
            record = json.loads(path.read_text())
            rows = [{key: value for key, value in row.items() if "second" not in key} for row in record["rows"]]
            facts = {key: value for key, value in record["facts"].items() if "second" not in key and key != "seen"}
            found[path.relative_to(self.base).parent.as_posix()] = {
                "rows": rows, "facts": facts, "parameters": record["parameters"], "threads": record["threads"]
            }  # fmt: skip
        return found


@pytest.fixture
def profile(tmp_path):
    """Write profiles/slurm as a user of this cluster has it: no account, other resources; returns its folder."""

    def write(requeue: bool = True, **resources: object) -> Path:
        content = yaml.safe_load((REPOSITORY / "profiles/slurm/config.yaml").read_text())
        del content["default-resources"]["slurm_account"]
        content["default-resources"] |= {"cpus_per_task": 1, **resources}
        content |= {"slurm-requeue": requeue, "slurm-init-seconds-before-status-checks": 2}
        (tmp_path / "profile").mkdir(exist_ok=True)
        (tmp_path / "profile" / "config.yaml").write_text(yaml.safe_dump(content))
        return tmp_path / "profile"

    return write


@pytest.fixture
def training(tmp_path, notebook):
    """The configuration of a batch that trains with each of the given seeds; its notebook stands in for 03_encoders."""

    def write(seeds: list[int], gpu: int = 0) -> tuple[Path, dict[str, str]]:
        notebook(tmp_path / "notebooks" / f"{TRAINING}.ipynb", PARAMETERS, TRAIN)
        content = {"profile": "tiny", "datasets": [DATA], "seeds": seeds, "gpu": gpu, "notebooks": {TRAINING: {}}}
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
        (tmp_path / "slow").mkdir()
        for seed in seeds:
            (tmp_path / "slow" / str(seed)).touch()
        return tmp_path / "tiny.yaml", {"LT_NOTEBOOKS": str(tmp_path / "notebooks"), "SLOW": str(tmp_path / "slow")}

    return write


def test_killed_in_the_middle_it_goes_on_and_measures_what_it_measures_here(nodes, profile, tmp_path):
    total = len(plan(read_config(CONFIG)))
    batch = Batch(tmp_path / "runs", CONFIG, nodes, profile())
    running = batch.start()
    finished = lambda: sorted(batch.base.glob("*/*/batch.json"))  # noqa: E731
    batch.wait_for(lambda: len(finished()) >= max(1, total // 3), PATIENCE)
    running.send_signal(signal.SIGKILL)
    running.wait()
    # Snakemake, which goes with it, cancels what is in the queue.
    nodes.wait_for(lambda: not {"PENDING", "RUNNING", "COMPLETING"} & set(nodes.jobs().values()), "jobs run", 60)
    before = {path: path.read_text() for path in finished()}
    assert 0 < len(before) < total

    said = batch.run()
    assert f"All {total} runs are finished." in said
    assert {path: path.read_text() for path in before} == before
    assert batch.run().startswith(f"Nothing to do: all {total} runs are finished.")

    here = Batch(tmp_path / "here", CONFIG, OMP_NUM_THREADS="1")
    here.run()
    assert len(batch.records()) == total and batch.records() == here.records()


def started(batch: Batch, seeds: list[int]) -> dict[int, str]:
    """Wait until the trainings of these seeds have saved their first steps; the number of each one's job."""
    batch.wait_for(lambda: all(batch.file(seed, "checkpoints/net.safetensors").exists() for seed in seeds))
    jobs = re.findall(r"^03_encoders.* waits in SLURM's queue as job (\d+)$", batch.said(), re.M)
    if len(seeds) == 1:
        return {seeds[0]: jobs[0]}
    return {seed: re.search(rf"seed{seed} waits in SLURM's queue as job (\d+)", batch.said())[1] for seed in seeds}


def test_cancelled_cut_off_or_on_a_node_that_fails_nothing_is_lost(nodes, profile, training, tmp_path):
    """Seed 0 is cancelled, the node of seed 1 loses its power, seed 2 comes to its time limit."""
    config, variables = training([0, 1, 2], gpu=1)
    batch = Batch(tmp_path / "runs", config, nodes, profile(runtime=20, cpus_per_task=2), **variables)
    running = batch.start()
    number = started(batch, [0, 1, 2])
    one = nodes.job(number[1])
    asked = {name: one[name] for name in ("TresPerJob", "NumCPUs", "TimeLimit", "Partition")}
    assert asked == {"TresPerJob": "gres:gpu:1", "NumCPUs": "2", "TimeLimit": "00:20:00", "Partition": "gpu"}
    nodes.ask("scontrol", "update", f"jobid={number[2]}", "timelimit=1")
    nodes.ask("scancel", number[0])
    nodes.kill_node(one["NodeList"])
    (tmp_path / "slow" / "1").unlink()
    assert running.wait(PATIENCE) == 1
    said = batch.said()
    goes_on = "started again, the run goes on from its last checkpoint"
    assert f"seed0 FAILED: its SLURM job was cancelled; {goes_on} (SLURM job {number[0]})\n" in said
    assert re.search(r"seed1 · started again · goes on · on n\d", said) and "seed1 finished in" in said
    limit = "seed2 FAILED: SLURM ended it at its time limit (runtime in the profile)"
    assert f"{limit}; {goes_on} (SLURM job {number[2]})\n" in said
    assert "1 notebook run finished, 2 failed:" in said and "the same command goes on" in said
    assert "Traceback" not in said and said.count("FAILED") == 2

    for seed in (0, 2):
        (tmp_path / "slow" / str(seed)).unlink()
    said = batch.run()
    assert said.startswith("1 of 3 runs are finished already; 2 notebook runs to do")
    assert said.count(" · goes on · on n") == 2
    for seed in (0, 1, 2):
        log = batch.file(seed, "log.txt").read_text()
        assert re.search(rf"net {seed}: going on from step \d+ of 300", log), log
        seen = json.loads(batch.file(seed, "record.json").read_text())["facts"]["seen"]
        assert (seen["CUDA_VISIBLE_DEVICES"], seen["OMP_NUM_THREADS"]) == ("0", "2")
    here = Batch(tmp_path / "here", config, OMP_NUM_THREADS="2", **variables)
    here.run()
    assert batch.records() == here.records() and len(here.records()) == 3


def test_a_node_that_fails_where_slurm_may_not_start_a_job_anew(nodes, profile, training, tmp_path):
    config, variables = training([0])
    own = profile(requeue=False, slurm_extra="--no-requeue")
    batch = Batch(tmp_path / "runs", config, nodes, own, **variables)
    running = batch.start()
    number = started(batch, [0])[0]
    nodes.ask("scontrol", "update", f"nodename={nodes.job(number)['NodeList']}", "state=down", "reason=test")
    assert running.wait(PATIENCE) == 1
    failed = "FAILED: the node it ran on failed; started again, the run goes on from its last checkpoint"
    assert f"{failed} (SLURM job {number})\n" in batch.said()
    (tmp_path / "slow" / "0").unlink()
    assert " · goes on · on n" in batch.run()
    assert "going on from step" in batch.file(0, "log.txt").read_text()


def test_what_a_lost_login_node_leaves_in_the_queue_is_cancelled_first(nodes, profile, training, tmp_path):
    config, variables = training([0])
    batch = Batch(tmp_path / "runs", config, nodes, profile(gres="gpu:1"), **variables)
    running = batch.start()
    number = started(batch, [0])[0]
    assert nodes.job(number)["TresPerNode"] == "gres:gpu:1"  # for clusters that know no --gpus
    for process in (*psutil.Process(running.pid).children(recursive=True), psutil.Process(running.pid)):
        process.kill()
    running.wait()
    assert nodes.jobs()[number] == "RUNNING"
    running = batch.start()
    batch.wait_for(lambda: " · goes on · on n" in batch.said())
    left = "Jobs that an earlier batch had left in SLURM's queue were cancelled: 1; their runs go on.\n"
    assert batch.said().startswith(left) and nodes.jobs()[number] == "CANCELLED"
    (tmp_path / "slow" / "0").unlink()
    assert running.wait(PATIENCE) == 0
    here = Batch(tmp_path / "here", config, OMP_NUM_THREADS="1", **variables)
    here.run()
    assert batch.records() == here.records()
