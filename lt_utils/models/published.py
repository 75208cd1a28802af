"""The encoders that the authors of LDMLR published, as a ResNet of this course."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lt_utils.errors import CourseError
from lt_utils.models.resnet import CIFAR_MEAN, CIFAR_STD, ResNet
from lt_utils.training.checkpoints import load_into


def _arrays(path: str | Path) -> dict[str, Tensor]:
    """The entries of an .npz by the names that `ResNet` has for them. CourseError if it is no .npz, or a damaged one."""
    found = {}
    try:
        Path(path).stat()  # for a missing file the error says so
        if zipfile.is_zipfile(path):  # NumPy would load an .npy as well, and take anything else for a pickle
            with np.load(path, allow_pickle=False) as arrays:
                found = {name: arrays[name] for name in arrays.files}
    except Exception as error:  # damaged bytes make NumPy, zipfile and zlib raise many kinds
        raise CourseError(f"{path} cannot be read as an .npz of arrays ({error}): fetch or copy it again.") from None
    if not found or not all(isinstance(value, np.ndarray) and value.dtype.kind in "biuf" for value in found.values()):
        raise CourseError(
            f"{path} cannot be read as an .npz of arrays: it is damaged or of another kind (such as a .pth of PyTorch or an "
            ".npy, whatever it is called): give the published .npz."
        )
    return {name.replace("fc.", "head."): torch.from_numpy(value) for name, value in found.items()}


def load_published_ldmlr(path: str | Path, num_classes: int) -> ResNet:
    """The published LDMLR ResNet-32 (one array per state entry in an .npz), in evaluation mode.

    It takes true RGB. The CIFAR-10 encoder was trained on images with red and blue swapped (CIFAR-100's was not), so the weights
    of its first layer, its mean and its deviation change places here.
    Raises CourseError if the file cannot be read as an .npz (a .pth or .npy cannot), does not hold this network for
    `num_classes` classes, or holds weights that are not finite numbers.
    """
    swapped, name = num_classes == 10, Path(path).name
    turned = slice(None, None, -1 if swapped else 1)
    model = ResNet(num_classes, mean=CIFAR_MEAN[turned], std=CIFAR_STD[turned])
    state = _arrays(path)
    if "head.weight" not in state:
        raise CourseError(
            f"{name} has no entry 'fc.weight', only such as {next(iter(state), 'none')!r}: it is no ResNet-32 as published, or "
            "its names have a prefix ('module.', 'model.') that must be taken off."
        )
    if len(shape := state["head.weight"].shape) == 2 and shape[0] != num_classes:
        raise CourseError(
            f"{name} holds an encoder for {shape[0]} classes, not {num_classes}: load it with num_classes={shape[0]}."
        )
    # The published file leaves out the batch counters of BatchNorm, which evaluation does not use.
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    load_into(model, counters | state, name)
    if strange := [entry for entry, value in model.state_dict().items() if not value.isfinite().all()]:
        raise CourseError(
            f"{name} holds weights that are not finite numbers, in {strange[0]!r}: fetch or copy it again."
        )
    if swapped:
        model.conv1.weight.data = model.conv1.weight.data.flip(1)
    return model.eval()
