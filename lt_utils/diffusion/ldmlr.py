"""LDMLR's first two stages as published (Han et al. 2024): feature extraction, and the 1-D U-Net diffusion on features.

The course's own version of them is lt_utils.features and lt_utils.diffusion.feature_diffusion; this one shows what the published
program does, beside it. Each of its known defects is a switch of `Defects`. All are off by default: then the method is
the published one, done right. Stage 3, the retraining, is lt_utils.features.retraining in both cases.
"""

import copy
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils import hashing
from lt_utils.data.augmentation import random_crop_flip, unit
from lt_utils.diffusion.generate import sample
from lt_utils.diffusion.schedules import Schedule, cosine_schedule
from lt_utils.errors import CourseError
from lt_utils.models.feature_denoisers import FeatureUNet
from lt_utils.models.resnet import ResNet
from lt_utils.training.ema import EMA
from lt_utils.training.loop import batch_of, step_now, steps_per_epoch, train_to_end


@dataclass(frozen=True)
class Defects:
    """What the published program does and should not. Numbers: the published CIFAR-10 encoder, imbalance factor 100.

    Stage 1 (`extract`); all three together move a feature by 42 % of its length (cosine 0.93), with little effect on
    the final accuracy:
        train_mode_bn: batch normalisation uses the statistics of each batch of 64, not the trained ones.
        lost_stem_relu: the ReLU after the stem is left out; alone it moves a feature by 13 % (cosine 0.99).
        augmented: one random crop and flip of each image, drawn once and kept, instead of the image.
    Stage 2 (`train_published`):
        clamp_range: features are taken to lie in 0..1 and samples are clamped to it, but 4 % of the real entries exceed
            1, and more than a third of those on CIFAR-100.
        unclipped_snr: the loss is weighted by the signal-to-noise ratio itself, from 24,221 at t = 0 down to 0.024 at
            t = 900: almost nothing is learned about noisy steps, where sampling begins. Off: at most 5 (min-SNR).
        no_positions: the network does not know which number of a feature is which. As its convolutions all have kernel
            size 1, it cannot tell 8 blocks of 8 numbers apart, and no training teaches it the mean of a class
            (FeatureUNet). Off: a learned vector for each position, 4,096 parameters more.
        sgd: plain SGD, rate 1e-4, no moving average, batches never reshuffled. With those above, after 3 epochs, not
            one generated feature is recognised as its class. Off: Adam, rate 1e-3, a moving average, reshuffled.
    """

    train_mode_bn: bool = False
    lost_stem_relu: bool = False
    augmented: bool = False
    clamp_range: bool = False
    unclipped_snr: bool = False
    no_positions: bool = False
    sgd: bool = False

    @classmethod
    def published(cls) -> "Defects":
        """All of them, as in the published program."""
        return cls(**{field.name: True for field in fields(cls)})

    @property
    def key(self) -> str:
        """The names of those that are on, joined by "+", or "none": for file names and tables."""
        return "+".join(name for name, on in asdict(self).items() if on) or "none"


NONE = Defects()


@torch.no_grad()
def extract(model: ResNet, images: Tensor, defects: Defects = NONE, *, seed: int = 0, batch_size: int = 64) -> Tensor:
    """Features [N, D] of uint8 images [N, channels, H, W], on the model's device; without defects those of `encode`.

    seed: decides which images share a batch, as in a shuffled loader, and how they are augmented. The features come in
    the order of the images, and the model stays as it is.
    """
    model = copy.deepcopy(model).eval()  # in training mode, batch normalisation would move its stored statistics
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train(defects.train_mode_bn)
    where = model.conv1.weight.device
    features = torch.empty(len(images), model.dim, device=where)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # all draws are on the CPU: a GPU's generator is left alone
        for index in order.split(batch_size):
            part = images[index.to(images.device)]
            if defects.augmented:
                part = random_crop_flip(part.cpu())  # drawn on the CPU: the same views on every device
            x = model.bn1(model.conv1((unit(part.to(where)) - model.mean) / model.std))
            x = x if defects.lost_stem_relu else F.relu(x)
            features[index.to(where)] = model.layer3(model.layer2(model.layer1(x))).mean(dim=(2, 3))
    return features


