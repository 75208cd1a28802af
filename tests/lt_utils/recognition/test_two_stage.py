"""The second of two stages: the heads are those of their definitions, and nothing but the head moves."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lt_utils.errors import CourseError
from lt_utils.hashing import fingerprint
from lt_utils.models.resnet import ResNet, encode
from lt_utils.recognition import encoders, two_stage
from lt_utils.recognition.encoders import build_encoder, train_encoder
from lt_utils.recognition.sampling import class_aware_order
from lt_utils.recognition.two_stage import finetune_head, frozen_body, nearest_mean, tau_normalise

pytestmark = pytest.mark.usefixtures("on_the_cpu")
QUICK = dict(epochs=4, batch_size=30, lr=0.1, augment="none")


@pytest.fixture(scope="module")
def trained(data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoders, "device", lambda: torch.device("cpu"))
        return train_encoder(data, "ce", epochs=2, width=4, batch_size=32)


STAGES = {
    "cRT": lambda model, data: finetune_head(model, data, **QUICK, start="fresh"),
    "cRT on images": lambda model, data: finetune_head(model, data, **QUICK | dict(augment="weak"), start="fresh"),
    "LWS": lambda model, data: finetune_head(model, data, **QUICK, start="scaled"),
    "LWS on images": lambda model, data: finetune_head(model, data, **QUICK | dict(augment="weak"), start="scaled"),
    "weighted": lambda model, data: finetune_head(model, data, **QUICK, loss="cb-ce", balanced=False),
    "tau-norm": lambda model, data: tau_normalise(model),
    "NCM": nearest_mean,
    "NCM, euclidean": lambda model, data: nearest_mean(model, data, "euclidean"),
}


@pytest.mark.parametrize("name", STAGES)
def test_nothing_but_the_head_moves(name, data, trained):
    """Weights and statistics, tensor by tensor; and what comes out can be saved, built again and trained on."""
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    staged = STAGES[name](trained, data)
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())
    after = staged.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items() if not key.startswith("head."))
    assert not torch.equal(after["head.weight"], before["head.weight"])
    assert not staged.training and all(weight.requires_grad for weight in staged.parameters())
    again = ResNet(**staged.config)
    again.load_state_dict(after)
    assert torch.allclose(encode(again, data.test_images)[1], encode(staged, data.test_images)[1], atol=1e-4)


@pytest.mark.parametrize(
    "move",
    [
        lambda model: model.train().features(torch.rand(4, 1, 8, 8)),  # batch-norm statistics alone
        lambda model: nn.init.zeros_(model.layer2[0].bn1.bias),
        lambda model: model.conv1.weight.data.mul_(1.0001),
    ],
    ids=["statistics", "bias", "weight"],
)
def test_a_body_that_moved_is_noticed(move, trained):
    with pytest.raises(CourseError, match="frozen part of the network has changed"), frozen_body(trained) as model:
        move(model)
    with frozen_body(trained) as model:
        nn.init.zeros_(model.head.weight)
    assert fingerprint(model, "head") == fingerprint(trained, "head") and fingerprint(model) != fingerprint(trained)


def test_a_stage_that_leaves_batch_norm_in_training_mode_is_noticed(data, trained, monkeypatch):
    monkeypatch.setattr(
        two_stage, "_image_loss", lambda loss, data, augment: encoders.image_loss(loss, data, 1, augment)
    )
    with pytest.raises(CourseError, match="frozen part of the network has changed"):
        finetune_head(trained, data, **QUICK | dict(augment="weak"))


def test_what_has_no_fitting_head_is_refused(data, trained):
    without = copy.deepcopy(trained)
    for head in (nn.Identity(), None):
        without.head = head
        for stage in STAGES.values():
            with pytest.raises(CourseError, match="no head to train"):
                stage(without, data)
    cosine = build_encoder(data, "ldam", width=4)
    for stage in (STAGES["LWS"], STAGES["tau-norm"]):
        with pytest.raises(CourseError, match="needs a linear head, not a SharpCosineHead"):
            stage(cosine, data)
    pretext = build_encoder(replace(data, class_names=("0", "90", "180", "270")), "ce", width=4)
    with pytest.raises(CourseError, match="The head has 4 classes, the data 3: choose start='fresh'"):
        finetune_head(pretext, data, **QUICK)
    assert finetune_head(pretext, data, **QUICK, start="fresh").head.out_features == 3
    for wrong in (dict(start="new"), dict(loss="crt"), dict(augment="cutmix")):
        with pytest.raises(CourseError, match="Unknown (start|loss|augmentation)"):
            finetune_head(trained, data, **QUICK | wrong)
    with pytest.raises(CourseError, match="Unknown distance 'dot'.*cosine, euclidean"):
        nearest_mean(trained, data, "dot")
    with pytest.raises(CourseError, match="Class 3 has no training image and so no mean feature"):
        nearest_mean(trained, replace(data, class_names=(*data.class_names, "none")))


# ------------------------------------------------------------------------------------------------------------- what each head is
def test_crt_is_a_new_head_on_balanced_batches_of_the_features(data, trained):
    """Written again with torch's own parts, step by step."""
    features, _ = encode(trained, data.train_images)
    torch.manual_seed(3)
    head = nn.Linear(16, 3)
    nn.init.kaiming_normal_(head.weight)
    optimizer = torch.optim.SGD(head.parameters(), 0.1, momentum=0.9, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 12)
    for index in class_aware_order(data.train_labels, 12 * 30, seed=3).view(12, 30):
        optimizer.zero_grad()
        F.cross_entropy(head(features[index]), data.train_labels[index]).backward()
        optimizer.step()
        schedule.step()
    found = finetune_head(trained, data, **QUICK, start="fresh", seed=3).head
    assert torch.allclose(found.weight, head.weight, atol=1e-5) and torch.allclose(found.bias, head.bias, atol=1e-5)


