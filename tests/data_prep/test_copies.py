"""Copies of images: counted and told; refused where they can only be a mistake; never on both sides of a drawn test set."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from data_prep.__main__ import main
from data_prep.arrays import split
from data_prep.lists.image_files import read_list
from lt_utils.data import datasets, longtail
from lt_utils.errors import CourseError


@pytest.fixture
def pets(tmp_path, monkeypatch):
    """train and test folders with 10 and 6 different images of cat and dog each."""
    monkeypatch.setenv("LT_DATA", str(tmp_path / "prepared"))
    draw = np.random.default_rng(0)
    for part, n in (("train", 10), ("test", 6)):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / part / name).mkdir(parents=True)
            for i in range(n):
                image = Image.fromarray(draw.integers(0, 256, (6, 6), dtype=np.uint8))
                image.save(tmp_path / "pets" / part / name / f"{i}.png")
    return tmp_path / "pets"


def copies(folder) -> str | None:
    assert main(["pets", "--from", str(folder), "--again"]) == 0
    return json.loads((folder.parent / "prepared" / "pets.json").read_text()).get("copies")


def refusal(folder, capsys) -> str:
    assert main(["pets", "--from", str(folder), "--again"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_different_images_say_nothing(pets):
    assert copies(pets) is None


def test_a_test_folder_that_is_a_copy_of_the_training_folder_is_refused(pets, capsys):
    shutil.rmtree(pets / "test")
    shutil.copytree(pets / "train", pets / "test")
    assert "20 of the 20 test images are training images, too. Give other test images" in refusal(pets, capsys)
    for i in range(2, 10):  # most of it is enough
        Image.fromarray(np.full((6, 6), i, np.uint8)).save(pets / "test" / "cat" / f"{i}.png")
    assert "12 of the 20 test images" in refusal(pets, capsys)


def test_copies_across_the_splits_and_inside_one_are_counted_and_told(pets, capsys):
    shutil.copy(pets / "train" / "cat" / "0.png", pets / "test" / "cat" / "copy.png")
    Image.open(pets / "train" / "dog" / "0.png").save(pets / "train" / "dog" / "copy.bmp")  # another file, equal pixels
    wanted = "test images that are training images, too: 1; training images that are copies of others: 1 (equal pixel for pixel)"
    assert copies(pets) == wanted and wanted in capsys.readouterr().out


def test_one_image_in_two_classes_is_told_and_a_class_of_such_refused(pets, capsys):
    shutil.copy(pets / "train" / "cat" / "0.png", pets / "train" / "dog" / "cat.png")
    assert "images in more than one class: 1 (" in copies(pets)
    for part in ("train", "test"):
        shutil.copytree(pets / part / "cat", pets / part / "owl")
    assert "every image of class cat is in another class, too (dog has the first)" in refusal(pets, capsys)


def test_arrays_are_looked_at_like_folders(pets, tmp_path, capsys):
    x = np.random.default_rng(0).integers(0, 256, (12, 6, 6), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x_train=x, y_train=np.arange(12) % 3, x_test=x[:6], y_test=np.arange(6) % 3)
    assert "6 of the 6 test images are training images, too" in refusal(tmp_path / "a.npz", capsys)


def test_a_drawn_test_set_has_no_copy_of_a_training_image():
    draw = np.random.default_rng(0)
    x = draw.integers(0, 256, (60, 4, 4, 1), dtype=np.uint8)
    x[30:50] = x[:20]
    arrays = {"x_train": x, "y_train": np.arange(60) % 2, "classes": np.array(["a", "b"])}
    found = split(arrays, 0.3, seed=1)
    test, train = ({image.tobytes() for image in found[f"x_{part}"]} for part in ("test", "train"))
    assert not test & train and len(found["x_test"]) + len(found["x_train"]) == 60
    assert np.bincount(found["y_test"]).min() >= 6


def test_without_copies_the_same_images_are_drawn_as_by_hold_out():
    x = np.arange(40, dtype=np.uint8).reshape(40, 1, 1, 1)
    y = np.arange(40) % 3
    found = split({"x_train": x, "y_train": y, "classes": np.array(list("abc"))}, 0.25, seed=3)
    stays, moved = longtail.hold_out(y, list("abc"), fraction=0.25, seed=3)
    assert found["x_train"].ravel().tolist() == stays.tolist() and found["x_test"].ravel().tolist() == moved.tolist()


def test_a_list_that_gives_one_file_two_labels_is_refused(pets):
    (pets / "list.txt").write_text("train/cat/0.png 0\ntrain/dog/0.png 1\ntrain/cat/0.png 1\n")
    with pytest.raises(CourseError, match=r"gives train/cat/0\.png two labels \(1 such lines"):
        read_list(pets / "list.txt", pets)


def test_the_bundled_set_has_no_copy_across_its_splits():
    data = datasets.load()
    train, test = ({image.numpy().tobytes() for image in images} for images in (data.train_images, data.test_images))
    assert not train & test
