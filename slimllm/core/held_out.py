"""The held-out calibration tokens, and the error of a repaired reader on them. Pure.

An error on the tokens that a repair was fitted to is too low. Forecasts and measured errors therefore come
from a fit to the other tokens and are computed on the held-out ones. The final weights are fitted to all
tokens.
"""

from __future__ import annotations

import functools
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# One sample in this many is held out.
HELD_OUT_SHARE = 5
# The most tokens that are held out. Twice as many change the mean error of a model by only 1 %.
MOST_HELD_OUT = 1024


def choose_held_out(samples: int, length: int) -> Tensor:
    """Return which tokens (S, T) of the samples are held out, as booleans.

    Of several samples, evenly spaced ones are held out, at most their last `MOST_HELD_OUT` tokens each. Of a
    single sample, its last tokens are held out. The mask is never entirely true or entirely false.
    """
    held = torch.zeros(samples, length, dtype=torch.bool)
    if samples == 1:
        held[0, length - min(max(1, length // HELD_OUT_SHARE), MOST_HELD_OUT) :] = True
        return held
    count = max(1, min(samples // HELD_OUT_SHARE, MOST_HELD_OUT // length))
    places = torch.arange(count) * samples // count + samples // (2 * count)  # (count,)
    held[places, length - min(length, MOST_HELD_OUT) :] = True
    return held


@dataclass(frozen=True, eq=False)
class HeldTokens:
    """The indices (n,) of the held-out ones among the S·T tokens of a stream, in ascending order.

    `places` are on the model's device. `known` are the same ones as numbers, so that nothing has to wait for
    the device to learn how many of them a batch has.
    """

    places: Tensor
    known: Sequence[int]

    def within(self, start: int, end: int) -> Tensor:
        """Return the held-out tokens (k,) among the tokens from `start` to `end`, counted from `start`."""
        first, last = bisect_left(self.known, start), bisect_left(self.known, end)
        return self.places[first:last] - start


def find_held_tokens(held: Tensor, device: torch.device) -> HeldTokens:
    """Return the tokens that a mask (S, T) on the CPU holds out, for a stream on a device."""
    known = held.flatten().nonzero().flatten()  # (S, T) → (n,)
    return HeldTokens(known.to(device), known.tolist())


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The inputs of a reader at the n held-out tokens.

    `inputs` (n, d) and `weights` (n,) belong to these tokens. `lack` (n, o), known only beside a dense
    stream, is the dense residual behind the reader's site minus the pruned one.
    """

    inputs: Tensor
    weights: Tensor
    lack: Tensor | None = None

    def move_to(self, device: torch.device) -> HeldOut:
        """Return the same tokens on a device."""
        lack = None if self.lack is None else self.lack.to(device)
        return HeldOut(self.inputs.to(device), self.weights.to(device), lack)

    @property
    def mass(self) -> float:
        """The sum of the weights."""
        return float(self.weights.sum(dtype=torch.float64))

    @property
    def scale(self) -> Tensor:
        """√(weight / mass) of every token (n, 1) in float64.

        The squares of a quantity scaled by it add up to the quantity's weighted mean square.
        """
        weights = self.weights.double()
        return (weights / weights.sum().clamp_min(torch.finfo(torch.float64).tiny)).sqrt()[:, None]


def join_held_out(parts: Sequence[HeldOut]) -> HeldOut:
    """Return the tokens of all parts, concatenated."""
    lacks = [part.lack for part in parts if part.lack is not None]
    return HeldOut(
        torch.cat([part.inputs for part in parts]),  # (n, d)
        torch.cat([part.weights for part in parts]),  # (n,)
        torch.cat(lacks) if lacks else None,  # (n, o)
    )


@dataclass(frozen=True, eq=False)
class HeldOutReader:
    """A dense reader at the held-out tokens, with the products that the errors of all repairs share.

    `weight` (o, d) is the reader's dense weight W.
    """

    weight: Tensor
    held: HeldOut

    @functools.cached_property
    def scale(self) -> Tensor:
        """`held.scale` (n, 1) in the dtype of the weight."""
        return self.held.scale.to(self.weight.dtype)

    @functools.cached_property
    def inputs(self) -> Tensor:
        """The scaled inputs (n, d); their Gram matrix is the second moment E[x xᵀ]."""
        return (self.held.inputs.double() * self.held.scale).to(self.weight.dtype)

    @functools.cached_property
    def outputs(self) -> Tensor:
        """The scaled dense outputs W x (n, o)."""
        return self.inputs @ self.weight.T

    def centred(self, mean: Tensor) -> Tensor:
        """Return the scaled inputs minus a mean (d,), with shape (n, d)."""
        return self.inputs - self.scale * mean

    @functools.cached_property
    def energy(self) -> float:
        """E‖y‖² of the dense output."""
        return float(self.outputs.square().sum())

    def lost_energy(self, kept: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Return E‖y − ŷ‖² () of a reader of inputs `kept` (k,) with a weight (o, k) and a bias (o,)."""
        lost = self.outputs - self.inputs[:, kept] @ weight.T  # (n, k) @ (k, o) → (n, o)
        if bias is not None:
            lost -= self.scale * bias
        return lost.square().sum()

    def errors(self, lost: Sequence[Tensor]) -> list[float]:
        """Return E‖y − ŷ‖² / E‖y‖² for each `lost_energy`, which are read from their device together."""
        floor = max(self.energy, torch.finfo(torch.float64).tiny)
        return [energy / floor for energy in torch.stack([*lost]).tolist()] if lost else []

    def error(self, kept: Tensor, weight: Tensor, bias: Tensor | None) -> float:
        """Return E‖y − ŷ‖² / E‖y‖² of a reader of inputs `kept` (k,) with a weight (o, k) and a bias (o,)."""
        return self.errors([self.lost_energy(kept, weight, bias)])[0]
