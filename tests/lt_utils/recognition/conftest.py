"""What tests of recognition share: the CPU, and a small set whose classes are told apart by their brightness."""

import pytest
import torch

from lt_utils.data.datasets import ImageData
from lt_utils.diffusion import image_diffusion
from lt_utils.recognition import encoders, self_supervised, two_stage


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
