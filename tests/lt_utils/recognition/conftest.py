"""What tests of recognition share: the CPU, a small set whose classes are told apart by their brightness, a power cut."""

import itertools

import pytest
import torch

from lt_utils.data.datasets import ImageData
from lt_utils.diffusion import image_diffusion
from lt_utils.recognition import encoders, self_supervised, two_stage
from lt_utils.training import loop


@pytest.fixture
def on_the_cpu(monkeypatch):
    """Networks are built and trained on the CPU, also where there is an accelerator: bits are compared."""
    for module in (encoders, image_diffusion, self_supervised, two_stage):
        monkeypatch.setattr(module, "device", lambda: torch.device("cpu"))


@pytest.fixture(scope="module")
def data() -> ImageData:
    """Three classes that differ in brightness: 60, 24 and 6 training images of 8 x 8 pixels, none of them black."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat_interleave(torch.tensor([60, 24, 6]))
    images = (torch.randint(0, 60, (90, 1, 8, 8), generator=generator) + 90 * labels.view(-1, 1, 1, 1)).byte()
    return ImageData("toy", images, labels, images[::3], labels[::3], ("dark", "grey", "bright"))


class Stop(Exception):
    """Leaves a training in the middle, as a power cut would after the checkpoint."""


@pytest.fixture
def interrupted(monkeypatch):
    """interrupted(step, run): `run()` once, left after `step` optimiser steps; its loop saves when it is left."""

    def run_until(step, run):
        def leave(steps, *_, **__):
            yield from itertools.islice(steps, step)
            steps.close()
            raise Stop

        with monkeypatch.context() as patch:
            patch.setattr(loop, "track", leave)
            with pytest.raises(Stop):
                run()

    return run_until
