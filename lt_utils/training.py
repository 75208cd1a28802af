"""The training loop of the course: a generator. The notebook decides what to print, plot or stop.

    for step in train(model, loss, n=len(images), steps=600, batch=128, optimizer=optimizer, seed=0):
        ...

Whatever a step draws at random (batch order, augmentation, noise, dropout) depends on (seed, step) alone, because torch
is re-seeded before each step. So a resumed run continues exactly as the uninterrupted one would have, without saved
generator states; on a CPU the result is the same to the last bit.
"""

import copy
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from lt_utils import checkpoints
from lt_utils.errors import CourseError, choose
from lt_utils.interrupts import FinishStep
from lt_utils.threads import choose_threads

# Convolutions in float32 shall be that on a GPU, too, as matrix products are: newer ones would round to 10 bits (TF32).
torch.backends.cudnn.allow_tf32 = False


def device() -> torch.device:
    """The accelerator if there is one (CUDA, or Apple's MPS), else the CPU."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def precision_for(where: torch.device) -> str:
    """ "bf16" where it is fast (GPUs and CPUs with bfloat16 instructions), else "fp32"."""
    if where.type == "cuda":
        # Older GPUs, such as the T4 of free notebook services, only emulate bfloat16, slowly.
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capabilities = torch.cpu.get_capabilities() if where.type == "cpu" else {}
    return "bf16" if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else "fp32"


def autocast(where: torch.device, precision: str = "auto") -> torch.autocast:
    """Mixed precision for a `with` block: "bf16", "fp32" or "auto" (precision_for). CourseError for another word."""
    choose("precision", precision, ("auto", "bf16", "fp32"))
    precision = precision_for(where) if precision == "auto" else precision
    return torch.autocast(where.type, torch.bfloat16, enabled=precision == "bf16")


# Learning-rate schedules: the factor on the base learning rate before step k (0-based) of n.
def constant(k: int, n: int) -> float:
    """1 throughout."""
    return 1.0


def cosine(k: int, n: int) -> float:
    """From 1 to 0 along half a cosine."""
    return 0.5 * (1 + math.cos(math.pi * k / n))


def warmup_cosine(k: int, n: int, share: float = 0.1) -> float:
    """A linear rise over the first `share` of the steps, then half a cosine to 0."""
    rise = max(1, int(share * n))
    return (k + 1) / rise if k < rise else cosine(k - rise, n - rise)


def multistep(k: int, n: int) -> float:
    """1, then 0.1 from half of the steps, then 0.01 from three quarters: epochs 100 and 150 of 200, as LDMLR trains."""
    return 1.0 if k < n / 2 else 0.1 if k < 3 * n / 4 else 0.01


class EMA:
    """Exponential moving average of a model's weights, with a warm-up: decay_k = min(decay, (1 + k) / (10 + k)).

    Without the warm-up a short run would average mostly its random start. `.model` is the average, in evaluation mode.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999) -> None:
        self.model, self.decay = copy.deepcopy(model).eval().requires_grad_(False), decay

    @torch.no_grad()
    def update(self, model: nn.Module, k: int) -> None:
        """Move the average towards `model` after step k (0-based). Buffers, such as batch-norm statistics, are copied."""
        weight = 1 - min(self.decay, (1 + k) / (10 + k))
        torch._foreach_lerp_(list(self.model.parameters()), list(model.parameters()), weight)
        for ours, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            ours.copy_(theirs)


@dataclass(frozen=True)
class Step:
    """What `train` yields after a step: its number (1-based), their total, learning rate, images and seconds so far."""

    step: int
    total: int
    lr: float
    images: int
    seconds: float
    losses: Tensor

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


def batch_of(k: int, n: int, batch: int, seed: int) -> Tensor:
    """Indices [<= batch] of step k (0-based): each epoch permutes 0 .. n-1 anew, and its last batch may be short."""
    epoch, place = divmod(k, math.ceil(n / batch))
    return _shuffled(n, step_seed(seed, epoch))[place * batch : (place + 1) * batch]


@lru_cache(maxsize=4)  # one epoch of each training that is under way, not one permutation a step
def _shuffled(n: int, seed: int) -> Tensor:
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def _seed_step(where: torch.device, seed: int) -> None:
    """What torch.manual_seed does for the CPU and the device of the training.

    For each other kind of device, torch.manual_seed notes where it was called from: milliseconds a step in a notebook.
    """
    torch.default_generator.manual_seed(seed)
    if where.type != "cpu":
        module = torch.get_device_module(where)
        getattr(module, "manual_seed_all", module.manual_seed)(seed)


def images_after(k: int, n: int, batch: int) -> int:
    """How many images k steps of `batch_of` have visited."""
    epochs, place = divmod(k, math.ceil(n / batch))
    return epochs * n + min(place * batch, n)


# By checkpoint: the losses of the training that used it last; they tell one training from another.
_latest: dict[str, Tensor] = {}


