"""Several encoders that differ in their seed alone, trained as one batched network: a small one leaves a GPU mostly idle.

The weights are stacked, [S, ...], and torch.func.vmap makes of S convolutions one with S groups. Each seed has its own
batches, augmentation and initial weights, and nothing is shared: each network becomes what `train_encoder` makes of its seed, but
for the rounding of sums. On a CPU, which one network fills, this is slower than one after the other.
"""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

from lt_utils.data.datasets import ImageData
from lt_utils.errors import CourseError
from lt_utils.models.resnet import ResNet
from lt_utils.recognition.encoders import build_encoder, compiled_encoder, encoder_loss, mixing
from lt_utils.recognition.sampling import StepLoss
from lt_utils.training.devices import device
from lt_utils.training.loop import (
    batch_of,
    seed_step,
    step_now,
    step_seed,
    steps_per_epoch,
    train_to_end,
)
from lt_utils.training.lr_schedules import cosine


class Together(nn.Module):
    """S networks of one architecture as one: images [B, S, C, H, W] -> logits [B, S, classes], each network its own images."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        weights, statistics = stack_module_state(list(models))
        self.weights = nn.ParameterDict({name.replace(".", "/"): weight for name, weight in weights.items()})
        self.names = list(statistics)
        for name, value in statistics.items():
            self.register_buffer(name.replace(".", "/"), value)
        self.architecture = (copy.deepcopy(models[0]),)  # in a tuple: its own weights are not this network's

    def parts(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Stacked weights and buffers by their names in one network."""
        weights = {name.replace("/", "."): weight for name, weight in self.weights.items()}
        return weights, {name: getattr(self, name.replace(".", "/")) for name in self.names}

    def forward(self, images: Tensor) -> Tensor:
        """Logits [B, S, classes]; in training mode the batch-norm statistics of each network move on."""
        network = self.architecture[0].train(self.training)
        run = torch.vmap(lambda weights, x: functional_call(network, weights, (x,)), in_dims=(0, 1), out_dims=1)
        return run(self.parts(), images)

    @torch.no_grad()
    def split(self) -> list[nn.Module]:
        """The networks, each by itself, in evaluation mode."""
        weights, statistics = self.parts()
        models = [copy.deepcopy(self.architecture[0]).eval() for _ in next(iter(weights.values()))]
        for number, model in enumerate(models):
            for name, own in [*model.named_parameters(), *model.named_buffers()]:
                own.copy_((weights | statistics)[name][number])
        return models


def joint_loss(
    losses: Sequence[StepLoss], seeds: Sequence[int], n: int, batch_size: int, forward: nn.Module
) -> StepLoss:
    """loss(model, index) of a `Together`: the sum over the networks, which leaves each its own gradient.

    losses: loss(model, index) of each seed. Each is called twice: first to see which images it draws, then with the logits of all
    networks at hand; that is cheap where a network is not. forward: the model, or its compiled form.
    """

    def loss(model: Together, _: Tensor) -> Tensor:
        k, where = step_now(seeds[0]), next(model.parameters()).device

        def each(answer: Callable[[int, Tensor], Tensor]) -> list[Tensor]:
            values = []
            for number, (one, seed) in enumerate(zip(losses, seeds, strict=True)):
                seed_step(where, step_seed(seed, k))
                index = batch_of(k, n, batch_size, seed).to(where, non_blocking=where.type == "cuda")
                values.append(one(lambda images, number=number: answer(number, images), index))
            return values

        drawn: list[Tensor] = []
        classes = model.parts()[0]["head.weight"].shape[1]

        def note(_: int, images: Tensor) -> Tensor:
            drawn.append(images)
            return images.new_zeros(len(images), classes)

        each(note)
        # Side by side as channels, so that the memory stays channels-last.
        logits = forward(torch.cat(drawn, dim=1).unflatten(1, (len(drawn), -1)))
        return torch.stack(each(lambda number, _: logits[:, number])).sum()

    return loss


def train_encoders(
    data: ImageData,
    method: str = "ce-mixup",
    *,
    seeds: Sequence[int],
    epochs: int,
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
    compiled: bool = False,
    title: str = "",
) -> list[ResNet]:
    """`train_encoder` for several seeds at once, as one batched network; encoders in the order of `seeds`, in evaluation mode.

    Arguments as there; `checkpoint` holds all of them. The loss that is told is the sum over the seeds. Raises CourseError for
    no seed or one given twice, and for an unknown method or augmentation.
    """
    seeds = list(seeds)
    if not seeds or len(set(seeds)) < len(seeds):
        raise CourseError(f"Give at least one seed, and each once, not {seeds}.")
    data, n = data.to(device()), len(data.train_labels)
    steps = epochs * steps_per_epoch(n, batch_size)
    model = Together([build_encoder(data, method, depth, width, seed) for seed in seeds])
    losses = [
        encoder_loss(method, data, data.size // 8, augment, alpha, steps=steps, batch_size=batch_size, seed=seed)
        for seed in seeds
    ]
    forward = compiled_encoder(model) if compiled else model
    train_to_end(
        model,
        joint_loss(losses, seeds, n, batch_size, forward),
        title=title or f"{method}, seeds {', '.join(map(str, seeds))}",
        n=n,
        steps=steps,
        batch_size=batch_size,
        optimizer=torch.optim.SGD(model.parameters(), lr, momentum=0.9, weight_decay=weight_decay, nesterov=nesterov),
        lr_schedule=lr_schedule,
        seed=seeds[0],
        checkpoint=checkpoint,
        recipe=f"{method}, augment {augment}, alpha {mixing(method, alpha):g}, nesterov {nesterov}, {data.key}, seeds {seeds}",
    )
    return model.split()
