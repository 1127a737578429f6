"""Moves of tensors between devices and dtypes. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def to_float64(tensor: Tensor, device: torch.device | None = None) -> Tensor:
    """Return the tensor in float64, without gradient, on a device or where it is."""
    # A device without float64 cannot make the copy itself.
    return tensor.detach().to(device or tensor.device).double()


def read_sum(parts: Sequence[Tensor]) -> float:
    """Return the sum of scalars (), which are read from their device together and added in float64."""
    return float(sum(torch.stack([*parts]).tolist())) if parts else 0.0
