"""Σ xᵀ x of many tokens, the dearest sum of the moments, at a third of its usual cost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from slimllm.models.loading import has_bfloat16_cpu

BANDS = 4  # of rows; more save less than they cost (measured at 1,536 columns)
LEAST = 64  # columns of a band


@contextlib.contextmanager
def bfloat16_products() -> Iterator[None]:
    """While open, float32 matrix products on this processor take bfloat16 factors and sum in float32.

    Exact up to the order of summation where every factor is a bfloat16 number to begin with. The setting is
    the process's: it is open only for the products themselves.
    """
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


class Gram:
    """The running sum Σ xᵀ x (d, d) in float32. Only the upper half is summed: the rest mirrors it."""

    def __init__(self) -> None:
        self.upper: Tensor | None = None

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Adds tokens (t, d), each counted by its weight (t,)."""
        wide = x.float()
        scaled = wide if weights is None else wide * weights[:, None]
        columns = x.shape[1]
        if self.upper is None:
            self.upper = wide.new_zeros(columns, columns)
        exact = x.dtype == torch.bfloat16 and weights is None and x.device.type == "cpu"
        with bfloat16_products() if exact and has_bfloat16_cpu() else contextlib.nullcontext():
            for start, end in split_bands(columns):
                self.upper[start:end, start:].addmm_(scaled[:, start:end].T, wide[:, start:])

    @property
    def whole(self) -> Tensor:
        """The sum (d, d), exactly symmetric."""
        assert self.upper is not None
        return self.upper.triu().add_(self.upper.triu(1).T)


def split_bands(columns: int) -> list[tuple[int, int]]:
    """(start, end) of a few bands of equal height."""
    height = max(LEAST, -(-columns // BANDS))
    return [(start, min(start + height, columns)) for start in range(0, columns, height)]
