"""Image lists, batches decoded ahead, ResNet-10, and the ImageNet-LT path from lists to a retrained head."""

import os
import re
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from torch import nn
from torchvision.models import resnet
from torchvision.transforms import v2

from data_prep.lists import image_files
from data_prep.lists.image_files import read_image, read_list
from experiments.imagenet_lt import encoder, experiment
from experiments.imagenet_lt.encoder import ResNet10
from experiments.imagenet_lt.experiment import GENERATOR, METHOD, RETRAINING
from experiments.imagenet_lt.stream import Stream, TestBatches, TrainingBatches, prefetched
from lt_utils.errors import CourseError
from lt_utils.features.augmentation import CONTROLS
from lt_utils.files import REPOSITORY, read_json
from lt_utils.models.heads import CosineHead, WCDASHead
from lt_utils.models.resnet import encode
from lt_utils.training import checkpoints
from lt_utils.training.loop import batch_of, train

COUNTS, TESTS, SYNSETS = (9, 4, 2), 3, ("n01440764", "n01443537", "n02093991")


@pytest.fixture(scope="session")
def tree(tmp_path_factory, picture):
    """ImageNet's folders with three classes: train/<synset>/*.JPEG, val/<synset>/*.JPEG and the same flat, and lists."""
    root = tmp_path_factory.mktemp("ImageNet")
    lines = {"train": ["# ImageNet-LT, tiny", ""], "val": [], "flat": []}
    for c, synset in enumerate(SYNSETS):
        for folder in (root / "train" / synset, root / "val" / synset, root / "flat" / "val"):
            folder.mkdir(parents=True, exist_ok=True)
        for number in range(COUNTS[c]):
            path = f"train/{synset}/{synset}_{number}.JPEG"
            picture(c, number, 24 + 5 * number).save(root / path, quality=95)
            lines["train"].append(f"{path} {c}")
        for number in range(TESTS):
            name = f"ILSVRC2012_val_{10 * c + number:08d}.JPEG"
            for path in (f"val/{synset}/{name}", f"flat/val/{name}"):
                picture(c, 100 + number, 30 + number).save(root / path)
            lines["val"].append(f"val/{synset}/{name} {c}")
            lines["flat"].append(f"val/{name} {c}")
    for name, content in lines.items():
        (root / f"{name}.txt").write_text("\n".join(content) + "\n")
    return root


def changed(tree, tmp_path, change):
    """A copy of the training list with each line changed."""
    lines = (tree / "train.txt").read_text().splitlines()
    path = tmp_path / "list.txt"
    path.write_text("\n".join(change(line) if line and line[0] != "#" else line for line in lines))
    return path


@pytest.fixture
def files(tree):
    return read_list(tree / "train.txt", tree)


# --------------------------------------------------------------------------------------------------------------- lists
def test_a_list_gives_paths_labels_and_counts(tree, files):
    assert len(files) == 15 and files.num_classes == 3 and files.counts == list(COUNTS)
    assert files.labels.dtype == torch.int64 and files.labels.tolist() == [0] * 9 + [1] * 4 + [2] * 2
    assert files.paths[9] == "train/n01443537/n01443537_0.JPEG" and all((tree / path).is_file() for path in files.paths)
    assert repr(files) == "15 images, 3 classes of 9 to 2"


def test_the_key_of_a_list_is_that_of_its_paths_and_labels_alone(tree, files, tmp_path):
    again = read_list(changed(tree, tmp_path, lambda line: "ImageNet/" + line), tree)
    assert files.key == again.key and re.fullmatch("[0-9a-f]{8}", files.key)
    swapped = replace(files, labels=files.labels.flip(0))
    other = replace(files, paths=(*files.paths[1:], files.paths[0]))
    assert len({one.key for one in (files, swapped, other)}) == 3


@pytest.mark.parametrize("leading", ["", "ImageNet/", "data/ImageNet/"])
def test_leading_folders_that_the_root_holds_are_dropped(tree, files, tmp_path, leading):
    longer = changed(tree, tmp_path, lambda line: leading + line)
    assert read_list(longer, tree).paths == files.paths
    inside = read_list(longer, tree / "train")
    assert [f"train/{path}" for path in inside.paths] == list(files.paths)
    bare = changed(tree, tmp_path, lambda line: line.removeprefix("train/"))
    assert read_list(bare, tree / "train").paths == inside.paths


