"""Views through an encoder that is known pixel by pixel, and the halves of the oracle: what is mixed, mirrored, scored."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lt_utils.data.datasets import ImageData
from lt_utils.features import retraining, views
from lt_utils.features.encoding import Encoded
from lt_utils.features.views import encode_fast, encode_views, encode_with, mirrored_test
from lt_utils.models.heads import LinearHead

SIZE, CLASSES = 24, 3
PIXELS = SIZE * SIZE


class Pixels(nn.Module):
    """An encoder whose features are the pixels of the image, times `scale`."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.conv1, self.scale = nn.Conv2d(1, 1, 1), scale

    def features(self, x):
        return self.scale * x.flatten(1)


def encoded(model: Pixels) -> Encoded:
    """576 training images, of which image i shows pixel i alone, and eight random test images, seen through `model`."""
    torch.manual_seed(0)
    train = (255 * torch.eye(PIXELS)).to(torch.uint8).view(PIXELS, 1, SIZE, SIZE)
    test = torch.randint(256, (8, 1, SIZE, SIZE), dtype=torch.uint8)
    labels = [torch.arange(n) % CLASSES for n in (PIXELS, 8)]
    images = ImageData("pixels", train, labels[0], test, labels[1], ("a", "b", "c"))
    features, held = encode_fast(model, train), encode_fast(model, test)
    head = LinearHead(PIXELS, CLASSES)
    nn.init.normal_(head.weight)
    return Encoded(features, labels[0], held, labels[1], head(held).detach(), head, images.counts, model, images)


def test_a_mixed_view_is_its_share_of_the_image_and_the_rest_of_one_partner_of_the_label_told(monkeypatch):
    """Image i lights pixel i alone, so a mixed view shows which two images it was made of, and how much of each."""
    monkeypatch.setattr(views, "random_crop_flip", lambda images, pad: images)
    data = encoded(Pixels())
    mixed = encode_views(data, "mixed", 1)
    share, own = mixed.share[0][:, None], torch.eye(PIXELS)
    partner = (mixed.features[0] - share * own).argmax(1)
    torch.testing.assert_close(mixed.features[0], share * own + (1 - share) * own[partner], atol=1e-5, rtol=0)
    seen = mixed.share[0] < 0.999  # beyond, the partner is lost in rounding
    assert seen.sum() > PIXELS / 2 and (data.train_labels[partner] != data.train_labels)[seen].any()
    assert torch.equal(mixed.partner_labels[0][seen], data.train_labels[partner][seen])
    assert torch.equal(mixed.labels, data.train_labels)


def test_kept_views_of_another_encoder_are_made_again(tmp_path):
    path, first, second = tmp_path / "views.safetensors", encoded(Pixels()), encoded(Pixels(2.0))
    one = encode_views(first, "weak", 1, path=path)
    torch.testing.assert_close(encode_views(second, "weak", 1, path=path).features, 2 * one.features)


def test_the_mirrored_test_images_are_mirrored_left_to_right():
    data = encoded(Pixels())
    seen = mirrored_test(data).view(-1, SIZE, SIZE)
    torch.testing.assert_close(seen, data.test.view(-1, SIZE, SIZE).flip(2))


def test_another_encoder_sees_the_training_and_the_test_images_each_in_their_place():
    data, model = encoded(Pixels()), Pixels(2.0)
    again = encode_with(model, data)
    torch.testing.assert_close(again.train, 2 * data.train)
    torch.testing.assert_close(again.test, 2 * data.test)
    torch.testing.assert_close(again.test_logits, data.head(2 * data.test).detach())
    assert again.encoder is model and again.head is data.head


@pytest.mark.parametrize(("knows", "reached"), [("everything", 100.0), ("what it was fitted on", 0.0)])
def test_the_oracle_is_scored_on_the_half_it_was_not_fitted_on_and_both_halves_take_their_turn(
    monkeypatch, knows, reached
):
    """A head that knows by heart what it was fitted on, and is wrong everywhere else, reaches nothing."""
    n, fitted, scored = 20, [], []
    places, labels = torch.arange(float(n))[:, None], torch.arange(n) % CLASSES

    def fit(seen, data, **_):
        mine = seen.features[0, :, 0].long()
        assert torch.equal(seen.labels, labels[mine])
        fitted.append(mine.tolist())

        def head(features):
            asked = features[:, 0].long()
            scored.append(asked.tolist())
            right = F.one_hot(labels[asked], CLASSES).float()
            return right if knows == "everything" else torch.where(torch.isin(asked, mine)[:, None], right, 1 - right)

        return retraining.Retrained(head, [], [], [])

    monkeypatch.setattr(retraining, "fit_head", fit)
    data = Encoded(places, labels, places, labels, torch.zeros(n, CLASSES), LinearHead(1, CLASSES), [9, 6, 5])
    assert retraining.oracle_bound(data) == pytest.approx(reached)
    assert sorted(fitted[0] + fitted[1]) == list(range(n)) and scored == fitted[::-1]
