"""Masked pretraining and fine-tuning: groups of rates, transfer, resuming, targets, and that both stages learn."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from lt_utils.data.augmentation import unit
from lt_utils.data.datasets import load
from lt_utils.data.longtail import group_indices
from lt_utils.errors import CourseError
from lt_utils.models.mae import random_order
from lt_utils.models.resnet import encode
from lt_utils.models.vit import ViT
from lt_utils.recognition import masked
from lt_utils.recognition.losses import build_loss, label_shift, log_odds, log_prior
from lt_utils.training.devices import device
from lt_utils.training.loop import train

SMALL = dict(width=8, depth=2, heads=2)


@pytest.fixture(scope="module")
def data():
    return load().long_tailed(counts=[30, 20, 10, 8, 6, 5, 4, 3, 2, 2])


def by_name(model, groups):
    """{name of the parameter: its group}."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return {names[id(weight)]: group for group in groups for weight in group["params"]}


def test_rates_fall_from_the_head_to_the_patches_and_vectors_do_not_decay():
    model = ViT(4, channels=1, size=28, patch=7, width=8, depth=3, heads=2, class_token=True, mean=(0,), std=(1,))
    groups = by_name(model, masked.parameter_groups(model, 0.1, 0.05, 0.5))
    assert len(groups) == len(list(model.parameters()))  # positions, too: a classifier trains them
    wanted = {"head.weight": 4, "head.bias": 4, "norm.weight": 4, "encoder.blocks.2.mlp.0.weight": 3}
    wanted |= {
        "encoder.blocks.0.norm1.bias": 1,
        "encoder.project.weight": 0,
        "encoder.token": 0,
        "encoder.positions": 0,
    }
    for name, layer in wanted.items():
        assert groups[name]["lr"] == pytest.approx(0.1 * 0.5 ** (4 - layer)), name
    decaying = {name for name, group in groups.items() if group["weight_decay"]}
    assert decaying == {name for name, w in model.named_parameters() if w.ndim == 2 and name.endswith(".weight")}
    assert len(decaying) == 2 + 3 * 4  # patches, head; per block: qkv, out and two of the small network


def test_a_mae_trains_all_but_its_position_codes(data):
    model = masked.build_mae(data, **SMALL, decoder_width=8, decoder_heads=2)
    groups = by_name(model, masked.parameter_groups(model, 0.1))
    assert {name for name, _ in model.named_parameters()} - groups.keys() == {"encoder.positions", "positions"}
    assert not groups["hidden"]["weight_decay"] and groups["leave.weight"]["weight_decay"]


def test_every_group_follows_the_schedule_at_its_own_rate(data):
    model = masked.build_vit(data, **SMALL)
    optimizer = masked.adamw(model, 0.01, 0.05, layer_decay=0.5)
    base = [group["lr"] for group in optimizer.param_groups]
    for step in train(
        model,
        masked.finetune_loss(data.to(device())),
        n=90,
        steps=4,
        batch_size=8,
        optimizer=optimizer,
        lr_schedule=masked.short_warmup,
    ):
        factor = masked.short_warmup(step.step - 1, 4)
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([rate * factor for rate in base])


def test_transfer_takes_the_encoder_and_makes_positions_trainable(data):
    mae = masked.build_mae(data, seed=1, **SMALL)
    model = masked.build_vit(data, seed=2, **SMALL)
    head = model.head.weight.clone()
    assert masked.transfer(mae, model) is model
    for name, weight in mae.encoder.state_dict().items():
        assert torch.equal(model.encoder.state_dict()[name], weight), name
    assert torch.equal(model.head.weight, head)
    assert model.encoder.positions.requires_grad and not mae.encoder.positions.requires_grad
    mae.encoder.project.weight.data.zero_()
    assert model.encoder.project.weight.abs().sum() > 0  # a copy


def test_images_of_another_size_get_resized_positions():
    config = dict(channels=1, patch=4, mean=(0.0,), std=(1.0,), **SMALL)
    source, target = ViT(3, size=16, **config), ViT(3, size=24, **config)
    masked.transfer(source, target)
    assert target.encoder.positions.shape == (36, 8)
    assert torch.equal(target.encoder.positions, masked.resize_positions(source.encoder.positions, 6))


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(patch=8), "reads patches of 4 pixels, this one of 8: build it with patch=4"),
        (dict(width=16), "has width=8, this one width=16"),
        (dict(depth=1), "has depth=2, this one depth=1"),
        (dict(class_token=True), "class_token=False, this one class_token=True"),
    ],
)
def test_another_architecture_is_refused_in_a_sentence(changes, message):
    config = dict(channels=1, size=16, patch=4, mean=(0.0,), std=(1.0,), **SMALL)
    with pytest.raises(CourseError, match=message):
        masked.transfer(ViT(3, **config), ViT(3, **config | changes))


