"""A moving average of a model's weights: what diffusion models are sampled with."""

import copy

import torch
from torch import nn


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
        for average, now in zip(self.model.buffers(), model.buffers(), strict=True):
            average.copy_(now)
