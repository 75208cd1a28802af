"""Denoisers: parameter counts of the published U-Nets, conditions that reach the output, the size of what comes out."""

import math

import pytest
import torch

from lt_utils.errors import CourseError
from lt_utils.models.feature_denoisers import ResidualMLP
from lt_utils.models.unet import SelfAttention, UNet, sinusoid

FULL = dict(width=128, mults=(1, 2, 2, 2), attention=(1,), blocks=2)


@pytest.mark.parametrize(
    "classes, options, parameters",
    [
        (100, FULL, 35_797_507),
        (10, FULL, 35_751_427),
        (0, FULL, 35_746_307),
        (100, FULL | dict(width=64), 8_977_667),
        (100, dict(width=32, mults=(1, 2, 2)), 1_637_123),
        (10, dict(width=32, mults=(1, 2, 2)), 1_625_603),
    ],
)
def test_unet_has_the_published_number_of_trained_parameters(classes, options, parameters):
    model = UNet(3, classes, **options)
    assert sum(weight.numel() for weight in model.parameters()) == parameters


def test_residual_mlp_has_the_parameters_of_its_parts():
    model = ResidualMLP(64, 10, width=256, blocks=4)
    linear = lambda inputs, outputs: inputs * outputs + outputs  # noqa: E731
    condition = 2 * linear(256, 256) + 10 * 256
    block = linear(256, 3 * 256) + 2 * linear(256, 256)
    expected = linear(64, 256) + condition + 4 * block + 2 * 256 + linear(256, 64)
    assert sum(weight.numel() for weight in model.parameters()) == expected == 1_483_584


@pytest.mark.parametrize("width", [1, 33])
def test_an_odd_width_is_refused(width):
    for build in (lambda: ResidualMLP(6, 3, width, 1), lambda: UNet(1, 3, width, mults=(1,), blocks=1)):
        with pytest.raises(CourseError, match=f"width of a denoiser must be an even number.* not {width}[.]"):
            build()


def networks() -> list:
    """One of each kind, its weights drawn so that nothing is zero, with inputs."""
    found = []
    torch.manual_seed(0)
    image = UNet(1, 3, width=16, mults=(1, 2), attention=(1,), blocks=1)
    vector = ResidualMLP(6, 3, width=16, blocks=2)
    for model, x in ((image, torch.randn(4, 1, 8, 8)), (vector, torch.randn(4, 6))):
        for weight in model.parameters():
            if weight.ndim > 1:
                torch.nn.init.normal_(weight, std=0.3)
        found.append(pytest.param(model.eval(), x, id=type(model).__name__))
    return found


@pytest.mark.parametrize("model, x", networks())
def test_output_has_the_shape_of_its_input_and_depends_on_step_and_label(model, x):
    t, y = torch.tensor([5, 5, 900, 0]), torch.tensor([0, 1, 2, 3])
    out = model(x, t, y)
    assert out.shape == x.shape and out.dtype == torch.float32 and model.no_label == 3
    assert not torch.allclose(model(x, t + 1, y), out, atol=1e-4)
    assert not torch.allclose(model(x, t, (y + 1) % 3)[:3], out[:3], atol=1e-3)


@pytest.mark.parametrize("model, x", networks())
def test_samples_of_a_batch_do_not_touch_each_other(model, x):
    t, y = torch.tensor([5, 7, 900, 0]), torch.tensor([0, 1, 2, 3])
    out = model(x, t, y)
    for number in range(4):
        one = slice(number, number + 1)
        assert torch.allclose(model(x[one], t[one], y[one]), out[one], atol=1e-4)


@pytest.mark.parametrize("model, x", networks())
def test_no_label_adds_nothing_to_the_embedding(model, x):
    t, y = torch.tensor([5, 7, 900, 0]), torch.full((4,), 3)
    before = model(x, t, y)
    table = model.condition.label.weight
    kept = table.detach().clone()
    with torch.no_grad():
        table.add_(10)
    assert torch.equal(model(x, t, y), before)
    model.zero_grad()
    model(x, t, y).sum().backward()
    assert table.grad is None or table.grad.abs().max() == 0
    with torch.no_grad():
        table.copy_(kept)
    condition = model.condition
    assert torch.allclose(
        condition(t, torch.zeros(4, dtype=torch.long)) - condition(t, y), kept[0].expand(4, -1), atol=1e-5
    )


def test_unconditional_unet_ignores_labels():
    model = UNet(1, 0, width=8, mults=(1, 2), attention=(), blocks=1)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([1, 2])
    assert torch.equal(model(x, t, torch.tensor([0, 0])), model(x, t, torch.tensor([5, 7])))


@pytest.mark.parametrize("build", [lambda: UNet(3, 10), lambda: ResidualMLP(64, 10)])
def test_networks_start_near_zero(build):
    torch.manual_seed(0)
    model = build()
    x = torch.randn(2, 3, 16, 16) if isinstance(model, UNet) else torch.randn(2, 64)
    assert model(x, torch.tensor([3, 700]), torch.tensor([0, 10])).abs().max() < 1e-2


def test_sinusoid_interleaves_sine_and_cosine_from_1_to_a_ten_thousandth():
    embedding = sinusoid(torch.tensor([0, 3, 999]), 8)
    assert embedding.shape == (3, 8) and embedding[0].tolist() == [0, 1] * 4
    for number in range(4):
        angle = 999 * math.exp(-2 * number / 8 * math.log(10_000))
        assert embedding[2, 2 * number].item() == pytest.approx(math.sin(angle), abs=1e-4)
        assert embedding[2, 2 * number + 1].item() == pytest.approx(math.cos(angle), abs=1e-4)
    assert len({tuple(row) for row in sinusoid(torch.arange(1000), 32).tolist()}) == 1000