def train(
    model: nn.Module,
    loss: Callable[[nn.Module, Tensor], Tensor],
    *,
    n: int,
    steps: int,
    batch: int,
    optimizer: torch.optim.Optimizer,
    lr: Callable[[int, int], float] = constant,
    seed: int = 0,
    ema: EMA | None = None,
    precision: str = "auto",
    clip: float | None = None,
    checkpoint: str | Path | None = None,
    save_every: float = 20.0,
    recipe: str | None = None,
) -> Iterator[Step]:
    """Train `model` in place and yield a Step after each optimiser step. It ends in training mode: call model.eval() after.

    Args:
        loss: loss(model, index) -> scalar, for the data at `index` [<= batch]; it picks, augments and evaluates.
        n: number of training samples; every epoch visits each once. steps: optimiser steps in all. batch: samples a step.
        lr: factor on the optimiser's learning rate, lr(k, steps) for k = 0 .. steps-1.
        seed: decides every random draw inside the loop, not the model's initial weights.
        ema: updated after each step. clip: largest norm of the gradient. precision: "auto", "bf16" or "fp32".
        checkpoint: file to save to every `save_every` seconds, at Ctrl-C, when the caller leaves the loop, and at the end.
            If it exists, training goes on from it; if it is finished, one Step is yielded and nothing is trained.
        recipe: what else tells this training from others (its loss, augmentation); a checkpoint must agree in it.

    Raises CourseError if n, steps or batch is below 1, if the checkpoint is of another training (architecture, class
    count, seed, data size, length, optimiser and its rates), if it cannot be read or written, and if a loss is not finite.
    """
    if min(n, steps, batch) < 1:
        raise CourseError(f"Training needs data, steps and a batch of at least 1: n={n}, steps={steps}, batch={batch}.")
    where = next(model.parameters()).device
    if where.type == "cpu":
        choose_threads()
    # Kept in the optimiser, as torch's own schedulers do: a second call with it must not start from a decayed rate.
    base = [group.setdefault("initial_lr", group["lr"]) for group in optimizer.param_groups]
    facts = dict(
        model=type(model).__name__,
        n=n,
        steps=steps,
        batch=batch,
        seed=seed,
        optimizer=type(optimizer).__name__,
        rate=[float(rate) for rate in base],
        decay=[group.get("weight_decay", 0) for group in optimizer.param_groups],
        schedule=getattr(lr, "__name__", type(lr).__name__),
        clip=clip,
        ema=ema.decay if ema else None,
        recipe=recipe,  # checkpoints from before there was a recipe have none, which is the same as None
    )
    average = ema.model if ema else None
    losses, start, spent = torch.full((steps,), math.nan, device=where), 0, 0.0
    if checkpoint is not None and Path(checkpoint).exists():
        start, spent = checkpoints.resume_training(checkpoint, facts, model, optimizer, average, losses)
    began = saved = time.monotonic()
    ours = checkpoints.identity(checkpoint)
    _latest[str(checkpoint)] = losses

    def state(k: int) -> Step:
        seconds = spent + time.monotonic() - began
        return Step(k, steps, optimizer.param_groups[0]["lr"], images_after(k, n, batch), seconds, losses)

    def save(k: int) -> None:
        nonlocal ours
        strange = ~losses[start:k].isfinite()
        if strange.any():
            first = start + int(strange.nonzero()[0]) + 1
            if first == 1:  # before any update, so that the learning rate has had no say yet
                raise CourseError(
                    "The loss is not a finite number from step 1 on, before any update: look for values that are not finite in "
                    "the data and in the weights at the start."
                )
            raise CourseError(
                f"The loss is no longer a finite number from step {first} on: lower the learning rate or set clip=1.0."
            )
        if checkpoint is not None:
            done = {"step": k, "seconds": state(k).seconds}
            checkpoints.save_training(checkpoint, facts | done, model, optimizer, average, losses)
            ours = checkpoints.identity(checkpoint)

    if start == steps:
        yield state(steps)
    model.train()
    for k in range(start, steps):
        with FinishStep() as ctrl_c:
            _seed_step(where, step_seed(seed, k))
            # Not waiting for the copy to end: a GPU gets its next step while it works on this one.
            index = batch_of(k, n, batch, seed).to(where, non_blocking=where.type == "cuda")
            for group, rate in zip(optimizer.param_groups, base, strict=True):
                group["lr"] = rate * lr(k, steps)
            with autocast(where, precision):
                value = loss(model, index)
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            if ema is not None:
                ema.update(model, k)
            losses[k] = value.detach()
            last = k + 1 == steps
            if last or ctrl_c.asked or time.monotonic() - saved > save_every:
                save(k + 1)
                saved = time.monotonic()
        if ctrl_c.asked:
            raise KeyboardInterrupt(
                f"stopped after step {k + 1} of {steps}" + ("; run again to go on from here" if checkpoint else "")
            )
        try:
            yield state(k + 1)
        except GeneratorExit:  # the caller's loop was left: by a break, an error, or Ctrl-C outside of a step
            # Python may close a forgotten loop much later, when another one has long gone on with this model and file.
            alone = _latest[str(checkpoint)] is losses and checkpoints.identity(checkpoint) == ours
            if alone and not last:
                try:
                    save(k + 1)
                except CourseError as error:  # raised here, it would appear as an ignored exception, a traceback wall
                    print(error)
            raise
