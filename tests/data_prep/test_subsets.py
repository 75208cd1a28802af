"""Lists of training images: what is written reads elsewhere, what is read becomes exactly that set, whatever the order."""

import csv
import hashlib
import json

import numpy as np
import pytest

from data_prep import subsets
from data_prep.__main__ import main
from lt_utils.data import datasets, longtail

CLASSES = ("cat", "dog", "owl")


@pytest.fixture
def whole(tmp_path, monkeypatch):
    """A prepared set "pets" of 20 x 3 training images in mixed order, one image twice; returns its arrays."""
    monkeypatch.setenv("LT_DATA", str(tmp_path / "data"))
    chance = np.random.default_rng(0)
    arrays = {
        "x_train": chance.integers(0, 256, (60, 4, 4, 3), dtype=np.uint8),
        "y_train": chance.permutation(np.arange(60) % 3),
        "x_test": chance.integers(0, 256, (6, 4, 4, 3), dtype=np.uint8),
        "y_test": np.arange(6) % 3,
        "classes": np.array(CLASSES),
    }
    cat, dog = (np.flatnonzero(arrays["y_train"] == c)[3] for c in (0, 1))
    arrays["x_train"][dog] = arrays["x_train"][cat]
    np.savez(tmp_path / "pets.npz", **arrays)
    assert main(["pets", "--from", str(tmp_path / "pets.npz")]) == 0
    return arrays


def run(*arguments) -> None:
    assert main([str(a) for a in arguments]) == 0


def images(name: str) -> np.ndarray:
    return datasets.load(name).train_images.permute(0, 2, 3, 1).numpy()


def hash_of(image: np.ndarray) -> str:
    """The definition once more: row by row, pixel by pixel, channel by channel."""
    flat = bytes(int(value) for row in image for pixel in row for value in pixel)
    return hashlib.sha256(flat).hexdigest()[:16]


def test_a_long_tail_is_the_one_of_the_notebooks_and_its_list_reads_without_this_package(whole, tmp_path):
    file = tmp_path / "tail.csv"
    run("pets-if5", "--from", "pets", "--imbalance", 5, "--seed", 3, "--indices", file)
    cut, made = datasets.load("pets").long_tailed(5, seed=3), datasets.load("pets-if5")
    assert (made.counts, made.key, made.title) == (cut.counts, cut.key, cut.title)  # equal images in equal order
    assert np.array_equal(made.test_images, cut.test_images)

    index = np.loadtxt(file, delimiter=",", skiprows=1, usecols=0, dtype=int)
    assert np.array_equal(whole["x_train"][index], images("pets-if5"))
    assert np.array_equal(np.load(file.with_suffix(".npy")), index)
    rows = list(csv.DictReader(file.open()))
    assert [row["image"] for row in rows] == [hash_of(whole["x_train"][i]) for i in index]
    assert [int(row["label"]) for row in rows] == whole["y_train"][index].tolist()

    said = json.loads(file.with_suffix(".json").read_text())
    assert said["rule"].startswith(
        "exponential with imbalance factor 5: class i = 0 .. 2 keeps floor(20 * 5 ** (-i / 2))"
    )
    assert [int(20 * 5 ** (-i / 2)) for i in range(3)] == said["counts"] == [20, 8, 4]
    for column, key in (("index", int), ("image", str)):
        text = "".join(f"{value}\n" for value in sorted((row[column] for row in rows), key=key))
        assert said[f"sha256_of_{column}"] == hashlib.sha256(text.encode()).hexdigest()


def test_without_a_file_the_list_lies_beside_the_set_and_a_step_is_told(whole, tmp_path):
    run("steps", "--from", "pets", "--imbalance", 4, "--profile", "step", "--n-max", 12)
    said = json.loads((tmp_path / "data" / "steps.indices.json").read_text())
    assert said["counts"] == [12, 12, 3]
    assert "classes 0 .. 1 keep 12 training images, the others floor(12 / 4)" in said["rule"]
    assert json.loads((tmp_path / "data" / "steps.json").read_text())["subset"] == said["rule"]


