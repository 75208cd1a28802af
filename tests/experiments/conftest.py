"""What tests of the experiments share."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def picture():
    """picture(c, number, side): an image of class c, whose colour tells its class, of its own size and noise."""

    def draw(c: int, number: int, side: int) -> Image.Image:
        random = np.random.default_rng(1000 * c + number)
        pixels = random.integers(0, 90, (side, side + 7 * (number % 4), 3))
        pixels[..., c] += 130
        return Image.fromarray(pixels.astype(np.uint8))

    return draw
