"""What helps without generation, LDMLR as published, encoders for several seeds, rows of the gaps: from their definitions."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lt_utils.data import datasets
from lt_utils.features import encoding, recipes, views
from lt_utils.features.encoding import Encoded, encode_data
from lt_utils.features.retraining import averaged, predict, retrain_head
from lt_utils.features.views import distance_to_test, encode_views, fair_sample, gap_rows
from lt_utils.models.resnet import ResNet
from lt_utils.recognition.losses import label_shift

AMOUNTS = [0] * 9 + [4]


@pytest.fixture(scope="module")
def encoded() -> Encoded:
    """A random ResNet-8 and what it makes of a small long-tailed set."""
    torch.manual_seed(0)
    data = datasets.load().long_tailed(counts=[40, 30, 20, 15, 10, 8, 6, 5, 4, 3])
    data = replace(data, test_images=data.test_images[::20], test_labels=data.test_labels[::20])
    return encode_data(ResNet(10, 1, 8, 8, mean=(0.3,), std=(0.3,)).eval(), data)


def look(encoded: Encoded, kind: str, seed: int, extra: str = "") -> views.Views:
    return encode_views(encoded, kind, 1)


def test_ours_is_the_average_with_label_shift_and_flip_that_of_two_images(encoded):
    sets = {kind: look(encoded, kind, 0) for kind in ("weak", "strong", "mixed")}
    said = recipes.helped(encoded, sets, steps=3)
    shifted = label_shift(predict(encoded.head, encoded.test), encoded.counts)
    torch.testing.assert_close(said["Label shift"], shifted)
    torch.testing.assert_close(said["Ours"], averaged(shifted, said["Cosine head, all views, mixup"]))
    both = predict(encoded.head, encoded.test, views.mirrored_test(encoded))
    torch.testing.assert_close(said["Label shift + flip"], label_shift(both, encoded.counts))
    assert len(said) == 8


def test_new_statistics_are_those_of_unmixed_images_and_leave_the_random_state_alone(encoded):
    torch.manual_seed(3)
    state = torch.get_rng_state()
    fresh = recipes.new_statistics(encoded, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    bn = next(part for part in fresh.encoder.modules() if isinstance(part, nn.BatchNorm2d))
    old = next(part for part in encoded.encoder.modules() if isinstance(part, nn.BatchNorm2d))
    assert torch.equal(old.running_mean, torch.zeros_like(old.running_mean))  # the encoder itself is as it was
    assert not torch.equal(bn.running_mean, old.running_mean)
    assert fresh.head is encoded.head
    assert torch.equal(recipes.new_statistics(encoded, seed=1).test, fresh.test)


def test_each_seed_gets_every_method_but_the_baseline_and_shared_encoders_share(encoded, monkeypatch):
    made = []
    monkeypatch.setattr(recipes, "new_statistics", lambda one, seed: made.append(seed) or one)
    found = [(seed, method) for seed, method, _ in recipes.helped_each({4: encoded, 5: encoded}, look, steps=1)]
    assert made == [4]
    assert len(found) == len(set(found)) == 2 * (2 * 8 - 1)
    assert (5, "Label shift, new statistics") in found
    assert (5, "Label shift") not in found


def test_published_program_retrains_on_its_own_features_and_those_that_it_drew(encoded, monkeypatch):
    """With a stand-in for the slow diffusion: the head is that of `retrain_head` on what extraction and diffusion gave."""
    drawn = torch.randn(4, encoded.dim, generator=torch.Generator().manual_seed(0))
    generator = SimpleNamespace(generate=lambda labels, seed: drawn if labels.tolist() == [9] * 4 else None)
    seen = {}
    monkeypatch.setattr(recipes.ldmlr, "extract", lambda *_, **__: encoded.train + 1)
    monkeypatch.setattr(recipes.ldmlr, "train_published", lambda f, *_, **how: seen.update(f=f, **how) or generator)
    result = recipes.retrain_published(encoded, AMOUNTS, steps=7, epochs=2, seed=5)
    assert torch.equal(seen["f"], encoded.train + 1)
    assert (seen["steps"], seen["seed"]) == (7, 5)
    wanted = retrain_head(
        replace(encoded, train=encoded.train + 1), drawn, torch.full((4,), 9), epochs=2, seed=5
    ).head.weight
    torch.testing.assert_close(result.head.weight, wanted)


def test_seeds_without_an_encoder_of_their_own_share_the_first(encoded, monkeypatch, tmp_path):
    asked = []
    with_course = []  # seeds of which an encoder comes with the course
    monkeypatch.setattr(
        encoding.encoders, "pretrained_encoder", lambda *_, seed, **__: ("one",) if seed in with_course else None
    )
    monkeypatch.setattr(
        encoding, "load_or_train", lambda _, seed, **how: (asked.append((seed, how)) or object(), "new")
    )
    found = encoding.load_or_train_each(None, [3, 4], checkpoint=lambda name: f"{name}.x", epochs=2)
    assert asked == [(3, {"epochs": 2, "checkpoint": "encoder-training-seed3.x"})]
    assert found[4][0] is found[3][0]
    assert "shares the encoder of seed 3" in found[4][1]

    asked.clear()
    found = encoding.load_or_train_each(None, [3, 4], share=False, checkpoint=lambda name: f"{name}.x")
    assert [(seed, how["checkpoint"]) for seed, how in asked] == [
        (3, "encoder-training-seed3.x"),
        (4, "encoder-training-seed4.x"),
    ]
    assert found[4][0] is not found[3][0]

    (tmp_path / "checkpoints").mkdir()
    for seed in (3, 4):
        (tmp_path / "checkpoints" / f"encoder-ce-seed{seed}.safetensors").touch()
    found = encoding.load_or_train_each(None, [3, 4, 5], earlier=SimpleNamespace(path=tmp_path))
    assert found[4][0] is not found[3][0]
    assert found[5][0] is found[3][0]
    with_course.append(5)
    found = encoding.load_or_train_each(None, [3, 4, 5, 6], earlier=SimpleNamespace(path=tmp_path))
    assert found[5][0] is not found[3][0]
    assert found[6][0] is found[3][0]
    found = encoding.load_or_train_each(None, [3, 5], earlier=SimpleNamespace(path=tmp_path), published="a.npz")
    assert found[5][0] is found[3][0]


def test_gap_rows_are_means_over_the_classes_of_a_group(encoded):
    groups, clean = {"many": [0, 1], "few": [8, 9]}, look(encoded, "clean", 0)
    first, fair = gap_rows(encoded, {"clean": clean}, groups, seed=2)
    measured = distance_to_test(*clean.flat, encoded)
    assert first["views"] == "clean"
    assert first["length_few"] == pytest.approx(measured["length"][[8, 9]].mean().item(), abs=6e-4)
    assert first["direction_many"] == pytest.approx(measured["direction"][[0, 1]].mean().item(), abs=6e-4)
    mean, sd = fair_sample(encoded, groups, seed=2)["spread"]["few"]
    assert (fair["views"], fair["spread_few"]) == ("fair sample", round(mean, 3))
    assert fair["spread_few_sd"] == round(sd, 4)
