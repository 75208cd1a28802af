"""Several processes ("ranks") train one network, each on its rows of the same batch. Alone, nothing here does anything.

torchrun starts them; launch.py starts torchrun. All run the same program with the same seed: they draw the same batch, the same
augmentation and the same noise, and they compute the same loss. Only inside the network, where the time goes, has each its own
rows (`shared`); what comes out is put together again. So a loss may look at its whole batch, and is written for one process;
n processes train what one does, but for the rounding of sums. Half of a DistributedDataParallel, which asks for a loss that is a
mean over images, and averages what it is not.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lt_utils.errors import CourseError
from lt_utils.hashing import fingerprint
from lt_utils.training.devices import device

Value = TypeVar("Value")


class LostRank(CourseError):
    """Another process has ended: what this one says of it is not the reason."""


def place() -> tuple[int, int]:
    """(number of this process, number of all): (0, 1) alone, else as torchrun says; the first call waits for the others."""
    count = int(os.environ.get("WORLD_SIZE", 1))
    if count == 1:
        return 0, 1
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    return dist.get_rank(), count


def first() -> bool:
    """Whether this is the process that writes files and says what it does."""
    return place()[0] == 0


def _together(collective: Callable, *arguments: object) -> None:
    try:
        collective(*arguments)
    except RuntimeError as error:
        raise LostRank(
            "Another process of this training has ended, and this one cannot go on without it: look for what that one said, then "
            "start again, and the training goes on from its checkpoint."
        ) from error


def every(value: Value) -> list[Value]:
    """The value that each process gives, in the order of the processes, on all of them."""
    values = [value] * place()[1]
    if len(values) > 1:
        _together(dist.all_gather_object, values, value)
    return values


def anywhere(flag: bool) -> bool:
    """Whether the flag is set in any process: all stop at the same step."""
    if place()[1] == 1:
        return flag
    number = torch.tensor(float(flag))
    _together(dist.all_reduce, number)
    return bool(number)


def from_first(make: Callable[[], Value]) -> Value:
    """What `make` returns in the first process, which alone calls it."""
    return every(make() if first() else None)[0]


def each_part(function: Callable[[Tensor], Tensor], parts: Sequence[Tensor]) -> list[Tensor]:
    """[function(part) for part in parts], on all processes, of which each computes every n-th."""
    rank, count = place()
    own = [function(part) for part in parts[rank::count]]
    if count == 1:
        return own
    found = every([part.cpu() for part in own])
    where = own[0].device if own else device()
    return [found[number % count][number // count].to(where) for number in range(len(parts))]


def check_same(model: nn.Module, start: int) -> None:
    """Raise CourseError unless all processes begin with the same weights at the same step."""
    if place()[1] > 1 and len(set(every((fingerprint(model), start)))) > 1:
        raise CourseError(
            "The processes of this training do not begin with the same weights: give all of them the same seed, and a folder for "
            "the checkpoint that all of them see."
        )


def average_gradients(optimizer: torch.optim.Optimizer) -> None:
    """The gradients of all weights, averaged over the processes: there each is either the whole, or n times a share of it."""
    count = place()[1]
    if count == 1:
        return
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])  # one message, not one for each weight
    _together(dist.all_reduce, flat)
    for gradient, mean in zip(gradients, (flat / count).split([one.numel() for one in gradients]), strict=True):
        gradient.copy_(mean.view(gradient.shape))


@contextmanager
def shared(model: nn.Module) -> Iterator[None]:
    """Inside, model(...) computes this process's rows of the tensors it is given, and returns the rows of all.

    It must treat each row, an index along the first dimension, by itself, but for batch normalisation; dropout and torch.rand are
    as in one process. A network that does not says by_rows = False, and every process computes the whole; so it does for a batch
    of fewer rows than processes, and for parts of a network that a loss calls by themselves.
    """
    rank, count = place()
    if count == 1 or not getattr(model, "by_rows", True):
        yield
        return
    whole = model.forward

    def forward(*inputs: object) -> Tensor:
        total = len(inputs[0])
        if total < count:
            return whole(*inputs)
        own = slice(rank * total // count, (rank + 1) * total // count)
        mine = [x[own] if isinstance(x, Tensor) and x.ndim and len(x) == total else x for x in inputs]
        with _WholeBatch(own, total):
            out = whole(*mine)
        return _Rows.apply(out, own, total)

    model.forward = forward
    try:
        yield
    finally:
        del model.forward


def _memory(x: Tensor) -> torch.memory_format:
    last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


class _Rows(torch.autograd.Function):
    """The rows of all n processes from those of each; backwards, the own rows' gradient n times, as it is averaged later."""

    @staticmethod
    def forward(ctx, rows: Tensor, own: slice, total: int) -> Tensor:
        ctx.own = own
        every = rows.new_zeros(total, *rows.shape[1:])
        every[own] = rows
        _together(dist.all_reduce, every)  # zeros of the others: any number of rows, and nothing is rounded
        return every.contiguous(memory_format=_memory(rows))

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return gradient[ctx.own] * place()[1], None, None