def test_lws_gives_each_class_one_factor(data, trained):
    """Written again in numbers: the gradient of a factor is that of its logit times the logit."""
    features, logits = encode(trained, data.train_images)
    scale, momentum = torch.ones(3), torch.zeros(3)
    order = class_aware_order(data.train_labels, 12 * 30).view(12, 30)
    for k, index in enumerate(order):
        z, y = logits[index], F.one_hot(data.train_labels[index], 3)
        slope = (((scale * z).softmax(1) - y) * z).mean(0) + 1e-4 * scale
        momentum = 0.9 * momentum + slope
        scale = scale - 0.1 * 0.5 * (1 + torch.cos(torch.tensor(torch.pi * k / 12))) * momentum
    staged = finetune_head(trained, data, **QUICK, start="scaled")
    assert torch.allclose(staged.head.weight, scale[:, None] * trained.head.weight, atol=1e-5)
    assert torch.allclose(encode(staged, data.train_images)[1], scale * logits, atol=1e-4)
    assert scale.std() > 0.01


def test_a_head_can_be_trained_with_another_loss_on_the_images_as_they_are(data, trained):
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(two_stage, "build_loss", lambda name, *_: lambda z, y: seen.append((name, y)) or z.sum())
        finetune_head(trained, data, **QUICK, loss="bal-ce", balanced=False)
    assert {name for name, _ in seen} == {"bal-ce"}
    assert torch.bincount(torch.cat([labels for _, labels in seen])).tolist() == [240, 96, 24]


def test_tau_normalisation_by_hand(data, trained):
    weight, lengths = trained.head.weight, trained.head.weight.norm(dim=1)
    for tau in (0, 0.5, 1):
        found = tau_normalise(trained, tau).head
        assert torch.allclose(found.weight, weight / lengths[:, None] ** tau) and not found.bias.any()
    assert torch.allclose(found.weight.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("distance", ["cosine", "euclidean"])
def test_the_nearest_mean_is_nearest(distance, data, trained):
    features, _ = encode(trained, data.train_images)
    means = torch.stack([features[start:end].mean(0) for start, end in ((0, 60), (60, 84), (84, 90))])
    features, _ = encode(trained, data.test_images)
    far = {
        "cosine": 1 - F.cosine_similarity(features[:, None], means[None], dim=2),
        "euclidean": torch.cdist(features, means),
    }[distance]
    z = encode(nearest_mean(trained, data, distance), data.test_images)[1]
    assert torch.equal(z.argmax(1), far.argmin(1))
    if distance == "euclidean":  # up to what is the same for all classes
        assert torch.allclose(z - z[:, :1], -(far**2 - far[:, :1] ** 2) / 2, atol=1e-3)


def test_a_stage_on_features_is_told_from_others_by_its_checkpoint(data, trained, tmp_path):
    options = QUICK | dict(checkpoint=tmp_path / "head.safetensors", start="fresh")
    first, again = finetune_head(trained, data, **options), finetune_head(trained, data, **options)
    assert fingerprint(first) == fingerprint(again)
    for other in (dict(start="trained"), dict(loss="cb-ce"), dict(balanced=False), dict(augment="weak")):
        with pytest.raises(CourseError, match="another training"):
            finetune_head(trained, data, **options | other)
