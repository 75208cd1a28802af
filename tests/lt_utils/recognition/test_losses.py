"""Losses: label shift and logit adjustment; every loss by name against torch, a loop in float64 and its gradient."""

import math

import pytest
import torch
import torch.nn.functional as F

from lt_utils.errors import CourseError
from lt_utils.recognition.losses import (
    LOSSES,
    build_loss,
    class_weights,
    label_shift,
    log_odds,
    log_prior,
    logit_adjusted_loss,
    smoothing_by_class,
)

COUNTS = [5000, 500, 50]


def test_label_shift_vector():
    logits = torch.tensor([0.7, 0.3]).log()
    assert label_shift(logits, [5000, 50]).softmax(0).tolist() == pytest.approx([0.0228, 0.9772], abs=5e-5)


def test_label_shift_is_bayes_rule_with_a_uniform_prior():
    logits = torch.randn(4, 3)
    p, prior = logits.softmax(1), torch.tensor(COUNTS) / sum(COUNTS)
    q = p * (1 / 3) / prior
    assert torch.allclose(label_shift(logits, COUNTS).softmax(1), q / q.sum(1, keepdim=True), atol=1e-6)
    assert torch.equal(label_shift(logits, COUNTS, tau=0), logits)
    assert torch.allclose(
        label_shift(logits, COUNTS, 2) - logits, 2 * (label_shift(logits, COUNTS) - logits), atol=1e-5
    )


def test_equal_counts_change_no_decision():
    logits = torch.randn(20, 3)
    assert torch.equal(label_shift(logits, [7, 7, 7]).argmax(1), logits.argmax(1))


def test_log_prior():
    assert log_prior(COUNTS).exp().sum().item() == pytest.approx(1)
    assert log_prior(COUNTS).exp().tolist() == pytest.approx([count / 5550 for count in COUNTS])


def test_an_empty_class_is_named():
    with pytest.raises(CourseError, match="Class 1 has no training image"):
        label_shift(torch.zeros(1, 3), [10, 0, 5])


def test_logit_adjusted_loss_adds_the_prior_inside():
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 0, 1])
    shifted = logits + torch.tensor(COUNTS).div(5550).log()
    expected = -shifted.log_softmax(1)[torch.arange(6), labels].mean()
    assert logit_adjusted_loss(logits, labels, COUNTS).item() == pytest.approx(expected.item(), rel=1e-6)
    assert logit_adjusted_loss(logits, labels, COUNTS, tau=0) == F.cross_entropy(logits, labels)
    # The same correction, once before training and once after it, cancels.
    back = label_shift(logits, COUNTS)
    assert torch.allclose(logit_adjusted_loss(back, labels, COUNTS), F.cross_entropy(logits, labels), atol=1e-6)


# ------------------------------------------------------------------------------------------------------------ losses by name
NAMES = ("ce", "ls-ce", "cb-ce", "bal-ce", "bce", "cb-bce", "bal-bce", "ldam", "las", "lade", "focal")
PI = [n / sum(COUNTS) for n in COUNTS]


