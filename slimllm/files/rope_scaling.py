"""Conversion between Llama 3's RoPE scaling and the frequency factors in a GGUF file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

# The low and high frequency factors of all models of this kind: turns within the trained length.
LOW, HIGH = 1.0, 4.0
# The relative tolerance.
CLOSE = 1e-4


def llama3_factors(turn: Mapping[str, Any], size: int) -> Tensor:
    """Return the factors (e/2,) by which each frequency is divided, for contexts beyond those of training.

    `size` is the head size e.
    """
    turns = turn["original_max_position_embeddings"] / wave_lengths(turn["rope_theta"], size)
    low, high = turn["low_freq_factor"], turn["high_freq_factor"]
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    return (1 / ((1 - smooth) / turn["factor"] + smooth)).float()


def wave_lengths(theta: float, size: int) -> Tensor:
    """Return the wavelength in tokens of each frequency (e/2,), in float64; `size` is the head size e."""
    return 2 * math.pi * theta ** (torch.arange(0, size, 2).double() / size)


def fit_llama3(factors: Tensor, theta: float) -> dict[str, Any] | None:
    """Return the settings of Llama 3's scaling that give these factors (e/2,), or None if none do."""
    factors, waves = factors.double(), wave_lengths(theta, 2 * len(factors))
    factor = float(factors.max())
    if factor <= 1:
        return None
    smooth = (1 / factors - 1 / factor) / (1 - 1 / factor)
    between = (smooth > 1e-6) & (smooth < 1 - 1e-6)
    if between.any():
        found = ((smooth * (HIGH - LOW) + LOW) * waves)[between].median()
    else:
        # Any value between the longest unscaled wave and the shortest scaled one gives the same factors.
        kept = waves[factors == 1]
        found = HIGH * kept.max() if len(kept) else waves.min() * LOW
    turn = {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": LOW,
        "high_freq_factor": HIGH,
        "original_max_position_embeddings": max(1, round(float(found))),
    }
    close = torch.allclose(llama3_factors(turn, 2 * len(factors)).double(), factors, rtol=CLOSE)
    return turn if close else None
