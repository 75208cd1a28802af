"""The trained networks that come with the course: loaded by name, verified by hash, each with a whole card."""

import shutil
from dataclasses import replace

import pytest
import torch

from lt_utils import hashing
from lt_utils.data import datasets
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY, read_json, read_yaml, write_json
from lt_utils.metrics.recognition import accuracy
from lt_utils.models import pretrained
from lt_utils.models.pretrained import FOLDER, load_pretrained, pretrained_names
from lt_utils.models.resnet import encode
from lt_utils.recognition import encoders, judge_for

NAMES = pretrained_names()
PREPARED = {
    "fashion-mnist-small": read_json(datasets.BUNDLED_FOLDER / "fashion-mnist-small.json")["sha256"],
    "cifar10-ldmlr": "55ff7816b80ddcaadbe364775bcbeb81504c59a5ae0fe05d31c5fe431f980349",  # as data_prep writes them
    "cifar100-ldmlr": "a418e15aaff1b0a4f59b7fe1f4d4c56afe5bf2dc6fbf75b03a68dcc5b6d47270",
}


def test_each_is_one_that_the_configuration_trains():
    settings = read_yaml(REPOSITORY / "config" / "pretrained.yaml")
    assert set(NAMES) <= {"judge", *settings["encoders"], *settings["generators"]} and "judge" in NAMES
    assert sum(path.stat().st_size for path in FOLDER.glob("*.safetensors")) < 10 * 2**20
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12e6  # with cards and sheets of samples


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_its_card_is_whole(name):
    model, card = load_pretrained(name)
    assert not model.training and card["name"] == name and len(card["commit"]) == 40 and card["dirty"] is False
    assert card["steps"] > 0 and card["seconds"] > 0 and card["device"] and card["measures"] and card["recipe"]
    own = name.startswith("cifar")  # of data that every user fetches: LDMLR's lists say which images they are
    assert (
        card["data"]["sha256_of_the_file"] == PREPARED[name.split("-")[0] + "-ldmlr" if own else "fashion-mnist-small"]
    )
    assert card["network"] == {"class": type(model).__name__, **model.config}


def test_the_judge_judges_as_its_card_says():
    data = datasets.load()
    model, card = load_pretrained("judge")
    logits = encode(model, data.test_images)[1]
    assert accuracy(logits, data.test_labels) == pytest.approx(card["measures"]["accuracy_on_test_images"], abs=0.2)


def test_a_network_of_another_data_set_is_refused():
    data = datasets.load()
    with pytest.raises(
        CourseError, match="judge was trained on fashion-mnist-small .*, not on fashion-mnist-small-if100"
    ):
        load_pretrained("judge", data=data.long_tailed(100))
    assert load_pretrained("judge", data=data)[1]["name"] == "judge"


def test_the_judge_of_a_data_set_is_the_one_of_the_course_only_for_its_data(monkeypatch):
    data = datasets.load()
    monkeypatch.setattr(encoders, "train_judge", lambda whole, **options: (whole.name, options["epochs"]))
    assert hashing.fingerprint(judge_for(data, epochs=1)) == hashing.fingerprint(load_pretrained("judge")[0])
    other = replace(data, train_labels=data.train_labels.roll(1))
    assert judge_for(other, epochs=3) == (data.name, 3)


def test_a_network_of_ones_own_lies_beside_the_data(tmp_path, monkeypatch):
    monkeypatch.setenv("LT_DATA", str(tmp_path))
    (tmp_path / "trained").mkdir()
    shutil.copy(FOLDER / "judge.json", tmp_path / "trained" / "mine.json")
    shutil.copy(FOLDER / "judge.safetensors", tmp_path / "trained" / "mine.safetensors")
    assert hashing.fingerprint(load_pretrained("mine")[0]) == hashing.fingerprint(load_pretrained("judge")[0])
    assert "mine" not in pretrained_names()
    with pytest.raises(CourseError, match="Did you mean 'mine'"):
        load_pretrained("mime")


def test_an_unknown_name_lists_the_known_ones_and_says_how_to_train_more():
    with pytest.raises(CourseError, match="Did you mean 'judge'.*Known: .*judge.*experiments.pretrain NAME --folder"):
        load_pretrained("juge")


@pytest.mark.parametrize("damage", ["cut", "missing", "other"])
def test_a_damaged_file_is_one_sentence(damage, tmp_path, monkeypatch):
    for end in ("json", "safetensors"):
        shutil.copy(FOLDER / f"judge.{end}", tmp_path)
    path = tmp_path / "judge.safetensors"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "missing":
        path.unlink()
    else:
        write_json(tmp_path / "judge.json", read_json(tmp_path / "judge.json") | {"sha256": "0" * 64})
    monkeypatch.setattr(pretrained, "FOLDER", tmp_path)
    with pytest.raises(
        CourseError, match="judge.safetensors is missing, damaged or not the file.*experiments.pretrain judge"
    ):
        load_pretrained("judge", torch.device("cpu"))
