"""data_prep: folders, arrays and original files become data sets; every mistake is told in one sentence, status 2."""

import errno
import gzip
import hashlib
import http.server
import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import tarfile
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from data_prep import arrays as array_files
from data_prep import images, originals
from data_prep.__main__ import main
from lt_utils.data import datasets, npz
from lt_utils.files import REPOSITORY

CLASSES = ("cat", "dog", "owl")


def picture(seed: int, size=(8, 8), mode="RGB") -> Image.Image:
    shape = (size[1], size[0]) if mode == "L" else (size[1], size[0], 3)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def tree(folder: Path, per_class=(6, 4, 2), first=0, **options) -> Path:
    """Write class folders cat, dog, owl with so many PNG images, of seeds from `first` on; returns the folder."""
    for c, (name, n) in enumerate(zip(CLASSES, per_class, strict=True)):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            picture(100 * c + first + i, **options).save(folder / name / f"{i}.png")
    return folder


@pytest.fixture
def out(tmp_path, monkeypatch):
    """An empty folder that is the default for prepared data sets."""
    monkeypatch.setenv("LT_DATA", str(tmp_path / "prepared"))
    return tmp_path / "prepared"


def run(*arguments) -> None:
    assert main([str(a) for a in arguments]) == 0


def files_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.rglob("*")) if folder.exists() else []


# --- folders of images


def test_train_and_test_folders(tmp_path, out, capsys):
    tree(tmp_path / "pets" / "train")
    tree(tmp_path / "pets" / "test", per_class=(1, 2, 3), first=50)
    (tmp_path / "pets" / "train" / "cat" / ".DS_Store").write_text("hidden files are no images, and no mistake")
    run("pets", "--from", tmp_path / "pets")
    data = datasets.load("pets")
    assert data.class_names == CLASSES
    assert (data.counts, data.test_labels.tolist(), data.channels, data.size) == ([6, 4, 2], [0, 1, 1, 2, 2, 2], 3, 8)
    assert np.array_equal(data.train_images[7].permute(1, 2, 0).numpy(), np.asarray(picture(101)))
    told = capsys.readouterr().out
    assert "12 training and 6 test images, 8 x 8 x 3, 3 classes with 2 to 6 training images each" in told
    assert f"wrote {out}/pets.npz" in told and 'lt_utils.data.load("pets")' in told
    assert files_in(out) == ["pets.json", "pets.npz"]


def test_class_folders_alone_give_a_seeded_test_set(tmp_path, out):
    source = tree(tmp_path / "pets", per_class=(20, 10, 2))
    run("a", "--from", source)
    run("b", "--from", source, "--test-fraction", 0.5, "--seed", 1)
    run("c", "--from", source, "--test-fraction", 0.5, "--seed", 1)
    run("d", "--from", source, "--test-fraction", 0.5, "--seed", 2)
    a, b, c, d = (datasets.load(name) for name in "abcd")
    assert (a.counts, b.counts) == ([16, 8, 1], [10, 5, 1])
    assert np.array_equal(b.test_images, c.test_images) and not np.array_equal(b.test_images, d.test_images)
    assert json.loads((out / "a.json").read_text())["test_set"] == "20% of each class, drawn with seed 0"


def test_a_class_of_one_image_cannot_be_split(tmp_path, out, refused):
    assert "class 2 (owl)" in refused("pets", "--from", tree(tmp_path / "pets", per_class=(5, 5, 1)))


def test_images_of_many_kinds_become_alike(tmp_path, out):
    """Grey beside RGB, palettes, transparency, JPEG, WebP, photographs stored on their side; and a size is made."""
    source = tree(tmp_path / "pets", size=(20, 10))
    picture(1, mode="L").save(source / "cat" / "grey.png")
    picture(2).convert("P").save(source / "cat" / "palette.gif")
    picture(3).convert("RGBA").save(source / "dog" / "transparent.webp")
    turned = Image.Exif()
    turned[0x0112] = 6  # "rotate by 90 degrees to see it upright"
    picture(4, size=(40, 30)).save(source / "owl" / "photo.jpg", exif=turned)
    run("pets", "--from", source, "--size", 8)
    data = datasets.load("pets")
    assert (data.channels, data.size, sum(data.counts) + len(data.test_labels)) == (3, 8, 16)
    upright, _ = images.decode(source / "owl" / "photo.jpg", None)
    assert upright.shape == (40, 30, 3)


