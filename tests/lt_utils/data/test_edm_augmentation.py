"""EDM's augmentation: nothing done is nothing, simple draws have known results, and the draws follow their laws."""

import math

import pytest
import torch

from lt_utils.data.edm_augmentation import PROBABILITY, augment, description, draw, edm_augment, placement

IMAGES = torch.rand(3, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1


def done(**given: float) -> torch.Tensor:
    """a [3, 8] with the given numbers, the same for each image."""
    a = torch.zeros(3, 8)
    for name, value in given.items():
        a[:, int(name[1:])] = value
    return a


def test_nothing_done_is_nothing():
    a = done()
    assert not description(a).any()
    assert torch.allclose(augment(IMAGES, a), IMAGES, atol=1e-6)


def test_a_flip_alone_is_the_flipped_image_and_the_vector_1_0_0():
    a = done(a0=1)
    assert description(a).tolist() == [[1.0] + [0.0] * 8] * 3
    assert torch.allclose(augment(IMAGES, a), IMAGES.flip(3), atol=1e-5)
    assert torch.allclose(augment(IMAGES, done(a1=1)), IMAGES.flip(2), atol=1e-5)
    assert description(done(a1=1))[0].tolist() == [0.0, 1.0] + [0.0] * 7


def test_a_quarter_turn_and_whole_pixel_shifts_are_exact():
    # Forward, pixels turn by -a3; with y pointing down that is anticlockwise to the eye.
    assert torch.allclose(augment(IMAGES, done(a3=math.pi / 2)), torch.rot90(IMAGES, 1, (2, 3)), atol=1e-5)
    shifted = augment(IMAGES, done(a6=2 / (12 / 8), a7=-1 / (12 / 8)))  # two pixels to the right, one up
    assert torch.allclose(shifted[:, :, :-1, 2:], IMAGES[:, :, 1:, :-2], atol=1e-5)
    assert torch.allclose(shifted[:, :, :-1, 1], IMAGES[:, :, 1:, 1], atol=1e-5)  # mirrored about the first column


def test_the_order_of_the_parts():
    """A shift is done first (in the picture's own axes), the mirror last."""
    a = done(a0=1, a6=1)
    point = torch.tensor([0.0, 0.0, 1.0])
    assert (placement(a, 16, 16)[0] @ point).tolist() == [-2.0, 0.0, 1.0]


def test_sizes_of_scale_and_stretch():
    assert torch.det(placement(done(a2=1), 8, 8)).tolist() == pytest.approx([2**0.4] * 3, rel=1e-5)
    stretched = placement(done(a4=0.7, a5=1.5), 8, 8)
    assert torch.det(stretched).tolist() == pytest.approx([1.0] * 3, rel=1e-5)
    along = torch.tensor([math.cos(0.7), math.sin(0.7), 0.0])
    assert torch.allclose(stretched[0] @ along, 2 ** (0.2 * 1.5) * along, atol=1e-5)
    assert torch.equal(stretched[0, :2, :2], stretched[0, :2, :2].T) or torch.allclose(
        stretched[0, :2, :2], stretched[0, :2, :2].T, atol=1e-6
    )


def test_the_nine_numbers():
    a = done(a0=1, a1=1, a2=0.5, a3=0.3, a4=2.0, a5=-1.2, a6=0.7, a7=-0.1)
    cos, sin = math.cos, math.sin
    expected = [1, 1, 0.5, cos(0.3) - 1, sin(0.3), -1.2 * cos(2.0), -1.2 * sin(2.0), 0.7, -0.1]
    assert description(a)[1].tolist() == pytest.approx(expected, abs=1e-6)


def test_draws_follow_their_laws():
    torch.manual_seed(0)
    a = draw(40_000)
    used = (a != 0).double().mean(0)
    expected = [0.5, PROBABILITY / 2] + [PROBABILITY] * 6
    assert used.tolist() == pytest.approx(expected, abs=0.008)
    assert set(a[:, :2].unique().tolist()) == {0.0, 1.0}
    assert torch.equal(a[:, 4] != 0, a[:, 5] != 0) and torch.equal(a[:, 6] != 0, a[:, 7] != 0)
    for column in (2, 5, 6, 7):
        assert a[a[:, column] != 0, column].std().item() == pytest.approx(1, abs=0.05)
    for column in (3, 4):
        values = a[a[:, column] != 0, column]
        assert values.abs().max() <= math.pi and values.std().item() == pytest.approx(math.pi / 3**0.5, rel=0.05)
    assert abs(torch.corrcoef(a.T)[2, 5].item()) < 0.02  # gates of their own


def test_most_images_stay_in_range_and_a_probability_of_zero_leaves_the_mirror_only():
    torch.manual_seed(0)
    out, vector = edm_augment(IMAGES.repeat(20, 1, 1, 1))
    assert out.shape == (60, 3, 12, 12) and vector.shape == (60, 9) and out.abs().max() < 2.5
    plain, vector = edm_augment(IMAGES.repeat(20, 1, 1, 1), probability=0.0)
    assert not vector[:, 1:].any() and 0 < vector[:, 0].mean() < 1
    kept = vector[:, 0] == 0
    assert torch.allclose(plain[kept], IMAGES.repeat(20, 1, 1, 1)[kept], atol=1e-5)