@pytest.mark.parametrize("form", ["npy", "txt", "csv", "semicolons"])
def test_a_plain_list_becomes_exactly_that_set(whole, tmp_path, form):
    index = np.concatenate([np.flatnonzero(whole["y_train"] == c)[2 : 5 - c] for c in (2, 0, 1)])
    file = tmp_path / f"theirs.{form if form in ('npy', 'txt') else 'csv'}"
    if form == "npy":
        np.save(file, index.astype(np.int32))
    elif form == "txt":
        np.savetxt(file, index, fmt="%d", header="of a paper")
    else:
        rows = ["\ufeffIndex, label", *(f"{i},{whole['y_train'][i]}" for i in index)]
        file.write_text("\n".join(rows).replace(",", ";" if form == "semicolons" else ","), encoding="utf-8")
    run("theirs", "--from", "pets", "--indices", file)
    assert np.array_equal(images("theirs"), whole["x_train"][index])
    assert datasets.load("theirs").train_labels.tolist() == whole["y_train"][index].tolist()
    assert len(datasets.load("theirs").test_labels) == 6


def test_in_another_order_images_are_found_by_content(whole, tmp_path, capsys):
    run("tail", "--from", "pets", "--imbalance", 5)
    file = tmp_path / "data" / "tail.indices.csv"
    order = np.random.default_rng(1).permutation(60)
    other = whole | {"x_train": whole["x_train"][order], "y_train": whole["y_train"][order]}
    np.savez(tmp_path / "other.npz", **other)
    for source, told in (
        ("pets", "by index, and every"),
        (tmp_path / "other.npz", "by content: the list numbers them"),
    ):
        capsys.readouterr()
        run("again", "--from", source, "--indices", file, "--again")
        assert told in capsys.readouterr().out
        assert datasets.load("again").key.split()[1] == datasets.load("tail").key.split()[1]
    moved = np.load(tmp_path / "data" / "again.indices.npy")
    assert np.array_equal(order[moved], np.load(tmp_path / "data" / "tail.indices.npy"))  # of the other order now


def test_of_two_copies_the_one_with_the_listed_label_is_taken(whole, tmp_path):
    cat, dog = (np.flatnonzero(whole["y_train"] == c)[3] for c in (0, 1))
    assert np.array_equal(whole["x_train"][cat], whole["x_train"][dog])
    others = [np.flatnonzero(whole["y_train"] == c)[0] for c in (0, 1, 2)]
    for wanted, label in ((cat, 0), (dog, 1)):
        lines = ["label,image", *(f"{whole['y_train'][i]},{hash_of(whole['x_train'][i])}" for i in [*others, wanted])]
        (tmp_path / "l.csv").write_text("\n".join(lines))
        run("picked", "--from", "pets", "--indices", tmp_path / "l.csv", "--again")
        data = datasets.load("picked")  # which numbers classes by frequency, so names are compared
        assert [data.class_names[c] for c in data.train_labels] == [whole["classes"][c] for c in (0, 1, 2, label)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0\n1\n60\n", "names index 60, but pets has 60 training images: is it the list of another set"),
        ("-1\n2\n", "indices are counted from 0"),
        ("0\n1\n1\n", "lists index 1 2 times"),
        ("", "lists no image"),
        ("0\n1.5\n", "'1.5' in column index is no whole number"),
        ("place\n0\n", "has the columns place: one must be called index, or image"),
        ("0,1\n2,3\n", "'0,1' does not fit the columns index (name them in line 1)"),
        ("index,label\n0,{other}\n", "1 images of another class than pets (index 0: {other}, not {own})"),
        ("index,image\n0,0123456789abcdeg\n", "is not first 16 hex digits"),
        (
            "index,image\n7,0123456789abcdef\n",
            "1 of the 1 images of {file} are not among the 60 training images of pets",
        ),
        ("0\n", "has no train image"),
    ],
)
def test_lists_that_do_not_fit_are_refused(whole, tmp_path, refused, content, message):
    file = tmp_path / "list.csv"
    own = int(whole["y_train"][0])
    known = {"own": own, "other": (own + 1) % 3, "file": file}
    file.write_text(content.format(**known))
    assert message.format(**known) in refused("x", "--from", "pets", "--indices", file)
    assert not list((tmp_path / "data").glob("x*"))