@pytest.fixture
def batch():
    """Logits [40, 3] in float64, labels that show every class, and soft targets [40, 3]."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(40, 3, generator=generator, dtype=torch.float64)
    labels = torch.arange(40) % 3
    soft = torch.rand(40, 3, generator=generator, dtype=torch.float64)
    return logits, labels, soft / soft.sum(1, keepdim=True)


def weights_by_hand(beta):
    raw = [(1 - beta) / (1 - beta**n) for n in COUNTS]
    return [w * 3 / sum(raw) for w in raw]


def softmax_by_hand(z):
    total = sum(math.exp(a) for a in z)
    return [math.exp(a) / total for a in z]


def cost_by_hand(name, z, c):
    """The loss of one image with logits z (floats) and label c, written again, one number at a time."""
    p = softmax_by_hand(z)
    if name == "ls-ce":
        return -0.9 * math.log(p[c]) - 0.1 * sum(map(math.log, p)) / 3
    if name == "las":
        s = 0.3 * math.sin((COUNTS[c] - 50) / 4950 * math.pi / 2)
        return -(1 - s) * math.log(p[c]) - s * sum(map(math.log, p)) / 3
    if name == "focal":
        return -(1 - p[c]) * math.log(p[c])
    if name == "bal-ce":
        return -math.log(softmax_by_hand([a + math.log(q) for a, q in zip(z, PI, strict=True)])[c])
    if name == "ldam":
        margin = 0.5 * (COUNTS[c] ** -0.25) / max(n**-0.25 for n in COUNTS)
        shifted = [30 * (a - margin * (j == c)) for j, a in enumerate(z)]
        top = max(shifted)
        return top + math.log(sum(math.exp(a - top) for a in shifted)) - shifted[c]
    if name.endswith("bce"):
        shift = [math.log(q / (1 - q)) if name == "bal-bce" else 0.0 for q in PI]
        weights = weights_by_hand(0.9999) if name == "cb-bce" else [1.0] * 3
        s = [1 / (1 + math.exp(-a - b)) for a, b in zip(z, shift, strict=True)]
        return -sum(w * math.log(q if j == c else 1 - q) for j, (q, w) in enumerate(zip(s, weights, strict=True)))
    return -math.log(p[c])  # ce, cb-ce


@pytest.mark.parametrize("name", [name for name in NAMES if name != "lade"])
def test_every_loss_is_its_formula_for_labels_and_for_soft_targets(name, batch):
    logits, labels, soft = batch
    loss, weights = build_loss(name, COUNTS), weights_by_hand(0.9999 if name == "cb-ce" else 0.0)
    for target, shares in ((labels, F.one_hot(labels, 3).tolist()), (soft, soft.tolist())):
        above = below = 0.0
        for z, share in zip(logits.tolist(), shares, strict=True):
            for c in range(3):
                above += share[c] * weights[c] * cost_by_hand(name, z, c)
                below += share[c] * weights[c]
        assert loss(logits, target).item() == pytest.approx(above / below, rel=2e-6)


def test_all_losses_are_there_and_labels_are_one_hot_targets(batch):
    logits, labels, _ = batch
    assert tuple(LOSSES) == NAMES
    for name in NAMES:
        loss = build_loss(name, COUNTS)
        one_hot = F.one_hot(labels, 3).double()
        assert loss(logits, labels).item() == pytest.approx(loss(logits, one_hot).item(), rel=1e-9), name
        assert loss(logits.bfloat16(), labels).dtype in (torch.float32, torch.bfloat16)


def test_torch_has_five_of_them(batch):
    logits, labels, soft = batch
    weights = class_weights(COUNTS).double()
    for name, expected in {
        "ce": F.cross_entropy(logits, labels),
        "ls-ce": F.cross_entropy(logits, labels, label_smoothing=0.1),
        "cb-ce": F.cross_entropy(logits, labels, weight=weights),
        "bce": 3 * F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 3).double()),
        "cb-bce": 3 * F.binary_cross_entropy_with_logits(logits, F.one_hot(labels, 3).double(), weight=weights),
    }.items():
        assert build_loss(name, COUNTS)(logits, labels).item() == pytest.approx(expected.item(), rel=1e-9), name
    assert build_loss("ls-ce", COUNTS)(logits, soft).item() == pytest.approx(
        F.cross_entropy(logits, soft, label_smoothing=0.1).item(), rel=1e-9
    )


def test_settings_reach_the_losses(batch):
    logits, labels, _ = batch

    def value(name, **settings):
        return build_loss(name, COUNTS, **settings)(logits, labels).item()

    for name, plain in (("bal-ce", "ce"), ("bal-bce", "bce")):
        assert value(name, tau=0) == pytest.approx(value(plain))
        assert len({round(value(name, tau=tau), 3) for tau in (0, 0.5, 1, 1.05)}) == 4
    assert (
        value("cb-ce", beta=0) == value("focal", gamma=0) == value("ls-ce", smoothing=0) == pytest.approx(value("ce"))
    )
    assert value("ldam", margin=15.0, scale=1.0) == pytest.approx(
        build_loss("ldam", COUNTS)(logits / 30, labels).item(), rel=1e-6
    )
    assert value("ldam", beta=0.9999) != pytest.approx(value("ldam"), rel=1e-3)
    assert len({round(value("las", shape=shape), 5) for shape in ("concave", "linear", "convex", "power")}) == 4


def test_what_does_not_fit_is_refused(batch):
    logits, labels, soft = batch
    with pytest.raises(
        CourseError, match="Unknown loss 'bal_bce'. Did you mean 'bal-bce'.*ce, ls-ce, cb-ce, bal-ce, bce"
    ):
        build_loss("bal_bce", COUNTS)
    with pytest.raises(CourseError, match="The loss 'ce' has no tau: it takes no setting"):
        build_loss("ce", COUNTS, tau=1)
    with pytest.raises(CourseError, match="The loss 'ldam' has no tau: it takes margin, scale, beta"):
        build_loss("ldam", COUNTS, tau=1)
    for name in NAMES:
        if name in ("cb-ce", "bal-ce", "cb-bce", "bal-bce", "ldam", "lade"):
            with pytest.raises(CourseError, match="Class 1 has no training image"):
                build_loss(name, [10, 0, 5])
        else:
            assert build_loss(name, [10, 0, 5])(logits, labels).isfinite()
        loss = build_loss(name, COUNTS)
        if name.endswith("bce"):
            assert loss(logits, 0.5 * soft).isfinite()
        else:
            with pytest.raises(CourseError, match="must sum to 1"):
                loss(logits, 0.5 * soft)
        with pytest.raises(CourseError, match=r"labels \[B\] or soft targets \[B, C\], not \[40, 2\]"):
            loss(logits, soft[:, :2])
    with pytest.raises(CourseError, match="One class alone has no log odds"):
        log_odds([5])
    with pytest.raises(CourseError, match="beta.*must be in 0..1, not 1.5"):
        class_weights(COUNTS, 1.5)
    with pytest.raises(CourseError, match="Unknown shape 'round'.*concave, linear, convex, power"):
        smoothing_by_class(COUNTS, shape="round")


def test_class_weights_run_from_none_to_one_over_n():
    assert class_weights(COUNTS, 0).tolist() == [1, 1, 1]
    assert class_weights(COUNTS, 1).tolist() == pytest.approx([3 / 111, 30 / 111, 300 / 111])
    assert class_weights(COUNTS, 1 - 1e-9).tolist() == pytest.approx(class_weights(COUNTS, 1).tolist(), rel=1e-4)
    assert class_weights(COUNTS, 0.99).tolist() == pytest.approx(weights_by_hand(0.99))


def test_smoothing_shapes_run_from_tail_to_head():
    middle = {
        shape: smoothing_by_class([300, 200, 100], shape=shape) for shape in ("concave", "linear", "convex", "power")
    }
    assert all(s[[0, 2]].tolist() == pytest.approx([0.3, 0]) for s in middle.values())
    assert [s[1].item() for s in middle.values()] == pytest.approx(
        [0.3 * math.sin(math.pi / 4), 0.15, 0.3 * (1 - math.sin(math.pi / 4)), 0.075]
    )
    assert smoothing_by_class([7, 7], head=0.4, tail=0.1).tolist() == pytest.approx([0.1, 0.1])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("soft_target", [False, True])
def test_gradients_are_those_of_finite_differences(name, soft_target, batch):
    logits, labels, soft = (part[:6] for part in batch)
    loss, logits = build_loss(name, COUNTS), logits.requires_grad_(True)
    assert torch.autograd.gradcheck(lambda z: loss(z, soft if soft_target else labels), logits, atol=1e-7)


def test_ldam_is_exact_and_has_a_slope_where_float32_would_lose_the_small_sum():
    """Logits far apart: 1 - p has no digits left, and a margin of 15 brings them back."""
    loss, target = build_loss("ldam", COUNTS), torch.tensor([2])
    for gap in (0.2, 0.5, 0.8, 2.0):
        z = torch.tensor([[0.0, -0.1, gap]], requires_grad=True)
        cost = loss(z, target)
        cost.backward()
        assert cost.item() == pytest.approx(cost_by_hand("ldam", z[0].tolist(), 2), rel=1e-4, abs=1e-12)
        assert z.grad.isfinite().all() and z.grad[0, 2] <= 0
    # The margin holds a label to more than the logits say: the slope at equality is that of a lead lost by m.
    z = torch.tensor([[0.0, 0.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss(z, target).backward()
    p = softmax_by_hand([0, 0, -15])
    assert z.grad[0].tolist() == pytest.approx([30 * p[0], 30 * p[1], 30 * (p[2] - 1)])


# ---------------------------------------------------------------------------------------------------------------------- LADE
def lade_by_hand(logits, shares, weight, strength):
    """Both terms, one class at a time."""
    size = len(logits)
    total = (
        sum(t[c] * cost_by_hand("bal-ce", z, c) for z, t in zip(logits, shares, strict=True) for c in range(3)) / size
    )
    for c in range(3):
        members = sum(t[c] for t in shares)
        if not members:
            continue
        mean = sum(t[c] * z[c] for z, t in zip(logits, shares, strict=True)) / members
        u = [sum(q / (3 * prior) for q, prior in zip(t, PI, strict=True)) for t in shares]
        e = math.log(sum(w * math.exp(z[c]) for w, z in zip(u, logits, strict=True)) / size)
        total += weight * PI[c] * (e - mean + strength * e**2)
    return total


def test_lade_has_both_terms(batch):
    logits, labels, soft = batch
    loss = build_loss("lade", COUNTS, weight=0.7, strength=0.2)
    for target, shares in ((labels, F.one_hot(labels, 3)), (soft, soft), (labels % 2, F.one_hot(labels % 2, 3))):
        assert loss(logits, target).item() == pytest.approx(
            lade_by_hand(logits.tolist(), shares.tolist(), 0.7, 0.2), rel=1e-6
        )
    without = build_loss("lade", COUNTS, weight=0)
    assert without(logits, labels).item() == pytest.approx(build_loss("bal-ce", COUNTS)(logits, labels).item())


def test_lades_bound_ignores_a_constant_its_penalty_does_not_and_absent_classes_are_left_alone(batch):
    logits, labels, _ = batch

    def slopes(strength, target):
        z = logits.clone().requires_grad_(True)
        both = build_loss("lade", COUNTS, weight=1, strength=strength)(z, target)
        (both - build_loss("bal-ce", COUNTS)(z, target)).backward()
        return z.grad.sum(0)  # against a constant added to the logits of a class

    assert slopes(0, labels).abs().max() < 1e-7
    assert slopes(0.1, labels).abs().min() > 1e-4
    assert slopes(0.1, labels % 2)[2] == 0 and slopes(0.1, labels % 2)[:2].abs().min() > 1e-4


def test_lades_bound_is_the_divergence_at_its_best():
    """z_c = log p(x|c) / p(x), p balanced: e_c is 0, and the bound is KL(p(x|c), p(x)); drawn by counting, 4 kinds of x."""
    given = torch.tensor([[0.6, 0.2, 0.1, 0.1], [0.1, 0.6, 0.2, 0.1], [0.2, 0.1, 0.1, 0.6]], dtype=torch.float64)
    counts = [400, 200, 100]
    ratio = (given / given.mean(0)).log()  # [classes, kinds]
    labels = torch.cat([torch.full((n,), c) for c, n in enumerate(counts)])
    kinds = torch.cat(
        [torch.arange(4).repeat_interleave((n * p).round().long()) for n, p in zip(counts, given, strict=True)]
    )
    z = ratio.T[kinds]
    expected = -sum(n / 700 * (p * r).sum() for n, p, r in zip(counts, given, ratio, strict=True)).item()
    both = build_loss("lade", counts, weight=1, strength=5)(z, labels)
    assert (both - build_loss("bal-ce", counts)(z, labels)).item() == pytest.approx(expected, rel=1e-6)