@pytest.mark.parametrize("name", ["val.txt", "flat.txt"])
def test_both_styles_of_test_list_fit_both_layouts_on_disk(tree, name):
    by_class, flat = read_list(tree / name, tree, num_classes=3), read_list(tree / name, tree / "flat", num_classes=3)
    assert by_class.paths[0] == "val/n01440764/ILSVRC2012_val_00000000.JPEG"
    assert flat.paths[0] == "val/ILSVRC2012_val_00000000.JPEG"
    inside = read_list(tree / name, tree / "val", num_classes=3)
    assert inside.paths[8] == "n02093991/ILSVRC2012_val_00000022.JPEG"
    assert by_class.labels.tolist() == flat.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_names_that_repeat_between_classes_are_never_looked_for_elsewhere(tmp_path, picture):
    for folder in ("train/airfield", "train/alley", "other"):
        (tmp_path / folder).mkdir(parents=True)
    picture(0, 0, 20).save(tmp_path / "train/airfield/0001.jpg")
    picture(0, 0, 20).save(tmp_path / "other/0001.jpg")
    (tmp_path / "list.txt").write_text("train/airfield/0001.jpg 0\ntrain/alley/0001.jpg 1\n")
    for root in (tmp_path, tmp_path / "train", tmp_path / "train/airfield", tmp_path / "other"):
        with pytest.raises(CourseError, match="are not below"):
            read_list(tmp_path / "list.txt", root)
    (tmp_path / "list.txt").write_text("train/alley/0001.jpg 0\n")  # in two folders below: which one is meant?
    (tmp_path / "train/other").mkdir()
    picture(0, 0, 20).save(tmp_path / "train/other/0001.jpg")
    with pytest.raises(CourseError, match="are not below"):
        read_list(tmp_path / "list.txt", tmp_path / "train")


def test_names_with_spaces_and_a_byte_order_mark(tree, tmp_path, picture):
    (tmp_path / "a b").mkdir()
    picture(0, 1, 20).save(tmp_path / "a b" / "c d.jpg")
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf  a b/c d.jpg \t 0  \r\n")
    assert read_list(tmp_path / "list.txt", tmp_path).paths == ("a b/c d.jpg",)


