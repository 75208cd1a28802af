"""Class-balancing diffusion (CBDM, Qin et al. 2023): the loss, the four ways to train with it, and the published runs.

A network trained on a long tail draws poor and uniform images of rare classes. CBDM adds a penalty: the noise that is
predicted under the true label y should agree with the noise predicted under a second, random label y'. With
e = eps(x_t, t, y), e' = eps(x_t, t, y'), the weight w = tau t / T and stop-gradient sg,

    L = mean (e - eps)^2 + mean w (e - sg e')^2 + 1/4 mean w (sg e - e')^2
        noise              regular                    commitment

It lends what the head has learned to the tail. As far as its README shows, the program named in TDFA's README ("LTDM")
is this same objective.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lt_utils.data.augmentation import random_flip, to_signed
from lt_utils.data.datasets import ImageData
from lt_utils.data.edm_augmentation import edm_augment
from lt_utils.diffusion.losses import drop_labels, estimates, target
from lt_utils.diffusion.schedules import Schedule
from lt_utils.errors import CourseError, choose
from lt_utils.hashing import fingerprint
from lt_utils.models.unet import UNet
from lt_utils.training.devices import device
from lt_utils.training.ema import EMA
from lt_utils.training.launch import on_ranks
from lt_utils.training.loop import compile_for_training, train_to_end
from lt_utils.training.lr_schedules import linear_warmup


class Mechanism(NamedTuple):
    """How a generator is trained, and the settings of the published run (CIFAR-100-LT, imbalance factor 100)."""

    balanced: bool  # with the class-balancing terms
    augmented: bool  # with EDM's augmentation instead of the mirror image alone
    prior: str  # where the second label comes from: "train" or "uniform"
    batch_size: int
    steps: int  # when the published model was evaluated; additional steps, for the fine-tuned one
    omega: float  # its guidance


MECHANISMS = {
    "regular": Mechanism(False, False, "train", 64, 200_000, 0.8),
    "balanced": Mechanism(True, False, "train", 48, 300_000, 1.6),
    "balanced-augmented": Mechanism(True, True, "train", 48, 500_000, 1.4),
    # Starts from the average of the regular run's 200,000 steps, with a fresh optimiser and a fresh warm-up.
    "balanced-finetuned": Mechanism(True, False, "uniform", 48, 50_000, 2.0),
}


class Terms(NamedTuple):
    """The loss (scalars): total = noise + regular + gamma * commitment."""

    total: Tensor
    noise: Tensor
    regular: Tensor
    commitment: Tensor


def label_prior(prior: str | Sequence[float], counts: Sequence[int]) -> Tensor:
    """Probabilities float32 [C] of the second label y': "train" (class frequencies `counts` [C]), "uniform", or any vector.

    Raises CourseError for another word, or a vector that is not C numbers of at least 0 with a positive sum.
    """
    if isinstance(prior, str):
        choose("prior", prior, ("train", "uniform"))
        weights = torch.tensor([float(n) for n in counts]) if prior == "train" else torch.ones(len(counts))
    else:
        weights = torch.as_tensor(prior, dtype=torch.float32).cpu()
    if weights.shape != (len(counts),) or not (weights >= 0).all() or not 0 < weights.sum() < float("inf"):
        raise CourseError(
            f"A label prior is {len(counts)} numbers of at least 0, one per class, and not all of them 0."
        )
    return weights / weights.sum()


def class_balancing_loss(
    denoiser: nn.Module,
    schedule: Schedule,
    x0: Tensor,
    labels: Tensor,
    prior: Tensor | None = None,
    *,
    tau: float = 1.0,
    gamma: float = 0.25,
    objective: str = "eps",
    label_dropout: float = 0.1,
    augmentation: Tensor | None = None,
) -> Terms:
    """The loss of CBDM on x0 [B, ...] with labels [B] at random steps; without a prior, the regular diffusion loss.

    Args:
        prior: probabilities [C] of y', on the device of x0 (`label_prior`); y' may equal y. None: regular training.
        tau: strength of the two class-balancing terms. The paper's tau = 0.001 counts t to 1000; this one is t / T, so
            it is 1.
        gamma: weight of the commitment term.
        objective: what the network predicts; the class-balancing terms always compare noise.
        label_dropout: probability that a label is dropped, of each sample, which then has no class-balancing terms.
        augmentation: the nine numbers [B, 9] of `edm_augment`, if x0 was augmented. They stay when a label is dropped.

    Both labels go through the network as one batch of 2B, each half with its own dropout masks.
    """
    if prior is not None and denoiser.no_label == 0:
        raise CourseError("Class-balancing needs labels: build the network with the number of classes, not 0.")
    if prior is not None and len(prior) != (known := denoiser.no_label):
        raise CourseError(f"The prior has {len(prior)} classes, the network {known}: give one for each class.")
    t = torch.randint(len(schedule), (len(x0),), device=x0.device)
    eps = torch.randn_like(x0)
    a, s = schedule.scales(t, x0)  # [B, 1, ...]
    x_t = a * x0 + s * eps
    shown = drop_labels(labels, label_dropout, denoiser.no_label)
    inputs = [x_t, t, shown] if augmentation is None else [x_t, t, shown, augmentation]
    if prior is not None:
        other = torch.multinomial(prior, len(labels), replacement=True)  # y' [B]
        seconds = [x_t, t, other, *inputs[3:]]
        inputs = [torch.cat(pair) for pair in zip(inputs, seconds, strict=True)]  # [2B, ...]
    outputs = denoiser(*inputs).float().split(len(x0))  # one or two of [B, ...]
    noise = (outputs[0] - target(objective, x0, eps, a, s)).square().mean()
    if prior is None:
        return Terms(noise, noise, torch.zeros_like(noise), torch.zeros_like(noise))
    first, second = (estimates(objective, output, x_t, a, s)[1] for output in outputs)
    weight = (tau * t / len(schedule) * (shown != denoiser.no_label)).view(-1, *[1] * (x0.ndim - 1))  # w [B, 1, ...]
    regular = (weight * (first - second.detach()).square()).mean()
    commitment = (weight * (first.detach() - second).square()).mean()
    return Terms(noise + regular + gamma * commitment, noise, regular, commitment)


@on_ranks
def train_generator(
    start: UNet,
    data: ImageData,
    schedule: Schedule,
    mechanism: str = "regular",
    *,
    steps: int,
    batch_size: int = 64,
    lr: float = 2e-4,
    lr_schedule: Callable[[int, int], float] | None = None,
    ema_decay: float = 0.9999,
    tau: float = 1.0,
    prior: str | Sequence[float] | None = None,
    label_dropout: float = 0.1,
    objective: str = "eps",
    seed: int = 0,
    checkpoint: str | Path | None = None,
    save_every: float = 20.0,
    precision: str = "auto",
    compiled: bool = False,
    title: str = "",
) -> UNet:
    """Train a copy of `start` on the training images of `data` by one of MECHANISMS; its moving average, for sampling.

    Args:
        start: a fresh network; for "balanced-finetuned" the average of a regular run. It stays as it is.
        steps: optimiser steps; for "balanced-finetuned" additional ones, after those `start` was trained for.
        lr, lr_schedule: Adam's learning rate and its factor at each step; default: a linear rise over 5,000 steps, then constant.
        ema_decay: of the moving average, which has a warm-up (see EMA); the published one has none.
        tau, label_dropout, objective: as in `class_balancing_loss`.
        prior: where y' comes from (see `label_prior`); default: as the mechanism says.
        seed, checkpoint, save_every, precision: as in `loop.train`; training goes on from the checkpoint.
        compiled: through torch.compile; worth its minute in runs of an hour. Of several processes none does so.

    Batches follow the class frequencies of `data`. Gradients are clipped to norm 1.
    Raises CourseError for an unknown mechanism, numbers out of range, or a network that does not take what the mechanism needs.
    """
    chosen = MECHANISMS[choose("mechanism", mechanism, MECHANISMS)]
    if not (0 <= label_dropout <= 1 and tau >= 0 and 0 <= ema_decay <= 1):
        raise CourseError(
            f"label_dropout and ema_decay lie in 0..1, and tau is at least 0: got {label_dropout}, {ema_decay} and {tau}."
        )
    if chosen.augmented and not start.config["augmentation"]:
        raise CourseError("This mechanism tells the network how images were augmented: build it with augmentation=9.")
    source = prior if prior is not None else chosen.prior
    probabilities = label_prior(source, data.counts).to(device()) if chosen.balanced else None
    data = data.to(device())
    model = copy.deepcopy(start).requires_grad_(True).to(device(), memory_format=torch.channels_last)
    forward = compile_for_training(model) if compiled else model

    def loss(_: nn.Module, index: Tensor) -> Tensor:
        images, labels = data.train_images[index], data.train_labels[index]
        images = to_signed(images if chosen.augmented else random_flip(images))
        images, description = edm_augment(images) if chosen.augmented else (images, None)
        return class_balancing_loss(
            forward,
            schedule,
            images,
            labels if model.no_label else torch.zeros_like(labels),
            probabilities,
            tau=tau,
            objective=objective,
            label_dropout=label_dropout,
            augmentation=description,
        ).total

    # A checkpoint goes on only with the same training, which this text identifies.
    recipe = f"{mechanism}, {data.key}, {objective}, {schedule}, dropout {label_dropout:g} per sample"
    recipe += f", start {fingerprint(start)[:12]}"
    if chosen.balanced:
        recipe += f", tau {tau:g}, prior {source if isinstance(source, str) else probabilities.tolist()}"
    return train_to_end(
        model,
        loss,
        title=title or f"{mechanism}, seed {seed}",
        n=len(data.train_labels),
        steps=steps,
        batch_size=batch_size,
        optimizer=torch.optim.Adam(model.parameters(), lr),
        lr_schedule=lr_schedule or linear_warmup(5000),
        seed=seed,
        ema=EMA(model, ema_decay),
        grad_clip=1.0,
        precision=precision,
        checkpoint=checkpoint,
        save_every=save_every,
        recipe=recipe,
    )
