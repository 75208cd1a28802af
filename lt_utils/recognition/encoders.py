"""How the course trains encoders: losses and augmentation by name, and the papers' recipes.

Each function loads the finished network if its checkpoint is there and trains it otherwise, resuming where it was.
"""

import inspect
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.data.augmentation import AUGMENTATIONS, unit
from lt_utils.data.datasets import ImageData
from lt_utils.errors import CourseError, choose
from lt_utils.models.pretrained import load_pretrained, pretrained_card, pretrained_names
from lt_utils.models.resnet import ResNet, channel_statistics
from lt_utils.recognition.losses import log_prior
from lt_utils.recognition.mixing import mixup, mixup_loss
from lt_utils.training.devices import device
from lt_utils.training.loop import train_to_end
from lt_utils.training.lr_schedules import cosine, multistep

# What each method changes: the head, and the loss on a batch. Label shift is not here: it corrects a trained network.
METHODS = ("ce", "ce-mixup", "logit-adjusted", "wcdas")

# Keywords of `train_encoder` at the size of the papers (a ResNet-32 of 0.46 million parameters).
RECIPES: dict[str, dict] = {
    # LDMLR's "CE", as its released checkpoints record it.
    "ce": dict(
        method="ce-mixup", depth=32, epochs=200, batch_size=64, lr=0.1, weight_decay=5e-4, lr_schedule=multistep
    ),
    # WCDAS, first stage; its second is `finetune_head(model, data, **HEAD_RECIPE)`.
    "wcdas": dict(
        method="wcdas",
        depth=32,
        epochs=700,
        batch_size=256,
        lr=0.2,
        weight_decay=1e-4,
        augment="autoaugment",
        nesterov=False,
    ),
    # A stronger single network. The highest published results of this size on CIFAR-LT share 400 epochs and AutoAugment
    # with Cutout (PaCo, NCL, ProCo, ConCutMix); the logit-adjusted loss and mixup are what this course knows to help
    # without a second view or a second network. Chosen from there beforehand, not tuned.
    "strong": dict(
        method="logit-adjusted",
        depth=32,
        epochs=400,
        batch_size=128,
        lr=0.1,
        weight_decay=5e-4,
        augment="autoaugment",
        alpha=0.5,
    ),
}


def mixing(method: str, alpha: float | None) -> float:
    """The mixup parameter of a method: `alpha` if given, else 0.5 for "ce-mixup" (LDMLR) and 0, no mixup, for others."""
    if alpha is not None and not 0 <= alpha < math.inf:
        raise CourseError(f"alpha, the strength of mixup, must be 0 (none) or above, not {alpha}.")
    return alpha if alpha is not None else 0.5 if method == "ce-mixup" else 0.0


def encoder_loss(
    method: str, data: ImageData, pad: int = 4, augment: str = "weak", alpha: float | None = None
) -> Callable[[nn.Module, Tensor], Tensor]:
    """loss(model, index) of an encoder method on device-resident data; CourseError lists the known methods.

    "ce": cross-entropy. "ce-mixup": the same on mixed images (LDMLR's "CE"). "logit-adjusted": the class prior inside
    the loss. "wcdas": cross-entropy on the logits of a WCDAS head. `augment` names a view in AUGMENTATIONS; `alpha` > 0
    mixes the images of any method with lambda ~ Beta(alpha, alpha) and its loss likewise, None leaves it to the method.
    """
    choose("method", method, METHODS)
    view, alpha = AUGMENTATIONS[choose("augmentation", augment, AUGMENTATIONS)], mixing(method, alpha)
    prior = log_prior(data.counts, data.train_labels.device) if method == "logit-adjusted" else None

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        images, labels = unit(view(data.train_images[index], pad)), data.train_labels[index]
        if alpha:
            images, partner, weight = mixup(images, alpha)
        logits = model(images)
        if prior is not None:
            logits = logits + prior
        return mixup_loss(logits, labels, partner, weight) if alpha else F.cross_entropy(logits, labels)

    return loss


