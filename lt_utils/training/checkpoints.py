"""Checkpoints: one .safetensors file holds the tensors, and in its header the facts as JSON. No code is ever unpickled.

A checkpoint is written under another name and renamed when complete: a failed write leaves the last good one.
"""

import contextlib
import json
import os
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import Optimizer

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
        with contextlib.suppress(OSError):
            partial.unlink()
        raise CourseError(
            f"The checkpoint {path} could not be written ({error}): free some space or choose another folder; "
            f"{'the last complete one is still there' if os.path.exists(path) else 'nothing was written'}."
        ) from None


def load(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """The tensors and facts of a checkpoint. Raises CourseError if it is missing, damaged or of another kind."""
    path = Path(path)
    if path.is_dir():
        raise CourseError(f"{path} is a folder, not a checkpoint: remove it or correct the path.")
    if not path.is_file():
        raise CourseError(f"There is no checkpoint {path}: run the notebook that makes it, or correct the path.")
    try:
        with safe_open(path, framework="pt") as file:
            facts = (file.metadata() or {}).get("facts")
            if facts is None:
                raise ValueError("its header holds no facts")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(facts)
    except (SafetensorError, OSError, ValueError) as error:
        raise CourseError(
            f"{path} is not a readable checkpoint of this course ({error}): delete it and train again."
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


def save_model(path: str | Path, model: nn.Module, *, half: bool = False, **facts) -> None:
    """Save a model that has a `config` (the arguments it was built with), so that `load_model` can build it again.

    half: store the weights in bfloat16, half the size, rounded to 3 digits; good enough to sample from.
    """
    state = model.state_dict()
    if half:
        state = {name: value.bfloat16() if value.is_floating_point() else value for name, value in state.items()}
    save(path, state, {"class": type(model).__name__, "config": model.config, **facts})


# The facts of a training and the arguments of a model had other names in earlier files.
EARLIER = {"batch_size": "batch", "lr": "rate", "weight_decay": "decay", "lr_schedule": "schedule", "grad_clip": "clip"}
EARLIER |= {"ema_decay": "ema", "num_classes": "classes"}


# Facts that files have had only since `identity` notes them: where they are missing, nothing is known of them.
NOTED_LATER = ("options of the optimiser", "values of lr_schedule", "precision", "code of the loss")


def with_names_of_today(facts: dict) -> dict:
    """The facts of a checkpoint, or the config of a model, under the names they have now."""
    return facts | {new: facts[old] for new, old in EARLIER.items() if old in facts and new not in facts}


def load_model(path: str | Path, kind: type[nn.Module], device: torch.device | str = "cpu") -> tuple[nn.Module, dict]:
    """The model that `save_model` wrote, in evaluation mode, and its facts. CourseError if it is not a `kind`."""
    tensors, facts = load(path)
    if facts.get("class") != kind.__name__:
        raise CourseError(
            f"{path} holds a {facts.get('class', 'training state')}, not a {kind.__name__}: give the path of a {kind.__name__}."
        )
    try:
        config = with_names_of_today(facts["config"])
        model = kind(**{name: value for name, value in config.items() if name not in EARLIER.values()})
    except (KeyError, TypeError) as error:
        raise CourseError(
            f"{path} was written by another version of the course ({error}): run the notebook that makes it again."
        ) from None
    load_into(model, tensors, path)
    return model.to(device).eval(), facts


def file_version(path: str | Path | None) -> tuple[int, int] | None:
    """Inode and time of writing: they differ between one written file and the next at a path; None if there is no file."""
    if path is None or not os.path.exists(path):
        return None
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns


def save_training(
    path: str | Path, facts: dict, model: nn.Module, optimizer: Optimizer, average: nn.Module | None, losses: Tensor
) -> None:
    """Save all that `resume_training` needs: weights, their moving average if there is one, optimiser state and losses."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()} | {"losses": losses}
    if average is not None:
        tensors |= {f"ema.{name}": tensor for name, tensor in average.state_dict().items()}
    for number, entries in optimizer.state_dict()["state"].items():
        tensors |= {
            f"optimizer.{number}.{name}": torch.as_tensor(value) for name, value in entries.items() if value is not None
        }
    save(path, tensors, facts)


def resume_training(
    path: str | Path, facts: dict, model: nn.Module, optimizer: Optimizer, average: nn.Module | None, losses: Tensor
) -> tuple[int, float]:
    """Load what `save_training` wrote; return the steps done and the seconds they took.

    Raises CourseError, before anything is changed, if the checkpoint was saved with other `facts` or another architecture.
    """
    tensors, stored = load(path)
    stored = with_names_of_today(stored)
    facts = {name: value for name, value in facts.items() if name in stored or name not in NOTED_LATER}
    different = [name for name, value in facts.items() if stored.get(name) != value]
    if different:
        changes = ", ".join(f"{name} {stored.get(name)!r} instead of {facts[name]!r}" for name in different)
        raise CourseError(
            f"{path} is of another training ({changes}): delete it to train anew, or train with what it was made with."
        )

    def part(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    load_into(model, part("model."), path)
    if average is not None:
        load_into(average, part("ema."), path)
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part("optimizer.").items():
        number, entry = name.split(".", 1)
        weight = weights[int(number)]
        if tensor.shape == weight.shape:  # in the memory format of the weight, or sums would round differently
            tensor = torch.empty_like(weight, dtype=tensor.dtype, device="cpu").copy_(tensor)
        state.setdefault(int(number), {})[entry] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    losses.copy_(tensors["losses"])
    return stored["step"], stored["seconds"]
