"""Data sets: the bundled one, loading of prepared files, long tails and splits, and what is refused."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from data_prep.arrays import write
from data_prep.bundle import bundle, first_of_each_class
from lt_utils.data import datasets, npz
from lt_utils.errors import CourseError
from lt_utils.files import REPOSITORY

DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # where Debian's dataset-fashion-mnist puts the original files


def arrays(classes=3, train=8, test=4, shape=(6, 6, 3), seed=0):
    """Arrays of a small data set: `train` and `test` random images of each class."""
    draw = np.random.default_rng(seed).integers
    return {
        "x_train": draw(0, 256, (classes * train, *shape), dtype=np.uint8),
        "y_train": np.arange(classes * train) % classes,
        "x_test": draw(0, 256, (classes * test, *shape), dtype=np.uint8),
        "y_test": np.arange(classes * test) % classes,
        "classes": np.array([f"kind {i}" for i in range(classes)]),
    }


@pytest.fixture
def folder(tmp_path):
    """A folder with one prepared data set, "toy"."""
    write(tmp_path / "toy.npz", arrays(), {"source": "a test"})
    return tmp_path


@pytest.fixture(scope="module")
def bundled():
    return datasets.load("fashion-mnist-small")


# --- the bundled set


def test_bundled_set_is_what_its_readme_says(bundled):
    assert (bundled.num_classes, bundled.channels, bundled.size) == (10, 1, 28)
    assert bundled.counts == [1000] * 10
    assert torch.bincount(bundled.test_labels).tolist() == [300] * 10
    assert bundled.train_images.shape == (10000, 1, 28, 28) and bundled.train_images.dtype == torch.uint8
    assert bundled.train_labels.dtype == bundled.test_labels.dtype == torch.int64
    assert bundled.class_names[0] == "T-shirt/top" and bundled.class_names[9] == "Ankle boot"
    assert str(bundled).startswith("fashion-mnist-small: 10,000 training and 3,000 test images, 28 x 28 x 1")


def test_bundled_images_and_labels_belong_together(bundled):
    """The nearest class mean, from training images alone, names two test images of three: labels are not shuffled."""
    flat = bundled.train_images.flatten(1).float()
    means = torch.stack([flat[bundled.train_labels == c].mean(0) for c in range(10)])
    nearest = torch.cdist(bundled.test_images.flatten(1).float(), means).argmin(1)
    assert 0.65 < (nearest == bundled.test_labels).float().mean() < 0.72


def test_bundled_folder_is_small_quick_and_licensed():
    files = {path.name: path.stat().st_size for path in datasets.BUNDLED_FOLDER.iterdir()}
    assert set(files) == {
        *("fashion-mnist-small.npz", "fashion-mnist-small.json"),
        *("LICENSE.fashion-mnist", "README.md"),
    }
    assert sum(files.values()) < 6e6
    assert "2017 Zalando SE" in (datasets.BUNDLED_FOLDER / "LICENSE.fashion-mnist").read_text(encoding="utf-8")
    start = time.perf_counter()
    datasets.load()
    assert time.perf_counter() - start < 2  # about 0.05 s; the bound leaves room for a busy machine


def test_a_damaged_bundled_file_is_refused(tmp_path, monkeypatch):
    """One flipped bit, the length unchanged: only the SHA-256 tells."""
    for name in ("fashion-mnist-small.npz", "fashion-mnist-small.json"):
        shutil.copy(datasets.BUNDLED_FOLDER / name, tmp_path)
    content = bytearray((tmp_path / "fashion-mnist-small.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "fashion-mnist-small.npz").write_bytes(content)
    monkeypatch.setattr(datasets, "BUNDLED_FOLDER", tmp_path)
    with pytest.raises(CourseError, match=r"altered, damaged or half copied\): install the package again"):
        datasets.load("fashion-mnist-small")


def test_first_of_each_class_in_file_order():
    assert first_of_each_class(np.array([1, 0, 1, 0, 1, 0]), 2).tolist() == [1, 3, 0, 2]


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="needs Debian's package dataset-fashion-mnist")
def test_the_script_makes_the_bundled_file_from_the_original_files(tmp_path):
    made = npz.read_npz(bundle(DEBIAN, tmp_path))
    carried = npz.read_npz(datasets.BUNDLED_FOLDER / "fashion-mnist-small.npz")
    assert made.keys() == carried.keys()
    assert all(np.array_equal(made[key], carried[key]) for key in made)


# --- long tails and splits


def test_long_tail_of_the_course(bundled):
    tailed = bundled.long_tailed(imbalance=100)
    assert tailed.name == "fashion-mnist-small-if100"
    assert tailed.counts == [1000, 599, 359, 215, 129, 77, 46, 27, 16, 10]
    assert tailed.test_images is bundled.test_images
    assert bundled.counts == [1000] * 10
    again, other = bundled.long_tailed(100, seed=0), bundled.long_tailed(100, seed=1)
    assert torch.equal(tailed.train_images, again.train_images)
    assert not torch.equal(tailed.train_images, other.train_images)


def test_the_title_is_what_figures_call_a_data_set(bundled):
    assert bundled.title == "Fashion-MNIST" and bundled.long_tailed(100).title == "Fashion-MNIST-LT (IF 100)"
    titles = {"cifar10": "CIFAR-10", "cifar100-ldmlr-if50": "CIFAR-100-LT (IF 50)", "my-iffy-set": "my-iffy-set"}
    assert {name: replace(bundled, name=name).title for name in titles} == titles
    assert bundled.long_tailed(12.5).title == "Fashion-MNIST-LT (IF 12.5)"


def test_step_profile_and_explicit_counts(bundled):
    assert bundled.long_tailed(50, profile="step").name == "fashion-mnist-small-step50"
    assert bundled.long_tailed(50, profile="step").counts == [1000] * 5 + [20] * 5
    chosen = bundled.long_tailed(counts=[5, 4, 3, 2, 1, 1, 2, 3, 4, 5])
    assert (chosen.name, chosen.counts) == ("fashion-mnist-small-counts", [5, 4, 3, 2, 1, 1, 2, 3, 4, 5])


def test_long_tail_of_an_unequal_set_starts_from_its_largest_class(bundled):
    """As of a set that is long-tailed already: enough images for the same tail, or too few for a flatter one."""
    unequal = bundled.long_tailed(10)
    assert unequal.long_tailed(100).counts == bundled.long_tailed(100).counts
    with pytest.raises(CourseError, match=r"class 1 \(Trouser\), which has 774: .* the set as it is \(IMBALANCE = 0\)"):
        unequal.long_tailed(2)
    assert max(unequal.long_tailed(2, n_max=150).counts) == 150


def test_a_set_as_it_is_keeps_every_image_under_its_name_and_is_ordered_by_frequency(tmp_path):
    counts, named = [3, 9, 2, 9, 5], ["c", "a", "e", "b", "d"]
    labels = np.random.RandomState(0).permutation(np.repeat(np.arange(5), counts))
    images = np.repeat(labels, 16).reshape(-1, 4, 4, 1).astype(np.uint8)  # an image shows its number in the file
    test = np.array([4, 0, 1, 2, 3, 1])
    stored = {"x_train": images, "y_train": labels, "x_test": images[:6], "y_test": test, "classes": np.array(named)}
    np.savez(tmp_path / "mine.npz", **stored)
    whole = datasets.load("mine", tmp_path)
    data = whole.long_tailed(0)
    for found in (whole, data):
        assert (found.counts, found.class_names) == ([9, 9, 5, 3, 2], ("a", "b", "d", "c", "e"))
        assert found.train_images.tolist() == torch.from_numpy(images).permute(0, 3, 1, 2).tolist()
        assert [found.class_names[c] for c in found.train_labels] == [named[c] for c in labels]
        assert [found.class_names[c] for c in found.test_labels] == [named[c] for c in test]
    assert (data.name, data.title, data.imbalance) == ("mine-asis", "mine as it is (IF 4.5)", 4.5)
    assert "unbalanced, 1 to 2 images a class" in repr(data) and repr(data).count("\n") == 1


def test_balanced_classes_keep_the_order_of_the_file(bundled):
    data = bundled.long_tailed(0)
    assert data.by_frequency() is data and data.train_labels is bundled.train_labels
    assert data.warning == "" and data.title == "Fashion-MNIST as it is (IF 1)"


def test_images_whose_sides_do_not_divide_are_refused_with_the_command_that_resizes(bundled):
    bundled.check_divides(4)
    odd = replace(bundled, name="mine", train_images=bundled.train_images[:, :, :-3, :-3])
    with pytest.raises(
        CourseError, match=r"multiples of 4, .* 25 x 25: `python -m data_prep mine --from PATH --size 24 --again`"
    ):
        odd.check_divides(4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"imbalance": 0.5}, "at least 1"),
        ({"imbalance": 2000}, r"class 9 \(Ankle boot\) empty: .* largest possible factor is 1000"),
        ({"counts": [2000] + [10] * 9}, r"2,000 images are asked of class 0 \(T-shirt/top\), which has 1,000"),
        ({"counts": [10] * 9}, "needs 10 numbers"),
        ({"counts": [10] * 9 + [0]}, "none below 1"),
    ],
)
def test_impossible_long_tails_are_refused(bundled, options, message):
    with pytest.raises(CourseError, match=message):
        bundled.long_tailed(**options)


def test_hold_out_moves_training_images_to_the_place_of_the_test_set(bundled):
    tailed = bundled.long_tailed(100)
    split = tailed.hold_out(fraction=0.2, seed=1)
    assert split.name == "fashion-mnist-small-if100-val"
    assert split.counts == [800, 479, 287, 172, 103, 62, 37, 22, 13, 8]
    assert len(split.train_labels) + len(split.test_labels) == len(tailed.train_labels)
    before = sorted(image.numpy().tobytes() for image in tailed.train_images)
    after = sorted(image.numpy().tobytes() for image in torch.cat([split.train_images, split.test_images]))
    assert before == after
    assert torch.bincount(bundled.hold_out(per_class=50).test_labels).tolist() == [50] * 10
    with pytest.raises(CourseError, match=r"10 of the 10 images of class 9 \(Ankle boot\)"):
        tailed.hold_out(per_class=10)


def test_all_tensors_move_to_the_device(bundled):
    moved = bundled.to("meta")
    assert {t.device.type for t in (moved.train_images, moved.train_labels, moved.test_images, moved.test_labels)} == {
        "meta"
    }
    assert bundled.train_images.device.type == "cpu"


# --- prepared sets


def test_a_prepared_set_comes_back_as_it_was(folder):
    given, data = arrays(), datasets.load("toy", folder)
    assert np.array_equal(data.train_images.permute(0, 2, 3, 1).numpy(), given["x_train"])
    assert data.train_images.is_contiguous()
    assert data.test_labels.tolist() == given["y_test"].tolist()
    assert data.class_names == ("kind 0", "kind 1", "kind 2")
    assert (data.num_classes, data.channels, data.size, data.counts) == (3, 3, 6, [8, 8, 8])


def test_the_record_says_what_the_file_holds(folder):
    record = json.loads((folder / "toy.json").read_text())
    assert record["source"] == "a test"
    assert (record["image"], record["train_counts"], record["test_counts"]) == ([6, 6, 3], [8] * 3, [4] * 3)
    assert record["sha256"] == npz.sha256(folder / "toy.npz")


def test_the_folder_is_the_argument_else_the_environment_else_the_repository(folder, monkeypatch):
    assert datasets.names(folder) == ["fashion-mnist-small", "toy"]
    monkeypatch.setenv("LT_DATA", str(folder))
    assert datasets.names() == ["fashion-mnist-small", "toy"]
    assert datasets.load("toy").counts == [8, 8, 8]
    monkeypatch.delenv("LT_DATA")
    assert datasets.data_folder("own") == Path.cwd() / "own"
    assert datasets.data_folder() == REPOSITORY / "data"
    assert datasets.names(folder / "nowhere") == ["fashion-mnist-small"]


def test_an_unknown_name_lists_the_known_ones(folder):
    with pytest.raises(CourseError, match=r"Did you mean 'toy'\? Known: fashion-mnist-small, toy, .*cifar100") as told:
        datasets.load("tou", folder)
    assert "python -m data_prep NAME --from FOLDER" in str(told.value)


def test_a_set_that_is_not_prepared_yet_says_how(folder):
    with pytest.raises(CourseError, match="`python -m data_prep cifar10` makes it"):
        datasets.load("cifar10", folder)


@pytest.mark.parametrize("part", [0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("with_record", [True, False])
def test_a_truncated_file_is_refused(folder, part, with_record):
    content = (folder / "toy.npz").read_bytes()
    (folder / "toy.npz").write_bytes(content[: int(part * len(content))])
    if not with_record:
        (folder / "toy.json").unlink()
    with pytest.raises(CourseError, match="damaged" if not with_record else "half copied.*data_prep toy --again"):
        datasets.load("toy", folder)


def test_an_altered_image_is_refused_by_the_archives_own_checksum(folder):
    content = bytearray((folder / "toy.npz").read_bytes())
    content[800] ^= 1  # inside x_train
    (folder / "toy.npz").write_bytes(content)
    with pytest.raises(CourseError, match="CRC"):
        datasets.load("toy", folder)


def test_pickled_objects_are_not_loaded(tmp_path):
    np.savez(tmp_path / "toy.npz", **{**arrays(), "classes": np.array(["a", "b", "c"], dtype=object)})
    with pytest.raises(CourseError, match="plain arrays"):
        datasets.load("toy", tmp_path)


def test_a_broken_record_is_refused(folder):
    (folder / "toy.json").write_text("{")
    with pytest.raises(CourseError, match=r"toy\.json cannot be read"):
        datasets.load("toy", folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": None}, "lacks the arrays x_test"),
        ({"x_train": np.zeros((24, 6, 6, 3), np.float32)}, "x_train holds float32; images must be uint8"),
        ({"x_train": np.zeros((24, 6, 5, 3), np.uint8)}, "square images"),
        ({"x_train": np.zeros((24, 6, 6), np.uint8)}, "square images"),
        ({"x_test": np.zeros((12, 8, 8, 3), np.uint8)}, "differ in shape"),
        ({"y_train": np.arange(24) % 4}, r"labels 0 \.\. 3; with 3 classes they must be in 0 \.\. 2"),
        ({"y_train": np.arange(24) % 3 - 1}, r"labels -1 \.\. 1"),
        ({"y_test": np.zeros(12)}, r"y_test is float64 \[12\], not one integer"),
        ({"y_test": np.zeros(5, np.int64)}, "not one integer for each of 12 images"),
        ({"y_train": np.arange(24) % 2}, r"class 2 \(kind 2\) has no train image"),
        ({"y_test": np.arange(12) % 2}, r"class 2 \(kind 2\) has no test image"),
        ({"classes": np.arange(3)}, "must be a list of names"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, change, message):
    changed = {key: value for key, value in {**arrays(), **change}.items() if value is not None}
    np.savez(tmp_path / "toy.npz", **changed)
    with pytest.raises(CourseError, match=message):
        datasets.load("toy", tmp_path)
    with pytest.raises(CourseError, match=message):
        write(tmp_path / "other.npz", changed, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["toy.npz"]


def test_rare_classes_are_filled_up_with_their_own_images_or_with_others():
    data = datasets.load("fashion-mnist-small").long_tailed(100)
    full = data.filled_up(100, seed=3)
    assert full.counts == [max(100, n) for n in data.counts] and full.key != data.key
    added, labels = full.train_images[len(data.train_labels) :], full.train_labels[len(data.train_labels) :]
    for c in (8, 9):  # each added image is one of the class
        own = {image.numpy().tobytes() for image in data.train_images[data.train_labels == c]}
        assert {image.numpy().tobytes() for image in added[labels == c]} <= own
    assert torch.equal(full.train_images, data.filled_up(100, seed=3).train_images)
    assert not torch.equal(full.train_images, data.filled_up(100, seed=4).train_images)
    drawn = data.filled_up(100, lambda missing: missing.view(-1, 1, 1, 1).expand(-1, 1, 28, 28))
    assert drawn.counts == full.counts and torch.equal(drawn.train_images[-1].unique(), torch.tensor([9]).byte())
    assert data.filled_up(10) is data


# --- mixed images


def long_tailed_toy(seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.arange(4).repeat_interleave(torch.tensor([100, 40, 20, 10]))
    images = torch.randint(0, 256, (170, 1, 4, 4), generator=draw, dtype=torch.uint8)
    return datasets.ImageData("toy", images, labels, images[:8], labels[:8], ("a", "b", "c", "d"))


@pytest.mark.parametrize("share, changed", [(0, 0), (0.1, 10), (0.25, 25), (0.5, 50), (1, 100)])
def test_share_of_overwritten_images_and_nothing_else(share, changed):
    data = long_tailed_toy()
    mixed = data.mixed_into(0, data.train_images[data.train_labels == 3], share, 0.8, seed=5)
    differs = (mixed.train_images != data.train_images).flatten(1).any(1)
    assert differs.sum() == changed == round(share * data.counts[0])
    assert (data.train_labels[differs] == 0).all()
    assert torch.equal(mixed.train_labels, data.train_labels) and mixed.counts == data.counts


def test_mixtures_are_weighted_and_rounded_and_each_partner_is_used_alike():
    data = long_tailed_toy()
    tail = torch.stack([torch.full((1, 4, 4), 10 * value, dtype=torch.uint8) for value in range(10)])
    copies = data.mixed_into(0, tail, 0.45, 1.0)  # weight 1: copies of the partner
    values = copies.train_images[(copies.train_images != data.train_images).flatten(1).any(1)][:, 0, 0, 0]
    used = torch.bincount(values // 10, minlength=10)
    assert used.sum() == 45 and used.min() == 4 and used.max() == 5
    mixed = data.mixed_into(0, tail, 0.45, 0.3)
    share = copies.train_images.double() * 0.3 + data.train_images.double() * 0.7
    where = (copies.train_images != data.train_images).flatten(1).any(1)
    assert (mixed.train_images[where].double() - share[where]).abs().max() <= 0.5 + 1e-4
    assert torch.equal(data.mixed_into(0, tail, 1, 0).train_images, data.train_images)


def test_another_seed_overwrites_other_images():
    data = long_tailed_toy()
    one, same, other = (data.mixed_into(0, data.train_images[-10:], 0.3, 1, seed).train_images for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize(
    "options, sentence",
    [
        (dict(share=1.2), "share of images must lie in 0 .. 1, not 1.2"),
        (dict(share=float("nan")), "share of images must lie"),
        (dict(weight=-0.1), "weight of the partner must lie in 0 .. 1, not -0.1"),
        (dict(head=4), "no class 4 with training images"),
        (dict(partners=torch.zeros(0, 1, 4, 4, dtype=torch.uint8)), "Partners are uint8 images"),
        (dict(partners=torch.zeros(3, 3, 4, 4, dtype=torch.uint8)), "Partners are uint8 images"),
        (dict(partners=torch.zeros(3, 1, 4, 4)), "Partners are uint8 images"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(options, sentence):
    data = long_tailed_toy()
    with pytest.raises(CourseError, match=sentence):
        data.mixed_into(**(dict(head=0, partners=data.train_images[-5:], share=0.5, weight=0.5) | options))


def test_halved_images_are_means_of_four_pixels_and_nothing_else_changes():
    data = datasets.load().long_tailed(100)
    small = data.halved()
    assert (small.size, small.channels, small.name, small.counts) == (14, 1, data.name, data.counts)
    corner = data.test_images[5, 0, 10:12, 6:8].double().mean().round()
    assert small.test_images[5, 0, 5, 3] == corner and small.train_images.dtype == torch.uint8
    assert small.key != data.key  # a checkpoint tells them apart
