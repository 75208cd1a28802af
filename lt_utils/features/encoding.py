"""Images become features: what a frozen encoder makes of a data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from lt_utils import hashing
from lt_utils.data.datasets import ImageData, data_folder
from lt_utils.errors import CourseError
from lt_utils.models.pretrained import pretrained_names
from lt_utils.models.published import load_published_ldmlr
from lt_utils.models.resnet import ResNet, encode
from lt_utils.recognition import encoders
from lt_utils.runs.folder import Run
from lt_utils.training import checkpoints
from lt_utils.training.devices import device


@dataclass(frozen=True)
class Encoded:
    """A data set as a frozen encoder represents it: features [N, D] >= 0, labels [N] and logits [N, C], training and test.

    `head` is the encoder's own classifier, `counts` the training images of each class. `encoder` and `images`, where
    they are at hand, are the network and the data set: for other views of the images.
    """

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor
    test_logits: Tensor
    head: nn.Module
    counts: list[int]
    encoder: ResNet | None = None
    images: ImageData | None = None

    @property
    def dim(self) -> int:
        """Length D of a feature."""
        return self.train.shape[1]

    @property
    def num_classes(self) -> int:
        """Number of classes C."""
        return len(self.counts)

    @property
    def key(self) -> str:
        """Eight characters that change with the training features: for the names of checkpoints trained on them, so that
        a training is never continued on the features of another encoder."""
        return hashing.data_key(self.train)


def encode_data(model: ResNet, data: ImageData) -> Encoded:
    """Every image of `data` once through `model` in evaluation mode, without augmentation; all stays on its device."""
    where = next(model.parameters()).device
    data = data.to(where)
    train, _ = encode(model, data.train_images)
    test, logits = encode(model, data.test_images)
    return Encoded(train, data.train_labels, test, data.test_labels, logits, model.head, data.counts, model, data)


def encode_published(path: str | Path, data: ImageData) -> Encoded:
    """Features of the published LDMLR ResNet-32 in the .npz file `path`, for CIFAR-10 or CIFAR-100 in `data`.

    Raises CourseError if the images are not RGB, if the file cannot be read, or holds an encoder for another number of classes.
    A relative path is looked for from the working directory, then from the folder of prepared data sets.
    """
    path = path if Path(path).exists() else data_folder() / path
    if data.channels != 3:
        raise CourseError(
            f"The published encoders take RGB images; those of {data.name} have {data.channels} channel: take CIFAR."
        )
    model = load_published_ldmlr(path, data.num_classes).to(device(), memory_format=torch.channels_last)
    return encode_data(model, data)


def load_or_train(
    data: ImageData,
    seed: int,
    *,
    earlier: Run | None = None,
    published: str = "",
    checkpoint: str | Path | None = None,
    epochs: int = 20,
    depth: int = 8,
    method: str = "ce-mixup",
) -> tuple[Encoded, str]:
    """Features of `data` by the encoder of this seed, and a sentence that says where the encoder came from.

    In this order: the published encoder in the file `published`; the "CE" encoder of this seed in `earlier`, a finished
    run of notebook 03; one of the same recipe that comes with the course or that experiments.pretrain has trained; else one
    trained now by `method` (cross-entropy and mixup), `epochs` long, kept in `checkpoint`. `earlier` is left out for another
    method.
    """
    if published:
        return encode_published(published, data), f"published LDMLR encoder {Path(published).name}"
    if stored := _of_earlier(earlier, seed, method):
        model, _ = checkpoints.load_model(stored, ResNet, device())
        return encode_data(model, data), f"encoder of seed {seed} loaded from {earlier.name}"
    if found := encoders.pretrained_encoder(data, method, epochs=epochs, depth=depth, seed=seed):
        whose = "comes with the course" if (name := found[1]["name"]) in pretrained_names() else "was trained before"
        return encode_data(found[0], data), f"encoder of seed {seed}: {name}, which {whose}"
    model = encoders.train_encoder(
        data, method, epochs=epochs, depth=depth, seed=seed, checkpoint=checkpoint, title=f"encoder, seed {seed}"
    )
    here = f"encoder of seed {seed} trained here for {epochs} epochs"
    if method != "ce-mixup":
        return encode_data(model, data), f"{here} by {method}"
    why = "no run of notebook 03 was found" if earlier is None else f"{earlier.name} holds no CE encoder of this seed"
    return encode_data(model, data), f"{here}: {why}"


def load_or_train_each(
    data: ImageData, seeds: Sequence[int], *, share: bool = True, **same
) -> dict[int, tuple[Encoded, str]]:
    """`load_or_train` for several seeds; `same`: its arguments, but `checkpoint` maps a name to a path (Run.checkpoint).

    With `share`, a seed without an encoder of its own, in `earlier` or with the course, shares that of the first seed, and
    the sentence says so: then both hold one and the same Encoded. Without, one is trained for each of them.
    """
    checkpoint = same.pop("checkpoint", lambda name: None)  # a function: a path for each name
    found: dict[int, tuple[Encoded, str]] = {}
    for seed in seeds:
        if share and found and not _has_own(data, seed, **same):
            found[seed] = found[seeds[0]][0], f"shares the encoder of seed {seeds[0]}"
        else:
            found[seed] = load_or_train(data, seed, checkpoint=checkpoint(f"encoder-training-seed{seed}"), **same)
    return found


def _has_own(data, seed, earlier=None, published="", method="ce-mixup", epochs=20, depth=8) -> bool:
    """Whether `load_or_train` would find an encoder of this very seed."""
    if published:
        return False
    own = _of_earlier(earlier, seed, method)
    return bool(own or encoders.pretrained_encoder(data, method, epochs=epochs, depth=depth, seed=seed))


def _of_earlier(earlier: Run | None, seed: int, method: str) -> Path | None:
    """The file of the "CE" encoder of this seed in a run of notebook 03, if it is there and of this method."""
    if earlier is None or method != "ce-mixup":
        return None
    path = earlier.path / "checkpoints" / f"encoder-ce-seed{seed}.safetensors"
    return path if path.exists() else None