def test_damaged_and_missing_lists_are_refused(whole, tmp_path, refused):
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY")
    np.save(tmp_path / "floats.npy", np.zeros(3))
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00")
    for file, message in (
        ("bad.npy", "is damaged"),
        ("floats.npy", "not a list of whole numbers"),
        ("bytes.csv", "cannot be read as text"),
        ("none.txt", "does not exist"),
    ):
        assert message in refused("x", "--from", "pets", "--indices", tmp_path / file)


def test_what_cannot_be_meant_is_refused_before_work(whole, tmp_path, refused):
    assert "A part of a set has another name" in refused("cifar10", "--imbalance", 100)
    assert "A part of a set has another name" in refused("cifar10", "--from", "pets", "--imbalance", 100)
    assert "its name must end in .csv" in refused(
        "x", "--from", "pets", "--imbalance", 5, "--indices", tmp_path / "l.txt"
    )
    assert "has its test set" in refused("x", "--from", "pets", "--imbalance", 5, "--test-fraction", 0.5)
    assert "ask for fewer" in refused("x", "--from", "pets", "--imbalance", 5, "--n-max", 21)
    (tmp_path / "l.csv").write_text("0\n")
    told = refused("x", "--from", "pets", "--imbalance", 5, "--indices", tmp_path / "l.csv")
    assert "is there already: leave out --imbalance to take its images" in told
    assert (tmp_path / "l.csv").read_text() == "0\n"
    np.savez(tmp_path / "untested.npz", x_train=whole["x_train"], y_train=whole["y_train"])
    assert "has no test set: first make a set" in refused("x", "--from", tmp_path / "untested.npz", "--imbalance", 2)
    for options in (["--profile", "step"], ["--n-max", "3"]):
        with pytest.raises(SystemExit):
            main(["x", "--from", "pets", *options])


def test_a_second_run_does_nothing_and_misses_a_list_that_is_gone(whole, tmp_path, refused, capsys):
    command = ["tail", "--from", "pets", "--imbalance", 5]
    run(*command)
    run(*command)
    assert "already there, verified" in capsys.readouterr().out
    assert "made from another source or with other options" in refused(*command[:-1], 4)
    (tmp_path / "data" / "tail.indices.csv").unlink()
    assert "the list of its images, is not: --again" in refused(*command)


def test_a_published_part_is_made_by_its_name_alone(whole, tmp_path, monkeypatch, capsys):
    index = np.random.default_rng(1).permutation(60)[:20]
    file = tmp_path / "pets-of-a-paper.csv"
    lines = [f"{whole['y_train'][i]},{hash_of(whole['x_train'][i])}\n" for i in index]
    file.write_text("# whose list it is\nlabel,image\n" + "".join(lines))
    monkeypatch.setattr(subsets, "PUBLISHED", {"pets-of-a-paper": "pets"})
    monkeypatch.setattr(subsets, "published_list", lambda name: tmp_path / f"{name}.csv")
    run("pets-of-a-paper")
    assert np.array_equal(images("pets-of-a-paper"), whole["x_train"][index])  # in the order of the list
    told = capsys.readouterr().out
    assert "20 images found by content\n" in told and "another order" not in told
    run("pets-of-a-paper")
    assert "is already there, verified" in capsys.readouterr().out


@pytest.mark.parametrize("name, largest, smallest, total", [("cifar10", 5000, 50, 12406), ("cifar100", 500, 5, 10847)])
def test_the_published_subsets_of_ldmlr_have_their_sizes(name, largest, smallest, total):
    listed = subsets.read(subsets.published_list(f"{name}-ldmlr"))
    counts = np.bincount(listed.label)
    assert subsets.PUBLISHED[f"{name}-ldmlr"] == name and f"{name}-ldmlr" in datasets.FETCHABLE
    assert (counts[0], counts[-1], len(listed)) == (largest, smallest, total)
    assert counts.tolist() == longtail.class_counts(largest, len(counts), 100)
