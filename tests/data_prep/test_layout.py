"""Folders by other names, and one level off: known, or refused with what was probably meant."""

import json
import unicodedata
from itertools import count

import numpy as np
import pytest
from PIL import Image

from data_prep.__main__ import main
from lt_utils.data import datasets

numbers = count()


def classes(folder, names=("cat", "dog"), per_class=3):
    """Write folders of classes, each with so many different images; returns the folder above them."""
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = np.random.default_rng(next(numbers)).integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def pets(tmp_path, monkeypatch):
    monkeypatch.setenv("LT_DATA", str(tmp_path / "prepared"))
    return tmp_path / "pets"


def record_of(folder) -> dict:
    assert main(["pets", "--from", str(folder)]) == 0
    return json.loads((folder.parent / "prepared" / "pets.json").read_text())


def refusal(folder, capsys) -> str:
    assert main(["pets", "--from", str(folder)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


@pytest.mark.parametrize(
    "train, test",
    [
        ("Training", "Testing"),
        ("TRAIN", "TEST"),
        ("train_set", "test_set"),
        ("trainset", "testset"),
        ("TrainImages", "TestImages"),
        ("training data", "testing data"),
        ("seg_train", "seg_test"),
        ("birds-train-256", "birds-test-256"),
        ("train", "val"),
        ("Train", "Validation"),
        ("train2018", "valid2018"),
    ],
)
def test_split_folders_are_known_in_any_case_and_spelling(pets, train, test, capsys):
    classes(pets / train)
    classes(pets / test, per_class=2)
    record = record_of(pets)
    assert (record["classes"], record["train_counts"], record["test_counts"]) == (["cat", "dog"], [3, 3], [2, 2])
    assert record["folders"] == f"training images {train}, test images {test}"
    assert record["folders"] in capsys.readouterr().out


def test_what_lies_beside_the_split_folders_is_left_out_and_named(pets):
    for name in ("train", "test", "val"):
        classes(pets / name)
    (pets / "notes.txt").write_text("by hand")
    (pets / "__MACOSX").mkdir()
    assert record_of(pets)["folders"] == "beside them, left out: notes.txt, val"


def test_an_image_beside_the_class_folders_is_named(pets):
    classes(pets, ("train station", "test pattern"))  # two classes: their other words differ
    Image.new("RGB", (6, 6)).save(pets / "stray.png")
    record = record_of(pets)
    assert record["classes"] == ["test pattern", "train station"]
    assert record["folders"] == "beside them, left out: stray.png"


@pytest.mark.parametrize("where", ["archive", "archive/pets", "archive/pets/images"])
def test_a_folder_too_many_is_refused_with_the_one_that_was_meant(pets, capsys, where):
    classes(pets / where)
    said = refusal(pets, capsys)
    assert "hold only folders, no images: archive" in said and f"Did you mean {pets / where}?" in said
    assert main(["pets", "--from", str(pets / where)]) == 0
    assert datasets.load("pets").class_names == ("cat", "dog")


def test_a_folder_too_many_above_train_and_test(pets, capsys):
    classes(pets / "pets" / "train")
    classes(pets / "pets" / "test")
    assert f"Did you mean {pets / 'pets'}?" in refusal(pets, capsys)


def test_a_folder_too_many_inside_train_and_test(pets, capsys):
    classes(pets / "seg_train" / "seg_train")
    classes(pets / "seg_test" / "seg_test")
    said = refusal(pets, capsys)
    assert "seg_train has class folders that hold only folders" in said and "seg_train/seg_train?" in said


def test_splits_inside_the_classes(pets, capsys):
    for name in ("cat", "dog"):
        classes(pets / name, ("train", "test"))
    assert "Put the split above the classes: train/<class> and test/<class>." in refusal(pets, capsys)


def test_splits_by_names_that_nobody_can_know(pets, capsys):
    classes(pets / "first")
    classes(pets / "second")
    said = refusal(pets, capsys)
    assert "first, second (holding cat, dog). Call training and test folders train and test" in said


def test_a_single_class_and_a_folder_of_images(pets, capsys):
    classes(pets, ("cat",))
    assert "has a single class, cat: there must be two at least" in refusal(pets, capsys)
    assert "If it is one class, give the folder above it" in refusal(pets / "cat", capsys)


def test_test_images_without_labels(pets, capsys):
    classes(pets / "train")
    (classes(pets / "more", ("all",)) / "all").rename(pets / "test")
    assert "test has no class folders" in refusal(pets, capsys)


@pytest.mark.parametrize("names", [("train", "Training", "test"), ("cat_train", "cat_test", "dog_train", "dog_test")])
def test_two_training_folders_are_refused(pets, capsys, names):
    for name in names:
        classes(pets / name)
    assert "more than one training or test folder" in refusal(pets, capsys)


def test_one_without_the_other_is_named_as_it_is_called(pets, capsys):
    classes(pets / "Testing")
    classes(pets, ("cat", "dog"))
    assert "has a folder Testing but no folder train: add it (or rename Testing" in refusal(pets, capsys)


def test_copies_that_an_editor_hid_are_no_images(pets):
    classes(pets, per_class=5)
    classes(pets / "cat" / ".ipynb_checkpoints", ("x",))
    (pets / "dog" / "Thumbs.db").write_bytes(b"no image")
    record = record_of(pets)
    assert [a + b for a, b in zip(record["train_counts"], record["test_counts"], strict=True)] == [5, 5]


def test_one_name_written_in_two_ways_is_one_class(pets):
    """macOS stores an accent apart from its letter, other systems in one character."""
    for split, form in (("train", "NFC"), ("test", "NFD")):
        classes(pets / split, [unicodedata.normalize(form, name) for name in ("café", "zoo")])
    assert record_of(pets)["classes"] == ["café", "zoo"]
