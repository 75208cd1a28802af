"""The training loop of the course: a generator. The notebook decides what to print, plot or stop.

    for step in train(model, loss, n=len(images), steps=600, batch_size=128, optimizer=optimizer, seed=0):
        ...

Whatever a step draws at random (batch order, augmentation, noise, dropout) depends on (seed, step) alone, because torch
is re-seeded before each step. So a resumed run continues exactly as the uninterrupted one would have, without saved
generator states; on a CPU the result is the same to the last bit. So also several processes of torchrun train together without
telling each other what they draw (ranks.py).
"""

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Self

import torch
from torch import Tensor, nn

from lt_utils.errors import CourseError, choose
from lt_utils.progress import track
from lt_utils.training import checkpoints, ranks
from lt_utils.training.devices import autocast, choose_threads
from lt_utils.training.ema import EMA
from lt_utils.training.identity import identity
from lt_utils.training.lr_schedules import constant

# Convolutions in float32 shall be that on a GPU, too, as matrix products are: newer ones would round to 10 bits (TF32).
torch.backends.cudnn.allow_tf32 = False


@dataclass(frozen=True)
class Step:
    """What `train` yields after a step: its number (1-based), their total, learning rate, images and seconds so far; `start`:
    how many steps an earlier call had done, from whose checkpoint it goes on."""

    step: int
    total: int
    lr: float
    images: int
    seconds: float
    losses: Tensor
    start: int = 0

    @property
    def loss(self) -> float:
        """The loss of this step. Reading it waits for the device, so read it now and then, not at every step."""
        return float(self.losses[self.step - 1])


def step_seed(seed: int, k: int) -> int:
    """A seed of its own for each (seed, k): runs have far fewer than ten million steps."""
    return seed * 10_000_019 + k


def step_now(seed: int) -> int:
    """The step (0-based) of `train(seed=seed)` inside which this is called, by its loss before anything else re-seeds."""
    return torch.initial_seed() - step_seed(seed, 0)


def steps_per_epoch(n: int, batch_size: int) -> int:
    """Steps in which `batch_of` visits each of n samples once."""
    return math.ceil(n / batch_size)


def batch_of(k: int, n: int, batch_size: int, seed: int) -> Tensor:
    """Indices [<= batch_size] of step k (0-based): each epoch permutes 0 .. n-1 anew, and its last batch may be short."""
    epoch, place = divmod(k, steps_per_epoch(n, batch_size))
    return _shuffled(n, step_seed(seed, epoch))[place * batch_size : (place + 1) * batch_size]


@lru_cache(maxsize=4)  # one epoch of each training that is under way, not one permutation a step
def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def compile_for_training(model: nn.Module, mode: str = "default") -> nn.Module:
    """`model` through torch.compile for one training; where several processes train it (ranks.py), the model as it is.

    mode: "default", or "reduce-overhead", with CUDA graphs. CourseError for another one.
    """
    choose("mode of torch.compile", mode, ("default", "reduce-overhead"))
    if ranks.place()[1] > 1:
        return model
    # torch keeps eight graphs of a forward and then gives up; those of earlier trainings would be among them.
    torch.compiler.reset()
    # Full and last batches of an epoch differ in length: two static graphs are faster than one dynamic one.
    return torch.compile(model, dynamic=False, mode=mode)


def seed_step(where: torch.device, seed: int) -> None:
    """What torch.manual_seed does for the CPU and the device of the training.

    For each other kind of device, torch.manual_seed notes where it was called from: milliseconds a step in a notebook.
    """
    torch.default_generator.manual_seed(seed)
    if where.type != "cpu":
        module = torch.get_device_module(where)
        getattr(module, "manual_seed_all", module.manual_seed)(seed)


def images_after(k: int, n: int, batch_size: int) -> int:
    """How many images k steps of `batch_of` have visited."""
    epochs, place = divmod(k, steps_per_epoch(n, batch_size))
    return epochs * n + min(place * batch_size, n)