def test_a_mask_that_hides_nothing_is_refused_before_training(data):
    with pytest.raises(CourseError, match="keeps 16 of 16 patches"):
        masked.pretrain_masked(data, steps=1, mask_ratio=0.0, **SMALL)


def test_an_unknown_loss_or_view_is_refused(data):
    with pytest.raises(CourseError, match="Unknown loss 'bal_bce'. Did you mean 'bal-bce'"):
        masked.finetune(masked.build_vit(data, **SMALL), data, "bal_bce", steps=1)
    with pytest.raises(CourseError, match="Unknown augmentation 'none'"):
        masked.finetune(masked.build_vit(data, **SMALL), data, steps=1, augment="none")


def test_pretraining_and_finetuning_go_on_where_they_were_stopped(data, tmp_path):
    def stopped(what, after):
        """The weights when `what(checkpoint)` is trained in one go, and when it is stopped."""
        whole = what(None, math.inf).state_dict()
        what(tmp_path / "part", after)
        again = what(tmp_path / "part", math.inf).state_dict()
        (tmp_path / "part").unlink()
        return all(torch.equal(again[name], weight) for name, weight in whole.items())

    def run(model, loss, optimizer, checkpoint, until):
        options = dict(n=90, steps=6, batch_size=16, optimizer=optimizer, seed=3, checkpoint=checkpoint)
        for step in train(model, loss, lr_schedule=masked.short_warmup, **options):
            if step.step == until:
                break
        return model

    there = data.to(device())

    def pretraining(checkpoint, until):
        model = masked.build_mae(data, **SMALL)
        return run(model, masked.masked_loss(there), masked.adamw(model, 0.01, 0.05), checkpoint, until)

    def finetuning(checkpoint, until):
        model = masked.build_vit(data, drop_path=0.3, **SMALL)
        loss = masked.finetune_loss(there, mixed=True, smoothing=0.1)
        return run(model, loss, masked.adamw(model, 0.01, 0.05, layer_decay=0.7), checkpoint, until)

    assert stopped(pretraining, 4) and stopped(finetuning, 2)


def test_the_masked_loss_of_a_group_is_that_of_its_images(data):
    """By another way: the mean over single images, each with its own hidden patches."""
    small = replace(data, test_images=data.test_images[::4], test_labels=data.test_labels[::4])  # 750, in two batches
    model = masked.build_mae(small, **SMALL).eval()
    found = masked.group_masked_loss(model, small, 0.5, seed=3)
    torch.manual_seed(3)
    order = random_order(len(small.test_images), model.encoder.side**2).to(device())
    images = unit(small.test_images.to(device()))
    with torch.no_grad():
        single = torch.stack([model.loss(images[i : i + 1], 0.5, order[i : i + 1]) for i in range(len(images))]).cpu()
    for group, classes in group_indices(small.counts).items():
        part = torch.isin(small.test_labels.cpu(), torch.tensor(classes))
        assert found[group] == pytest.approx(single[part].mean().item(), abs=2e-4)
    assert masked.group_masked_loss(model, small, 0.5, seed=4) != found


def test_another_start_is_another_training(data, tmp_path):
    masked.finetune(masked.build_vit(data, seed=0, **SMALL), data, steps=2, checkpoint=tmp_path / "a")
    masked.finetune(masked.build_vit(data, seed=0, **SMALL), data, steps=2, checkpoint=tmp_path / "a")
    with pytest.raises(CourseError, match="is of another training"):
        masked.finetune(masked.build_vit(data, seed=1, **SMALL), data, steps=2, checkpoint=tmp_path / "a")


def test_smoothing_and_mixing_make_the_targets_that_they_say(data):
    model, index = masked.build_vit(data, **SMALL).eval(), torch.arange(12)
    torch.nn.init.normal_(model.head.weight)
    there = data.to(device())

    def drawn_alike(function):
        torch.manual_seed(4)
        return function(model, index).item()

    def by_hand(model, index):
        images = masked.unit(masked.random_crop_flip(there.train_images[index], 0))
        shares = 0.9 * F.one_hot(there.train_labels[index], 10) + 0.01
        return -(shares * model(images).log_softmax(1)).sum(1).mean()

    assert drawn_alike(masked.finetune_loss(there, "ce", smoothing=0.1)) == pytest.approx(
        drawn_alike(by_hand), rel=1e-5
    )
    images, target = masked.mix(torch.rand(12, 1, 28, 28), there.train_labels[index], 10)
    assert images.shape == (12, 1, 28, 28) and torch.allclose(target.sum(1), torch.ones(12))


