"""Σ xᵀ x of many tokens, the most expensive sum of the moments, at a third of its usual cost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from slimllm.core.devices import has_bfloat16_cpu

# The number of row bands; more cost more than they save (measured at 1,536 columns).
BANDS = 4
# The smallest height of a band in rows.
LEAST = 64


@contextlib.contextmanager
def bfloat16_products() -> Iterator[None]:
    """Let float32 matrix products in the block take bfloat16 factors and sum in float32 on this processor.

    The result is exact up to the order of summation if every factor already is a bfloat16 number. The setting
    applies to the whole process, so the block should contain only the products themselves.
    """
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


class Gram:
    """The running sum Σ xᵀ x (d, d) in float32.

    Only `upper`, the upper triangle by bands, is summed; the rest mirrors it.
    """

    def __init__(self) -> None:
        self.upper: Tensor | None = None

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Add tokens (t, d), each multiplied by its weight (t,)."""
        wide = x.float()  # (t, d)
        scaled = wide if weights is None else wide * weights[:, None]  # (t, d)
        columns = x.shape[1]
        if self.upper is None:
            self.upper = wide.new_zeros(columns, columns)  # (d, d)
        exact = x.dtype == torch.bfloat16 and weights is None and x.device.type == "cpu"
        with bfloat16_products() if exact and has_bfloat16_cpu() else contextlib.nullcontext():
            for start, end in split_bands(columns):
                # (end - start, t) @ (t, d - start) → (end - start, d - start)
                self.upper[start:end, start:].addmm_(scaled[:, start:end].T, wide[:, start:])

    @property
    def whole(self) -> Tensor:
        """The sum (d, d), exactly symmetric."""
        assert self.upper is not None
        return self.upper.triu().add_(self.upper.triu(1).T)


def split_bands(columns: int) -> list[tuple[int, int]]:
    """Return (start, end) of at most `BANDS` row bands, all but the last of equal height."""
    height = max(LEAST, -(-columns // BANDS))
    return [(start, min(start + height, columns)) for start in range(0, columns, height)]
