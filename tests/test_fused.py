"""The fused batch normalisation against torch's own operations in float64, and when it steps aside."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lt_utils import fused, recipes
from lt_utils.datasets import load
from lt_utils.encoders import ResNet
from lt_utils.errors import CourseError


@pytest.fixture(scope="module", autouse=True)
def compiled():
    try:
        fused.library()
    except CourseError as error:
        pytest.skip(str(error))


def layer(channels: int) -> nn.BatchNorm2d:
    bn = nn.BatchNorm2d(channels, momentum=0.3)
    nn.init.uniform_(bn.weight, 0.5, 1.5)
    nn.init.normal_(bn.bias)
    bn.fused = True
    return bn


def activation(*shape: int) -> torch.Tensor:
    return (torch.randn(shape) * 2 + 0.5).bfloat16().contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("channels, size", [(16, 32), (32, 16), (64, 8), (48, 8), (128, 4)])
@pytest.mark.parametrize("with_shortcut", [False, True])
def test_forward_gradients_and_running_statistics_are_those_of_float64(channels, size, with_shortcut):
    torch.manual_seed(channels)
    bn = layer(channels)
    exact = copy.deepcopy(bn).double()
    x, shortcut, gradient = (activation(8, channels, size, size) for _ in range(3))
    shortcut = shortcut if with_shortcut else None
    inputs = [value for value in (x, shortcut) if value is not None]
    wide = [value.double().requires_grad_() for value in inputs]
    for value in inputs:
        value.requires_grad_()
    assert fused.applies(bn, x, shortcut)

    out = fused.bn_relu(bn, x, shortcut)
    reference = exact(wide[0])
    before = reference + wide[1] if with_shortcut else reference
    # bfloat16 keeps 8 bits: rounding once errs by at most 2^-9 of the value
    torch.testing.assert_close(out.double(), F.relu(before), rtol=2**-8, atol=1e-5)
    torch.testing.assert_close(bn.running_mean.double(), exact.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bn.running_var.double(), exact.running_var, rtol=1e-5, atol=1e-6)
    assert bn.num_batches_tracked == 1

    found = torch.autograd.grad(out, [*inputs, bn.weight, bn.bias], gradient)
    # The same ReLU mask on both sides: where the rounded output is positive.
    masked = gradient.double() * (out > 0)
    wanted = torch.autograd.grad(before, [*wide, exact.weight, exact.bias], masked)
    for ours, theirs in zip(found[: len(inputs)], wanted, strict=False):
        torch.testing.assert_close(ours.double(), theirs, rtol=2**-8, atol=1e-4)
    for ours, theirs in zip(found[-2:], wanted[-2:], strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=1e-4, atol=1e-2)


def test_the_number_of_threads_does_not_change_a_bit():
    torch.manual_seed(0)
    x, gradient = activation(16, 16, 32, 32).requires_grad_(), activation(16, 16, 32, 32)
    results, usual = [], torch.get_num_threads()
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        bn = layer(16)
        out = fused.bn_relu(bn, x)
        results.append([out, bn.running_var, *torch.autograd.grad(out, [x, bn.weight], gradient)])
    torch.set_num_threads(usual)
    for other in results[1:]:
        assert all(torch.equal(one, two) for one, two in zip(results[0], other, strict=True))


def test_what_is_not_a_number_stays_visible():
    x = activation(4, 16, 8, 8)
    x[0, 3, 0, 0] = torch.nan
    out = fused.bn_relu(layer(16), x)
    assert out[:, 3].isnan().all() and not out[:, :3].isnan().any()


def test_it_steps_aside_where_it_does_not_apply():
    bn, x = layer(16), activation(4, 16, 8, 8)
    assert fused.applies(bn, x)
    assert not fused.applies(bn, x.float())
    assert not fused.applies(bn, x[:1, :, :1, :3])  # 3 pixels of 16 channels are not whole rows of 64 numbers
    assert not fused.applies(bn, x, x.float())
    assert not fused.applies(copy.deepcopy(bn).eval(), x)
    bn.fused = False
    assert not fused.applies(bn, x)
    assert torch.equal(fused.bn_relu(copy.deepcopy(bn), x, x), F.relu(copy.deepcopy(bn)(x) + x))


def test_a_network_has_the_same_loss_and_nearly_the_same_gradient(monkeypatch):
    monkeypatch.setattr(fused, "precision_for", lambda where: "bf16")
    torch.manual_seed(0)
    images, labels = torch.rand(32, 3, 16, 16), torch.arange(32) % 10
    plain = ResNet(10, depth=8).to(memory_format=torch.channels_last)
    other = copy.deepcopy(plain)
    assert fused.fuse(other)
    gradients = []
    for model in (plain, other):
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99
    assert not torch.equal(*gradients)  # else the option did nothing
    assert int(other.layer3[0].bn2.num_batches_tracked) == 1


def test_without_a_compiler_training_goes_on_and_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(fused, "precision_for", lambda where: "bf16")
    monkeypatch.setenv("CC", "no-such-compiler")
    fused.library.cache_clear()
    model = ResNet(10, depth=8)
    assert not fused.fuse(model)
    assert "no C compiler" in capsys.readouterr().out and not hasattr(model.bn1, "fused")
    broken = tmp_path / "cc"
    broken.write_text("#!/bin/sh\necho 'bad option' >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    assert not fused.fuse(model)
    assert "bad option" in capsys.readouterr().out
    fused.library.cache_clear()


def test_a_checkpoint_of_the_one_is_not_continued_by_the_other(monkeypatch, tmp_path):
    monkeypatch.setattr(fused, "precision_for", lambda where: "bf16")
    data = load().long_tailed(100, counts=[12] * 10)
    recipes.train_encoder(data, "ce", epochs=1, fused=True, checkpoint=tmp_path / "a.safetensors")
    with pytest.raises(CourseError):
        recipes.train_encoder(data, "ce", epochs=1, checkpoint=tmp_path / "a.safetensors")
