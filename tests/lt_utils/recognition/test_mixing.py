"""Mixup and cutmix: what is mixed with what, and that the loss of mixed labels is the loss of soft targets."""

import pytest
import torch
import torch.nn.functional as F

from lt_utils.recognition.losses import LOSSES, build_loss
from lt_utils.recognition.mixing import cutmix, mixup, mixup_loss, soft_targets


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


def test_cutmix_pastes_one_rectangle_and_gives_the_own_share_of_the_pixels():
    torch.manual_seed(0)
    images = torch.arange(1.0, 9).view(8, 1, 1, 1).expand(8, 2, 12, 10)
    shares = []
    for _ in range(300):
        mixed, partner, weight = cutmix(images)
        own = mixed == images
        foreign = ~(own | (partner == torch.arange(8)).view(-1, 1, 1, 1))  # an image may be its own partner
        assert torch.equal(torch.where(foreign, images[partner], images), mixed)
        for image in (partner != torch.arange(8)).nonzero()[:, 0].tolist():
            assert own[image].double().mean().item() == pytest.approx(weight)
            rows, columns = foreign[image, 0].any(1).nonzero()[:, 0], foreign[image, 0].any(0).nonzero()[:, 0]
            assert foreign[image, 0].sum() == len(rows) * len(columns)
            if len(rows):  # without a gap
                assert rows[-1] - rows[0] + 1 == len(rows) and columns[-1] - columns[0] + 1 == len(columns)
        shares.append(weight)
    # Of the rectangle, half of the image on average for a uniform lambda, the border cuts some off.
    assert min(shares) < 0.2 and max(shares) == 1 and 0.55 < sum(shares) / 300 < 0.75
    assert torch.equal(images, torch.arange(1.0, 9).view(8, 1, 1, 1).expand(8, 2, 12, 10))


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "lade"])
def test_every_loss_of_mixed_labels_is_its_loss_of_soft_targets(name):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(30, 4, generator=generator, dtype=torch.float64)
    labels, partner = torch.randint(4, (30,), generator=generator), torch.randperm(30, generator=generator)
    loss = build_loss(name, [100, 30, 10, 3])
    soft = soft_targets(labels, partner, 0.3, 4)
    assert soft.sum(1).tolist() == pytest.approx([1] * 30) and soft.count_nonzero(1).max() == 2
    mixed = mixup_loss(logits, labels, partner, 0.3, loss)
    assert mixed.item() == pytest.approx(loss(logits, soft).item(), rel=1e-6)
    assert mixed.item() != pytest.approx(loss(logits, labels).item(), rel=1e-3)