def test_the_middle_square_is_kept(tmp_path):
    wide = np.zeros((4, 8, 3), np.uint8)
    wide[:, 2:6] = 200
    Image.fromarray(wide).save(tmp_path / "wide.png")
    assert (images.decode(tmp_path / "wide.png", 4)[0] == 200).all()


def test_grey_images_stay_grey(tmp_path, out):
    run("pets", "--from", tree(tmp_path / "pets", mode="L"))
    assert datasets.load("pets").channels == 1


def test_class_names_that_are_numbers_are_ordered_as_numbers(tmp_path, out):
    for c in range(11):
        (tmp_path / "digits" / str(c)).mkdir(parents=True)
        for i in range(2):
            picture(c * 2 + i).save(tmp_path / "digits" / str(c) / f"{i}.png")
    run("digits", "--from", tmp_path / "digits")
    assert datasets.load("digits").class_names == tuple(str(c) for c in range(11))


def test_an_empty_class_folder_is_named(tmp_path, out, refused):
    source = tree(tmp_path / "pets")
    (source / "newt").mkdir()
    assert f"{source}/newt is empty" in refused("pets", "--from", source)
    assert files_in(out) == []


def test_files_that_are_no_images_are_named_and_left_out_only_if_asked(tmp_path, out, refused, capsys):
    source = tree(tmp_path / "pets")
    whole = (source / "cat" / "0.png").read_bytes()
    (source / "cat" / "5.png").write_bytes(whole[: len(whole) // 2])
    (source / "dog" / "notes.txt").write_text("not an image")
    (source / "owl" / "empty.png").touch()
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(source / "owl" / "deep.png")
    told = refused("pets", "--from", source)
    assert "4 of 15 files are not readable 8-bit images" in told and "--skip-bad" in told
    assert f"{source}/cat/5.png" in told and f"{source}/dog/notes.txt (not an image)" in told and "…" in told
    assert files_in(out) == []

    run("pets", "--from", source, "--skip-bad")
    assert "4 unreadable files are left out" in capsys.readouterr().out
    assert len(json.loads((out / "pets.json").read_text())["left_out"]) == 4
    data = datasets.load("pets")
    assert sum(data.counts) + len(data.test_labels) == 11


def test_a_class_with_no_readable_image_is_named_even_with_skip_bad(tmp_path, out, refused):
    source = tree(tmp_path / "pets")
    for file in (source / "dog").iterdir():
        file.write_text("no")
    assert f"{source}/dog has no readable image left" in refused("pets", "--from", source, "--skip-bad")


def test_sizes_that_differ_need_a_size(tmp_path, out, refused):
    source = tree(tmp_path / "pets")
    picture(9, size=(12, 10)).save(source / "dog" / "9.png")
    told = refused("pets", "--from", source)
    assert "differ in size" in told and f"{source}/dog/9.png is 12 x 10" in told and "--size N" in told
    assert "not square: add --size N" in refused("wide", "--from", tree(tmp_path / "wide", size=(9, 8)))


def test_train_and_test_must_hold_the_same_classes(tmp_path, out, refused):
    tree(tmp_path / "pets" / "train")
    told = refused("pets", "--from", tmp_path / "pets")
    assert "has a folder train but no folder test" in told
    tree(tmp_path / "pets" / "test")
    (tmp_path / "pets" / "test" / "owl").rename(tmp_path / "pets" / "test" / "newt")
    assert "has classes only in train: owl; give train and test the same." in refused(
        "pets", "--from", tmp_path / "pets"
    )
    shutil.rmtree(tmp_path / "pets" / "train" / "owl")
    assert "has classes only in test: newt" in refused("pets", "--from", tmp_path / "pets")
    assert "has its own test set" in refused("pets", "--from", tmp_path / "pets", "--test-fraction", 0.5)


def test_a_folder_without_class_folders_is_refused(tmp_path, out, refused):
    picture(1).save(tmp_path / "1.png")
    (tmp_path / "1.png").rename(tmp_path / "pets.png")
    (tmp_path / "pets").mkdir()
    assert "no class folders" in refused("pets", "--from", tmp_path / "pets")


def test_progress_lines_read_well_in_a_log(tmp_path, out, capsys, monkeypatch):
    monkeypatch.setattr(images, "SECONDS_BETWEEN_LINES", -1)
    run("pets", "--from", tree(tmp_path / "pets"))
    told = capsys.readouterr()
    assert "  6 of 12 images · " in told.out and "s left\n" in told.out and "\r" not in told.out
    assert told.err == ""


# --- arrays


def arrays(n=12, shape=(8, 8, 3)):
    draw = np.random.default_rng(0).integers
    x = draw(0, 256, (n + 6, *shape), dtype=np.uint8)
    return {"x_train": x[:n], "y_train": np.arange(n) % 3, "x_test": x[n:], "y_test": np.arange(6) % 3}


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "NHW"])
def test_arrays_in_the_usual_layouts(tmp_path, out, layout):
    given = arrays(shape=(8, 8) if layout == "NHW" else (8, 8, 3))
    expected = given["x_train"] if layout != "NHW" else given["x_train"][..., None]
    if layout == "NCHW":
        given |= {key: given[key].transpose(0, 3, 1, 2) for key in ("x_train", "x_test")}
    given["y_train"] = given["y_train"].astype(np.uint8)[:, None]
    np.savez(tmp_path / "mine.npz", **given)
    run("mine", "--from", tmp_path / "mine.npz")
    data = datasets.load("mine")
    assert np.array_equal(data.train_images.permute(0, 2, 3, 1).numpy(), expected)
    assert (data.class_names, data.counts) == (("0", "1", "2"), [4, 4, 4])


