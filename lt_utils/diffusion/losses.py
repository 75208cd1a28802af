"""Objectives: what a denoiser's output stands for (the noise "eps", the clean data "x0" or the velocity "v"), and the loss."""

import torch
from torch import Tensor, nn

from lt_utils.diffusion.schedules import Schedule
from lt_utils.errors import choose

OBJECTIVES = ("eps", "x0", "v")


def target(objective: str, x0: Tensor, eps: Tensor, a: Tensor, s: Tensor) -> Tensor:
    """What the network should output, all [B, ...]: eps, x_0, or v = a eps - s x_0 (Salimans & Ho 2022)."""
    choose("objective", objective, OBJECTIVES)
    if objective == "v":
        return a * eps - s * x0
    return eps if objective == "eps" else x0


def estimates(objective: str, output: Tensor, x_t: Tensor, a: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """The estimates (x_0, eps) that a network output stands for: x_t = a x_0 + s eps, solved for what is missing."""
    choose("objective", objective, OBJECTIVES)
    if objective == "eps":
        return (x_t - s * output) / a, output
    if objective == "x0":
        return output, (x_t - a * output) / s
    return a * x_t - s * output, s * x_t + a * output


def drop_labels(labels: Tensor, probability: float, no_label: int) -> Tensor:
    """Labels [B], each replaced by `no_label` with `probability`: so one network learns both p(x|y) and p(x)."""
    dropped = torch.rand(labels.shape, device=labels.device) < probability
    return torch.where(dropped, no_label, labels)


def diffusion_loss(
    denoiser: nn.Module,
    schedule: Schedule,
    x0: Tensor,
    labels: Tensor,
    objective: str = "v",
    label_dropout: float = 0.1,
) -> Tensor:
    """Mean squared error of the denoiser on x0 [B, ...] with labels [B] at random steps (equation 14 of DDPM for "eps").

    A label is dropped per sample with probability `label_dropout`, which makes classifier-free guidance possible.
    """
    t = torch.randint(len(schedule), (len(x0),), device=x0.device)
    eps = torch.randn_like(x0)
    a, s = schedule.scales(t, x0)  # [B, 1, ...]
    output = denoiser(a * x0 + s * eps, t, drop_labels(labels, label_dropout, denoiser.no_label))
    return (output.float() - target(objective, x0, eps, a, s)).square().mean()
