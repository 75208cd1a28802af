"""experiments.pretrain: weights, card and sheet of a name; finished and stopped trainings; what may not be asked for."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from data_prep import __main__ as data_prep
from experiments import pretrain
from lt_utils.data import datasets
from lt_utils.data.npz import sha256
from lt_utils.files import REPOSITORY, read_yaml
from lt_utils.models.resnet import ResNet
from lt_utils.models.unet import UNet
from lt_utils.recognition.encoders import encoder_recipe
from lt_utils.training import checkpoints

COURSE = REPOSITORY / "config" / "pretrained.yaml"


@pytest.fixture
def small(monkeypatch, tmp_path):
    """The command on a fifteenth of the data and a tiny network: run(*arguments) -> exit status."""
    whole = datasets.load()
    train, test = (
        torch.cat([(labels == c).nonzero()[:n, 0] for c in range(10)])
        for labels, n in ((whole.train_labels, 60), (whole.test_labels, 20))
    )
    part = dataclasses.replace(
        whole,
        train_images=whole.train_images[train],
        train_labels=whole.train_labels[train],
        test_images=whole.test_images[test],
        test_labels=whole.test_labels[test],
    )
    monkeypatch.setattr(pretrain, "load", lambda name: part if name == whole.name else datasets.load(name))
    settings = read_yaml(COURSE)
    settings |= {"network": {"width": 8, "mults": [1], "attention": [], "blocks": 1, "patch": 4}, "imbalance": 10}
    settings["judge"] |= {"epochs": 1}
    settings["encoder"] |= {"epochs": 2, "width": 4}
    settings["training"] |= {"steps": 3, "batch_size": 8}
    settings["generators"]["finetuned-seed0"]["steps"] = 2
    settings["measures"] |= {"samples": 80, "sample_steps": 2}
    settings["encoders"]["other-encoder"] = {"data": "other", "method": "ce", "seed": 0}
    settings["generators"]["other-generator"] = {"data": "other"}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))

    def run(*arguments: str) -> int:
        return pretrain.main([*arguments, "--config", str(tmp_path / "small.yaml"), "--folder", str(tmp_path / "out")])

    return run


def test_a_name_leaves_weights_a_card_and_a_sheet_and_so_does_what_it_starts_from(small, tmp_path, capsys):
    assert small("finetuned-seed0", "augmented-seed0") == 0
    folder = tmp_path / "out"
    for name in ("judge", "regular-seed0", "finetuned-seed0", "augmented-seed0"):
        card = json.loads((folder / f"{name}.json").read_text())
        model, facts = checkpoints.load_model(folder / f"{name}.safetensors", ResNet if name == "judge" else UNet)
        assert card["bytes"] == (folder / f"{name}.safetensors").stat().st_size < 2 * card["parameters"] + 20_000
        assert card["parameters"] == sum(p.numel() for p in model.state_dict().values() if p.is_floating_point())
        assert card["commit"] and card["device"] and card["data"]["sha256_of_the_file"] and card["seconds"] >= 0
        if name != "judge":
            assert facts["objective"] == "v" and facts["schedule"] == "cosine" and facts["T"] == 1000
            assert max(card["data"]["counts"]) == 60 and min(card["data"]["counts"]) == 6
            assert (folder / f"{name}.png").exists()
            groups = card["measures"]["omega 1"]
            assert 0 <= groups["all"]["label_accuracy"] <= 100 and groups["all"]["memorisation"] > 0
            assert card["measured_with"]["reference"] == "balanced test images"
    assert card["network"]["augmentation"] == 9 and card["steps"] == 3
    before = (folder / "finetuned-seed0.safetensors").stat().st_mtime_ns
    assert small("finetuned-seed0") == 0  # finished: nothing is trained again
    assert (folder / "finetuned-seed0.safetensors").stat().st_mtime_ns == before
    capsys.readouterr()
    assert small("--list") == 0 and "balanced-seed1 \n" in (listed := capsys.readouterr().out)
    assert "judge finished\n" in listed and "regular-seed0 finished\n" in listed


def test_an_encoder_is_trained_by_its_recipe_and_its_card_holds_losses(small, tmp_path):
    assert small("wcdas-seed1", "ce-seed2") == 0
    for name, lr in (("wcdas-seed1", 0.5), ("ce-seed2", 0.1)):
        card = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        model, _ = checkpoints.load_model(tmp_path / "out" / f"{name}.safetensors", ResNet)
        assert card["network"]["head"] == model.config["head"] == ("wcdas" if "wcdas" in name else "linear")
        assert card["recipe"]["lr"] == lr and card["recipe"]["lr_schedule"] == "cosine"
        assert card["recipe"]["data"] == card["data"]["key"] and min(card["data"]["counts"]) == 6
        assert len(card["losses"]["first_steps"]) == card["steps"] and len(card["losses"]["epochs"]) == 2
        assert sum(card["losses"]["first_steps"][:4]) / 4 == pytest.approx(card["losses"]["epochs"][0], abs=1e-3)
        assert 0 <= card["measures"]["accuracy_on_test_images"] <= 100


def test_the_same_name_gives_the_same_weights_and_another_set_others(small, tmp_path):
    assert small("regular-seed1", "reference-seed0", "--reference", "train") == 0
    folder = tmp_path / "out"
    first = (folder / "regular-seed1.safetensors").read_bytes()
    for path in (folder / "regular-seed1.json", folder / "training" / "regular-seed1.safetensors"):
        path.unlink()
    assert small("regular-seed1", "--reference", "train") == 0
    assert (folder / "regular-seed1.safetensors").read_bytes() == first
    card = json.loads((folder / "reference-seed0.json").read_text())
    assert card["data"]["counts"] == [60] * 10 and "imbalance" not in card["data"]
    assert card["measured_with"]["reference"] == "balanced train images"


def test_a_line_may_name_another_data_set(small, tmp_path, monkeypatch):
    monkeypatch.setenv("LT_DATA", str(tmp_path / "data"))
    random = np.random.default_rng(0)
    arrays = {"classes": np.array(["cat", "dog", "owl"])}
    for part, n in (("train", 90), ("test", 12)):
        arrays |= {f"x_{part}": random.integers(0, 256, (n, 8, 8, 3), np.uint8), f"y_{part}": np.arange(n) % 3}
    np.savez(tmp_path / "other.npz", **arrays)
    assert data_prep.main(["other", "--from", str(tmp_path / "other.npz")]) == 0
    assert small("other-encoder", "other-generator") == 0
    data = datasets.load("other").long_tailed(10)
    for name in ("other-encoder", "other-generator"):
        card = json.loads((tmp_path / "out" / f"{name}.json").read_text())
        assert card["data"]["key"] == data.key and card["data"]["counts"] == [30, 9, 3]
        assert card["data"]["sha256_of_the_file"] == sha256(tmp_path / "data" / "other.npz")
        assert card["network"]["channels"] == 3 and ("data" not in card["recipe"] or card["recipe"]["data"])
    assert (
        encoder_recipe(data, "ce", epochs=2, width=4, depth=8)
        == json.loads((tmp_path / "out" / "other-encoder.json").read_text())["recipe"]
    )
    assert card["measures"] == {} and not (tmp_path / "out" / "judge.json").exists()  # no judge knows these images
    assert Image.open(tmp_path / "out" / "other-generator.png").size == (16 * 10 + 2, 3 * 10 + 2)


def test_what_is_not_known_is_told_in_a_sentence_before_anything_is_trained(small, tmp_path, capsys):
    assert small("judge", "regular-sed0") == 2
    assert "Did you mean 'regular-seed0'" in capsys.readouterr().err and not (tmp_path / "out").exists()
    assert small("--reference", "tests") == 2 and "Unknown reference 'tests'" in capsys.readouterr().err


def test_the_courses_own_settings_fit_into_ten_megabytes():
    settings = read_yaml(COURSE)
    size = sum(w.numel() for w in UNet(1, 10, **settings["network"], augmentation=9).parameters())
    assert 2 * size * len(settings["generators"]) < 9e6
    seeds = [one["seed"] for one in settings["generators"].values() if one.get("mechanism") == "balanced"]
    assert seeds == [0, 1, 2] and all("seed" in settings[part] for part in ("training", "judge"))