def test_arrays_without_a_test_set_are_split(tmp_path, out):
    given = arrays()
    np.savez(tmp_path / "mine.npz", x_train=given["x_train"], y_train=given["y_train"], classes=CLASSES)
    run("mine", "--from", tmp_path / "mine.npz", "--test-fraction", 0.25)
    assert (datasets.load("mine").counts, datasets.load("mine").class_names) == ([3, 3, 3], CLASSES)


def test_class_names_stored_as_bytes_become_text(tmp_path, out):
    names = ["Käse", "brie", "feta"]
    np.savez(tmp_path / "mine.npz", **arrays(), classes=np.array([name.encode() for name in names]))
    run("mine", "--from", tmp_path / "mine.npz")
    assert datasets.load("mine").class_names == tuple(names)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_train": np.zeros((12, 8, 8, 3))}, "x_train holds float64: images must be uint8"),
        ({"x_train": np.zeros((12, 192), np.uint8)}, "square images"),
        ({"y_train": np.arange(12) % 3 + 1, "classes": CLASSES}, "labels 1 .. 3; with 3 classes"),
        ({"y_train": np.arange(12) % 3 - 1}, "labels -1 .. 1"),
        ({"y_train": np.arange(12) / 3}, "y_train is float64 [12]: it must hold 12 integers"),
        ({"y_train": np.arange(11)}, "y_train is int64 [11]: it must hold 12 integers"),
        ({"y_train": np.arange(12) % 3 * 2}, "has no image of class 1"),
        ({"y_train": np.arange(12) % 3 * 2, "classes": list("abcde")}, "class 1 (b) has no train image"),
        ({"y_train": np.arange(12) % 3 * 10**9}, "has no image of class 1"),
        ({"y_train": np.arange(12) % 3 * 10**9, "classes": CLASSES}, "labels 0 .. 2000000000; with 3 classes"),
        ({"x_train": np.zeros((0, 8, 8, 3), np.uint8), "y_train": np.arange(0)}, "needs at least one image"),
        ({"x_train": np.zeros((12, 0, 0, 3), np.uint8)}, "x_train is [12, 0, 0, 3]: it needs at least one image"),
        ({"y_train": np.zeros(12, int), "y_test": np.zeros(6, int)}, "has a single class, 0: there must be two"),
        ({"y_train": None}, "it needs x_train and y_train"),
        ({"y_test": None}, "both or none of x_test and y_test"),
        ({"classes": np.array(CLASSES, dtype=object)}, "no .npz of plain arrays"),
        ({"classes": np.array(["Käse".encode("latin-1"), b"b", b"c"])}, "classes are bytes that are not UTF-8"),
        ({"x_test": None, "y_test": None, "y_train": np.arange(12) % 3 * 9}, "has no image of class 1"),
        ({"x_test": None, "y_test": None, "y_train": np.arange(12) % 3 - 1}, "labels -1 .. 1"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path, out, refused, change, message):
    np.savez(tmp_path / "mine.npz", **{k: v for k, v in {**arrays(), **change}.items() if v is not None})
    assert message in refused("mine", "--from", tmp_path / "mine.npz")
    assert files_in(out) == []