@pytest.mark.parametrize(
    "line, classes, told",
    [
        ("train/a.JPEG", None, r"list\.txt, line 3: 'train/a.JPEG' must be a path and a label"),
        ("train/a.JPEG two", None, r"list\.txt, line 3: the label 'two' must be a whole number from 0\."),
        ("train/a.JPEG -1", None, r"line 3: the label '-1'"),
        ("train/a.JPEG 1.0", None, r"line 3: the label '1\.0'"),
        ("train/a.JPEG 3", 3, r"line 3: the label '3' must be a whole number from 0 to 2\."),
        ("train/a.JPEG 2", None, r"no image of class 1"),
        ("", None, None),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, classes, told):
    (tmp_path / "list.txt").write_text(f"# a comment\ntrain/b.JPEG 0\n{line}\n")
    with pytest.raises(CourseError, match=told or r"1 of the 1 images .* train/b.JPEG;"):
        read_list(tmp_path / "list.txt", tmp_path, classes)


def test_an_empty_or_missing_list_is_refused(tmp_path):
    (tmp_path / "list.txt").write_text("# nothing\n")
    with pytest.raises(CourseError, match="names no image"):
        read_list(tmp_path / "list.txt", tmp_path)
    with pytest.raises(CourseError, match="cannot be read"):
        read_list(tmp_path / "other.txt", tmp_path)


def test_missing_files_are_counted_and_the_first_named_in_one_sentence(tree, tmp_path, monkeypatch):
    listed = changed(tree, tmp_path, lambda line: line.replace("n01440764_", "n01440764_9"))
    monkeypatch.setattr(os, "stat", None)  # folders are listed; no file is asked for by itself
    monkeypatch.setattr(os.path, "exists", None)
    with pytest.raises(CourseError) as error:
        read_list(listed, tree)
    names = [f"train/n01440764/n01440764_9{number}.JPEG" for number in range(3)]
    told = f"9 of the 15 images that {listed} names are not below {tree}: {', '.join(names)} ...; "
    assert str(error.value).startswith(told) and "\n" not in str(error.value)


def test_each_folder_is_listed_once(tree, monkeypatch):
    seen = []
    scandir = os.scandir
    monkeypatch.setattr(image_files.os, "scandir", lambda path: seen.append(str(path)) or scandir(path))
    read_list(tree / "train.txt", tree)
    assert len(seen) == len(SYNSETS)


# ------------------------------------------------------------------------------------------------------------- decoding
def test_an_image_is_read_as_rgb_whatever_it_was(tmp_path, picture):
    for mode, name in (("RGB", "a.JPEG"), ("L", "b.JPEG"), ("CMYK", "c.JPEG"), ("RGBA", "png.JPEG")):
        picture(1, 3, 20).convert(mode).save(tmp_path / name, "PNG" if mode == "RGBA" else "JPEG")
        image = read_image(tmp_path / name)
        assert image.shape == (3, 20, 41) and image.dtype == torch.uint8
    assert torch.equal(image, torch.from_numpy(np.array(picture(1, 3, 20))).permute(2, 0, 1))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("damage", ["half", "text", "empty"])
def test_a_damaged_image_is_named_alone(tmp_path, workers, damage, picture):
    picture(0, 0, 40).save(tmp_path / "good.JPEG")
    picture(0, 1, 40).save(tmp_path / "bad.JPEG")
    whole = (tmp_path / "bad.JPEG").read_bytes()
    (tmp_path / "bad.JPEG").write_bytes({"half": whole[: len(whole) // 2], "text": b"no image", "empty": b""}[damage])
    (tmp_path / "list.txt").write_text("good.JPEG 0\nbad.JPEG 0\n")
    files = read_list(tmp_path / "list.txt", tmp_path)
    with pytest.raises(CourseError) as error:
        list(prefetched(TestBatches(files, 1, 16), workers=workers))
    assert str(error.value).startswith(f"{tmp_path / 'bad.JPEG'} is damaged or not an image")
    assert "Traceback" not in str(error.value)


class Deadly(TestBatches):
    """Batches, of which the second kills the worker that decodes it, as a system without memory does."""

    def __getitem__(self, k):
        return os.kill(os.getpid(), signal.SIGKILL) if k == 1 else super().__getitem__(k)


def test_a_worker_that_is_killed_is_told_in_one_sentence(files, monkeypatch):
    with pytest.raises(CourseError, match="set workers: 0, or give the container more with --shm-size") as error:
        list(prefetched(Deadly(files, 4, 16), workers=1))
    assert "\n" not in str(error.value)
    monkeypatch.setattr(encoder, "TestBatches", lambda files, size: Deadly(files, 4, size))
    with pytest.raises(CourseError, match="A worker that decodes images died"):
        encoder.encode_files(ResNet10(3), files, 32, workers=1)


@pytest.mark.parametrize(
    "error",
    [
        "DataLoader worker (pid 7) is killed by signal: Killed. ",
        "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of shared "
        "memory. Please try to raise your shared memory limit.",
        "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)",
    ],
)
def test_a_death_between_two_batches_is_told_too_and_no_other_error(files, monkeypatch, error):
    def step(*_, told=error):
        raise RuntimeError(told)

    monkeypatch.setattr(encoder.F, "cross_entropy", step)
    with pytest.raises(CourseError, match="A worker that decodes images died"):
        encoder.train_encoder(files, epochs=1, batch_size=8, size=32, workers=0)
    monkeypatch.setattr(encoder.F, "cross_entropy", lambda *_: step(told="CUDA out of memory"))
    with pytest.raises(RuntimeError, match="CUDA out of memory"):
        encoder.train_encoder(files, epochs=1, batch_size=8, size=32, workers=0)


def test_test_batches_are_torchvisions_resize_and_central_crop_of_all_images_in_order(files):
    batches = TestBatches(files, 4, 28)
    images, labels = (torch.cat(part) for part in zip(*prefetched(batches, workers=2), strict=True))
    assert images.shape == (15, 3, 28, 28) and torch.equal(labels, files.labels) and len(batches) == 4
    view = v2.Compose([v2.Resize(32), v2.CenterCrop(28), v2.PILToTensor()])
    for image, path in zip(images, files.paths, strict=True):
        theirs = view(Image.open(files.root / path))  # Pillow's own resize, within its rounding
        assert (image.float() - theirs).abs().max() <= 2


def test_training_batches_follow_batch_of_and_show_random_parts(files):
    batches = TrainingBatches(files, 200, 6, seed=3, size=16)
    for k in (0, 2, 4):
        images, labels = batches[k]
        assert torch.equal(labels, files.labels[batch_of(k, 15, 6, 3)]) and len(labels) == (6, 6, 3)[k % 3]
        assert images.shape == (len(labels), 3, 16, 16) and images.dtype == torch.uint8
        assert torch.equal(images.float().mean((2, 3)).argmax(1), labels)  # the colour of the class
    assert not torch.equal(batches[0][0], batches[3][0])
    assert not torch.equal(batches[1][0], TrainingBatches(files, 200, 6, seed=4, size=16)[1][0])


def test_crops_cover_a_part_of_the_image_and_half_are_mirrored(tmp_path):
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (192, 256, 3))
    Image.fromarray(np.ascontiguousarray(ramp)).save(tmp_path / "ramp.png")
    (tmp_path / "list.txt").write_text("ramp.png 0\n")
    batches = TrainingBatches(read_list(tmp_path / "list.txt", tmp_path), 300, 1, size=32)
    left, right = torch.stack([batches[k][0][0, 0, 0, [0, -1]].float() for k in range(300)]).T
    width = (right - left).abs() * 32 / 31
    (tmp_path / "list.txt").write_text("ramp.png 0\n" * 8)
    same = TrainingBatches(read_list(tmp_path / "list.txt", tmp_path), 1, 8, size=32)[0][0]
    assert len(same[:, 0, 0, [0, -1]].unique(dim=0)) == 8  # each image of a batch has a crop of its own
    assert 0.4 < (left > right).float().mean() < 0.6  # mirrored
    # Area 8 to 100 % and ratio 3/4 to 4/3 of a 256 x 192 image: widths from sqrt(.08 * .75 * 256 * 192) = 54 to 256.
    assert 50 < width.min() < 90 and 230 < width.max() < 262


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # three workers on fewer cores
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_are_the_same_with_any_number_of_workers(files, workers):
    batches = TrainingBatches(files, 7, 6, seed=1, size=16)
    state = torch.get_rng_state()
    for k, (images, labels) in enumerate(prefetched(batches, 2, workers), start=2):
        assert torch.equal(images, batches[k][0]) and torch.equal(labels, batches[k][1])
    assert k == 6 and torch.equal(state, torch.get_rng_state())


# ------------------------------------------------------------------------------------------------------------- training
def trained(files, tmp_path, workers, stops=(), name="", seed=0, stream_seed=0, batch=6):
    """Weights and losses after 8 steps of a tiny network whose loss draws at random, left at each of `stops`."""
    steps, losses = 8, {}
    for stop in (*stops, steps):
        torch.manual_seed(5)
        model = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Dropout(0.5), nn.Linear(48, 3))
        stream = Stream(TrainingBatches(files, steps, batch, stream_seed, 16), workers)

        def loss(model, index, stream=stream):
            images, labels = stream(index)
            return F.cross_entropy(model(images / 255), labels)

        optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        facts = dict(n=len(files), steps=steps, batch_size=6, optimizer=optimizer, seed=seed, precision="fp32")
        for step in train(model, loss, checkpoint=tmp_path / f"{name}.safetensors", **facts):
            losses[step.step] = step.loss
            if step.step == stop:
                break
    assert stream.waited > 0
    return torch.cat([weight.flatten() for weight in model.parameters()]), losses


def test_a_resumed_training_with_workers_equals_one_without_either(files, tmp_path):
    weights, losses = trained(files, tmp_path, workers=0, name="whole")
    again, pieces = trained(files, tmp_path, workers=2, stops=(1, 4), name="pieces")
    assert torch.equal(weights, again) and losses == pieces


def test_batches_of_another_training_are_refused(files, tmp_path):
    with pytest.raises(CourseError, match="same n, steps, batch and seed"):
        trained(files, tmp_path, 0, name="a", seed=1)
    with pytest.raises(CourseError, match="same n, steps, batch and seed"):
        trained(files, tmp_path, 0, name="b", batch=5)


# ------------------------------------------------------------------------------------------------------------ ResNet-10
def test_resnet10_is_torchvisions_with_the_same_weights():
    torch.manual_seed(0)
    ours, theirs = ResNet10(1000), resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1])
    assert sum(weight.numel() for weight in ours.parameters()) == 5_418_792
    assert sum(weight.numel() for weight in theirs.parameters()) == 5_418_792
    state = {name: value + 0.01 * torch.rand(value.shape) for name, value in ours.state_dict().items() if value.ndim}
    ours.load_state_dict(state, strict=False)
    theirs.load_state_dict({name.replace("head.", "fc."): value for name, value in state.items()}, strict=False)
    images = torch.rand(2, 3, 64, 64)
    normal = v2.functional.normalize(images, ours.config["mean"], ours.config["std"])
    for mode in (True, False):
        ours.train(mode)
        theirs.train(mode)
        torch.testing.assert_close(ours(images), theirs(normal), atol=1e-4, rtol=1e-4)
    features = ours.features(images)
    assert features.shape == (2, 512) == (2, ours.dim) and features.min() >= 0
    torch.testing.assert_close(ours.head(features), ours(images))


