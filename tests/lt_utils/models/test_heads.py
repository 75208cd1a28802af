"""Heads: the WCDAS test vector, angles and scales, and that a long weight vector gains nothing where it should not."""

import math

import pytest
import torch
import torch.nn.functional as F

from lt_utils.errors import CourseError
from lt_utils.models.heads import HEADS, CosineHead, LinearHead, WCDASHead, build_head


@pytest.mark.parametrize("name", HEADS)
def test_every_head_gives_one_logit_per_class(name):
    head = build_head(name, 6, 4)
    assert isinstance(head, HEADS[name]) and head(torch.rand(5, 6)).shape == (5, 4)
    assert HEADS.keys() == {"linear", "cosine", "cosine-30", "wcdas"}


def test_unknown_head_lists_the_known_ones():
    with pytest.raises(CourseError, match="Unknown head 'angular'.*linear, cosine, cosine-30, wcdas"):
        build_head("angular", 6, 4)


@pytest.mark.parametrize(
    "cosine, density, logit", [(1, 0.47771, 0.80883), (0, 0.09554, 0.16177), (-1, 0.05308, 0.08987)]
)
def test_wcdas_vector(cosine, density, logit):
    head = WCDASHead(2, 1)
    with torch.no_grad():
        head.weight.copy_(torch.tensor([[3.0, 0.0]]))
    feature = 5 * torch.tensor([[cosine, math.sqrt(1 - cosine**2)]])
    assert head.density(torch.tensor([[float(cosine)]])).item() == pytest.approx(density, abs=6e-6)
    assert head(feature).item() == pytest.approx(logit, abs=6e-6)


def test_wcdas_is_a_wrapped_cauchy_density_and_starts_as_published():
    head = WCDASHead(64, 10)
    scale = 1 + F.softplus(head.raw_scale)
    assert scale.item() == pytest.approx(1 + math.log(2)) and torch.sigmoid(head.raw_concentration).unique() == 0.5
    assert head.weight.abs().max() <= 1 / 8 and head.weight.std().item() == pytest.approx(1 / 8 / math.sqrt(3), rel=0.1)
    head.PI = math.pi
    with torch.no_grad():
        head.raw_concentration.copy_(torch.linspace(-2, 2, 10))
    angle = torch.arange(2000, dtype=torch.float64) / 2000 * 2 * math.pi
    total = head.density(angle.cos()[:, None].expand(-1, 10)).mean(dim=0) * 2 * math.pi
    assert torch.allclose(total, torch.ones(10, dtype=torch.float64), atol=1e-6)


def test_wcdas_trains_weight_concentration_and_scale():
    head = WCDASHead(6, 4)
    F.cross_entropy(head(torch.randn(32, 6)), torch.randint(4, (32,))).backward()
    assert {name for name, _ in head.named_parameters()} == {"weight", "raw_concentration", "raw_scale"}
    assert all(parameter.grad.abs().sum() > 0 for parameter in head.parameters())


def test_wcdas_stays_in_float32_and_finite_where_it_is_sharp():
    head = WCDASHead(6, 4)
    with torch.no_grad():
        head.raw_concentration.fill_(8.0)  # gamma 0.99966
    features = F.normalize(head.weight.detach(), dim=1).repeat(3, 1)
    exact = head(features)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = head(features)
    assert mixed.dtype == torch.float32 and exact.isfinite().all() and torch.equal(mixed, exact)


@pytest.mark.parametrize("name", ["cosine", "wcdas"])
def test_angular_heads_ignore_lengths(name):
    head = build_head(name, 6, 4)
    features = torch.randn(5, 6)
    before = head(features)
    with torch.no_grad():
        head.weight.mul_(torch.tensor([1.0, 10.0, 0.1, 3.0])[:, None])
    assert torch.allclose(head(7 * features), before, atol=1e-5)


def test_cosine_head():
    head = CosineHead(6, 4, scale=10)
    assert torch.allclose(head.weight.norm(dim=1), torch.ones(4))
    features = torch.randn(5, 6)
    expected = 10 * F.cosine_similarity(features[:, None], head.weight[None], dim=2)
    assert torch.allclose(head(features), expected, atol=1e-5)
    assert [name for name, _ in head.named_parameters()] == ["weight"]


def test_linear_head_is_kaiming_normal_with_bias():
    torch.manual_seed(0)
    head = LinearHead(64, 500)
    assert head.weight.std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.02) and head.bias.shape == (500,)
