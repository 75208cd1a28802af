"""Batched augmentation: exact effects of crop, flip and cutout, their rates, and that nothing is changed in place."""

import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as ops

from lt_utils.data import augmentation
from lt_utils.data.augmentation import (
    contrast_view,
    cutout,
    half_size,
    rand_augment,
    random_affine,
    random_colour,
    random_crop_flip,
    random_erasing,
    random_flip,
    random_resized_crop,
    strong_view,
    two_crops,
    unit,
)
from lt_utils.data.autoaugment import operation


def images(count=16, channels=3, height=8, width=8):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(1, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def test_unit_is_float_in_0_to_1_and_leaves_its_input():
    x = images()
    kept = x.clone()
    result = unit(x)
    assert result.dtype == torch.float32 and torch.equal((result * 255).round().byte(), x) and torch.equal(x, kept)
    assert unit(torch.tensor([0, 255], dtype=torch.uint8).view(1, 1, 1, 2)).flatten().tolist() == [0, 1]
    assert result.is_contiguous(memory_format=torch.channels_last)
    already = torch.full((1, 1, 2, 2), 255.0)
    unit(already)
    assert already.min() == 255


def test_without_pad_only_the_mirror_image_is_left():
    pairs = zip(random_crop_flip(images(), pad=0), images(), strict=True)
    assert all(torch.equal(one, image) or torch.equal(one, image.flip(2)) for one, image in pairs)


@pytest.mark.parametrize("height, width", [(8, 8), (6, 10)])
def test_each_image_is_a_shifted_and_perhaps_mirrored_copy_of_its_padded_self(height, width):
    torch.manual_seed(0)
    x, pad = images(64, 3, height, width), 2
    out = random_crop_flip(x, pad)
    assert out.dtype == torch.uint8 and out.shape == x.shape
    padded = F.pad(x, (pad,) * 4)
    found = []
    for one, source in zip(out, padded, strict=True):
        windows = {
            (top, left, mirrored): window.flip(2) if mirrored else window
            for top in range(2 * pad + 1)
            for left in range(2 * pad + 1)
            for window in [source[:, top : top + height, left : left + width]]
            for mirrored in (False, True)
        }
        match = [place for place, window in windows.items() if torch.equal(window, one)]
        assert len(match) == 1
        found += match
    tops, lefts, flips = map(set, zip(*found, strict=True))
    assert tops == lefts == set(range(2 * pad + 1)) and flips == {False, True}


def test_shifts_and_flips_are_uniform_and_independent():
    torch.manual_seed(0)
    count, pad = 20_000, 1
    x = torch.zeros(count, 1, 4, 5, dtype=torch.uint8)
    x[:, 0, 1, 1] = 255
    place = random_crop_flip(x, pad).flatten(1).argmax(1)
    row, column = place // 5, place % 5
    assert torch.bincount(row, minlength=4)[:3].div(count).tolist() == pytest.approx([1 / 3] * 3, abs=0.015)
    # Not mirrored the pixel lies in column 0, 1 or 2, mirrored in 2, 3 or 4.
    assert torch.bincount(column).div(count).tolist() == pytest.approx([1 / 6, 1 / 6, 1 / 3, 1 / 6, 1 / 6], abs=0.015)


def test_flip_mirrors_half_of_the_images():
    torch.manual_seed(0)
    x = torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3).expand(4000, 1, 2, 3)
    out = random_flip(x)
    same, mirrored = (out == x).flatten(1).all(1), (out == x.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all() and mirrored.double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_cutout_blackens_one_square_cut_off_at_the_border():
    torch.manual_seed(0)
    x, size = images(3000, 2, 12, 12), 4
    out = cutout(x, size)
    hole = out[:, 0] == 0
    assert torch.equal(out, torch.where(hole[:, None], 0, x))
    rows, columns = hole.any(2).sum(1), hole.any(1).sum(1)
    assert torch.equal(rows * columns, hole.flatten(1).sum(1))  # a full rectangle
    assert rows.max() == size and rows.min() == size // 2
    # A centre c in 0..11 covers c-2 .. c+1 inside the image: 2, 3, 4 x 9, 3 rows, 44/12 on average.
    assert rows.double().mean().item() == pytest.approx(44 / 12, abs=0.04)
    assert hole.flatten(1).sum(1).double().mean().item() == pytest.approx((44 / 12) ** 2, abs=0.2)


@pytest.mark.parametrize("height, width", [(32, 32), (24, 36)])
def test_random_affine_turns_and_scales_as_torchvision_does(height, width):
    x = images(8, 3, height, width)
    torch.manual_seed(3)
    out = random_affine(x)
    torch.manual_seed(3)
    angles, sizes = 40 * torch.rand(8) - 20, 0.8 + 0.4 * torch.rand(8)
    for one, source, angle, size in zip(out, x, angles.tolist(), sizes.tolist(), strict=True):
        peer = ops.affine(source.float(), -angle, [0, 0], size, [0, 0], ops.InterpolationMode.BILINEAR)
        assert (one - peer).abs().max() < 0.01
    assert (random_affine(x, 0, (1, 1)) - x.float()).abs().max() < 0.01


def test_random_colour_is_brightness_contrast_saturation_of_torchvision():
    x = images(4, 3, 10, 10).float()
    torch.manual_seed(3)
    out = random_colour(x)
    torch.manual_seed(3)
    bright, contrast, colour = 0.6 + 0.8 * torch.rand(3, 4)
    for k in range(4):
        # Float images in 0..1 there: uint8 ones would be rounded after each step.
        peer = ops.adjust_brightness(x[k] / 255, bright[k].item())
        peer = ops.adjust_saturation(ops.adjust_contrast(peer, contrast[k].item()), colour[k].item())
        assert (
            out[k] / 255 - peer
        ).abs().max() < 1e-3  # torchvision's weights of red, green, blue: 0.2989, 0.587, 0.114
    assert (bright - 1).abs().min() > 0.01 and out.shape == x.shape


@pytest.mark.parametrize("alone", ["random_affine", "random_colour", "cutout"])
def test_a_strong_view_does_each_of_its_three_changes_to_half_of_the_images(alone, monkeypatch):
    for name in {"random_affine", "random_colour", "cutout"} - {alone}:
        monkeypatch.setattr(augmentation, name, lambda images, size=0: images)
    torch.manual_seed(0)
    half = images(1, 3, 16, 8)
    x = torch.cat([half, half.flip(3)], 3).expand(2000, 3, 16, 16)  # its mirror image is itself
    out = strong_view(x, pad=0)
    changed = (out != x).flatten(1).any(1)
    assert changed.double().mean().item() == pytest.approx(0.5, abs=0.04)
    if alone == "cutout":
        assert (out == 0).all(1).flatten(1).sum(1).max() == 8 * 8


@pytest.mark.parametrize("shape", [(6, 1, 28, 28), (6, 3, 20, 32)])
def test_a_strong_view_keeps_shape_and_type(shape):
    out = strong_view(torch.randint(0, 256, shape, dtype=torch.uint8), pad=3)
    assert out.shape == shape and out.dtype == torch.uint8


@pytest.mark.parametrize("change", [random_crop_flip, random_flip, cutout, strong_view])
def test_augmentation_repeats_with_its_seed_and_leaves_its_input(change):
    x = images(height=24, width=24)
    kept = x.clone()
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(change(x))
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2]) and torch.equal(x, kept)


