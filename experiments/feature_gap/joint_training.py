"""An encoder whose head is fed added features while it trains, instead of a head retrained afterwards.

The features of an encoder under training move, so the source of the added ones is fitted again every few epochs.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.data.datasets import ImageData
from lt_utils.errors import CourseError
from lt_utils.features.augmentation import Source, topup_amounts
from lt_utils.models.resnet import ResNet, encode
from lt_utils.recognition.encoders import build_encoder, encoder_loss
from lt_utils.training.devices import device
from lt_utils.training.loop import step_now, steps_per_epoch, train_to_end
from lt_utils.training.lr_schedules import cosine


class JointModel(nn.Module):
    """An encoder with a pool of features [M, D] and labels [M]; as buffers they are part of every checkpoint."""

    def __init__(self, encoder: ResNet, pool: int) -> None:
        super().__init__()
        self.encoder = encoder
        where = encoder.conv1.weight.device
        self.register_buffer("features", torch.zeros(pool, encoder.dim, device=where))
        self.register_buffer("labels", torch.zeros(pool, dtype=torch.long, device=where))


@torch.no_grad()
def refresh_pool(model: JointModel, data: ImageData, source: Source, amounts: Sequence[int], seed: int) -> None:
    """Fit `source` on the current features of the training images and fill the pool with what it draws.

    In full precision, although this happens inside a training step, which may not be. The random generators are left as
    they were.
    """
    where = model.features.device
    with torch.random.fork_rng(), torch.autocast(where.type, enabled=False):
        real, _ = encode(model.encoder, data.train_images)
        with torch.enable_grad():  # a source may be a network that is trained
            features, labels = source(real, data.train_labels, amounts, seed=seed)
    model.features.copy_(features)
    model.labels.copy_(labels)


def joint_loss(
    model: JointModel, index: Tensor, real_loss: Callable[[nn.Module, Tensor], Tensor], images: int
) -> Tensor:
    """Loss of a batch of real images at `index` [B], plus that of B M / N features of the pool through the head alone:

        CE(real) + M / N CE(added)

    With a pool of M that fills up the classes of N images, all classes then weigh alike. The added features are numbers,
    so their gradient ends at the head.
    """
    loss = real_loss(model.encoder, index)
    ratio = len(model.labels) / images
    drawn = torch.randint(len(model.labels), (max(1, round(ratio * len(index))),), device=index.device)
    return loss + ratio * F.cross_entropy(model.encoder.head(model.features[drawn]), model.labels[drawn])


def train_jointly(
    data: ImageData,
    source: Source,
    *,
    epochs: int,
    every: int = 3,
    method: str = "ce-mixup",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    depth: int = 8,
    batch_size: int = 64,
    lr: float = 0.1,
    weight_decay: float = 5e-4,
    name: str = "",
) -> ResNet:
    """Train an encoder as `encoders.train_encoder` does, its head fed with features that fill up the classes.

    Args:
        source: fitted anew on the features of the training images, and drawn from, after every `every` epochs; until
            then the encoder trains on images alone. It may be a control of `sources` or a generator that it trains.
        name: of the source; a checkpoint must agree in it.

    The head has seen balanced classes: test its logits as they are. Raises CourseError if `every` is below 1 or leaves no
    epoch with added features, or if the classes are balanced already.
    """
    if not 1 <= every < epochs:
        raise CourseError(f"The source is fitted after every {every} of {epochs} epochs: take 1 or more, but fewer.")
    data = data.to(device())
    n, amounts = len(data.train_labels), topup_amounts(data.counts)
    if not sum(amounts):
        raise CourseError("All classes have the same number of images: there is nothing to fill up.")
    model = JointModel(build_encoder(data, method, depth, seed=seed), sum(amounts))
    real_loss = encoder_loss(method, data, data.size // 8)
    in_epoch = steps_per_epoch(n, batch_size)

    def loss(model: JointModel, index: Tensor) -> Tensor:
        epoch, place = divmod(step_now(seed), in_epoch)
        if epoch < every:
            return real_loss(model.encoder, index)
        if place == 0 and epoch % every == 0:
            refresh_pool(model, data, source, amounts, seed * 1000 + epoch)
        return joint_loss(model, index, real_loss, n)

    parameters = model.encoder.parameters()
    return train_to_end(
        model,
        loss,
        title=f"{name or method} in training, seed {seed}",
        n=n,
        steps=epochs * in_epoch,
        batch_size=batch_size,
        optimizer=torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=weight_decay, nesterov=True),
        lr_schedule=cosine,
        seed=seed,
        checkpoint=checkpoint,
        recipe=f"{method}, head fed by {name or 'a source'} every {every} epochs, {data.key}",
    ).encoder