def test_erased_and_augmented_images_are_those_of_the_views(data, monkeypatch):
    there, seen = data.to(device()), []
    monkeypatch.setattr(masked, "random_erasing", lambda images, share: seen.append(share) or 255 - images)
    monkeypatch.setitem(masked.AUGMENTATIONS, "randaugment", lambda images, pad: seen.append(pad) or images)
    model, index = masked.build_vit(data, **SMALL).eval(), torch.arange(6)
    torch.nn.init.normal_(model.head.weight)
    loss = masked.finetune_loss(there, "ce", "randaugment", 3, erasing=0.25)(model, index)
    wanted = F.cross_entropy(model(1 - masked.unit(there.train_images[:6])), there.train_labels[:6])
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5) and seen == [3, 0.25]
    masked.finetune_loss(there, "ce")(model, index)
    assert seen == [3, 0.25]  # without a share nothing is drawn


def test_tau_reaches_the_loss_and_its_read_out(data):
    model, images, labels = masked.build_vit(data, **SMALL).eval(), data.train_images[:6], data.train_labels[:6]
    values = [
        masked.labelled_loss("bal-bce", data.counts, "cpu", tau=tau)(model.cpu(), images, labels) for tau in (0, 1, 2)
    ]
    assert values[0].item() == pytest.approx(build_loss("bce", data.counts)(model(masked.unit(images)), labels).item())
    assert len({round(value.item(), 3) for value in values}) == 3
    with pytest.raises(CourseError, match="The loss 'ce' has no tau"):
        masked.labelled_loss("ce", data.counts, "cpu", tau=1.0)


def test_pretraining_learns_what_hidden_patches_show_and_finetuning_the_labels(data):
    model = masked.build_mae(data)
    images = masked.unit(load().test_images[:200])
    torch.manual_seed(0)
    order = random_order(200, 16)
    before = model.loss(images, order=order).item()
    trained = masked.pretrain_masked(load().long_tailed(100), steps=160, title="masked")
    after = trained.loss(images.to(device()), order=order.to(device())).item()
    assert before > 0.8 and after < 0.72  # a guess of 0: about 0.8, since a fifth of the patches is of one colour
    classifier = masked.finetune(masked.transfer(trained, masked.build_vit(data)), data, "ce", steps=60, title="labels")
    logits = encode(classifier, data.train_images)[1].cpu()
    assert (logits.argmax(1) == data.train_labels).double().mean() > 0.6


@pytest.mark.parametrize(
    "plain, balanced, shift",
    [("ce", "bal-ce", log_prior), ("bce", "bal-bce", log_odds)],
)
def test_a_balanced_loss_is_a_start_value_and_a_read_out(data, plain, balanced, shift):
    """Trained with the plain loss from a bias of the shift, the network is the balanced one plus the shift, step for step."""
    shift, losses, logits = shift(data.counts).double(), [], []
    images, labels = masked.unit(data.train_images).double(), data.train_labels
    for name, start in ((plain, shift), (balanced, 0 * shift)):
        model = masked.build_vit(data, **SMALL).cpu().double()
        model.head.bias.data += start
        optimizer, loss, told = masked.adamw(model, 3e-3, 0.05), build_loss(name, data.counts), []
        for k in range(8):
            value = loss(model(images[k::8]), labels[k::8])
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            told.append(value.item())
        losses.append(told)
        logits.append(model(images) - start)
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)  # the shifts are float32
    assert (logits[0] - logits[1]).abs().max() < 1e-5


@pytest.mark.parametrize("tau", [1.0, 0.5])
@pytest.mark.parametrize("loss", ["ce", "bal-ce", "bce", "bal-bce"])
def test_balanced_scores_are_bayes_rule_for_equal_classes(loss, tau):
    counts = [50, 30, 15, 5]
    prior = torch.tensor(counts).double() / 100
    density = torch.rand(300, 4, dtype=torch.float64)  # p(x|c) of 300 images
    posterior = prior * density / (prior * density).sum(1, keepdim=True)
    learned = {"ce": posterior.log(), "bce": posterior.logit()}
    learned |= {"bal-ce": label_shift(posterior.log(), counts, tau), "bal-bce": posterior.logit() - tau * prior.logit()}
    assert torch.equal(masked.balanced_scores(loss, learned[loss], counts, tau).argmax(1), density.argmax(1))


def test_a_loss_without_a_read_out_is_refused():
    with pytest.raises(CourseError, match="Unknown loss with a balanced read-out 'focal'"):
        masked.balanced_scores("focal", torch.zeros(1, 2), [1, 1])