# ------------------------------------------------------------------------------------------------------ two random crops
def test_random_resized_crop_shows_a_part_of_the_image_that_the_rule_allows():
    """On two ramps, left to right and top to bottom, a part of width w has the slope w of the whole one."""
    torch.manual_seed(0)
    count, side = 400, 32
    ramp = torch.arange(side).float().expand(side, side)
    out = random_resized_crop(torch.stack([ramp, ramp.T]).expand(count, 2, side, side).byte())
    assert out.dtype == torch.float32 and out.shape == (count, 2, side, side)
    width, height = out[:, 0, 8, 16] - out[:, 0, 8, 15], out[:, 1, 16, 8] - out[:, 1, 15, 8]
    area, shape = width * height, width / height
    assert 0.19 < area.min() and area.max() <= 1.001
    assert 3 / 4 - 0.01 < shape.min() < 0.8 and 1.25 < shape.max() < 4 / 3 + 0.01
    # inside the image: the outermost pixel centres of the part lie between -0.5 and side - 0.5
    for axis, wide in ((0, width), (1, height)):
        middle = out[:, axis, 15:17, 15:17].mean((1, 2))
        assert (middle - wide * side / 2).min() > -0.51 and (middle + wide * side / 2).max() < side - 0.49
    # all areas are equally likely, but for the few parts that would be wider than the image
    assert abs(area.mean() - 0.6) < 0.05 and abs(out[:, 0, 15:17, 15:17].mean() - (side - 1) / 2) < 0.5


def test_random_resized_crop_is_a_bilinear_enlargement(monkeypatch):
    """The left upper quarter, as torchvision enlarges it; the outermost pixels may see across the border of the part."""
    values = iter([0.25, 0.0, -1.0, -1.0])
    monkeypatch.setattr(augmentation, "_between", lambda x, low, high: torch.full((len(x), 1, 1, 1), next(values)))
    x = images(4)
    wanted = ops.resize(x[:, :, :4, :4].float(), [8, 8], antialias=False)
    torch.testing.assert_close(random_resized_crop(x)[..., 1:-1, 1:-1], wanted[..., 1:-1, 1:-1], rtol=0, atol=1e-2)


