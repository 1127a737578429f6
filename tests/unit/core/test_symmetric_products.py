"""Claims about products with symmetric matrices: equal to the plain ones, at half the multiplications."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from slimllm.core import symmetric_products as products

pytestmark = pytest.mark.usefixtures("one_thread")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def symmetric(d: int) -> Tensor:
    x = normal(d + 2, d, seed=1)
    return x.T @ x


@pytest.mark.parametrize("d", [1, 2, 7, 8, 9, 40])
def test_oracle_products_are_the_plain_ones(d: int) -> None:
    weight, matrix, rows = normal(5, d), symmetric(d), normal(3, d, seed=2)
    plain = weight @ matrix @ weight.T
    torch.testing.assert_close(products.measure_energies(weight, matrix), plain.diagonal())
    found = products.transform_covariance(weight, matrix)
    torch.testing.assert_close(found, plain)
    assert torch.equal(found, found.T)
    found = products.subtract_gram(matrix.clone(), rows)
    torch.testing.assert_close(found, matrix - rows.T @ rows)


def count_multiplications(work: object) -> float:
    with FlopCounterMode(display=False) as counter:
        work()  # type: ignore[operator]
    return counter.get_total_flops() / 2


def test_products_cost_half_of_the_plain_ones() -> None:
    o, n, d = 16, 32, 512
    weight, matrix, rows = normal(o, d), symmetric(d), normal(n, d)
    most = 0.5 + 0.5 / products.BANDS + 1e-6
    assert count_multiplications(lambda: products.measure_energies(weight, matrix)) <= most * o * d * d
    assert count_multiplications(lambda: products.subtract_gram(matrix, rows)) <= most * n * d * d
    rest = o * o * d
    assert (
        count_multiplications(lambda: products.transform_covariance(weight, matrix))
        <= most * o * d * d + rest
    )
