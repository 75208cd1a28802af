"""ViT on lists of images: the trainings against loops by hand, killed and resumed, and the path from lists to a record."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
import yaml
from torchvision.transforms import v2

from data_prep.lists.image_files import read_image, read_list
from experiments.imagenet_lt import experiment, livt, transformer
from experiments.imagenet_lt.stream import TestBatches, TrainingBatches, prefetched
from lt_utils.data.augmentation import rand_augment, unit
from lt_utils.files import REPOSITORY, read_json
from lt_utils.models.mae import MaskedAutoencoder
from lt_utils.models.vit import ViT, resize_positions
from lt_utils.recognition.losses import build_loss, sigmoid_label_shift
from lt_utils.training import checkpoints
from lt_utils.training.loop import batch_of, step_seed

COUNTS, TESTS = (9, 4, 2), 3
NETWORK = {"size": "nano", "patch": 8, "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.25]}
PRETRAINING = {"size": 32, "epochs": 5, "warmup": 1, "batch_size": 4, "lr": 1e-3, "weight_decay": 0.05}
PRETRAINING |= {"mask_ratio": 0.75, "decoder": [16, 1, 2]}
METHOD = livt.METHOD | {"size": 32, "epochs": 5, "warmup": 1, "batch_size": 4, "lr": 1e-3, "settings": {"tau": 1.0}}


@pytest.fixture(scope="module")
def tree(tmp_path_factory, picture):
    """Three classes in folders, and their two lists."""
    root = tmp_path_factory.mktemp("images")
    for part, counts in (("train", COUNTS), ("val", [TESTS] * 3)):
        lines = []
        for c, count in enumerate(counts):
            (root / part / f"n{c}").mkdir(parents=True)
            for number in range(count):
                lines.append(f"{part}/n{c}/{number}.png {c}\n")
                picture(c, number + 100 * (part == "val"), 36 + 5 * number).save(
                    root / part / f"n{c}" / f"{number}.png"
                )
        (root / f"{part}.txt").write_text("".join(lines))
    return root


@pytest.fixture
def files(tree):
    return read_list(tree / "train.txt", tree)


@pytest.fixture
def config(tree, tmp_path, monkeypatch):
    """The path of a tiny configuration on the tree, called with changes to its section; runs go to a folder of the test."""
    monkeypatch.setenv("LT_DATA", str(tree))
    monkeypatch.setenv("LT_RUNS", str(tmp_path / "runs"))
    content = yaml.safe_load((REPOSITORY / "config" / "imagenet_lt.yaml").read_text(encoding="utf-8"))
    content |= {"train": {"list": "train.txt", "root": ""}, "test": {"list": "val.txt", "root": ""}}
    content |= {"size": 32, "workers": 0, "name": "tiny-lt"}
    section = {"network": NETWORK, "at_once": 3, "pretraining": PRETRAINING, "methods": {"LiVT": METHOD}}

    def write(**changes):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(content | {"livt": section | changes}))
        return str(path)

    return write


# ---------------------------------------------------------------------------------------------------------------- batches
def test_a_batch_is_randomly_cropped_bicubic_parts_and_rand_augment_of_each_alone(files):
    plain = TrainingBatches(files, 8, 4, seed=2, size=24, smallest=0.2, bicubic=True)
    augmented = replace(plain, randaugment=True)
    bicubic = v2.InterpolationMode.BICUBIC
    part = v2.RandomResizedCrop(24, (0.2, 1.0), interpolation=bicubic, antialias=True)
    index = batch_of(1, len(files), 4, 2)
    for place, i in enumerate(index.tolist()):
        torch.manual_seed(step_seed(2, 1) * 4 + place)
        by_hand = v2.RandomHorizontalFlip()(part(read_image(files.root / files.paths[i])))
        assert torch.equal(plain[1][0][place], by_hand)
        assert torch.equal(augmented[1][0][place], rand_augment(by_hand[None])[0])
    assert not torch.equal(plain[1][0], augmented[1][0]) and torch.equal(plain[1][1], files.labels[index])
    assert not torch.equal(plain[1][0], replace(plain, bicubic=False)[1][0])
    ahead = prefetched(replace(augmented, steps=2), workers=2)  # by workers the same
    assert all(torch.equal(images, augmented[k][0]) for k, (images, _) in enumerate(ahead))


def test_images_are_tested_as_livt_does(files, monkeypatch):
    seen = []
    monkeypatch.setattr(
        transformer, "TestBatches", lambda files, **view: seen.append(view) or TestBatches(files, **view)
    )
    for size, shorter in ((32, 37), (256, 256)):
        config = transformer.encoder_config(NETWORK, size) | dict(width=8, depth=1, heads=2)
        model = ViT(3, **config).eval()
        torch.nn.init.normal_(model.head.weight)
        view = [v2.Resize(shorter, interpolation=v2.InterpolationMode.BICUBIC), v2.CenterCrop(size)]
        images = [v2.Compose(view)(read_image(files.root / path)) for path in files.paths]
        with torch.no_grad():
            wanted = model(unit(torch.stack(images)))
        torch.testing.assert_close(transformer.logits_of(model, files, workers=0), wanted, atol=1e-4, rtol=1e-4)
    assert [view["side"] for view in seen] == [None, 256]  # 32 / 0.875 = 36.6


# -------------------------------------------------------------------------------------------------------------- trainings
def test_a_batch_in_parts_has_the_loss_and_the_gradient_of_the_whole():
    model = transformer.build_classifier(NETWORK, 32, 3, drop_path=0.0)
    torch.nn.init.normal_(model.head.weight)
    images, labels, loss, found = torch.rand(10, 3, 32, 32), torch.arange(10) % 3, build_loss("bal-bce", COUNTS), []
    calls = []

    def of_part(part, targets):
        calls.append(len(part))
        return loss(model(part), targets)

    for at_once in (10, 4):
        model.zero_grad()
        value = transformer.in_parts(of_part, images, labels, at_once)
        value.backward()
        found.append([value, *(weight.grad for weight in model.parameters())])
    assert calls[:4] == [10, 4, 4, 2] and sorted(calls[4:]) == [2, 4, 4]  # each part once more, for its gradient
    assert all(torch.allclose(one, other, rtol=1e-4, atol=1e-5) for one, other in zip(*found, strict=True))


def test_parts_draw_the_same_in_both_passes():
    model = transformer.build_mae(NETWORK, 32, [16, 1, 2])
    images, labels, orders = torch.rand(6, 3, 32, 32), torch.zeros(6), []

    def of_part(part, _):
        orders.append(torch.rand(3))
        return model.loss(part)

    transformer.in_parts(of_part, images, labels, 3).backward()
    assert torch.equal(orders[0], orders[3]) or torch.equal(orders[0], orders[2])
    assert not torch.equal(orders[0], orders[1])


def test_pretraining_and_fine_tuning_are_loops_by_hand(files, monkeypatch):
    """Two steps each, with the batches, losses and optimiser written out; a warm-up of half the steps."""
    monkeypatch.setenv("LT_PRECISION", "fp32")
    same = dict(size=32, epochs=2, warmup=1, batch_size=15, lr=1e-2, weight_decay=0.05, at_once=15, seed=3, workers=0)
    mae = transformer.pretrain(files, NETWORK, mask_ratio=0.75, decoder=[16, 1, 2], **same)
    torch.manual_seed(3)
    numbers = dict(channels=3, size=32, patch=8, width=64, depth=4, heads=4, class_token=True, mean=NETWORK["mean"])
    hand = MaskedAutoencoder(16, 1, 2, std=NETWORK["std"], **numbers)
    pieces = TrainingBatches(files, 2, 15, 3, 32, 0.2, True)
    hand_trained(
        hand, lambda images, labels: hand.loss(unit(images), 0.75), pieces, lambda name, w: (1e-2, w), (0.9, 0.95)
    )
    same_weights(mae, hand)

    how = dict(layer_decay=0.5, drop_path=0.1, loss="bal-bce", settings={"tau": 0.7}, smoothing=0.0, mixed=False)
    tuned = transformer.finetune(files, NETWORK, mae, **how, randaugment=True, erasing=0.0, **same)
    torch.manual_seed(3)
    hand = ViT(3, drop_path=0.1, std=NETWORK["std"], **numbers)
    hand.encoder.load_state_dict(mae.encoder.state_dict())
    loss = build_loss("bal-bce", COUNTS, tau=0.7)
    depth = {
        "head": 5,
        "norm": 5,
        "encoder.blocks.0": 1,
        "encoder.blocks.1": 2,
        "encoder.blocks.2": 3,
        "encoder.blocks.3": 4,
    }

    def rate(name, weight_decay):
        layer = next((number for start, number in depth.items() if name.startswith(start)), 0)
        return 1e-2 * 0.5 ** (5 - layer), weight_decay

    pieces = TrainingBatches(files, 2, 15, 3, 32, 0.08, True, True)
    hand_trained(hand, lambda images, labels: loss(hand(unit(images)), labels), pieces, rate, (0.9, 0.999))
    same_weights(tuned, hand)


def hand_trained(model, loss, batches, rate, betas):
    """Two steps: the rate at its peak after the warm-up of one step, then again at the top of the cosine, which is the second."""
    groups = []
    for name, weight in model.named_parameters():
        if weight.requires_grad:
            lr, decay = rate(name, 0.05 if weight.ndim == 2 and name.endswith("weight") else 0.0)
            groups.append({"params": [weight], "lr": lr, "weight_decay": decay})
    optimizer = torch.optim.AdamW(groups, betas=betas)
    model.train()
    for k in range(2):
        images, labels = batches[k]
        torch.manual_seed(step_seed(3, k))
        optimizer.zero_grad()
        loss(images, labels).backward()
        optimizer.step()


def same_weights(model, hand):
    for name, weight in model.cpu().state_dict().items():
        if not name.endswith(
            "qkv.bias"
        ):  # that of the keys changes nothing: its slope is rounding, which AdamW makes a step of
            assert torch.allclose(weight, hand.state_dict()[name], rtol=1e-3, atol=2e-5), name


# ------------------------------------------------------------------------------------------------------------- as a command
def tensors(runs, name):
    kind = "mae" if name.startswith("pretraining") else "vit"
    return checkpoints.load(runs / "tiny_lt_vit" / name / "checkpoints" / f"{kind}.safetensors")[0]


KILLED = """
import sys
from experiments.imagenet_lt import experiment, transformer
transformer.SAVE_EVERY = 0.0  # after every step
sys.exit(experiment.main(sys.argv[1:]))
"""


def test_from_lists_to_a_record_killed_and_resumed(config, tmp_path, monkeypatch, capsys):
    """Killed in pretraining by the system, and in fine-tuning by an error: the same weights and numbers as in one go."""
    path = config()
    assert experiment.main([path, "pretrain", "finetune", "test"]) == 0
    told = capsys.readouterr().out
    assert "training: 15 images, 3 classes of 9 to 2" in told and "exact" in told and "features" not in told
    whole = read_json(tmp_path / "runs/tiny_lt_vit/livt-seed0/record.json")["rows"]

    runs = tmp_path / "killed"
    monkeypatch.setenv("LT_RUNS", str(runs))
    state = runs / "tiny_lt_vit/pretraining-seed0/checkpoints/mae-training.safetensors"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, path, "pretrain"], cwd=REPOSITORY, stdout=subprocess.DEVNULL
    )
    while not state.exists() and process.poll() is None:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not state.with_name("mae.safetensors").exists()
    assert 0 < checkpoints.load(state)[1]["step"] < 20
    assert experiment.main([path, "pretrain"]) == 0
    assert experiment.main([path, "test"]) == 2
    assert "livt-seed0 has no classifier yet: run the stage finetune first" in capsys.readouterr().err

    asked = []
    batch = TrainingBatches.__getitem__

    def power_cut(self, k):
        asked.append(k)
        if len(asked) == 8:
            raise OSError("the power is cut")
        return batch(self, k)

    monkeypatch.setattr(TrainingBatches, "__getitem__", power_cut)
    monkeypatch.setattr(transformer, "SAVE_EVERY", 0.0)
    with pytest.raises(OSError, match="power"):
        experiment.main([path, "finetune"])
    assert experiment.main([path, "finetune", "test"]) == 0
    assert asked == [*range(8), *range(7, 20)]  # it went on, and did not begin anew

    for name in ("pretraining-seed0", "livt-seed0"):
        one, other = tensors(tmp_path / "runs", name), tensors(runs, name)
        assert one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
    assert read_json(runs / "tiny_lt_vit/livt-seed0/record.json")["rows"] == whole
    assert not state.exists()
    assert experiment.main([path, "pretrain", "finetune", "test"]) == 0  # all is there
    assert asked[-1] == 19 and len(asked) == 21


def test_the_rows_are_the_two_read_outs_of_the_stored_classifier(config, tmp_path, tree):
    changes = {"settings": {"tau": 0.5}, "pretrained": False, "mixed": False, "epochs": 2}
    assert experiment.main([config(methods={"A": METHOD | changes}), "finetune", "test"]) == 0
    folder = tmp_path / "runs/tiny_lt_vit/a-seed0"
    assert not (folder.parent / "pretraining-seed0").exists()  # nothing that it needs
    model, _ = checkpoints.load_model(folder / "checkpoints/vit.safetensors", ViT)
    test = read_list(tree / "val.txt", tree, num_classes=3)
    logits = transformer.logits_of(model.cpu(), test, workers=0)
    rows = read_json(folder / "record.json")["rows"]
    assert [row["read-out"] for row in rows] == ["argmax", "exact"]
    for row, scores in zip(rows, (logits, sigmoid_label_shift(logits, COUNTS, 0.5)), strict=True):
        right = (scores.argmax(1) == test.labels).double().mean().item()
        assert row["accuracy"] == pytest.approx(100 * right, abs=0.01)
        assert {"top5", "ece", "mce", "pdc", "many", "few"} <= row.keys() and row["imbalance"] == 4


def test_fine_tuning_at_another_size_resizes_positions(config, tmp_path, monkeypatch):
    path = config(methods={"Large": METHOD | {"size": 48, "epochs": 2, "lr": 0.0}})
    assert experiment.main([path, "pretrain", "finetune"]) == 0
    start, end = (
        tensors(tmp_path / "runs", name)["encoder.positions"] for name in ("pretraining-seed0", "large-seed0")
    )
    assert torch.equal(end, resize_positions(start, 6))  # with a rate of 0 nothing else happened to them


def test_an_edited_section_begins_anew_what_it_concerns(config, tmp_path, monkeypatch, capsys):
    trained = []
    monkeypatch.setattr(livt, "_pretrain", lambda run, *_: trained.append(run.name))
    monkeypatch.setattr(livt, "_finetune", lambda run, *_: trained.append(run.name))
    stages = ("pretrain", "finetune")
    assert experiment.main([config(), *stages]) == 0
    assert experiment.main([config(methods={"LiVT": METHOD | {"lr": 2e-3}}), *stages]) == 0
    assert "livt-seed0 held a run with other parameters" in (told := capsys.readouterr().out)
    assert "pretraining-seed0 held" not in told
    assert experiment.main([config(pretraining=PRETRAINING | {"epochs": 6}), *stages]) == 0
    told = capsys.readouterr().out
    assert "pretraining-seed0 held" in told and "livt-seed0 held" in told
    assert trained == ["tiny_lt_vit/pretraining-seed0", "tiny_lt_vit/livt-seed0"] * 3


def test_inaturalist_s_lists_go_the_same_way(config, tmp_path, monkeypatch, picture):
    root = tmp_path / "inat"
    for name, numbers in (("train2018", range(6)), ("val2018", range(6, 9))):
        listed = {"categories": [{"id": 300, "name": "Corvus corax"}, {"id": 20, "name": "Bellis perennis"}]}
        listed |= {"images": [], "annotations": []}
        for number in numbers:
            c = number % 3 == 0
            file = f"train_val2018/{('Aves', 'Plantae')[c]}/{(300, 20)[c]}/{number}.jpg"
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            picture(int(c), number, 40).save(root / file)
            listed["images"].append({"id": number, "file_name": file})
            listed["annotations"].append({"id": number, "image_id": number, "category_id": (300, 20)[c]})
        (root / f"{name}.json").write_text(json.dumps(listed))
    path = config(methods={"LiVT": METHOD | {"epochs": 2}}, pretraining=PRETRAINING | {"epochs": 2})
    content = yaml.safe_load(open(path).read()) | {"name": "inaturalist-2018"}
    lists = {"train": root / "train2018.json", "test": root / "val2018.json"}
    content |= {key: {"list": str(file), "root": str(root)} for key, file in lists.items()}
    (tmp_path / "inat.yaml").write_text(yaml.safe_dump(content))
    assert experiment.main([str(tmp_path / "inat.yaml"), "pretrain", "finetune", "test"]) == 0
    record = read_json(tmp_path / "runs/inaturalist_2018_vit/livt-seed0/record.json")
    assert [row["data"] for row in record["rows"]] == ["inaturalist-2018"] * 2


def test_the_courses_own_section_is_livts(monkeypatch):
    section = experiment.read_settings(REPOSITORY / "config" / "imagenet_lt.yaml")["livt"]
    with torch.device("meta"):
        mae = transformer.build_mae(section["network"], 224, section["pretraining"]["decoder"])
        vit = transformer.build_classifier(section["network"], 224, 1000, 0.1)
    assert sum(weight.numel() for weight in vit.parameters()) == 86_566_888
    # The encoder of ViTMAE-base has 85.8 million, its decoder 26.0 million parameters, 111,907,840 in all with fixed positions,
    # of which it gives one to each class token.
    assert sum(weight.numel() for weight in mae.parameters()) == 111_907_840 - 768 - 512
    pretraining, method = section["pretraining"], section["methods"]["LiVT"]
    assert pretraining["lr"] == pytest.approx(1.5e-4 * pretraining["batch_size"] / 256)
    assert method["lr"] == pytest.approx(1e-3 * method["batch_size"] / 256)


@pytest.mark.parametrize(
    "changes, told",
    [
        ({"network": NETWORK | {"patch": 7}}, "Patches of 7 pixels do not divide an image of 32: choose one of"),
        ({"network": NETWORK | {"size": "huge"}}, "Unknown size of a transformer 'huge'"),
        ({"network": NETWORK | {"mean": [0.5]}}, "one number per channel"),
        ({"pretraining": PRETRAINING | {"decoder": [16, 1, 3]}}, "3 heads do not divide a width of 16"),
        (
            {"pretraining": PRETRAINING | {"decoder": [16, 1]}},
            r"decoder must be \[width, depth, heads\], not \[16, 1\]",
        ),
        ({"pretraining": PRETRAINING | {"mask_ratio": 0.97}}, "A mask ratio of 0.97 keeps 0 of 16 patches"),
        ({"pretraining": PRETRAINING | {"warmup": 5}}, "livt, pretraining: a warm-up of 5 leaves nothing of 5 epochs"),
        ({"methods": {"LiVT": METHOD | {"loss": "bal_bce"}}}, "Unknown loss 'bal_bce'. Did you mean 'bal-bce'"),
        ({"methods": {"LiVT": METHOD | {"loss": "ce"}}}, "The loss 'ce' has no tau: it takes no setting"),
        ({"methods": {"LiVT": METHOD | {"size": 36}}}, "Patches of 8 pixels do not divide an image of 36"),
        ({"methods": {"LiVT": METHOD | {"erasing": 1.5}}}, "LiVT: erasing is a share below 1, not 1.5"),
        ({"methods": {"LiVT": METHOD | {"drop_path": 1.0}}}, "LiVT: drop_path is a share below 1, not 1.0"),
        ({"methods": {"LiVT": METHOD | {"layer_dekay": 1}}}, "unknown parameter layer_dekay: did you mean layer_decay"),
        ({"methods": {"pretraining": METHOD}}, "no method can be called pretraining"),
        ({"methods": {"a/b": METHOD}}, "name of a method cannot have a slash, as 'a/b' has"),
        ({"at_once": 0}, "livt: parameter at_once must be a number from 1, not 0"),
    ],
)
def test_what_cannot_run_is_one_sentence_before_any_work(config, capsys, monkeypatch, changes, told):
    for work in ("read_lists", "lock_run_folder"):
        monkeypatch.setattr(experiment, work, lambda *_: pytest.fail("it began to work"))
    assert experiment.main([config(**changes), "pretrain"]) == 2
    error = capsys.readouterr().err
    assert re.search(told, error) and error.count("\n") == 1


def test_a_stage_that_lacks_its_section_or_the_stage_before_says_so(config, capsys, tmp_path):
    assert experiment.main([config(), "finetune"]) == 2
    assert "pretraining-seed0 has no pretrained encoder yet: run the stage pretrain first" in capsys.readouterr().err
    content = yaml.safe_load(open(config()).read())
    del content["livt"]
    (tmp_path / "without.yaml").write_text(yaml.safe_dump(content))
    assert experiment.main([str(tmp_path / "without.yaml"), "test"]) == 2
    assert "The stage test needs a section livt: copy that of config/imagenet_lt.yaml" in capsys.readouterr().err
