"""Extractors: networks that turn images into the features, and class probabilities, on which generated images are measured.

The names FID, IS and KID belong to one network, the Inception of 2015, and to one weight file. Every other network gives
numbers of its own, which compare with nothing else; so their names say which network measured: fd[judge@1a2b3c4d].
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lt_utils.data import npz
from lt_utils.errors import CourseError
from lt_utils.hashing import fingerprint
from lt_utils.models.inception import CLASSES, FEATURES, PIXELS, Inception
from lt_utils.models.resnet import ResNet
from lt_utils.training.checkpoints import load_into
from lt_utils.training.devices import device

INCEPTION_FILE = "pt_inception-2015-12-05-6726825d.pth"
INCEPTION_SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
# What a measure is called with the original Inception, and with any other network.
NAMES = {
    "distance": ("fid", "fd"),
    "kernel": ("kid", "kd"),
    "score": ("is", "class_score"),
    "f8": ("f8", "f8"),
    "f1/8": ("f1/8", "f1/8"),
    "precision": ("precision_k5", "precision_k5"),
    "recall": ("recall_k5", "recall_k5"),
}


@dataclass(frozen=True)
class Extractor:
    """A network for measuring, with its identity.

    network: images [B, C, H, W] in 0..1 -> features [B, D] and probabilities [B, K]. name: "inception-tf2015" or
    "encoder:<name>". sha256: of the weight file, or of the weights. record: name, sha256, resize rule, input range and
    dimension, for the record of a run.
    """

    name: str
    sha256: str
    network: Callable[[Tensor], tuple[Tensor, Tensor]] = field(repr=False)
    record: dict = field(default_factory=dict)

    @property
    def original(self) -> bool:
        """Whether this is the Inception to which FID, IS and KID owe their names."""
        return self.sha256 == INCEPTION_SHA256

    def metric(self, kind: str) -> str:
        """The printed name of a measure (a key of NAMES): "fid", or "fd[judge@1a2b3c4d]"."""
        published, general = NAMES[kind]
        return published if self.original else f"{general}[{self.name.removeprefix('encoder:')}@{self.sha256[:8]}]"

    @torch.no_grad()
    def __call__(self, images: Tensor, batch_size: int = 250) -> tuple[Tensor, Tensor]:
        """Features float32 [N, D] and probabilities float32 [N, K], on the CPU, of images [N, C, H, W].

        images: uint8 in 0..255, or float in -1..1 (as generated, not rounded to bytes). Grey images count as RGB where
        the network wants three channels.
        """
        features, probabilities = [], []
        for part in images.split(batch_size):
            part = part.to(device())
            part = part.float() / 255 if part.dtype == torch.uint8 else part.float().add(1).div(2)
            if part.shape[1] == 1 and self.record.get("channels") == 3:
                part = part.expand(-1, 3, -1, -1)
            for kept, made in zip((features, probabilities), self.network(part), strict=True):
                kept.append(made.float().cpu())
        return torch.cat(features), torch.cat(probabilities)


def inception_extractor(path: str | Path, sha256: str = INCEPTION_SHA256) -> Extractor:
    """The original Inception from its weight file, on the accelerator (or CPU).

    Args:
        path: the file pt_inception-2015-12-05-6726825d.pth, which the pytorch-fid project publishes (about 96 MB).
        sha256: what the file must have; with any other file than the original the names of the measures say so.

    Raises CourseError if the file is missing, has another SHA-256, or holds another network. Nothing in it is executed.
    """
    path = Path(path)
    if not path.is_file():
        raise CourseError(
            f"There is no {path}: FID, IS and KID need the file {INCEPTION_FILE} of the pytorch-fid project; "
            "without it, measure with an encoder of your own (encoder_extractor)."
        )
    found = npz.sha256(path)
    if found != sha256:
        raise CourseError(
            f"{path.name} is not the expected weight file: its SHA-256 starts with {found[:8]}, not {sha256[:8]}; "
            "fetch it again."
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a file that is no checkpoint
        raise CourseError(
            f"{path.name} cannot be read as a weight file ({type(error).__name__}): fetch it again."
        ) from None
    model = Inception()
    # Batch counters, which evaluation does not use, are in some versions of the file and not in others.
    counters = {name: value for name, value in model.state_dict().items() if name.endswith("num_batches_tracked")}
    load_into(model, counters | dict(state), path.name)
    record = {"resize": f"bilinear to {PIXELS} x {PIXELS}, no antialias", "input": "-1..1", "dimension": FEATURES}
    return _extractor("inception-tf2015", found, model.to(device()), record | {"channels": 3, "classes": CLASSES})


def encoder_extractor(model: ResNet, name: str) -> Extractor:
    """An encoder of the course as extractor; `name` is what the measures are called after, for example "judge".

    Train it on a balanced set (`recognition.train_judge`): one that was trained on the long tail is blind there.
    """

    def network(images: Tensor) -> tuple[Tensor, Tensor]:
        features = model.features(images)  # [B, D]
        return features, model.head(features).softmax(1)

    model.to(device()).eval()
    record = {"resize": "none", "input": "0..1", "dimension": model.dim, "channels": model.config["channels"]}
    return _extractor(f"encoder:{name}", fingerprint(model), network, record | {"classes": model.config["num_classes"]})


def _extractor(name: str, sha256: str, network: Callable, record: dict) -> Extractor:
    return Extractor(name, sha256, network, {"name": name, "sha256": sha256, **record})
