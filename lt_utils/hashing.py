"""Hashes of tensors and networks: they tell one from another, on every device alike."""

import hashlib

import torch
from torch import nn


def fingerprint(model: nn.Module, without: str | None = None) -> str:
    """SHA-256 (hex) of a model's weights, their names and shapes: the same on every device, different after any change.

    The statistics of batch normalisation count as weights. without: a part that is left out, such as "head".
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if without and name.startswith(f"{without}."):
            continue
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {list(plain.shape)} ".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def data_key(*tensors: torch.Tensor) -> str:
    """Eight characters that change with the data: so that a training is never continued on other data by mistake."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().numpy())
    return digest.hexdigest()[:8]
