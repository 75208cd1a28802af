"""Published and derived numbers of balanced losses: LiVT's oracles on CIFAR-10-LT, where its argmax errs, and what Bal-CE is."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F

from lt_utils.recognition.losses import (
    build_loss,
    class_weights,
    label_shift,
    log_odds,
    log_prior,
    sigmoid_label_shift,
    smoothing_by_class,
)

CIFAR = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]  # CIFAR-10-LT, imbalance factor 100
TOY = [7, 2, 1]


def numbers(text):
    return [float(number) for number in text.split()]


# ---------------------------------------------------------------------------------- what balanced BCE is, to all printed digits
def test_at_logits_of_zero_the_sigmoids_are_the_prior():
    for counts in (TOY, CIFAR):
        prior = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        loss, zero = build_loss("bal-bce", counts), torch.zeros(1, len(counts), dtype=torch.float64)
        assert torch.allclose(log_odds(counts).double().sigmoid(), prior, atol=1e-7)
        for y in range(len(counts)):
            expected = -prior[y].log() - (1 - prior).log().sum() + (1 - prior[y]).log()
            assert loss(zero, torch.tensor([y])).item() == pytest.approx(expected.item(), rel=1e-6)


def test_two_equal_classes_make_it_plain_bce():
    logits, labels = torch.randn(9, 2), torch.arange(9) % 2
    assert build_loss("bal-bce", [5, 5])(logits, labels) == build_loss("bce", [5, 5])(logits, labels)


def test_a_thousand_equal_classes_are_shifted_nevertheless():
    assert log_odds([3] * 1000).tolist() == pytest.approx([-6.907] * 1000, abs=5e-4)
    assert log_odds([3] * 1000)[0].item() == pytest.approx(-math.log(999))


@pytest.mark.parametrize(
    "logits, losses", [((0, 0, 0), ".685179 2.918771 3.729701"), ((1, -0.5, 0.25), ".420951 4.154543 4.215473")]
)
def test_three_classes(logits, losses):
    z, loss = torch.tensor([logits], dtype=torch.float64), build_loss("bal-bce", TOY)
    assert [loss(z, torch.tensor([y])).item() for y in range(3)] == pytest.approx(numbers(losses), abs=5e-7)


@pytest.mark.parametrize(
    "values, printed",
    [
        (log_odds(CIFAR), "-.3929 -1.1441 -1.7762 -2.3532 -2.9033 -3.4358 -3.9603 -4.4802 -5.0004 -5.5099"),
        (log_prior(CIFAR), "-.9087 -1.4206 -1.9326 -2.4440 -2.9567 -3.4675 -3.9792 -4.4915 -5.0071 -5.5139"),
        (class_weights(CIFAR), ".0506 .0769 .1211 .1950 .3188 .5246 .8683 1.4426 2.4092 3.9927"),
        (smoothing_by_class(CIFAR), ".3 .2414 .1578 .0960 .0563 .0320 .0173 .0085 .0031 0"),
    ],
    ids=["log odds", "log prior", "class weights", "concave smoothing"],
)
def test_cifar(values, printed):
    assert values.tolist() == pytest.approx(numbers(printed), abs=5.1e-5)


def test_ldams_margins_on_cifar():
    """Read off the loss: with equal logits and a huge scale it is scale times the margin of the label."""
    loss = build_loss("ldam", CIFAR, scale=1e4)
    found = [loss(torch.zeros(1, 10, dtype=torch.float64), torch.tensor([y])).item() / 1e4 for y in range(10)]
    printed = numbers(".1581 .1797 .2042 .2321 .2638 .2998 .3407 .3872 .4405 .5")
    assert found == pytest.approx(printed, abs=5e-5 + math.log(9) / 1e4)


# ---------------------------------------------------------------------------------------------------------- the two read-outs
def best_logits(counts, ratio):
    """What balanced BCE reaches with all data: logit p(i|x) - logit pi_i, for ratio = p(x|i) / p(x) [..., C]."""
    prior = torch.tensor(counts, dtype=torch.float64) / sum(counts)
    return torch.logit(prior * ratio) - torch.logit(prior)


def test_the_counter_example():
    """Three classes at one x: Bayes' rule for equal classes says the second, the argmax of the logits says the first."""
    counts, ratio = (50, 5, 45), torch.tensor([1.8, 1.9, 1 / 90], dtype=torch.float64)
    z = best_logits(counts, ratio)
    assert z.exp().tolist() == pytest.approx([9.0, 1.9945, 0.0061], abs=1e-4)
    assert ratio.argmax() == 1 and z.argmax() == 0
    assert sigmoid_label_shift(z, counts).exp().tolist() == pytest.approx(ratio.tolist(), rel=1e-5)
    # The logits are the minimum of the loss that they are said to be: its slope, averaged over p(y|x), is 0.
    z.requires_grad_(True)
    build_loss("bal-bce", counts)(z[None], (ratio * torch.tensor(counts) / 100)[None]).backward()
    assert z.grad.abs().max() < 1e-7


