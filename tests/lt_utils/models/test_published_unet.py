"""The U-Net of class-balancing diffusion: its published counts, its initial weights, its ninth condition."""

import math

import pytest
import torch
from torch import nn

from lt_utils.data.edm_augmentation import edm_augment
from lt_utils.errors import CourseError
from lt_utils.models.unet import SIZES, ResidualBlock, SelfAttention, UNet, parameter_counts, published_unet
from lt_utils.training.checkpoints import load_model, save_model

X, T, Y = (
    torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0)),
    torch.tensor([3, 700]),
    torch.tensor([0, 5]),
)


@pytest.mark.parametrize(
    ("classes", "size", "augmentation", "everything", "trained"),
    [
        (100, "full", False, 35_925_507, 35_797_507),
        (10, "full", False, 35_879_427, 35_879_427 - 128_000),
        (0, "full", False, 35_874_307, 35_874_307 - 128_000),
        (100, "full", True, 35_925_507 + 4_608, 35_797_507 + 4_608),
        (100, "mid", False, 9_041_667, 8_977_667),
        (100, "small", False, 1_669_123, 1_637_123),
        (10, "small", False, 1_657_603, 1_625_603),
    ],
)
def test_parameter_counts_are_the_published_ones(classes, size, augmentation, everything, trained):
    with torch.device("meta"):
        model = published_unet(classes, size, augmentation=augmentation)
    assert parameter_counts(model) == (everything, trained)


def test_the_full_network_has_22_residual_blocks_and_6_attentions_at_16_pixels_and_the_middle():
    with torch.device("meta"):
        model = published_unet(100)
    blocks = [module for module in model.modules() if isinstance(module, ResidualBlock)]
    assert len(blocks) == 22 and {block.dropout.p for block in blocks} == {0.1}
    attention = [[isinstance(b.attention, SelfAttention) for b in part if isinstance(b, ResidualBlock)] for part in
                 (model.down, model.middle, model.up)]  # fmt: skip
    assert attention == [[0, 0, 1, 1, 0, 0, 0, 0], [1, 0], [0] * 6 + [1] * 3 + [0] * 3]
    widths = [
        (block.conv1.in_channels, block.conv1.out_channels) for block in model.up if isinstance(block, ResidualBlock)
    ]
    assert widths == [(512, 256)] * 6 + [(512, 256), (512, 256), (384, 256), (384, 128), (256, 128), (256, 128)]
    assert {module.num_groups for module in model.modules() if isinstance(module, nn.GroupNorm)} == {32}


@pytest.fixture(scope="module")
def full() -> UNet:
    torch.manual_seed(0)
    return published_unet(100)


def test_initial_weights_have_the_measured_spread(full):
    assert full.down[4].attention.qkv.weight.std().item() == pytest.approx(0.0626, abs=2e-4)
    assert full.down[4].attention.out.weight.std().item() == pytest.approx(0.0626e-5, abs=2e-9)
    assert full.down[0].conv2.weight.std().item() == pytest.approx(3e-7, rel=0.05)
    assert full.out.weight.std().item() == pytest.approx(4e-7, rel=0.05)
    fan = 9 * (full.down[0].conv1.in_channels + full.down[0].conv1.out_channels)
    assert full.down[0].conv1.weight.abs().max().item() == pytest.approx(math.sqrt(6 / fan), rel=1e-3)
    assert all(not module.bias.any() for module in full.modules() if isinstance(module, nn.Conv2d))


def test_at_the_start_a_label_is_four_times_longer_than_the_step(full):
    assert full.condition.label.weight.norm(dim=1).mean().item() == pytest.approx(22.6, abs=0.1)
    steps = full.condition(torch.arange(1000), torch.full((1000,), 100))
    assert steps.norm(dim=1).mean().item() == pytest.approx(5.3, abs=0.5)


def test_groups_of_one_channel_hide_what_the_condition_adds():
    """With 32 groups of one channel a narrow network barely sees step and label; with groups of four it does."""
    torch.manual_seed(0)
    for groups, sees in ((32, False), (None, True)):
        block = UNet(3, 10, **SIZES["small"], groups=groups).eval().down[0]
        with torch.no_grad():
            block.conv2.weight.normal_(std=0.1)
            x = torch.randn(1, 32, 8, 8)
            change = (block(x, torch.ones(1, 128)) - block(x, torch.zeros(1, 128))).abs().max().item()
        assert (change > 0.05) == sees and (change < 1e-3) != sees


def test_no_augmentation_adds_nothing_and_an_augmentation_does():
    torch.manual_seed(0)
    model = published_unet(10, "small", augmentation=True).eval()
    for weight in (model.out.weight, *(block.conv2.weight for block in model.up if isinstance(block, ResidualBlock))):
        nn.init.normal_(weight, std=0.05)
    with torch.no_grad():
        plain = model(X, T, Y)
        assert torch.equal(model(X, T, Y, torch.zeros(2, 9)), plain)
        _, vector = edm_augment(X)
        assert (model(X, T, Y, vector) - plain).abs().max() > 1e-4


def test_the_switches_are_in_the_configuration_and_old_checkpoints_still_load(tmp_path):
    torch.manual_seed(0)
    model = UNet(3, 10, **SIZES["small"], augmentation=9, groups=32).eval()
    save_model(tmp_path / "a.safetensors", model)
    again, _ = load_model(tmp_path / "a.safetensors", UNet)
    vector = torch.randn(2, 9)
    assert again.config == model.config and torch.equal(again(X, T, Y, vector), model(X, T, Y, vector))
    # Networks of the course's earlier notebooks know neither option.
    old = UNet(1, 3, 8, (1, 2), (1,), 1)
    del old.config["augmentation"], old.config["groups"]
    save_model(tmp_path / "b.safetensors", old)
    assert load_model(tmp_path / "b.safetensors", UNet)[0].config["groups"] is None


def test_unknown_sizes_are_refused_with_the_known_ones():
    with pytest.raises(CourseError, match="Known: full, mid, small"):
        published_unet(10, "ful")
    assert set(SIZES) == {"full", "mid", "small"}
