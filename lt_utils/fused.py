"""Batch normalisation, shortcut and ReLU as one operation: an option that makes training on a CPU faster.

On a CPU in bfloat16 a third of a ResNet-32's step is not convolution: batch normalisation, addition and ReLU each read and
write every activation on their own. fused.c does all three in two passes, forward and backward. It is compiled when it is
first asked for (about a second) and needs a C compiler; without one, and wherever else it does not apply (another device,
float32, evaluation), torch's own operations run. The result is the same up to rounding: it rounds to bfloat16 once where
torch's three operations round three times. So it is an option, and a training is either with it or without it.
"""

import ctypes
import math
import os
import shlex
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lt_utils.errors import CourseError
from lt_utils.training import precision_for

LANES = 64  # as in fused.c


@cache
def library() -> ctypes.CDLL:
    """fused.c, compiled for this processor by $CC or cc, and loaded. CourseError if that fails; the reason is in it."""
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if not compiler or shutil.which(compiler[0]) is None:
        raise CourseError("there is no C compiler (install gcc, or name one in the environment variable CC)")
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder) / "fused.so"
        source = Path(__file__).with_name("fused.c")
        options = ["-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-o", str(built), str(source), "-lm"]
        done = subprocess.run([*compiler, *options], capture_output=True, text=True, check=False)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise CourseError(f"the C compiler {compiler[0]} failed ({reason})")
        loaded = ctypes.CDLL(str(built))  # stays loaded when the file is gone
    pointer, number, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_double
    loaded.forward.argtypes = [*[pointer] * 8, ctypes.c_long, number, number, real, real, number]
    loaded.backward.argtypes = [*[pointer] * 9, ctypes.c_long, number, number, number]
    return loaded


def fuse(model: nn.Module) -> bool:
    """Let `bn_relu` use the fused operation for the batch normalisations of `model`; False, and a line, if it cannot."""
    where = next(model.parameters()).device
    try:
        if where.type != "cpu" or precision_for(where) != "bf16":
            raise CourseError("it is for CPUs with bfloat16 instructions")
        library()
    except CourseError as error:
        print(f"Training goes on without the fused batch normalisation: {error}.")
        return False
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.fused = True
    return True


def bn_relu(bn: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
    """relu(bn(x) + shortcut), or relu(bn(x)) without one, for x and shortcut [B, C, H, W]."""
    if applies(bn, x, shortcut):
        bn.num_batches_tracked.add_(1)
        return BatchNormReLU.apply(
            x, shortcut, bn.weight, bn.bias, bn.running_mean, bn.running_var, bn.momentum, bn.eps
        )
    out = bn(x)
    return F.relu(out if shortcut is None else out + shortcut, inplace=True)


def applies(bn: nn.BatchNorm2d, x: Tensor, shortcut: Tensor | None = None) -> bool:
    """Whether the fused operation can do it: asked for, training, bfloat16 on a CPU, whole rows of numbers."""
    return (
        getattr(bn, "fused", False)
        and bn.training
        and x.device.type == "cpu"
        and x.dtype == torch.bfloat16
        and (shortcut is None or (shortcut.dtype == x.dtype and shortcut.shape == x.shape))
        and x.numel() % math.lcm(LANES, x.shape[1]) == 0
        and x.numel() > x.shape[1]
        and bn.momentum is not None
    )


class BatchNormReLU(torch.autograd.Function):
    """The operation and its gradient (equations in fused.c). Running statistics change in place, as batch_norm's do."""

    @staticmethod
    def forward(ctx, x, shortcut, weight, bias, running_mean, running_var, momentum, eps):
        x = x.contiguous(memory_format=torch.channels_last)
        if shortcut is not None:
            shortcut = shortcut.contiguous(memory_format=torch.channels_last)
        output = torch.empty_like(x)
        statistics = torch.empty(2, x.shape[1])
        pointers = (x, shortcut, weight, bias, running_mean, running_var, output, statistics)
        _call(library().forward, pointers, x, momentum, eps)
        ctx.save_for_backward(x, output, weight, statistics)
        ctx.shortcut = shortcut is not None
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        x, output, weight, statistics = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        dx, dshortcut = torch.empty_like(x), torch.empty_like(x) if ctx.shortcut else None
        dweight, dbias = torch.empty_like(weight), torch.empty_like(weight)
        _call(library().backward, (gradient, output, x, weight, statistics, dx, dshortcut, dweight, dbias), x)
        return dx, dshortcut, dweight, dbias, None, None, None, None


def _call(function, tensors: tuple, x: Tensor, *settings: float) -> None:
    """One function of fused.c on the memory of `tensors`; channels and pixels are those of x."""
    channels = x.shape[1]
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in tensors]
    width = math.lcm(LANES, channels)
    if function(*pointers, x.numel() // channels, channels, width, *settings, torch.get_num_threads()):
        raise MemoryError("no memory for the sums of the fused batch normalisation")
