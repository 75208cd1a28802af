"""AutoAugment in batches: its policy and every operation against torchvision's, and each image by its own sub-policy."""

import pytest
import torch
from torchvision.transforms import v2

from lt_utils.data import autoaugment
from lt_utils.data.autoaugment import POLICY, SIGNED, auto_augment, operation

SIZE = 20
STEPS = sorted({(name, level) for pair in POLICY for name, _, level in pair})


@pytest.fixture(scope="module")
def images():
    """Uneven images, with colours that autocontrast and equalize can stretch, no two alike."""
    generator = torch.Generator().manual_seed(0)
    smooth = torch.rand(64, 3, 5, 5, generator=generator)
    smooth = torch.nn.functional.interpolate(smooth, SIZE, mode="bilinear")
    return (40 + 170 * smooth + 10 * torch.rand(64, 3, SIZE, SIZE, generator=generator)).byte()


@pytest.fixture(scope="module")
def peer():
    return v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)


def by_peer(peer, image, name, level, sign):
    """One operation as torchvision's own AutoAugment does it, to a single image, filled with grey."""
    strengths, signed = peer._AUGMENTATION_SPACE[name]
    strengths = strengths(10, SIZE, SIZE)
    strength = 0.0 if strengths is None else float(strengths[level])
    fill = {torch.Tensor: 128}
    if signed:
        strength *= sign
    return peer._apply_image_or_video_transform(image, name, strength, v2.InterpolationMode.NEAREST, fill)


def test_the_policy_is_the_published_one(peer):
    theirs = [[(name, share, level or 0) for name, share, level in pair] for pair in peer._policies]
    assert theirs == [list(pair) for pair in POLICY]
    assert {name for name, _ in STEPS if peer._AUGMENTATION_SPACE[name][1]} == SIGNED


@pytest.mark.parametrize("name, level", STEPS)
def test_every_operation_is_torchvisions(name, level, images, peer):
    for sign in (1, -1) if name in SIGNED else (1,):
        ours = operation(images[:6], name, level, sign)
        one_by_one = torch.stack([by_peer(peer, image, name, level, sign) for image in images[:6]])
        # Torchvision keeps its strengths in float32: a product on the edge may round to the next grey level.
        assert ours.dtype == torch.uint8 and (ours.int() - one_by_one.int()).abs().max() <= 1
        assert (name, level) == ("Color", 0) or not torch.equal(ours, images[:6])


def test_an_unknown_operation_is_refused(images):
    with pytest.raises(ValueError, match="no operation 'ShearZ'"):
        operation(images, "ShearZ", 3)


def test_each_image_goes_through_the_sub_policy_it_drew(images):
    """The same draws, image by image in a loop."""
    torch.manual_seed(4)
    ours = auto_augment(images)
    torch.manual_seed(4)
    chosen, chance = torch.randint(25, (64,)).tolist(), torch.rand(64, 2)
    negative = torch.rand(64, 2) < 0.5
    for k, image in enumerate(images):
        for place, (name, probability, level) in enumerate(POLICY[chosen[k]]):
            if chance[k, place] < probability:
                image = operation(image[None], name, level, -1 if negative[k, place] else 1)[0]
        assert torch.equal(image, ours[k])


def test_operations_come_as_often_as_the_policy_says(monkeypatch):
    seen = {}

    def count(images, name, level, sign=1, fill=128):
        seen[name, sign] = seen.get((name, sign), 0) + len(images)
        return images

    monkeypatch.setattr(autoaugment, "operation", count)
    torch.manual_seed(0)
    auto_augment(torch.zeros(50_000, 1, 1, 1, dtype=torch.uint8))
    for name in {name for name, _ in STEPS}:
        expected = sum(share for pair in POLICY for other, share, _ in pair if other == name) / 25
        both = seen.get((name, 1), 0), seen.get((name, -1), 0)
        assert sum(both) / 50_000 == pytest.approx(expected, abs=0.008)
        assert both[1] / sum(both) == pytest.approx(0.5 if name in SIGNED else 0, abs=0.03)


@pytest.mark.parametrize("channels", [1, 3])
def test_it_repeats_with_its_seed_and_leaves_its_input(channels, images):
    x = images[:, :channels]
    kept, results = x.clone(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(auto_augment(x))
    assert results[0].shape == x.shape and results[0].dtype == torch.uint8
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2]) and torch.equal(x, kept)
