"""Calibration tokens on which nothing is fitted when an error is told: which they are, and the error of a
repaired reader on them. Pure.

An error on the tokens that a fit has seen says how well it knows them by heart. So forecasts and measured
errors come from a fit to the other tokens, judged on these; the weights themselves are fitted to all.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HELD_OUT_SHARE = 5  # one sample in so many is held out
MOST_HELD_OUT = 1024  # tokens that are held out at most: twice as many move the mean error of a model by 1 %


def choose_held_out(samples: int, length: int) -> Tensor:
    """Which tokens (S, T) of the samples are held out, as booleans: whole samples, evenly spread, or the last
    tokens of a single sample; never none of them and never all."""
    held = torch.zeros(samples, length, dtype=torch.bool)
    if samples == 1:
        held[0, length - min(max(1, length // HELD_OUT_SHARE), MOST_HELD_OUT) :] = True
        return held
    count = max(1, min(samples // HELD_OUT_SHARE, MOST_HELD_OUT // length))
    places = torch.arange(count) * samples // count + samples // (2 * count)
    held[places, length - min(length, MOST_HELD_OUT) :] = True
    return held


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What a reader reads at the tokens held out: inputs (n, d), the weight of every token (n,), and, beside
    a dense stream, what the residual behind its site lacks there (n, o)."""

    inputs: Tensor
    weights: Tensor
    lack: Tensor | None = None

    @property
    def mass(self) -> float:
        """The sum of the weights."""
        return float(self.weights.sum(dtype=torch.float64))

    @property
    def scale(self) -> Tensor:
        """√(weight / mass) of every token (n, 1) in float64: squares of what is scaled by it add up to the
        mean."""
        weights = self.weights.double()
        return (weights / weights.sum().clamp_min(torch.finfo(torch.float64).tiny)).sqrt()[:, None]


def join_held_out(parts: Sequence[HeldOut]) -> HeldOut:
    """The tokens of all parts, one after the other."""
    lacks = [part.lack for part in parts if part.lack is not None]
    return HeldOut(
        torch.cat([part.inputs for part in parts]),
        torch.cat([part.weights for part in parts]),
        torch.cat(lacks) if lacks else None,
    )


@dataclass(frozen=True, eq=False)
class HeldOutReader:
    """A dense reader W (o, d) at the tokens held out, with the products that errors of all repairs share."""

    weight: Tensor
    held: HeldOut

    @functools.cached_property
    def scale(self) -> Tensor:
        return self.held.scale.to(self.weight.dtype)

    @functools.cached_property
    def inputs(self) -> Tensor:
        """The inputs (n, d), scaled: their Gram matrix is the second moment."""
        return (self.held.inputs.double() * self.held.scale).to(self.weight.dtype)

    @functools.cached_property
    def outputs(self) -> Tensor:
        """W x (n, o), scaled."""
        return self.inputs @ self.weight.T

    def centred(self, mean: Tensor) -> Tensor:
        """The inputs less a mean (d,), scaled (n, d)."""
        return self.inputs - self.scale * mean

    @functools.cached_property
    def energy(self) -> float:
        """E‖y‖²."""
        return float(self.outputs.square().sum())

    def error(self, kept: Tensor, weight: Tensor, bias: Tensor | None) -> float:
        """E‖y − ŷ‖² / E‖y‖² if the reader keeps the inputs `kept` (k,) with this weight (o, k) and bias."""
        lost = self.outputs - self.inputs[:, kept] @ weight.T
        if bias is not None:
            lost -= self.scale * bias
        return float(lost.square().sum()) / max(self.energy, torch.finfo(torch.float64).tiny)