def test_resnet10_takes_the_heads_of_the_course():
    wcdas = ResNet10(7, "wcdas").head
    assert isinstance(wcdas, WCDASHead) and torch.equal(wcdas.raw_concentration, torch.full((7,), -1.0))
    assert torch.sigmoid(wcdas.raw_concentration)[0].item() == pytest.approx(0.269, abs=5e-4)
    assert isinstance(ResNet10(7, "cosine").head, CosineHead)
    with pytest.raises(CourseError, match="Unknown head"):
        ResNet10(7, "softmax")
    with pytest.raises(CourseError, match="data.unit"):
        ResNet10(7)(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


# ---------------------------------------------------------------------------------------------------------- ImageNet-LT
def test_generation_goes_by_the_groups_of_ldmlr():
    counts = [1280, 100, 99, 21, 20, 5]  # many from 100, few up to 20: other bounds than those of the accuracies
    assert experiment.generation_amounts(counts, 0.2, "many") == [256, 20, 0, 0, 0, 0]
    assert experiment.generation_amounts(counts, 0.2, "medium") == [0, 0, 20, 5, 0, 0]
    assert experiment.generation_amounts(counts, 0.2, "few") == [0, 0, 0, 0, 5, 5]
    assert experiment.generation_amounts(counts, 0.2, "all") == [256, 20, 20, 5, 5, 5]
    with pytest.raises(CourseError, match="The group 'medium' has no class here.*take one of all, many, few"):
        experiment.generation_amounts([100, 20], 0.2, "medium")


def test_the_courses_own_configuration_is_read():
    settings = experiment.read_settings(REPOSITORY / "config" / "imagenet_lt.yaml")
    assert {recipe["head"] for recipe in settings["methods"].values()} == {"linear", "wcdas"}
    assert settings["size"] == 224


@pytest.fixture
def config(tree, tmp_path, monkeypatch):
    """The path of a tiny configuration on the tree above; called with changes to it."""
    monkeypatch.setenv("LT_DATA", str(tree))
    monkeypatch.setenv("LT_RUNS", str(tmp_path / "runs"))
    # A test image of each colour is classified after a few epochs at 32 x 32.
    methods = {
        "CE": {"head": "linear", "epochs": 6, "batch_size": 8, "lr": 0.02, "weight_decay": 5e-4},
        "WCDAS": {"head": "wcdas", "epochs": 1, "batch_size": 8, "lr": 0.02, "weight_decay": 5e-4},
    }
    settings = {
        "train": {"list": "train.txt", "root": ""},
        "test": {"list": "flat.txt", "root": ""},
        "size": 32,
        "workers": 1,
        "seeds": [0],
        "methods": methods,
        "generator": {"steps": 5, "width": 16, "blocks": 1, "batch_size": 8},
        "retraining": {"ratio": 0.2, "group": "few", "epochs": 2},
    }

    def write(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump({name: value for name, value in (settings | changes).items() if value != "-"}))
        return str(path)

    return write


def test_from_lists_to_a_record(config, tmp_path, capsys, files):
    assert experiment.main([config(), "train"]) == 0
    assert "training: 15 images, 3 classes of 9 to 2\ntest: 9 images, 3 classes of 3 to 3" in capsys.readouterr().out
    assert experiment.main([config()]) == 0
    told = capsys.readouterr().out
    assert "CE, seed 0: 15 training and 9 test images encoded" in told and "CE, seed 0: step" not in told
    assert experiment.main([config()]) == 0  # all is there: the table alone
    assert "encoded" not in (told := capsys.readouterr().out) and "CE + LDMLR" in told and "step" not in told

    folder = tmp_path / "runs" / "imagenet_lt" / "ce-seed0"
    encoded = experiment.load_features(folder / "features.safetensors", "cpu")
    assert encoded.train.shape == (15, 512) and encoded.test.shape == (9, 512) and encoded.counts == list(COUNTS)
    model, _ = checkpoints.load_model(folder / "checkpoints" / "encoder.safetensors", ResNet10)
    images, labels = TestBatches(files, 15, 32)[0]  # features are those of the saved encoder, in the order of the list
    torch.testing.assert_close(encode(model, images)[0], encoded.train, atol=1e-4, rtol=1e-3)
    assert torch.equal(labels, encoded.train_labels)
    torch.testing.assert_close(encoded.test_logits, model.head(encoded.test))

    rows = read_json(folder / "record.json")["rows"]
    assert [(row["method"], row["test"]) for row in rows[:2]] == [("CE", "plain"), ("Label shift", "label shift")]
    assert {row["method"] for row in rows[2:]} == {*CONTROLS, "CE + LDMLR"} and len(rows) == 2 + 2 * 5
    assert rows[0]["accuracy"] == pytest.approx(
        100 * (encoded.test_logits.argmax(1) == encoded.test_labels).float().mean().item(), abs=0.01
    )
    wcdas = experiment.load_features(folder.with_name("wcdas-seed0") / "features.safetensors")
    assert isinstance(wcdas.head, WCDASHead) and -1.5 < wcdas.head.raw_concentration.mean() < -0.5


def test_the_encoder_learns_the_colours(files, capsys):
    model = experiment.train_encoder(files, epochs=30, batch_size=8, lr=0.02, size=32, workers=0)
    images, labels = TestBatches(files, 15, 32)[0]
    assert (encode(model, images)[1].argmax(1) == labels).float().mean() > 0.8
    assert "it waited for images" in capsys.readouterr().out


def test_a_training_is_not_continued_on_an_edited_list(files, tmp_path):
    options = dict(epochs=1, batch_size=8, lr=0.02, size=32, workers=0, checkpoint=tmp_path / "a.safetensors")
    experiment.train_encoder(files, **options)
    experiment.train_encoder(files, **options)
    with pytest.raises(CourseError, match="another training .recipe 'images"):
        experiment.train_encoder(replace(files, labels=files.labels.flip(0)), **options)


@pytest.mark.parametrize("edited", ["train", "flat"])
def test_a_run_with_an_edited_list_begins_anew(config, tree, tmp_path, capsys, monkeypatch, edited):
    monkeypatch.setattr(experiment, "_run_one", lambda *_: None)
    lists = {}
    for name in ("train", "flat"):
        lists[name] = tmp_path / f"{name}.txt"
        lists[name].write_text((tree / f"{name}.txt").read_text())
    path = config(train={"list": str(lists["train"]), "root": ""}, test={"list": str(lists["flat"]), "root": ""})
    assert experiment.main([path]) == experiment.main([path]) == 0
    assert "moved aside" not in capsys.readouterr().out
    first, *others = [line for line in lists[edited].read_text().splitlines() if line.endswith(tuple("012"))]
    lists[edited].write_text("\n".join([first[:-1] + "1", *others]))  # one label; as many images as before
    assert experiment.main([path]) == 0
    assert "ce-seed0 held a run with other parameters: moved aside to ce-seed0.old-1." in capsys.readouterr().out


def test_a_setting_given_twice_is_refused(config, capsys):
    path = config()
    with open(path, "a") as file:
        file.write("size: 64\n")
    assert experiment.main([path]) == 2
    told = capsys.readouterr().err
    assert (
        re.search(r"tiny.yaml has the key size twice, in lines \d+ and \d+: take one out", told)
        and told.count("\n") == 1
    )


@pytest.mark.parametrize(
    "changes, stages, told",
    [
        ({}, ["encode"], "no trained encoder yet: run the stage train first"),
        ({}, ["retrain"], "has no features yet: run the stage encode first"),
        ({}, ["trian"], "Did you mean 'train'"),
        ({"sizes": 3}, [], "tiny.yaml: unknown parameter sizes: did you mean size"),
        ({"size": "-"}, [], "tiny.yaml says no size"),
        ({"train": "train.txt"}, [], "tiny.yaml: parameter train must be a dict"),
        ({"methods": {"CE": {"head": "linear"}}}, [], "tiny.yaml, CE says no epochs"),
        ({"seeds": []}, [], "tiny.yaml: seeds must be a list of whole numbers from 0 to 1000000000, not"),
        ({"seeds": [20261122180000]}, [], r"from 0 to 1000000000, not \[20261122180000\]"),
        ({"seeds": [1, 1]}, [], "tiny.yaml: seeds must not repeat an entry, but 1 is there more than once"),
        ({"seeds": [-1]}, [], r"from 0 to \d+, not \[-1\]"),
        ({"seeds": ["0"]}, [], r"from 0 to \d+, not \['0'\]"),
        ({"seeds": [0.5]}, [], r"from 0 to \d+, not \[0.5\]"),
        ({"workers": "two"}, [], "workers must be null or a whole number from 0, not 'two'"),
        ({"workers": -1}, [], "workers must be null"),
        ({"workers": 1.5}, [], "workers must be null"),
        ({"size": 0}, [], "tiny.yaml: parameter size must be a number from 1, not 0"),
        ({"methods": {}}, [], "methods must be one or more"),
        ({"methods": {"CE": METHOD, "ce": METHOD}}, [], "names that differ in more than capitals"),
        ({"methods": {"CE": METHOD | {"head": "linaer"}}}, [], "Did you mean 'linear'"),
        (
            {"methods": {"CE": METHOD | {"epochs": 0}}},
            [],
            "tiny.yaml, CE: parameter epochs must be a number from 1, not 0",
        ),
        ({"methods": {"CE": METHOD | {"batch_size": 0}}}, [], "CE: parameter batch_size must be a number from 1"),
        ({"methods": {"CE": METHOD | {"batch_size": 7}}}, [], "CE: a batch has one image alone"),
        ({"methods": {"CE": METHOD | {"lr": float("nan")}}}, [], "CE: parameter lr must be a number from 0, not nan"),
        ({"generator": GENERATOR | {"width": 0}}, [], "generator: parameter width must be a number from 1"),
        ({"generator": GENERATOR | {"width": 17}}, [], "generator: width must be even, not 17"),
        ({"name": "../elsewhere"}, [], "tiny.yaml: name must be one of letters, digits and . _ -, not '../elsewhere'"),
        ({"name": ""}, [], "tiny.yaml: name must be one of letters, digits and . _ -, not ''"),
        ({"name": ".."}, [], "tiny.yaml: name must be one of letters"),
        ({"name": "a b"}, [], "tiny.yaml: name must be one of letters"),
        ({"methods": {"../CE": METHOD}}, [], "name of a method cannot have a slash, as '../ce' has"),
        ({"retraining": RETRAINING | {"ratio": -1}}, [], "retraining: parameter ratio must be a number from 0, not -1"),
        ({"retraining": RETRAINING | {"group": "many"}}, [], "group 'many' has no class here"),
        ({"test": {"list": "train.txt", "root": ""}}, [], "15 of the 15 images that .* are training images, too"),
        ({"retraining": RETRAINING | {"epochs": 0}}, [], "retraining: parameter epochs must be a number from 1"),
        ({"test": {"list": "train.txt", "root": "val"}}, [], "15 of the 15 images that .* are not below"),
    ],
)
def test_what_cannot_run_is_one_sentence(config, capsys, monkeypatch, changes, stages, told):
    for work in ("train_encoder", "retrained_rows"):
        monkeypatch.setattr(experiment, work, lambda *_, **__: pytest.fail("it began to work"))
    if not stages:  # a mistake in the configuration is told before a run is moved aside
        monkeypatch.setattr(experiment, "lock_run_folder", lambda *_: pytest.fail("it locked the folder"))
    assert experiment.main([config(**changes), *stages]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error) and error.count("\n") == 1
