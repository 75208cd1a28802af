"""Checkpoints: one .safetensors file holds the tensors, and in its header the facts as JSON. No code is ever unpickled.

A checkpoint is written under another name and renamed when complete: a failed write leaves the last good one.
"""

import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lt_utils.errors import CourseError


def save(path: str | Path, tensors: dict[str, Tensor], facts: dict) -> None:
    """Write named tensors and JSON-able facts to `path`, atomically. CourseError if the disk is full or not writable."""
    path = Path(path)
    partial = path.with_name(path.name + ".partial")
    # safetensors refuses tensors that share memory or are not contiguous; a checkpoint wants plain copies anyway.
    tensors = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, partial, metadata={"facts": json.dumps(facts)})
        os.replace(partial, path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise CourseError(
            f"The checkpoint {path} could not be written ({error}): free some space or choose another folder; "
            f"{'the last complete one is still there' if path.exists() else 'nothing was written'}."
        ) from None


def load(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and facts of a checkpoint. Raises CourseError if it is missing, damaged or of another kind."""
    path = Path(path)
    if not path.is_file():
        raise CourseError(f"There is no checkpoint {path}: run the notebook that makes it, or correct the path.")
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts
    except (SafetensorError, KeyError, OSError, ValueError) as error:
        raise CourseError(
            f"{path} is not a readable checkpoint of this course ({error}): delete it, train again."
        ) from None


def load_into(model: nn.Module, tensors: dict[str, Tensor], source: str | Path = "the checkpoint") -> None:
    """Copy tensors into `model`. CourseError, naming the first difference, if architecture or class count differ."""
    own = model.state_dict()
    for name in sorted(own.keys() | tensors.keys()):
        if name not in tensors or name not in own:
            where = "has no" if name not in tensors else "holds an extra"
            raise CourseError(
                f"{source} is of another architecture than this {type(model).__name__}: it {where} entry {name!r}."
            )
        if own[name].shape != tensors[name].shape:
            there, here = list(tensors[name].shape), list(own[name].shape)
            raise CourseError(
                f"{source} does not fit this {type(model).__name__}: {name!r} is {there} there and {here} here "
                "(another architecture or another number of classes); build the model as it was trained, or train again."
            )
    model.load_state_dict(tensors)


def save_model(path: str | Path, model: nn.Module, **facts) -> None:
    """Save a model that has a `config` (the arguments it was built with), so that `load_model` can build it again."""
    save(path, model.state_dict(), {"class": type(model).__name__, "config": model.config, **facts})


def load_model(path: str | Path, kind: type[nn.Module], device: torch.device | str = "cpu") -> tuple[nn.Module, dict]:
    """The model that `save_model` wrote, in evaluation mode, and its facts. CourseError if it is not a `kind`."""
    tensors, facts = load(path)
    if facts.get("class") != kind.__name__:
        raise CourseError(
            f"{path} holds a {facts.get('class', 'training state')}, not a {kind.__name__}: give the path of a {kind.__name__}."
        )
    model = kind(**facts["config"])
    load_into(model, tensors, path)
    return model.to(device).eval(), facts
