"""What tells one training from another beside its numbers: options of the optimiser, values of a schedule, code of a loss."""

import ast
import hashlib
import inspect
import json
import textwrap
from collections.abc import Callable

import torch

# What an optimiser may be told without another result, and what the facts of a training hold under names of their own.
NOT_OPTIONS = ("params", "lr", "initial_lr", "weight_decay", "foreach", "fused", "capturable", "differentiable")
PLAIN = (bool, int, float, str, tuple, type(None))


def identity(
    optimizer: torch.optim.Optimizer, lr_schedule: Callable, steps: int, loss: Callable, precision: str
) -> dict:
    """Facts of a training that checkpoints of before do not have; as plain values, such as JSON gives back.

    The code of a loss is looked at where a notebook or a script defines it; the package's own losses are named by a recipe.
    """
    options = [
        {name: value for name, value in group.items() if name not in NOT_OPTIONS} for group in optimizer.param_groups
    ]
    rates = [round(lr_schedule(k, steps), 6) for k in sorted({i * (steps - 1) // 32 for i in range(33)})]
    own = getattr(loss, "__module__", "") == "__main__"
    facts = {
        "options of the optimiser": options,
        "values of lr_schedule": _digest(rates),
        "precision": precision,
        "code of the loss": _digest(_code(loss, set())) if own else None,
    }
    return json.loads(json.dumps(facts, default=str))


def _digest(content: object) -> str:
    return hashlib.sha256(repr(content).encode()).hexdigest()[:8]


def _code(function: Callable, seen: set[Callable]) -> list:
    """A function's code, without comments, and the plain values and the functions of a notebook that it uses."""
    seen.add(function)
    try:
        source = textwrap.dedent(inspect.getsource(function))
        outer = inspect.getclosurevars(function)
    except (OSError, TypeError):  # typed where Python keeps no source, or a callable object
        return []
    try:
        source = ast.unparse(ast.parse(source))
    except SyntaxError:  # a lambda in the middle of a line
        source = source.strip()
    used = sorted({**outer.globals, **outer.nonlocals}.items())
    values = [(name, value) for name, value in used if isinstance(value, PLAIN)]
    helpers = [
        _code(value, seen)
        for _, value in used
        if inspect.isfunction(value) and value.__module__ == "__main__" and value not in seen
    ]
    return [source, values, helpers]
