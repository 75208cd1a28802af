"""The second of two stages: a frozen encoder whose head is trained on class-balanced batches."""

import copy
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from lt_utils.data.datasets import ImageData
from lt_utils.hashing import fingerprint
from lt_utils.models.resnet import ResNet
from lt_utils.recognition.encoders import encoder_loss
from lt_utils.training.devices import device
from lt_utils.training.loop import step_now, train_to_end
from lt_utils.training.lr_schedules import cosine

# Keywords of `finetune_head`: the second stage of WCDAS.
HEAD_RECIPE: dict = dict(epochs=30, batch_size=256, lr=0.005, weight_decay=1e-4, augment="autoaugment")


def class_aware_order(labels: Tensor, total: int, per_class: int = 4, seed: int = 0) -> Tensor:
    """Indices [total] in which every class comes equally often (class-aware sampling, Shen et al. 2016).

    Each round visits all classes in a new random order and takes `per_class` images of each. A class goes through all
    its images, in random order, before one of them comes again.
    """
    generator = torch.Generator().manual_seed(seed)
    labels = labels.cpu()
    present = labels.unique()
    rounds = math.ceil(total / (per_class * len(present)))
    picked = []
    for c in present:
        members = (labels == c).nonzero()[:, 0]
        times = math.ceil(rounds * per_class / len(members))
        order = torch.rand(times, len(members), generator=generator).argsort(1)
        picked.append(members[order].flatten()[: rounds * per_class].view(rounds, per_class))
    visits = torch.rand(rounds, len(present), generator=generator).argsort(1)
    by_round = torch.stack(picked, 1)  # [rounds, classes, per_class]
    return by_round.gather(1, visits[:, :, None].expand_as(by_round)).flatten()[:total]


def finetune_head(
    model: ResNet,
    data: ImageData,
    *,
    epochs: int = 30,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    batch_size: int = 256,
    lr: float = 0.005,
    weight_decay: float = 1e-4,
    augment: str = "autoaugment",
    title: str = "",
) -> ResNet:
    """The second stage of WCDAS: a copy of `model` whose head is trained on class-balanced batches, the rest frozen.

    SGD with momentum 0.9, a cosine from `lr` to 0, floor(N / batch_size) steps an epoch, 4 images of each class in turn.
    Batch normalisation is in evaluation mode; in the published program its statistics go on changing, although the network
    is called frozen. CourseError for an unknown augmentation, and for a checkpoint of another `model` or data.
    """
    data = data.to(device())
    before = fingerprint(model)  # the checkpoint holds the frozen part, too: it must not bring back another one
    model = copy.deepcopy(model).to(device()).requires_grad_(False)
    model.head.requires_grad_(True)
    in_epoch = max(1, len(data.train_labels) // batch_size)
    order = class_aware_order(data.train_labels, epochs * in_epoch * batch_size, seed=seed).view(-1, batch_size)
    cross_entropy = encoder_loss("ce", data, data.size // 8, augment)

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        model.eval()
        return cross_entropy(model, order[step_now(seed)].to(index.device))

    return train_to_end(
        model,
        loss,
        title=title or f"head, seed {seed}",
        n=in_epoch * batch_size,
        steps=epochs * in_epoch,
        batch_size=batch_size,
        optimizer=torch.optim.SGD(model.head.parameters(), lr, momentum=0.9, weight_decay=weight_decay),
        lr_schedule=cosine,
        seed=seed,
        checkpoint=checkpoint,
        recipe=f"head alone, augment {augment}, drifting_bn False, {data.key}, after {before[:12]}",
    ).requires_grad_(True)
