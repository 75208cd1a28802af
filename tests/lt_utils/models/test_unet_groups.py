"""The condition of a residual block must survive the normalisation that follows it."""

import pytest
import torch

from lt_utils.models.unet import GroupNorm, UNet


@pytest.mark.parametrize(
    ("channels", "groups"), [(32, 8), (64, 16), (96, 8), (128, 32), (256, 32), (384, 32), (18, 2), (3, 1)]
)
def test_groups_hold_at_least_four_channels_and_are_32_in_the_published_network(channels, groups):
    assert GroupNorm(channels).num_groups == groups


def test_what_the_condition_adds_to_a_channel_is_not_normalised_away():
    x, added = torch.randn(2, 32, 8, 8), torch.randn(2, 32, 1, 1)
    one_channel_each = torch.nn.GroupNorm(32, 32)
    assert torch.allclose(one_channel_each(x + added), one_channel_each(x), atol=1e-5)
    norm = GroupNorm(32)
    assert (norm(x + added) - norm(x)).abs().mean() > 0.1


def test_group_normalisation_equals_that_of_torch_in_float32():
    norm, x = GroupNorm(64), torch.randn(2, 64, 4, 4, dtype=torch.bfloat16)
    expected = torch.nn.functional.group_norm(x.float(), 16).bfloat16()
    assert torch.equal(norm(x), expected)


def test_the_published_network_keeps_its_size():
    with torch.device("meta"):
        network = UNet(3, 100, 128, (1, 2, 2, 2), attention=(1,), blocks=2)
    # 35,925,507 in the original, which counts its frozen table of 1,000 x 128 time embeddings.
    assert sum(p.numel() for p in network.parameters()) == 35_925_507 - 128_000
