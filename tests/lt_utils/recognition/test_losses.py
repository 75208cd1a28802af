"""Losses: the label-shift vector, logit adjustment in the loss and after it, mixup."""

import pytest
import torch
import torch.nn.functional as F

from lt_utils.errors import CourseError
from lt_utils.recognition.losses import label_shift, log_prior, logit_adjusted_loss, mixup, mixup_loss

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


def test_mixup_mixes_each_image_with_its_partner():
    torch.manual_seed(0)
    images = torch.randn(8, 1, 4, 4)
    mixed, partner, weight = mixup(images)
    assert sorted(partner.tolist()) == list(range(8)) and partner.tolist() != list(range(8))
    assert torch.allclose(mixed, weight * images + (1 - weight) * images[partner], atol=1e-6)


def test_mixup_weight_is_beta_distributed():
    torch.manual_seed(0)
    images = torch.zeros(2, 1)
    drawn = torch.tensor([mixup(images)[2] for _ in range(4000)])
    assert drawn.min() >= 0 and drawn.max() <= 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.02)
    assert drawn.var().item() == pytest.approx(1 / 8, abs=0.008)  # Beta(1/2, 1/2); a uniform weight has 1/12
    # One third of the draws lie below sin(pi/6)^2 = 1/4: the arcsine law.
    assert (drawn < 0.25).double().mean().item() == pytest.approx(1 / 3, abs=0.03)


def test_mixup_loss_is_cross_entropy_with_soft_labels():
    logits, labels = torch.randn(5, 3), torch.tensor([0, 1, 2, 2, 1])
    partner = torch.tensor([4, 3, 0, 1, 2])
    soft = 0.3 * F.one_hot(labels, 3) + 0.7 * F.one_hot(labels[partner], 3)
    assert mixup_loss(logits, labels, partner, 0.3).item() == pytest.approx(
        F.cross_entropy(logits, soft).item(), rel=1e-5
    )
    assert mixup_loss(logits, labels, partner, 1.0) == F.cross_entropy(logits, labels)