def test_attention_is_softmax_of_scaled_products_over_all_positions():
    torch.manual_seed(0)
    layer, x = SelfAttention(8), torch.randn(2, 8, 3, 4)
    flat = layer.qkv(layer.norm(x)).flatten(2)  # [B, 3C, HW]
    query, key, value = flat[:, :8], flat[:, 8:16], flat[:, 16:]
    weights = (torch.einsum("bcq,bck->bqk", query, key) / math.sqrt(8)).softmax(-1)
    mixed = torch.einsum("bqk,bck->bcq", weights, value).reshape(2, 8, 3, 4)
    assert torch.allclose(layer(x), x + layer.out(mixed), atol=1e-5)


def test_images_that_cannot_be_halved_are_refused():
    model = UNet(1, 3, width=8, mults=(1, 2, 2, 2), blocks=1)
    with pytest.raises(CourseError, match="4 levels halves the image 3 times: 28 x 28"):
        model(torch.zeros(1, 1, 28, 28), torch.tensor([0]), torch.tensor([0]))
    assert UNet(1, 3, width=8, mults=(1, 2, 2), blocks=1)(
        torch.zeros(1, 1, 28, 28), torch.tensor([0]), torch.tensor([0])
    ).shape == (1, 1, 28, 28)


def test_mixed_precision_output_is_float32_and_close():
    torch.manual_seed(0)
    model = UNet(1, 3, width=16, mults=(1, 2), attention=(1,), blocks=1).eval()
    torch.nn.init.normal_(model.out.weight, std=0.1)
    x, t, y = torch.randn(4, 1, 8, 8), torch.tensor([5, 5, 900, 0]), torch.tensor([0, 1, 2, 3])
    with torch.no_grad():
        exact = model(x, t, y)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(x, t, y)
    assert mixed.dtype == torch.float32 and (mixed - exact).abs().mean() < 0.05 * exact.abs().mean()


def test_dropout_acts_in_training_only():
    model = UNet(1, 0, width=8, mults=(1,), attention=(), blocks=1, dropout=0.5)
    torch.nn.init.normal_(model.out.weight, std=0.1)
    for block in model.up:
        torch.nn.init.normal_(block.conv2.weight, std=0.1)
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([1])
    assert not torch.equal(model(x, t, t), model(x, t, t))
    model.eval()
    assert torch.equal(model(x, t, t), model(x, t, t))


def test_a_patch_of_one_pixel_changes_neither_the_first_weights_nor_the_output():
    options, models = dict(width=16, mults=(1, 2), attention=(1,), blocks=1), []
    for more in ({}, {"patch": 1}):
        torch.manual_seed(0)
        models.append(UNet(1, 3, **options, **more))
    old = {name: value for name, value in models[0].config.items() if name != "patch"}
    models.append(UNet(**old))  # as from a checkpoint that knows no patch
    models[2].load_state_dict(models[0].state_dict())
    x, t, y = torch.randn(2, 1, 8, 8), torch.tensor([3, 700]), torch.tensor([0, 3])
    assert all(torch.equal(model(x, t, y), models[0](x, t, y)) for model in models)
    assert models[0].stem.weight.sum().item() == pytest.approx(0.5026314, abs=1e-5)  # as it was without the option


def test_patches_become_channels_inside_and_pixels_again_at_the_end():
    torch.manual_seed(0)
    model = UNet(3, 4, width=16, mults=(1, 2), attention=(1,), blocks=1, patch=2).eval()
    torch.nn.init.normal_(model.out.weight, std=0.1)
    assert model.stem.in_channels == model.out.out_channels == 3 * 2 * 2
    seen = []
    model.stem.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    x, t, y = torch.randn(2, 3, 12, 8), torch.tensor([3, 700]), torch.tensor([0, 4])
    out = model(x, t, y)
    assert out.shape == x.shape and seen[0].shape == (2, 12, 6, 4)
    assert torch.equal(seen[0][:, 6], x[:, 1, 1::2, ::2])  # second colour, lower left pixel of each square
    # The network on squares, as one of its own on images of 12 channels: only the way in and out differs.
    plain = UNet(12, 4, width=16, mults=(1, 2), attention=(1,), blocks=1).eval()
    plain.load_state_dict(model.state_dict())
    inside = plain(torch.nn.functional.pixel_unshuffle(x, 2), t, y)
    assert torch.equal(torch.nn.functional.pixel_shuffle(inside, 2), out)


@pytest.mark.parametrize(
    "size, options, told",
    [
        ((30, 28), dict(mults=(1, 2), patch=4), "images that divide into squares of 4 x 4 pixels, not 30 x 28"),
        ((28, 28), dict(mults=(1, 2, 2), patch=4), "halves the image 2 times: 7 x 7 squares cannot be halved"),
    ],
)
def test_images_that_do_not_divide_into_patches_are_refused(size, options, told):
    model = UNet(1, 3, width=8, blocks=1, **options)
    with pytest.raises(CourseError, match=told):
        model(torch.zeros(1, 1, *size), torch.tensor([0]), torch.tensor([0]))


@pytest.mark.parametrize("patch", [0, -1])
def test_a_patch_smaller_than_a_pixel_is_refused(patch):
    with pytest.raises(CourseError, match=f"side of a square of pixels, 1 or more, not {patch}[.]"):
        UNet(1, 3, width=8, blocks=1, patch=patch)
