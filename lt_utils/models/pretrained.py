"""Networks that come trained with the course, each with a card: `python -m experiments.pretrain NAME` makes it again.

A card, weights/NAME.json, says what was trained on which data, for how many steps and seconds, at which commit, and what it
measures. None of them has seen a test image. Networks of your own lie in `trained` beside the prepared data sets and are loaded
in the same way.
"""

from pathlib import Path

import torch
from torch import nn

from lt_utils.data.datasets import ImageData, data_folder
from lt_utils.data.npz import sha256
from lt_utils.errors import CourseError, choose
from lt_utils.files import read_json
from lt_utils.models.resnet import ResNet
from lt_utils.models.unet import UNet
from lt_utils.training.checkpoints import load_model

FOLDER = Path(__file__).parent / "weights"
KINDS = {"ResNet": ResNet, "UNet": UNet}


def pretrained_names(own: bool = False) -> list[str]:
    """The names of the networks that come with the course; own: then those of your own, beside the prepared data sets."""
    folders = (FOLDER, data_folder() / "trained") if own else (FOLDER,)
    return list(dict.fromkeys(path.stem for folder in folders for path in sorted(folder.glob("*.json"))))


def _folder_of(name: str) -> Path:
    """Where its card and weights lie: with the course, or else beside the prepared data sets."""
    if name in pretrained_names():
        return FOLDER
    own = data_folder() / "trained"
    try:
        choose("trained network", name, pretrained_names(own=True))
    except CourseError as error:
        raise CourseError(f"{error} `python -m experiments.pretrain NAME --folder {own}` trains another one.") from None
    return own


def pretrained_card(name: str) -> dict:
    """The card of a trained network, {} if it cannot be read. CourseError for an unknown name (lists the known ones)."""
    return read_json(_folder_of(name) / f"{name}.json") or {}


def load_pretrained(
    name: str, device: torch.device | str = "cpu", data: ImageData | None = None
) -> tuple[nn.Module, dict]:
    """A trained network in evaluation mode, and its card, which also holds its file's notes as "facts".

    Raises CourseError for an unknown name (lists the known ones), for a file that is not the one its card describes, and if
    `data` is given and the network was trained on another data set.
    """
    card, folder = pretrained_card(name), _folder_of(name)
    if data is not None and card.get("data", {}).get("key") != data.key:
        raise CourseError(
            f"{name} was trained on {card.get('data', {}).get('key')}, not on {data.key}: leave its name out, and a network "
            "is trained here."
        )
    path = folder / f"{name}.safetensors"
    if not path.exists() or sha256(path) != card.get("sha256"):
        raise CourseError(
            f"{path.name} is missing, damaged or not the file that {name}.json describes: fetch the repository again, or "
            f"train it with `python -m experiments.pretrain {name}`."
        )
    model, facts = load_model(path, KINDS[card["network"]["class"]], device)
    return model, card | {"facts": facts}