def test_a_damaged_npz_is_refused_wherever_it_is_cut_or_altered(tmp_path, out, refused):
    np.savez(tmp_path / "mine.npz", **arrays())
    content = (tmp_path / "mine.npz").read_bytes()
    for cut in (0, 10, 200, len(content) // 2, len(content) - 30):
        (tmp_path / "mine.npz").write_bytes(content[:cut])
        assert "damaged" in refused("mine", "--from", tmp_path / "mine.npz")
    for place in (500, len(content) // 3, 2 * len(content) // 3):
        (tmp_path / "mine.npz").write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        assert "damaged" in refused("mine", "--from", tmp_path / "mine.npz")
    assert files_in(out) == []


# --- original files


def pack_cifar(folder: Path, monkeypatch, fine: bool) -> Path:
    """Write a small archive as CIFAR's are, and let torchvision know its checksums; returns the archive."""
    known = torchvision.datasets.CIFAR100 if fine else torchvision.datasets.CIFAR10
    draw = np.random.default_rng(0).integers
    labels = "fine_labels" if fine else "labels"
    members = {known.meta["filename"]: {known.meta["key"]: list(CLASSES)}}
    for file, _ in known.train_list + known.test_list:
        members[file] = {"data": draw(0, 256, (6, 3072), dtype=np.uint8), labels: [0, 1, 2, 2, 1, 0]}
    content = {file: pickle.dumps(member) for file, member in members.items()}
    archive = folder / known.filename
    with tarfile.open(archive, "w:gz") as tar:
        for file, data in content.items():
            info = tarfile.TarInfo(f"{known.base_folder}/{file}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    md5 = {file: hashlib.md5(data).hexdigest() for file, data in content.items()}
    monkeypatch.setattr(known, "train_list", [[file, md5[file]] for file, _ in known.train_list])
    monkeypatch.setattr(known, "test_list", [[file, md5[file]] for file, _ in known.test_list])
    monkeypatch.setattr(known, "meta", {**known.meta, "md5": md5[known.meta["filename"]]})
    monkeypatch.setattr(known, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
    return archive


def pack_fashion_mnist(folder: Path, monkeypatch) -> Path:
    """Write four small files as Fashion-MNIST's are, and let the checks know them; returns their folder."""
    draw = np.random.default_rng(0).integers
    resources = []
    for file in originals.FASHION_MNIST:
        n = 20 if file.startswith("train") else 10
        shape = (n, 28, 28) if "images" in file else (n,)
        values = draw(0, 256, shape, dtype=np.uint8) if "images" in file else np.arange(n, dtype=np.uint8) % 10
        content = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes() + values.tobytes()
        (folder / file).write_bytes(gzip.compress(content))
        monkeypatch.setitem(originals.FASHION_MNIST, file, hashlib.sha256(content).hexdigest())
        resources.append((file, hashlib.md5((folder / file).read_bytes()).hexdigest()))
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "resources", resources)
    return folder


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine: (folder it serves, its address, list of the paths asked for)."""
    folder = tmp_path / "served"
    folder.mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path.strip("/"))
            super().do_GET()

        def log_message(self, *_):
            pass

    monkeypatch.setenv("no_proxy", "*")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as web:
        threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True).start()
        yield folder, f"http://127.0.0.1:{web.server_address[1]}/", asked
        web.shutdown()


@pytest.mark.parametrize(("name", "fine", "images"), [("cifar10", False, 30), ("cifar100", True, 6)])
def test_cifar_archives_by_hand_as_file_or_in_a_folder(tmp_path, out, monkeypatch, name, fine, images):
    archive = pack_cifar(tmp_path, monkeypatch, fine)
    run(name, "--from", archive)
    data = datasets.load(name)
    assert (len(data.train_labels), data.size, data.channels, data.class_names) == (images, 32, 3, CLASSES)
    run(name, "--from", archive.parent, "--again")
    assert "Krizhevsky" in json.loads((out / f"{name}.json").read_text())["source"]


def test_a_half_downloaded_cifar_archive_is_refused(tmp_path, out, refused, monkeypatch):
    archive = pack_cifar(tmp_path, monkeypatch, fine=False)
    archive.write_bytes(archive.read_bytes()[:-100])
    told = refused("cifar10", "--from", archive)
    assert "half downloaded" in told and "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz" in told
    assert files_in(out) == []


def test_fashion_mnist_files_by_hand(tmp_path, out, monkeypatch):
    run("fashion-mnist", "--from", pack_fashion_mnist(tmp_path, monkeypatch))
    data = datasets.load("fashion-mnist")
    assert (data.counts, data.channels, data.size) == ([2] * 10, 1, 28)
    assert json.loads((out / "fashion-mnist.json").read_text())["licence"].startswith("MIT")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-50]), "damaged or half downloaded"),
        (lambda f: f.write_bytes(gzip.compress(b"something else")), "not the original file"),
        (lambda f: f.write_bytes(b"<html>not found</html>"), "damaged or half downloaded"),
        (lambda f: f.unlink(), "lacks t10k-images-idx3-ubyte.gz"),
    ],
)
def test_damaged_fashion_mnist_files_are_refused(tmp_path, out, refused, monkeypatch, spoil, message):
    spoil(pack_fashion_mnist(tmp_path, monkeypatch) / "t10k-images-idx3-ubyte.gz")
    assert message in refused("fashion-mnist", "--from", tmp_path)
    assert files_in(out) == []


def test_fetching_verifies_and_goes_on_where_it_was_interrupted(server, out, refused, monkeypatch, capsys):
    folder, address, asked = server
    pack_fashion_mnist(folder, monkeypatch)
    monkeypatch.setattr(torchvision.datasets.FashionMNIST, "mirrors", [address])
    last = folder / "t10k-labels-idx1-ubyte.gz"
    whole = last.read_bytes()
    last.write_bytes(whole[:-5])  # half a file comes through
    told = refused("fashion-mnist")
    assert f"{address}{last.name} could not be fetched" in told and "--from FOLDER" in told
    assert not (out / "fashion-mnist.npz").exists()

    last.write_bytes(whole)
    asked.clear()
    run("fashion-mnist")
    assert set(asked) == {last.name}  # the three whole files are not fetched again
    assert files_in(out) == ["fashion-mnist.json", "fashion-mnist.npz"]  # the downloads are gone
    told = capsys.readouterr()
    assert f"fetching {address}{last.name}" in told.out and told.err == ""
    assert datasets.load("fashion-mnist").counts == [2] * 10


def test_fetching_cifar(server, out, monkeypatch):
    folder, address, _ = server
    archive = pack_cifar(folder, monkeypatch, fine=False)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", address + archive.name)
    run("cifar10")
    assert datasets.load("cifar10").counts == [10, 10, 10]


def test_no_network_is_told_in_one_sentence(server, out, refused, monkeypatch):
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "url", server[1] + "nothing-here.tar.gz")
    assert "404" in refused("cifar10")


# --- one set, twice; interrupted; nowhere to write


def test_the_second_run_does_nothing(tmp_path, out, capsys):
    source = tree(tmp_path / "pets")
    run("pets", "--from", source)
    before = [(p.name, p.stat().st_mtime_ns) for p in sorted(out.iterdir())]
    shutil.rmtree(source)
    capsys.readouterr()
    run("pets", "--from", source)
    run("pets")  # also without saying where it came from
    assert capsys.readouterr().out.count("is already there, verified (SHA-256") == 2
    assert before == [(p.name, p.stat().st_mtime_ns) for p in sorted(out.iterdir())]


def test_equal_data_give_equal_files(tmp_path, out):
    source = tree(tmp_path / "pets")
    run("a", "--from", source)
    run("b", "--from", source)
    assert npz.sha256(out / "a.npz") == npz.sha256(out / "b.npz")


def test_another_source_or_option_does_not_replace_a_set_unasked(tmp_path, out, refused):
    run("pets", "--from", tree(tmp_path / "one"))
    other = tree(tmp_path / "two", per_class=(3, 3, 3))
    assert "made from another source" in refused("pets", "--from", other)
    assert "--again" in refused("pets", "--from", tmp_path / "one", "--seed", 5)
    run("pets", "--from", other, "--again")
    assert datasets.load("pets").counts == [2, 2, 2]


def test_an_altered_file_is_found_and_made_anew_if_asked(tmp_path, out, refused):
    source = tree(tmp_path / "pets")
    run("pets", "--from", source)
    content = bytearray((out / "pets.npz").read_bytes())
    content[900] ^= 1
    (out / "pets.npz").write_bytes(content)
    assert "is not the file that pets.json describes" in refused("pets", "--from", source)
    run("pets", "--from", source, "--again")
    run("pets")
    record = json.loads((out / "pets.json").read_text())
    for broken in ({**record, "request": None}, {key: record[key] for key in record if key != "date"}):
        (out / "pets.json").write_text(json.dumps(broken))
        assert "lacks its date or what was asked for: --again" in refused("pets", "--from", source)
    (out / "pets.json").unlink()
    assert "without a record" in refused("pets")


def test_a_run_that_is_stopped_leaves_nothing_under_the_final_name(tmp_path, out, monkeypatch):
    """Stopped by Ctrl-C while the arrays are written: the old set stays, whole, and no part is left."""
    source = tree(tmp_path / "pets")
    run("pets", "--from", source)
    before = (out / "pets.npz").read_bytes()

    def stop(file, **_):
        file.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", stop)
    assert main(["pets", "--from", str(source), "--again"]) == 130
    assert files_in(out) == ["pets.json", "pets.npz"] and (out / "pets.npz").read_bytes() == before


def test_parts_left_by_a_killed_run_are_cleared(tmp_path, out):
    out.mkdir()
    (out / ".pets~12345.npz.part").write_bytes(b"half of it")
    assert datasets.names() == ["fashion-mnist-small"]
    run("pets", "--from", tree(tmp_path / "pets"))
    assert files_in(out) == ["pets.json", "pets.npz"]


def test_a_second_run_at_the_same_time_is_refused_and_leaves_the_part_of_the_first(tmp_path, out, refused):
    fcntl = pytest.importorskip("fcntl")
    out.mkdir()
    (out / ".pets~12345.npz.part").write_bytes(b"half of it")
    with open(out / ".pets.lock", "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "Another run" in refused("pets", "--from", tree(tmp_path / "pets"))
    assert ".pets~12345.npz.part" in files_in(out)
    run("pets", "--from", tmp_path / "pets")
    assert files_in(out) == ["pets.json", "pets.npz"]


@pytest.mark.parametrize("where", ["pets\udce9", "pets/owl/\udce9.png", "pets/\udce9"])
def test_a_name_that_is_not_utf8_is_told_before_any_work(tmp_path, out, refused, monkeypatch, where):
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("an image is decoded"))
    first, _, _ = where.partition("/")
    try:
        tree(tmp_path / first)
        if where.endswith("png"):
            picture(1).save(tmp_path / where)
        elif "/" in where:
            (tmp_path / "pets" / "owl").rename(tmp_path / where)
    except (OSError, UnicodeError):
        pytest.skip("this file system has no such names")
    assert "is not UTF-8: rename it" in refused("x", "--from", tmp_path / first)


def test_a_full_disk_is_told_and_nothing_is_left(tmp_path, out, refused, monkeypatch):
    def full(file, **_):
        file.write(b"half of it")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(np, "savez", full)
    told = refused("pets", "--from", tree(tmp_path / "pets"))
    assert "No space left on device" in told and "MB" in told and "--to" in told
    assert files_in(out) == []


def test_no_permission_to_write_is_told_and_the_old_set_stays(tmp_path, out, refused, monkeypatch):
    source = tree(tmp_path / "pets")
    run("pets", "--from", source)

    def forbid(*_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", forbid)
        assert "cannot be written (Permission denied)" in refused("pets", "--from", source, "--again")
    assert files_in(out) == ["pets.json", "pets.npz"]
    run("pets")
    monkeypatch.setattr(images, "decode", lambda *_: pytest.fail("an image is decoded"))
    (tmp_path / "file").write_text("a file where a folder should be")
    assert "cannot be written" in refused("pets", "--from", source, "--to", tmp_path / "file")


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["cifar20"],
            "none of the sets that can be fetched "
            "(fashion-mnist, cifar10, cifar100, cifar10-ldmlr, cifar100-ldmlr): add --from PATH",
        ),
        (["../x", "--from", "{pets}"], "cannot be a data set's name"),
        (["fashion-mnist-small", "--from", "{pets}"], "inside the package already"),
        (["x", "--from", "{nowhere}"], "does not exist: --from needs a folder or a file"),
        (["x", "--from", "{text}"], "is no source for x: give a folder"),
        (["x", "--from", "{pets}", "--test-fraction", "1.5"], "a share between 0 and 1, not 1.5"),
        (["x", "--from", "{pets}", "--size", "200000"], "need 960.0 GB of memory"),
        (["x", "--from", "{arrays}", "--skip-bad"], "--skip-bad is for folders of images"),
        (["x", "--from", "{arrays}", "--test-fraction", "0.1"], "has its own test set"),
        (["cifar10", "--size", "8"], "do not apply to the original files of cifar10"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, out, refused, arguments, message):
    places = {key: tmp_path / key for key in ("pets", "nowhere")}
    places |= {"text": tmp_path / "notes.txt", "arrays": tmp_path / "arrays.npz"}
    tree(places["pets"])
    places["text"].write_text("hello")
    np.savez(places["arrays"], **arrays())
    assert message in refused(*[argument.format(**places) for argument in arguments])
    assert files_in(out) == []


@pytest.mark.parametrize(
    "options", [["--size", "0"], ["--seed", "-1"], ["--seed", "4294967296"], ["--size", "big"], ["--sizes", "8"], []]
)
def test_misused_options_end_with_status_two(options, capsys):
    with pytest.raises(SystemExit) as end:
        main(["x", *options] if options else [])
    assert end.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


def test_the_command_itself_gives_one_sentence_and_status_two(tmp_path):
    ended = subprocess.run(
        [sys.executable, "-m", "data_prep", "nothing", "--to", str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("data_prep: 'nothing' is none of the sets") and ended.stderr.count("\n") == 1


def test_a_terminal_that_is_not_utf8_and_python_without_docstrings(tmp_path):
    source = tree(tmp_path / "pets")
    shell = {"LT_DATA": "~/prepared", "HOME": str(tmp_path), "PYTHONIOENCODING": "ascii", "PYTHONOPTIMIZE": "2"}
    ended = subprocess.run(
        [sys.executable, "-m", "data_prep", "pets", f"--from=~/{source.name}"],
        capture_output=True,
        encoding="ascii",
        env=os.environ | shell,
        cwd=REPOSITORY,
    )
    assert (ended.returncode, ended.stderr) == (0, "") and "SHA-256" in ended.stdout
    assert files_in(tmp_path / "prepared") == ["pets.json", "pets.npz"]


def test_a_set_with_a_known_name_but_other_files_is_recorded_as_given(tmp_path, out):
    run("cifar10", "--from", tree(tmp_path / "pets"))
    assert "not compared with the original files" in json.loads((out / "cifar10.json").read_text())["source"]


@pytest.mark.parametrize("shape", [(30, 30), (30, 30, 3), (40, 30)])
def test_arrays_are_resized_as_files_are(tmp_path, shape):
    """An image of an .npz comes out as the same image from a .png, which the folder's reader cuts and resizes."""
    pixels = np.random.RandomState(0).randint(0, 256, (8, *shape), dtype=np.uint8)
    labels = np.arange(8) % 2
    np.savez(tmp_path / "set.npz", x_train=pixels, y_train=labels, x_test=pixels[:2], y_test=labels[:2])
    found = array_files.read(tmp_path / "set.npz", 12)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
        assert np.array_equal(found["x_train"][number], images.decode(tmp_path / f"{number}.png", 12)[0])
    assert found["x_test"].shape == (2, 12, 12, 1 if len(shape) == 2 else 3)
