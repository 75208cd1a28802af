"""The cores that there are for a process: its own, those of a container, those of a job of SLURM."""

import os
import subprocess
import sys

import pytest

from lt_utils import cores
from lt_utils.files import REPOSITORY


@pytest.fixture(autouse=True)
def eight(monkeypatch):
    """A process that may use eight cores, in no job of SLURM."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("per_task", "on_node", "there"),
    [("", "", 8), ("4", "6", 4), ("", "6", 6), ("16", "", 8), ("0", "3", 3), ("2(x2)", "", 8)],
)
def test_a_job_of_slurm_has_the_cores_it_was_given_and_no_more_than_it_sees(per_task, on_node, there, monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", per_task)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", on_node)
    assert cores.cores() == there


def test_the_share_of_a_process_not_the_size_of_the_machine(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert cores.cores() == 8
    monkeypatch.delattr(os, "sched_getaffinity")  # as on macOS and Windows
    assert cores.cores() == 64


def test_asking_imports_no_torch():
    ask = "import sys; from lt_utils.cores import cores; assert cores() and 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", ask], check=True, cwd=REPOSITORY)