def recalls(scores, density, width):
    """Percent of each class that the argmax of `scores` [X, C] gets right, for densities [X, C] on a grid."""
    right = F.one_hot(scores.argmax(1), 3)
    return 100 * (right * density).sum(0) * width


def test_three_gaussians():
    """Unit normals at 0, 1.5 and 3, the middle one rare: both read-outs, and those of softmax, by counting on a grid."""
    counts, width = (495, 10, 495), 1e-5
    x = torch.arange(-8, 11, width, dtype=torch.float64)[:, None]
    means = torch.tensor([0, 1.5, 3], dtype=torch.float64)
    density = (-((x - means) ** 2) / 2).exp() / math.sqrt(2 * math.pi)
    prior = torch.tensor(counts, dtype=torch.float64) / 1000
    log_p = (density * prior / (density @ prior)[:, None]).log()
    z = best_logits(counts, density / (density @ prior)[:, None])
    found = {
        "ce": recalls(log_p, density, width),
        "bal-ce": recalls(label_shift(log_p, counts), density, width),
        "argmax": recalls(z, density, width),
        "exact": recalls(sigmoid_label_shift(z, counts), density, width),
    }
    balanced = {name: recall.mean().item() for name, recall in found.items()}
    assert balanced == pytest.approx({"ce": 62.2129, "bal-ce": 69.7830, "argmax": 67.5228, "exact": 69.7830}, abs=2e-4)
    assert found["exact"][1].item() == pytest.approx(54.6745, abs=5e-4)
    assert found["argmax"][1].item() == pytest.approx(27.8494, abs=5e-4)


def test_plain_bce_is_read_out_with_tau_zero():
    ratio = torch.tensor([1.8, 1.9, 1 / 90], dtype=torch.float64)
    z = torch.logit(ratio * torch.tensor([0.5, 0.05, 0.45], dtype=torch.float64))
    assert sigmoid_label_shift(z, (50, 5, 45), tau=0).exp().tolist() == pytest.approx(ratio.tolist(), rel=1e-5)


# ------------------------------------------------------------------------------------------------- a start value and a read-out
@pytest.mark.parametrize("balanced, plain, start", [("bal-ce", "ce", log_prior), ("bal-bce", "bce", log_odds)])
def test_a_balanced_loss_is_the_plain_one_with_another_start_and_read_out(balanced, plain, start):
    """12 steps of AdamW: the bias of the head starts at the log prior (log odds), which is subtracted at the end."""
    torch.manual_seed(0)
    counts = [20, 8, 2]
    x, labels = torch.randn(30, 5, dtype=torch.float64), torch.arange(3).repeat_interleave(torch.tensor(counts))
    first = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3)).double()
    second = copy.deepcopy(first)
    with torch.no_grad():
        second[2].bias += start(counts)
    losses = []
    for model, name in ((first, balanced), (second, plain)):
        loss, bias = build_loss(name, counts), model[2].bias  # decay would draw the two biases to different places
        others = [weight for weight in model.parameters() if weight is not bias]
        groups = [{"params": others}, {"params": [bias], "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=0.02, weight_decay=0.05)
        values = []
        for _ in range(12):
            optimizer.zero_grad()
            value = loss(model(x), labels)
            value.backward()
            optimizer.step()
            values.append(value.item())
        losses.append(values)
    assert losses[0] == pytest.approx(losses[1], abs=1e-10) and losses[0][-1] < 0.95 * losses[0][0]
    assert (first(x) - (second(x) - start(counts))).abs().max() < 1e-10
