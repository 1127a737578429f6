"""A reader whose inputs leave in one order, and the sums over every width that its error curves need. Pure.

Let X (n, d) be the held-out inputs minus the fitted mean and W (o, d) the weight, both in that order, best
input first. At width k the reader loses R_k = X_{k:} W_{k:}ᵀ (n, o).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from slimllm.core.held_out import HeldOutReader
from slimllm.core.symmetric_products import split_bands, split_triangle
from slimllm.core.types import Moments

# The columns that are processed together. More of them waste products within a band. Powers of two are
# slower, because their rows share places of the cache: 64, 128 and 256 take up to 1.7 times as long as 192.
BAND = 192


@dataclass(frozen=True, eq=False)
class OrderedReader:
    """A dense reader with its inputs in one order (d,), best first, and what the curves of this order share.

    `reader` holds the held-out tokens, and repairs are fitted to `fitted`.
    """

    reader: HeldOutReader
    fitted: Moments
    order: Tensor

    @functools.cached_property
    def weight(self) -> Tensor:
        """The weight W (o, d)."""
        return self.reader.weight[:, self.order]

    @functools.cached_property
    def inputs(self) -> Tensor:
        """The scaled held-out inputs minus the fitted mean (n, d)."""
        return self.reader.centred(self.fitted.mean)[:, self.order]

    @functools.cached_property
    def outputs(self) -> Tensor:
        """The scaled dense outputs minus that of the fitted mean (n, o)."""
        return self.reader.outputs - self.reader.scale * (self.reader.weight @ self.fitted.mean)

    @functools.cached_property
    def added_losses(self) -> Tensor:
        """What each input adds to Σ_t (R_k)² of each output when it is lost (o, d)."""
        return measure_losses(self.weight, self.inputs, self.outputs)

    @property
    def cov(self) -> Tensor:
        """The fitted covariance (d, d). It is not kept, because 8,192 inputs take half a gigabyte."""
        return self.fitted.cov[self.order[:, None], self.order]

    def shares(self, error: Tensor) -> Tensor:
        """Return errors (d+1,) as shares of E‖y‖²; rounding makes none negative."""
        return error.clamp_min(0) / max(self.reader.energy, torch.finfo(error.dtype).tiny)


def measure_losses(weight: Tensor, inputs: Tensor, outputs: Tensor, band: int = BAND) -> Tensor:
    """Return what input j adds to Σ_t (Σ_{l≥j} w_il x_tl)² of output i, (o, d), when all after it are lost.

    `outputs` (n, o) are those of all inputs (n, d) with the weight (o, d). Input j adds its own square and
    twice its product with the inputs after it. That product is (Σ_l w_l x_lᵀ) x_j or Σ_l w_l (x_lᵀ x_j) over
    l > j. The first form is cheaper while many inputs follow: it costs 2·o·n instead of (o + n)·l
    multiplications for l inputs.
    """
    d, rest = weight.shape[1], outputs.clone()
    few = 2 * rest.numel() / max(1, sum(rest.shape))
    added = torch.empty_like(weight)  # (o, d)
    for start, end in split_bands(d, band):
        some, x = weight[:, start:end], inputs[:, start:end]  # (o, B), (n, B)
        own = x.T @ x  # (B, B)
        if d - end > few:
            rest.addmm_(x, some.T, alpha=-1)  # (n, o)
            after = rest.T @ x  # (o, B)
        else:
            after = weight[:, end:] @ (inputs[:, end:].T @ x)  # (o, l) @ (l, B) → (o, B)
        after += some @ own.tril(-1)
        added[:, start:end] = some * (2 * after + some * own.diagonal())
    return added


def fit_slopes(weight: Tensor, cov: Tensor, band: int = BAND) -> Tensor:
    """Return the slope (o, d) of every output with the first 1, 2, … d inputs; 1 where its part is constant.

    A slope is cov(y, ŷ) / var(ŷ), and `cov` (d, d) is the covariance of the inputs. Input j adds w_j Σ_l w_l
    C_lj over all inputs l to cov(y, ŷ). To var(ŷ) it adds the same over the inputs up to j, where those
    before j count twice.
    """
    floor, slopes = torch.finfo(weight.dtype).eps, torch.empty_like(weight)
    # cov(y, ŷ), var(ŷ), and var(ŷ) as if inputs were uncorrelated, with the inputs so far.
    sums = weight.new_zeros(3, len(weight), 1)
    for start, end in split_bands(len(cov), band):
        some, own = weight[:, start:end], cov[start:end, start:end]  # (o, B), (B, B)
        before = weight[:, :start] @ cov[:start, start:end]  # (o, B)
        every = before + weight[:, start:] @ cov[start:, start:end]  # (o, B)
        alone = some.square() * own.diagonal()  # (o, B)
        before += some @ own.triu(1)
        added = torch.stack((some * every, 2 * some * before + alone, alone))  # (3, o, B)
        covariance, variance, most = grown = sums + added.cumsum(2)
        sums = grown[:, :, -1:]
        slopes[:, start:end] = torch.where(
            variance > floor * most, covariance / variance, torch.ones_like(variance)
        )
    return slopes


def multiply_lower(weight: Tensor, root: Tensor) -> Tensor:
    """Return W L (o, d) of a weight (o, d) and a lower triangular matrix (d, d)."""
    found = torch.empty_like(weight)
    for start, end in split_triangle(len(root)):
        found[:, start:end] = weight[:, start:] @ root[start:, start:end]
    return found


def tail_sums(values: Tensor) -> Tensor:
    """Return Σ_{j≥k} of values (…, d) along their last dimension, at k = 0, 1, … d, as (…, d+1)."""
    sums = values.flip(-1).cumsum(-1).flip(-1)
    return torch.cat((sums, torch.zeros_like(values[..., :1])), dim=-1)