class _WholeBatch(TorchFunctionMode):
    """Inside, what a network asks of torch about its rows is answered for the whole batch."""

    def __init__(self, own: slice, total: int) -> None:
        super().__init__()
        self.own, self.total = own, total

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is F.batch_norm and kwargs["training"]:
            x, mean, variance = args
            given = (kwargs[name] for name in ("weight", "bias", "momentum", "eps"))
            return _BatchNorm.apply(x, mean, variance, *given, self.own, self.total)
        if function is F.dropout and kwargs["training"]:
            x = args[0]
            ones = x.new_ones(self.total, *x.shape[1:]).contiguous(memory_format=_memory(x))
            return x * function(ones, kwargs["p"])[self.own]  # drawn as in one process
        if function is torch.rand and args[0] == self.own.stop - self.own.start:
            return function(self.total, *args[1:], **kwargs)[self.own]
        return function(*args, **kwargs)


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation of the rows of this process [B', C, ...] by mean and variance of all."""

    @staticmethod
    def forward(ctx, x, running_mean, running_variance, weight, bias, momentum, eps, own, total):
        number = total * x[0, 0].numel()  # of values that a mean is taken of
        share = (own.stop - own.start) / total
        # The answers are in float32 where x is in bfloat16, as these copies are.
        copies = running_mean.clone(), running_variance.clone()
        mean, variance = torch.batch_norm_update_stats(x, *copies, 0.0)  # [C], of own rows
        mean, variance = mean.double(), variance.double()
        moments = share * torch.stack([mean, variance + mean**2])
        _together(dist.all_reduce, moments)
        mean, variance = moments[0], moments[1] - moments[0] ** 2  # in float64: the difference keeps its digits
        running_mean.lerp_(mean.to(running_mean), momentum)
        running_variance.lerp_((variance * number / (number - 1)).to(running_variance), momentum)
        mean, variance = mean.to(weight.dtype), variance.to(weight.dtype)
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.eps, ctx.number = eps, number
        return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)

    @staticmethod
    def backward(ctx, gradient):
        x, weight, mean, variance = ctx.saved_tensors
        # As if mean and variance were given: dL/dx = g w / sigma, dL/dw = sum g (x - mean) / sigma, dL/db = sum g.
        of_x, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, x, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        # They depend on x, so that dL/dx loses w / (sigma n) (dL/db + (x - mean) / sigma dL/dw), with the sums of all rows.
        sums = torch.stack([of_weight, of_bias])
        _together(dist.all_reduce, sums)
        slope, offset = sums * weight * (variance + ctx.eps).rsqrt() / ctx.number  # [2, C]
        of_x -= F.batch_norm(x, mean, variance, slope, offset, False, 0.0, ctx.eps)
        return of_x, None, None, of_weight, of_bias, None, None, None, None