def build_encoder(data: ImageData, method: str = "ce", depth: int = 8, width: int = 16, seed: int = 0) -> ResNet:
    """An untrained encoder for `data` on the accelerator (or CPU), its initial weights drawn with `seed`."""
    torch.manual_seed(seed)
    mean, std = channel_statistics(data.train_images)
    model = ResNet(data.num_classes, data.channels, depth, width, "wcdas" if method == "wcdas" else "linear", mean, std)
    return model.to(device(), memory_format=torch.channels_last)


def train_encoder(
    data: ImageData,
    method: str = "ce-mixup",
    *,
    epochs: int,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    depth: int = 8,
    width: int = 16,
    batch_size: int = 64,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    lr_schedule=cosine,
    augment: str = "weak",
    alpha: float | None = None,
    nesterov: bool = True,
    title: str = "",
) -> ResNet:
    """Train an encoder by `method` for `epochs` with SGD (momentum 0.9); the last epoch, in evaluation mode.

    augment: "weak", "autoaugment" (with Cutout) or "strong". alpha: of mixup; None: 0.5 for "ce-mixup", else no mixup.
    RECIPES holds the settings of the papers. Raises CourseError for an unknown method or augmentation.
    """
    data = data.to(device())
    model = build_encoder(data, method, depth, width, seed)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay, nesterov=nesterov)
    n = len(data.train_labels)
    recipe = f"{method}, augment {augment}, alpha {mixing(method, alpha):g}, nesterov {nesterov}, {data.key}"
    return train_to_end(
        model,
        encoder_loss(method, data, data.size // 8, augment, alpha),
        title=title or f"{method}, seed {seed}",
        n=n,
        steps=epochs * math.ceil(n / batch_size),
        batch_size=batch_size,
        optimizer=optimizer,
        lr_schedule=lr_schedule,
        seed=seed,
        checkpoint=checkpoint,
        recipe=recipe,
    )


def encoder_recipe(data: ImageData, method: str = "ce-mixup", **options) -> dict:
    """All that decides the weights that `train_encoder` would reach, its defaults included, as plain values for a card."""
    told = inspect.signature(train_encoder).bind(data, method, **options)
    told.apply_defaults()
    recipe = {name: value for name, value in told.arguments.items() if name not in ("data", "checkpoint", "title")}
    recipe |= {
        "alpha": mixing(method, recipe["alpha"]),
        "lr_schedule": recipe["lr_schedule"].__name__,
        "data": data.key,
    }
    return recipe


def pretrained_encoder(data: ImageData, method: str = "ce-mixup", **options) -> tuple[ResNet, dict] | None:
    """The encoder of the course, and its card, that was trained on these data by exactly this recipe, seed included; else None.

    method, options: those of `train_encoder`.
    """
    wanted = encoder_recipe(data, method, **options)
    for name in pretrained_names():
        if pretrained_card(name).get("recipe") == wanted:
            return load_pretrained(name, device())
    return None


def train_judge(
    data: ImageData, *, epochs: int = 8, depth: int = 8, seed: int = 1000, checkpoint: str | Path | None = None
) -> ResNet:
    """An independent classifier, trained on the balanced training set: it judges which class a generated image shows.

    It is never trained on a long tail, and its seed is none of the seeds that the notebooks compare.
    """
    return train_encoder(
        data, "ce", epochs=epochs, seed=seed, checkpoint=checkpoint, depth=depth, batch_size=128, lr=0.2, title="judge"
    )


def judge_for(data: ImageData, *, epochs: int = 8, depth: int = 8, checkpoint: str | Path | None = None) -> ResNet:
    """The judge of a balanced data set: the one that comes with the course if that is its data, else trained here.

    epochs, depth and checkpoint serve the training alone (see train_judge).
    """
    if pretrained_card("judge").get("data", {}).get("key") == data.key:
        return load_pretrained("judge", device())[0]
    return train_judge(data, epochs=epochs, depth=depth, checkpoint=checkpoint)