# By checkpoint: the losses of the training that used it last; they tell one training from another.
_latest: dict[str, Tensor] = {}


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor], Tensor],
    *,
    n: int,
    steps: int,
    batch_size: int,
    optimizer: torch.optim.Optimizer,
    lr_schedule: Callable[[int, int], float] = constant,
    seed: int = 0,
    ema: EMA | None = None,
    precision: str = "auto",
    grad_clip: float | None = None,
    checkpoint: str | Path | None = None,
    save_every: float = 20.0,
    recipe: str | None = None,
) -> Iterator[Step]:
    """Train `model` in place and yield a Step after each optimiser step. It ends in training mode: call model.eval() after.

    Args:
        loss: loss(model, index) -> scalar, for the data at `index` [<= batch_size]; it picks, augments and evaluates.
        n: number of training samples; every epoch visits each once. steps: optimiser steps in all. batch_size: samples a step.
        lr_schedule: factor on the optimiser's learning rate, lr_schedule(k, steps) for k = 0 .. steps-1.
        seed: decides every random draw inside the loop, not the model's initial weights.
        ema: updated after each step. grad_clip: largest norm of the gradient. precision: "auto", "bf16" or "fp32".
        checkpoint: file to save to every `save_every` seconds, at Ctrl-C, when the caller leaves the loop, and at the end.
            If it exists, training goes on from it; if it is finished, one Step is yielded and nothing is trained.
        recipe: what else tells this training from others (its loss, augmentation); a checkpoint must agree in it. Of a loss
            that a notebook defines the code must agree, too, and the plain values that it uses.

    Raises CourseError if n, steps or batch_size is below 1, if the checkpoint is of another training (architecture, class
    count, seed, data size, length, optimiser and its options, rates, precision, an edited loss), if it cannot be read or
    written, and if a loss is not finite.
    """
    if min(n, steps, batch_size) < 1:
        raise CourseError(
            f"Training needs data, steps and a batch of at least 1: n={n}, steps={steps}, batch={batch_size}."
        )
    where = next(model.parameters()).device
    if where.type == "cpu":
        choose_threads()
    # Kept in the optimiser, as torch's own schedulers do: a second call with it must not start from a decayed rate.
    base = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    facts = dict(
        model=type(model).__name__,
        n=n,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        optimizer=type(optimizer).__name__,
        lr=[float(rate) for rate in base],
        weight_decay=[group.get("weight_decay", 0) for group in optimizer.param_groups],
        lr_schedule=getattr(lr_schedule, "__name__", type(lr_schedule).__name__),
        grad_clip=grad_clip,
        ema_decay=ema.decay if ema else None,
        recipe=recipe,  # checkpoints from before there was a recipe have none, which is the same as None
        **identity(optimizer, lr_schedule, steps, loss, precision),
    )
    average = ema.model if ema else None
    losses, start, spent = torch.full((steps,), math.nan, device=where), 0, 0.0
    if ranks.from_first(lambda: checkpoint is not None and Path(checkpoint).exists()):
        start, spent = checkpoints.resume_training(checkpoint, facts, model, optimizer, average, losses)
    ranks.check_same(model, start)
    began = saved = time.monotonic()
    written = checkpoints.file_version(checkpoint)
    _latest[str(checkpoint)] = losses

    def state(k: int) -> Step:
        seconds = spent + time.monotonic() - began
        return Step(k, steps, optimizer.param_groups[0]["lr"], images_after(k, n, batch_size), seconds, losses, start)

    def save(k: int) -> None:
        nonlocal written
        strange = ~losses[start:k].isfinite()
        if strange.any():
            first = start + int(strange.nonzero()[0]) + 1
            if first == 1:  # before any update, so that the learning rate has had no say yet
                raise CourseError(
                    "The loss is not a finite number from step 1 on, before any update: look for values that are not finite in "
                    "the data and in the weights at the start."
                )
            raise CourseError(
                f"The loss is no longer a finite number from step {first} on: lower the learning rate or set grad_clip=1.0."
            )
        if checkpoint is not None and ranks.first():
            done = {"step": k, "seconds": state(k).seconds}
            checkpoints.save_training(checkpoint, facts | done, model, optimizer, average, losses)
            written = checkpoints.file_version(checkpoint)

    if start == steps:
        yield state(steps)
    model.train()
    for k in range(start, steps):
        with FinishStep() as ctrl_c:
            seed_step(where, step_seed(seed, k))
            # Not waiting for the copy to end: a GPU gets its next step while it works on this one.
            index = batch_of(k, n, batch_size, seed).to(where, non_blocking=where.type == "cuda")
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * lr_schedule(k, steps)
            with autocast(where, precision), ranks.shared(model):
                value = loss(model, index)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            ranks.average_gradients(optimizer)
            if grad_clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), grad_clip)
            optimizer.step()
            if ema is not None:
                ema.update(model, k)
            losses[k] = value.detach()
            last = k + 1 == steps
            if last or ranks.anywhere(ctrl_c.asked) or time.monotonic() - saved > save_every:
                save(k + 1)
                saved = time.monotonic()
        if ranks.anywhere(ctrl_c.asked):
            raise KeyboardInterrupt(
                f"stopped after step {k + 1} of {steps}" + ("; run again to go on from here" if checkpoint else "")
            )
        try:
            yield state(k + 1)
        except GeneratorExit:  # the caller's loop was left: by a break, an error, or Ctrl-C outside of a step
            # Python may close a forgotten loop much later, when another one has long gone on with this model and file.
            alone = _latest[str(checkpoint)] is losses and checkpoints.file_version(checkpoint) == written
            if alone and not last:
                try:
                    save(k + 1)
                except CourseError as error:  # raised here, it would appear as an ignored exception, a traceback wall
                    print(error)
            raise


def train_to_end(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor], Tensor],
    *,
    title: str,
    unit: str = "images",
    ema: EMA | None = None,
    **options,
) -> nn.Module:
    """Run `train` to its end with lines of progress; the moving average if there is one, else `model`; in evaluation mode.

    title, unit: of the progress lines (`track`). options: those of `train`.
    """
    for _ in track(train(model, loss, ema=ema, **options), title, unit=unit):
        pass
    return ema.model if ema else model.eval()


class FinishStep:
    """Holds Ctrl-C back until the step that is running is complete, so that what is saved is whole.

    A second Ctrl-C interrupts at once: a step that hangs must not hold the learner.
    """

    def __enter__(self) -> Self:
        self.asked = False
        # Signals can be handled in the main thread only. A handler of None was not set by Python and could not be put
        # back; SIG_IGN means that Ctrl-C is not for this process (it runs in the background). Both stay as they are.
        main = threading.current_thread() is threading.main_thread()
        self.before = signal.getsignal(signal.SIGINT) if main else None
        self.held = self.before not in (None, signal.SIG_IGN)
        if self.held:
            signal.signal(signal.SIGINT, self._note)
        return self

    def _note(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt("stopped in the middle of a step; run again to go on from the last checkpoint")
        self.asked = True

    def __exit__(self, *_: object) -> None:
        if self.held:
            signal.signal(signal.SIGINT, self.before)
