"""LT_THREADS=idle: what is read from the system, how many threads follow, and what other values say."""

import os
from pathlib import Path

import pytest
import torch

from lt_utils.errors import CourseError
from lt_utils.training import devices
from lt_utils.training.loop import train

# Fields: user nice system idle iowait irq softirq steal guest guest_nice
STAT = """cpu  900 900 900 900 900 900 900 900 900 900
cpu0 100 20 30 5000 700 1 2 3 50 6
cpu1 10 0 5 9000 1 0 0 0 0 0
cpu12 1 1 1 1 1 1 1 1 1 1
intr 12345 1 2
"""


def test_busy_ticks_are_those_of_the_allowed_cores_without_idle_waiting_and_guests():
    assert devices.busy_ticks(STAT, {0}, polite=True) == 100 + 20 + 30 + 1 + 2 + 3
    assert devices.busy_ticks(STAT, {0}, polite=False) == 100 + 30 + 1 + 2 + 3
    assert devices.busy_ticks(STAT, {0, 1}, polite=True) == 156 + 15
    assert devices.busy_ticks(STAT, {12}, polite=True) == 6


@pytest.mark.parametrize(
    "idle, usual, wanted",
    [(2.0, 2, 2), (1.95, 2, 2), (1.5, 2, 1), (1.0, 2, 1), (0.0, 2, 1), (16.0, 4, 4), (6.71, 8, 7)],
)
def test_a_thread_for_each_core_that_is_nearly_idle(idle, usual, wanted):
    assert devices.threads_for(idle, usual) == wanted


def test_idle_cores_leaves_out_what_this_process_does_itself(monkeypatch):
    """One core busy for the whole second: by others, or by this process itself."""
    clock = {"now": 0.0, "own": 0.0, "user": 0}
    monkeypatch.setattr(devices.os, "sched_getaffinity", lambda pid: {0, 1}, raising=False)
    monkeypatch.setattr(devices.os, "sysconf", lambda name: 100)
    monkeypatch.setattr(devices.time, "monotonic", lambda: clock["now"])
    monkeypatch.setattr(devices.time, "process_time", lambda: clock["own"])
    monkeypatch.setattr(Path, "exists", lambda self: True)
    monkeypatch.setattr(Path, "read_text", lambda self, **_: f"cpu0 {clock['user']} 0 0 0 0 0 0 0 0 0\n")

    def others(seconds: float) -> None:
        clock.update(now=clock["now"] + seconds, user=clock["user"] + round(100 * seconds))

    def ourselves(seconds: float) -> None:
        others(seconds)
        clock["own"] += seconds

    monkeypatch.setattr(devices.time, "sleep", others)
    assert devices.idle_cores(1.0) == pytest.approx(1.0)
    monkeypatch.setattr(devices.time, "sleep", ourselves)
    assert devices.idle_cores(1.0) == pytest.approx(2.0)
    monkeypatch.setattr(Path, "exists", lambda self: False)  # not Linux
    monkeypatch.setattr(devices.time, "sleep", others)
    assert devices.idle_cores(1.0) == 2.0


def test_really_idle_cores_are_within_what_there_is():
    assert 0 <= devices.idle_cores(0.05) <= devices.cores() <= (os.cpu_count() or 1)


def one_step() -> None:
    model = torch.nn.Linear(2, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    list(
        train(
            model, lambda m, index: m(torch.ones(len(index), 2)).sum(), n=2, steps=1, batch_size=2, optimizer=optimizer
        )
    )


def test_training_counts_the_cores_anew_each_time_and_only_when_asked(monkeypatch):
    usual = torch.get_num_threads()
    monkeypatch.setattr(devices, "_usual", None)
    try:
        torch.set_num_threads(3)
        monkeypatch.delenv("LT_THREADS", raising=False)
        monkeypatch.setattr(devices, "idle_cores", lambda: 1.0)
        one_step()
        assert torch.get_num_threads() == 3
        monkeypatch.setenv("LT_THREADS", "idle")
        one_step()
        assert torch.get_num_threads() == 1
        monkeypatch.setattr(devices, "idle_cores", lambda: 8.0)
        one_step()
        assert torch.get_num_threads() == 3  # never more than torch used at first
        monkeypatch.setenv("LT_THREADS", "some")
        with pytest.raises(CourseError, match="some"):
            one_step()
    finally:
        torch.set_num_threads(usual)
