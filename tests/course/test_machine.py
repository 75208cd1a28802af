"""What notebook 00 says of the machine."""

import time

import pytest
import torch
from torch import nn

from course import machine


class Slow(nn.Module):
    """A classifier that takes 20 ms for each batch."""

    config = {"channels": 1}

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        time.sleep(0.02)
        return self.layer(x.flatten(1))


def test_training_speed_is_that_of_the_slow_part():
    """Never faster than the sleep allows; slower only by what a busy machine adds."""
    speed = machine.training_speed(Slow(), 4, steps=6, batch=8)
    assert 8 / 0.02 / 10 < speed <= 8 / 0.02


def test_the_packages_that_are_installed_fit():
    rows = machine.packages()
    assert {"torch", "numpy"} <= {row["package"] for row in rows}
    assert all(row["ok"] for row in rows), [row for row in rows if not row["ok"]]


@pytest.mark.parametrize("what", ["CPU cores, threads of torch", "precision of training"])
def test_facts_are_there(what):
    assert what in {row["what"] for row in machine.facts()}