def loss_weights(schedule: Schedule, unclipped_snr: bool = False) -> Tensor:
    """Weight of the squared x_0 error at every step, float64 [T]: the SNR, at most 5 (min-SNR, Hang et al. 2023) or unclipped.

    The SNR weight makes the loss that of noise prediction (Ho et al. 2020, equation 14).
    """
    snr = schedule.snr()
    return snr if unclipped_snr else snr.clamp(max=5)


def published_loss(model: nn.Module, schedule: Schedule, x0: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Mean squared error of the x_0 estimate for x0 [B, D] with labels [B] at random steps t, times weights[t] of [T]."""
    t = torch.randint(len(schedule), (len(x0),), device=x0.device)
    output = model(schedule.add_noise(x0, t, torch.randn_like(x0)), t, labels)  # [B, D]
    return (weights[t] * (output - x0).square().mean(1)).mean()


@dataclass(frozen=True)
class PublishedGenerator:
    """A trained published diffusion, to be used like a feature_diffusion.FeatureGenerator."""

    model: FeatureUNet
    schedule: Schedule
    clamp_range: bool = False

    def generate(
        self,
        labels: Tensor,
        *,
        omega: float = 0.0,
        steps: int = 1000,
        eta: float = 1.0,
        seed: int = 0,
        batch_size: int = 1024,
    ) -> Tensor:
        """A feature for each of `labels` [N], [N, D].

        1000 steps with eta = 1 are ancestral sampling (samplers.ancestral), as published; the paper names DDIM: fewer
        steps, eta = 0. Raises CourseError if omega is not 0: no label was ever dropped, so there is nothing to guide by.
        """
        if omega:
            raise CourseError(
                "The published diffusion trains without dropping labels and cannot be guided: set omega = 0."
            )
        shape, clip = (self.model.config["dim"],), 1.0 if self.clamp_range else None
        if not len(labels):
            return next(self.model.parameters()).new_zeros(0, *shape)
        options = dict(objective="x0", steps=steps, eta=eta, clip=clip, seed=seed, batch_size=batch_size)
        return (sample(self.model, self.schedule, labels, shape, **options) + 1) / 2


def train_published(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    defects: Defects = NONE,
    *,
    steps: int,
    width: int = 64,
    mults: tuple[int, ...] = (1, 2, 4, 8),
    batch_size: int = 256,
    ema_decay: float = 0.99,
    seed: int = 0,
    checkpoint: str | Path | None = None,
    title: str = "",
) -> PublishedGenerator:
    """Train the published diffusion on features [N, D] with labels [N] and return its generator.

    x = 2 f - 1, x0 objective, cosine schedule with T = 1000, every label shown. The published length is 201 epochs: 9,849
    steps for 12,406 features. Goes on from `checkpoint` if that is there, as `loop.train` does. The generator holds
    the moving average (`ema_decay`), or with `sgd` the last weights.
    """
    schedule = cosine_schedule(1000)
    x0, weights = 2 * features - 1, loss_weights(schedule, defects.unclipped_snr).float().to(features.device)
    torch.manual_seed(seed)
    model = FeatureUNet(features.shape[1], num_classes, width, mults, not defects.no_positions).to(features.device)

    def loss(model: nn.Module, index: Tensor) -> Tensor:
        if defects.sgd:  # the batches of the first epoch again
            place = step_now(seed) % steps_per_epoch(len(x0), batch_size)
            index = batch_of(place, len(x0), batch_size, seed).to(x0.device)
        return published_loss(model, schedule, x0[index], labels[index], weights)

    optimizer = torch.optim.SGD(model.parameters(), 1e-4) if defects.sgd else torch.optim.Adam(model.parameters(), 1e-3)
    trained = train_to_end(
        model,
        loss,
        title=title or f"published feature diffusion, seed {seed}",
        unit="features",
        n=len(x0),
        steps=steps,
        batch_size=batch_size,
        optimizer=optimizer,
        seed=seed,
        ema=None if defects.sgd else EMA(model, ema_decay),
        precision="fp32",
        # Without the clamp, which is for sampling alone.
        recipe=f"published, {replace(defects, clamp_range=False).key}, features {hashing.data_key(features, labels)}",
        checkpoint=checkpoint,
    )
    return PublishedGenerator(trained, schedule, defects.clamp_range)