def test_contrast_view_is_grey_in_a_fifth_and_mirrored_in_half_of_the_cases(monkeypatch):
    torch.manual_seed(1)
    monkeypatch.setattr(augmentation, "random_resized_crop", lambda x: x.float())
    x = images(1).expand(3000, 3, 8, 8)
    kept = x.clone()
    out = contrast_view(x)
    assert out.dtype == torch.uint8 and torch.equal(x, kept)
    grey = (out[:, :1] == out).flatten(1).all(1)
    assert abs(grey.double().mean() - 0.2) < 0.03
    same, mirrored = ((out == one).flatten(1).all(1).double().mean().item() for one in (x, x.flip(3)))
    assert same + mirrored == pytest.approx(0.2 * 0.8, abs=0.03) and same == pytest.approx(mirrored, abs=0.03)
    assert contrast_view(images(5, 1)).shape == (5, 1, 8, 8)  # grey images have no colour to lose


def test_two_crops_are_two_different_views_of_the_same_images():
    torch.manual_seed(2)
    x = images(8)
    first, second = two_crops(x)
    assert first.dtype == second.dtype == torch.uint8 and first.shape == second.shape == x.shape
    assert not any(torch.equal(one, two) for one, two in zip(first, second, strict=True))
    torch.manual_seed(2)
    assert all(torch.equal(one, two) for one, two in zip(two_crops(x), (first, second), strict=True))


def test_half_size_is_the_mean_of_four_pixels():
    x = images(3, 1)
    wanted = x.view(3, 1, 4, 2, 4, 2).double().mean((3, 5)).round()
    assert torch.equal(half_size(x), wanted.byte())


RAND_OPERATIONS = (
    "Identity",
    "ShearX",
    "ShearY",
    "TranslateX",
    "TranslateY",
    "Rotate",
    "Brightness",
    "Color",
    "Contrast",
)
RAND_OPERATIONS += ("Sharpness", "Posterize", "Solarize", "AutoContrast", "Equalize")


def rand_operation(x, name, sign):
    """One operation at nine tenths of its range, by another function than RandAugment's."""
    if name == "Identity":
        return x
    if name == "ShearX":  # as ShearY of the picture turned about its diagonal
        return operation(x.mT, "ShearY", 8.1, sign).mT
    return operation(x, name, 8.1, sign)


def test_rand_augment_is_two_operations_each_with_probability_one_half():
    x = images(2, 3, 16, 16)
    seen, skipped = set(), 0
    for seed in range(120):
        torch.manual_seed(seed)
        out = rand_augment(x, together=2)
        torch.manual_seed(seed)
        wanted = x
        for _ in range(2):
            if torch.rand(1) >= 0.5:
                skipped += 1
                continue
            name = RAND_OPERATIONS[int(torch.randint(14, ()))]
            signed = name in RAND_OPERATIONS[1:10]
            wanted = rand_operation(wanted, name, -1 if signed and torch.rand(()) <= 0.5 else 1)
            seen.add(name)
        far = (
            out.int() - wanted.int()
        ).abs()  # a strength on the edge may round to another grey level or the next pixel
        assert out.dtype == torch.uint8 and (far > 1).double().mean() < 0.01, seed
    assert seen == set(RAND_OPERATIONS) and 90 < skipped < 150


def test_rand_augment_draws_once_for_those_that_stand_together():
    torch.manual_seed(0)
    x = images(1, 1, 12, 12).expand(160, 1, 12, 12)
    kept = x.clone()
    parts = rand_augment(x).split(8)
    assert all(torch.equal(part, part[:1].expand(8, -1, -1, -1)) for part in parts) and torch.equal(x, kept)
    assert len({part[0].numpy().tobytes() for part in parts}) > 8
    assert rand_augment(images(11)).shape == (11, 3, 8, 8)  # the last part may be short


@pytest.mark.parametrize("height, width", [(16, 16), (12, 24)])
def test_random_erasing_puts_a_rectangle_of_noise_into_a_share_of_the_images(height, width):
    torch.manual_seed(0)
    x = torch.full((4000, 3, height, width), 7, dtype=torch.uint8)
    out = random_erasing(x, 0.25)
    hole = (out != 7).any(1)
    erased = hole.flatten(1).any(1)
    assert erased.double().mean().item() == pytest.approx(0.25, abs=0.02) and (x == 7).all()
    sides, areas = set(), []
    for one in hole[erased]:
        rows, columns = one.any(1).nonzero()[:, 0], one.any(0).nonzero()[:, 0]
        box = one[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.all()  # all three channels happen to be 7 in one case of 256^3
        sides.add((rows[0].item(), columns[0].item(), *box.shape))
        areas.append(box.numel() / (height * width))
    assert len(sides) > 400  # one of its own for each
    assert 0.01 < min(areas) < 0.05 and 0.3 < max(areas) < 0.38
    assert sum(areas) / len(areas) == pytest.approx((0.02 + 0.33) / 2, abs=0.015)
    assert any(tall > 2 * wide for *_, tall, wide in sides) and any(wide > 2 * tall for *_, tall, wide in sides)
    noise = out[erased].permute(0, 2, 3, 1)[hole[erased]].double()
    assert noise.mean().item() == pytest.approx(127.5, abs=2) and noise.std().item() == pytest.approx(73.9, abs=2)
    assert torch.equal(random_erasing(x[:8], 0.0), x[:8])
