"""Learning without labels: rotation prediction, MoCo v2, and the loss of Barlow Twins.

Each training gives a network whose body, everything but the head, may start a supervised training:
`train_encoder(..., start=network)`.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.data.augmentation import random_crop_flip, two_crops, unit
from lt_utils.data.datasets import ImageData
from lt_utils.errors import CourseError
from lt_utils.models.resnet import ResNet, encode
from lt_utils.recognition.encoders import build_encoder
from lt_utils.training.devices import device
from lt_utils.training.loop import steps_per_epoch, train_to_end
from lt_utils.training.lr_schedules import cosine, late_multistep

TURNS = 4  # by 0, 90, 180 and 270 degrees


# ------------------------------------------------------------------------------------------------------------ rotation
def turn(images: Tensor, turns: Tensor) -> Tensor:
    """Each square image [B, C, H, W] turned anticlockwise by its number of quarter turns [B], 0 to 3; the same type."""
    every = torch.stack([images.rot90(k, (2, 3)) for k in range(TURNS)])  # [4, B, C, H, W]
    return every[turns, torch.arange(len(images), device=images.device)]


def rotation_batch(images: Tensor) -> tuple[Tensor, Tensor]:
    """Images [B, C, H, W], one turn for each, and the turns int64 [B], which are the labels of the pretext task.

    Every turn comes equally often in the batch, in random order; if four does not divide B, the first ones once more.
    """
    turns = torch.randperm(len(images), device=images.device) % TURNS
    return turn(images, turns), turns


def rotation_loss(data: ImageData, pad: int = 4) -> Callable[[nn.Module, Tensor], Tensor]:
    """loss(model, index) of predicting the rotation (Gidaris et al. 2018, arXiv 1803.07728) on device-resident data.

    Cross-entropy of four logits, one for each turn; the images are cropped and mirrored before they are turned.
    """

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        images, turns = rotation_batch(random_crop_flip(data.train_images[index], pad))
        return F.cross_entropy(model(unit(images)), turns)

    return loss


def train_rotation(
    data: ImageData,
    *,
    epochs: int,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    depth: int = 8,
    width: int = 16,
    batch_size: int = 64,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    lr_schedule=late_multistep,
    title: str = "",
) -> ResNet:
    """Train a network to say how each training image was turned; its labels are not used. In evaluation mode, with four logits.

    SGD with momentum 0.9, as `train_encoder`. Resumes from its checkpoint exactly.
    """
    data = data.to(device())
    model = build_encoder(data, "ce", depth, width, seed, num_classes=TURNS)
    n = len(data.train_images)
    return train_to_end(
        model,
        rotation_loss(data, data.size // 8),
        title=title or f"rotation, seed {seed}",
        n=n,
        steps=epochs * steps_per_epoch(n, batch_size),
        batch_size=batch_size,
        optimizer=torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay, nesterov=True),
        lr_schedule=lr_schedule,
        seed=seed,
        checkpoint=checkpoint,
        recipe=f"rotation, {data.key}",
    )


def rotation_accuracy(model: ResNet, images: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """How often, in percent, the turn of the images of each class is recognised, float64 [C]; a guess is right in 25 %.

    images uint8 [N, C, H, W], each shown in all four turns; labels [N]: their classes.
    """
    labels = labels.to(model.conv1.weight.device)
    found = [encode(model, images.rot90(k, (2, 3)))[1].argmax(1) == k for k in range(TURNS)]
    share = torch.stack(found).double().mean(0)  # [N], of the four turns
    right, total = (torch.bincount(labels, weights, num_classes).cpu() for weights in (share, torch.ones_like(share)))
    return 100 * right / total


# ------------------------------------------------------------------------------------------------------------- MoCo v2
def info_nce(queries: Tensor, keys: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """InfoNCE (van den Oord et al. 2018), mean over the batch: which key is the other view of my image?

    queries, keys [B, D]: two views of the same images, all of length 1; queue [K, D]: keys of other images. A cross-entropy of
    1 + K cosines / temperature, of which the first is right: log(1 + K) if all are equal. In float32 also under autocast.
    """
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys, queue = (x if x.dtype == torch.float64 else x.float() for x in (queries, keys, queue))
        own = (queries * keys).sum(1, keepdim=True)  # [B, 1]
        logits = torch.cat([own, queries @ queue.T], 1) / temperature  # [B, 1 + K]
        return F.cross_entropy(logits, logits.new_zeros(len(logits), dtype=torch.long))


class MoCo(nn.Module):
    """Momentum contrast, version 2 (He et al. 2020, arXiv 1911.05722; Chen et al. 2020, arXiv 2003.04297).

    Two networks of one shape: the encoder is trained; the key encoder follows it slowly,
    key weights = momentum * key weights + (1 - momentum) * weights. A queue keeps the last K keys as negatives. Key encoder and
    queue are a submodule and a buffer, so that a checkpoint holds them and a resumed training is the uninterrupted one.

    Its authors shuffle the batch over several GPUs, because each normalises its own part of it. On one device every image is
    normalised with the whole batch, in whatever order, so there is nothing to shuffle.

    Args:
        encoder: the network to train; its head is not used.
        dim: length of a key. queue: keys K that are kept. momentum: of the key encoder. temperature: of `info_nce`.

    Raises CourseError for a queue below 1 and a momentum outside 0..1.
    """

    by_rows = False  # of several processes (training/ranks.py) each computes the whole

    def __init__(
        self, encoder: ResNet, dim: int = 64, queue: int = 1024, momentum: float = 0.99, temperature: float = 0.2
    ) -> None:
        super().__init__()
        if queue < 1 or not 0 <= momentum <= 1:
            raise CourseError(
                f"MoCo needs a queue of at least 1 key and a momentum from 0 to 1, not {queue} and {momentum}."
            )
        self.momentum, self.temperature = momentum, temperature
        self.encoder = encoder
        self.project = nn.Sequential(nn.Linear(encoder.dim, encoder.dim), nn.ReLU(), nn.Linear(encoder.dim, dim))
        self.key_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.key_project = copy.deepcopy(self.project).requires_grad_(False)
        self.register_buffer("queue", F.normalize(torch.randn(queue, dim), dim=1))
        self.register_buffer("oldest", torch.zeros((), dtype=torch.long))  # row that is overwritten next

    def queries(self, images: Tensor) -> Tensor:
        """Queries [B, dim], each of length 1, of images [B, C, H, W] in 0..1."""
        return F.normalize(self.project(self.encoder.features(images)).float(), dim=1)

    @torch.no_grad()
    def keys(self, images: Tensor) -> Tensor:
        """Keys [B, dim], each of length 1, of images [B, C, H, W] in 0..1: through the key encoder, without a gradient."""
        return F.normalize(self.key_project(self.key_encoder.features(images)).float(), dim=1)

    @torch.no_grad()
    def follow(self) -> None:
        """One step of the key encoder towards the encoder."""
        pairs = ((self.key_encoder, self.encoder), (self.key_project, self.project))
        for slow, fast in pairs:
            torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), 1 - self.momentum)

    @torch.no_grad()
    def enqueue(self, keys: Tensor) -> None:
        """Put keys [B, dim] into the queue in the place of the oldest; of more than K keys the last K stay."""
        size = len(self.queue)
        places = (self.oldest + torch.arange(len(keys), device=keys.device)) % size
        self.queue[places[-size:]] = keys[-size:]
        self.oldest.copy_((self.oldest + len(keys)) % size)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """The loss of one training step on two views [B, C, H, W] in 0..1 of the same images; moves key encoder and queue on."""
        queries = self.queries(first)
        self.follow()
        keys = self.keys(second)
        loss = info_nce(
            queries, keys, self.queue.clone(), self.temperature
        )  # a copy: the gradient needs the queue of now
        self.enqueue(keys)
        return loss


def train_moco(
    data: ImageData,
    *,
    epochs: int,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    depth: int = 8,
    width: int = 16,
    dim: int = 64,
    queue: int = 1024,
    momentum: float = 0.99,
    temperature: float = 0.2,
    batch_size: int = 64,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    lr_schedule=cosine,
    title: str = "",
) -> MoCo:
    """Train an encoder by MoCo v2 on the training images, without their labels; `.encoder` of the result is what was learned.

    SGD with momentum 0.9. Resumes from its checkpoint exactly. Raises CourseError for a queue that holds a whole epoch or more:
    then an image would meet its own key of the epoch before among the negatives.
    """
    data = data.to(device())
    n = len(data.train_images)
    if queue >= n:
        raise CourseError(
            f"A queue of {queue} keys would hold all of the {n} training images, and every image would meet itself among the "
            "negatives: give a smaller queue."
        )
    encoder = build_encoder(data, "ce", depth, width, seed)  # seeds what is drawn next, too: projection and queue
    model = MoCo(encoder, dim, queue, momentum, temperature).to(device())

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        first, second = two_crops(data.train_images[index])
        return model(unit(first), unit(second))

    weights = [weight for weight in model.parameters() if weight.requires_grad]
    return train_to_end(
        model,
        loss,
        title=title or f"MoCo v2, seed {seed}",
        n=n,
        steps=epochs * steps_per_epoch(n, batch_size),
        batch_size=batch_size,
        optimizer=torch.optim.SGD(weights, lr, momentum=0.9, weight_decay=weight_decay),
        lr_schedule=lr_schedule,
        seed=seed,
        checkpoint=checkpoint,
        recipe=f"moco, queue {queue}, momentum {momentum}, temperature {temperature}, {data.key}",
    )


# -------------------------------------------------------------------------------------------------------- Barlow Twins
def barlow_twins(first: Tensor, second: Tensor, weight: float = 5e-3) -> Tensor:
    """The loss of Barlow Twins (Zbontar et al. 2021, arXiv 2103.03230) of two views' outputs [B, D], one number.

    Each column is standardised over the batch; R [D, D] is then the correlation of the columns of the two views. The loss is
    sum_i (1 - R_ii)^2 + weight * sum_(i != j) R_ij^2: each column the same in both views, and none the repeat of another.
    """
    first, second = ((z - z.mean(0)) / (z.var(0, correction=0) + 1e-5).sqrt() for z in (first, second))
    correlation = first.T @ second / len(first)  # [D, D]
    same = correlation.diagonal()
    return (1 - same).square().sum() + weight * (correlation.square().sum() - same.square().sum())
