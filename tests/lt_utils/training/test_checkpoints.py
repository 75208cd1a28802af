"""Checkpoints: whole or not at all, tensors and JSON only, and every wrong file refused in one sentence."""

import copy
import errno
import json
import zipfile

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lt_utils import hashing
from lt_utils.errors import CourseError
from lt_utils.models.feature_denoisers import ResidualMLP
from lt_utils.models.resnet import ResNet
from lt_utils.models.unet import UNet
from lt_utils.training import checkpoints

FACTS = {"step": 3, "seconds": 1.5, "note": "größer", "list": [1, 2], "none": None}


def tensors():
    base = torch.arange(12.0).view(3, 4)
    return {
        "plain": base,
        "transposed": base.T,
        "shared": base[1:],
        "scalar": torch.tensor(7),
        "bf16": base.bfloat16(),
        "channels_last": torch.rand(2, 3, 4, 4).contiguous(memory_format=torch.channels_last),
        "empty": torch.empty(0, 3),
    }


def test_tensors_and_facts_come_back(tmp_path):
    path, saved = tmp_path / "new" / "folder" / "a.safetensors", tensors()
    checkpoints.save(path, saved, FACTS)
    loaded, facts = checkpoints.load(path)
    assert facts == FACTS and loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) and loaded[name].dtype == saved[name].dtype for name in saved)
    assert [file.name for file in path.parent.iterdir()] == ["a.safetensors"]


def test_the_file_is_a_json_header_and_numbers_and_nothing_else(tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoints.save(path, tensors(), FACTS)
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    assert json.loads(header.pop("__metadata__")["facts"]) == FACTS
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors().values())
    assert len(content) == 8 + length + size and header.keys() == tensors().keys()
    assert not zipfile.is_zipfile(path) and b"pickle" not in content and b"torch" not in content[: 8 + length]


MODELS = [
    lambda: ResNet(4, 1, 8, 8, "wcdas", mean=(0.5,), std=(0.25,)),
    lambda: ResNet(4, 3, 14, 8, "cosine"),
    lambda: UNet(1, 4, width=8, mults=(1, 2), attention=(1,), blocks=1),
    lambda: ResidualMLP(6, 4, width=16, blocks=2),
]


def answer(model):
    """Some output of a model, from inputs of its own kind."""
    torch.manual_seed(1)
    with torch.no_grad():
        if isinstance(model, ResNet):
            return model(torch.rand(2, model.config["channels"], 16, 16))
        shape = (2, 1, 8, 8) if isinstance(model, UNet) else (2, 6)
        return model(torch.rand(shape), torch.tensor([3, 900]), torch.tensor([1, 4]))


@pytest.mark.parametrize("build", MODELS)
def test_load_model_builds_the_network_again(build, tmp_path):
    torch.manual_seed(0)
    model = build()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1)
    model.eval()
    checkpoints.save_model(tmp_path / "m.safetensors", model, accuracy=71.5)
    again, facts = checkpoints.load_model(tmp_path / "m.safetensors", type(model))
    assert not again.training and facts["accuracy"] == 71.5 and facts["class"] == type(model).__name__
    assert again.config == model.config and torch.equal(answer(again), answer(model))


def test_a_model_of_another_kind_is_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    checkpoints.save_model(path, ResidualMLP(6, 4, 16, 1))
    with pytest.raises(CourseError, match="holds a ResidualMLP, not a ResNet"):
        checkpoints.load_model(path, ResNet)
    checkpoints.save(path, {}, {"step": 1})
    with pytest.raises(CourseError, match="holds a training state, not a ResNet"):
        checkpoints.load_model(path, ResNet)


def test_missing_damaged_and_foreign_files_are_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(CourseError, match="There is no checkpoint"):
        checkpoints.load(path)
    with pytest.raises(CourseError, match="is a folder, not a checkpoint"):
        checkpoints.load(tmp_path)
    checkpoints.save(path, tensors(), FACTS)
    content = path.read_bytes()
    for size in (0, 5, 100, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:size])
        with pytest.raises(CourseError, match="not a readable checkpoint.*delete it and train again"):
            checkpoints.load(path)
    path.write_text("hello " * 100)
    with pytest.raises(CourseError, match="not a readable checkpoint"):
        checkpoints.load(path)
    save_file({"a": torch.zeros(2)}, path)
    with pytest.raises(CourseError, match="header holds no facts"):
        checkpoints.load(path)
    save_file({"a": torch.zeros(2)}, path, metadata={"facts": "{half"})
    with pytest.raises(CourseError, match="not a readable checkpoint"):
        checkpoints.load(path)


def test_a_full_disk_leaves_the_last_good_file(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"

    def full(tensors, target, metadata):
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        with pytest.raises(CourseError, match="No space left.*nothing was written"):
            checkpoints.save(path, tensors(), FACTS)
    assert not list(tmp_path.iterdir())
    checkpoints.save(path, tensors(), FACTS)
    good = path.read_bytes()
    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CourseError, match="No space left.*last complete one is still there"):
        checkpoints.save(path, {}, {})
    assert path.read_bytes() == good and len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CourseError, match="could not be written.*choose another folder"):
        checkpoints.save(tmp_path / "file" / "a.safetensors", tensors(), FACTS)

    def denied(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(checkpoints.os, "replace", denied)
    with pytest.raises(CourseError, match="Permission denied"):
        checkpoints.save(tmp_path / "a.safetensors", tensors(), FACTS)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_load_into_names_the_first_difference_and_changes_nothing():
    model = ResidualMLP(6, 4, width=16, blocks=1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for other, message in [
        (
            ResidualMLP(6, 7, 16, 1),
            r"'condition.label.weight' is \[7, 16\] there and \[4, 16\] here.*number of classes",
        ),
        (ResidualMLP(6, 4, 16, 2), "extra entry 'blocks.1"),
        (ResidualMLP(6, 0, 16, 1), "has no entry 'condition.label.weight'"),
    ]:
        with pytest.raises(CourseError, match=message):
            checkpoints.load_into(model, other.state_dict(), "old.safetensors")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_identity_changes_with_every_save(tmp_path):
    path = tmp_path / "a.safetensors"
    assert checkpoints.file_version(None) is None and checkpoints.file_version(path) is None
    checkpoints.save(path, {}, {})
    first = checkpoints.file_version(path)
    assert first == checkpoints.file_version(path)
    checkpoints.save(path, {}, {"step": 1})
    assert first != checkpoints.file_version(path)


def test_half_a_checkpoint_is_half_the_size_and_loads_as_float32(tmp_path):
    model = ResidualMLP(8, 3, width=64, blocks=2)
    checkpoints.save_model(tmp_path / "whole.safetensors", model)
    checkpoints.save_model(tmp_path / "half.safetensors", model, half=True, steps=7)
    whole, half = ((tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half"))
    again, facts = checkpoints.load_model(tmp_path / "half.safetensors", ResidualMLP)
    assert half < 0.6 * whole and facts["steps"] == 7
    for ours, theirs in zip(again.parameters(), model.parameters(), strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, theirs.bfloat16().float())


def test_the_fingerprint_of_a_model_changes_with_any_weight():
    model = ResidualMLP(8, 3, width=16, blocks=1)
    before = hashing.fingerprint(model)
    assert before == hashing.fingerprint(copy.deepcopy(model)) and len(before) == 64
    with torch.no_grad():
        model.out.bias[3] += 1e-7
    assert hashing.fingerprint(model) != before
