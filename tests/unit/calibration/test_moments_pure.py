"""Claims about moments without a model: sums, batches and covariances equal one pass over the activations."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slimllm.calibration.moments import Accumulator
from slimllm.core.types import LayerMoments, Moments

pytestmark = pytest.mark.usefixtures("one_thread")


def activations(t: int, d: int, seed: int = 0) -> Tensor:
    """Correlated features whose mean is not zero (t, d)."""
    g = torch.Generator().manual_seed(seed)
    x, mix, mean = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((t, d), (d, d), (d,)))
    return x @ mix + mean


def naive(x: Tensor) -> Moments:
    """The moments of activations (t, d), summed token by token."""
    mean, gram = torch.zeros_like(x[0]), torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
    for row in x:
        mean, gram = mean + row / len(x), gram + torch.outer(row, row) / len(x)
    return Moments(mean, gram, len(x))


def layer_moments(x: Tensor, inner: Tensor, hidden: Tensor, cosines: Tensor) -> LayerMoments:
    return LayerMoments(naive(x), naive(inner), hidden.square().mean(0), float(cosines.mean()))


def assert_same(found: Moments, expected: Moments, tolerance: float = 1e-10) -> None:
    assert found.tokens == expected.tokens
    torch.testing.assert_close(found.mean.double(), expected.mean, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found.gram.double(), expected.gram, atol=tolerance, rtol=tolerance)


def test_oracle_covariance() -> None:
    x = activations(50, 6)
    torch.testing.assert_close(naive(x).cov, torch.cov(x.T, correction=0))


@pytest.mark.parametrize("cut", [1, 7, 25, 49])
def test_oracle_sum_of_moments_is_the_moments_of_all_tokens(cut: int) -> None:
    x = activations(50, 6)
    assert_same(naive(x[:cut]) + naive(x[cut:]), naive(x))


def test_sum_of_moments_does_not_depend_on_order_or_nesting() -> None:
    a, b, c = (naive(activations(t, 5, seed=t)) for t in (3, 20, 11))
    assert_same((a + b) + c, c + (b + a))


def test_oracle_sum_of_layer_moments_is_the_layer_moments_of_all_tokens() -> None:
    x, inner, hidden, cosines = (activations(40, d, seed=d) for d in (6, 8, 5, 1))
    parts = (x, inner, hidden, cosines)
    found = layer_moments(*(p[:9] for p in parts)) + layer_moments(*(p[9:] for p in parts))
    expected = layer_moments(*parts)
    assert_same(found.attention, expected.attention)
    assert_same(found.mlp, expected.mlp)
    torch.testing.assert_close(found.mlp_input_sq, expected.mlp_input_sq)
    assert found.cosine == pytest.approx(expected.cosine)


@pytest.mark.parametrize("batch", [1, 3, 7])
def test_oracle_accumulating_in_batches_equals_one_pass(batch: int) -> None:
    x = activations(7 * 20, 6).view(7, 20, 6)  # (b, T, d)
    accumulator, squares = Accumulator(), Accumulator(second=False)
    for samples in x.split(batch):
        accumulator.add(samples)
        squares.add(samples)
    flat = x.flatten(0, 1)
    assert_same(accumulator.moments, naive(flat), tolerance=1e-5)
    torch.testing.assert_close(squares.mean.double(), flat.square().mean(0), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_activations_are_summed_without_overflow(dtype: torch.dtype) -> None:
    x = torch.full((4, 100, 3), 300.0, dtype=dtype)  # 300² is more than float16 holds
    accumulator, squares = Accumulator(), Accumulator(second=False)
    for samples in x:
        accumulator.add(samples)
        squares.add(samples)
    found, value = accumulator.moments, float(x[0, 0, 0]) ** 2
    assert found.gram.dtype == torch.float32
    torch.testing.assert_close(found.gram, torch.full((3, 3), value))
    torch.testing.assert_close(squares.mean, torch.full((3,), value))


def test_accumulating_changes_neither_the_activations_nor_earlier_results() -> None:
    x = activations(20, 4).float()
    before = x.clone()
    accumulator, squares = Accumulator(), Accumulator(second=False)
    for one in (accumulator, squares):
        one.add(x)
    first, kept, mean = accumulator.moments, accumulator.moments.gram.clone(), squares.mean.clone()
    earlier = squares.mean
    for one in (accumulator, squares):
        one.add(x * 3)
    assert torch.equal(x, before)
    assert torch.equal(first.gram, kept)
    assert torch.equal(earlier, mean)


def test_doubling_changes_precision_and_nothing_else() -> None:
    x = activations(20, 4)
    single = Moments(naive(x).mean.float(), naive(x).gram.float(), 20)
    double = single.double()
    assert (double.mean.dtype, double.gram.dtype, double.tokens) == (torch.float64, torch.float64, 20)
    assert torch.equal(double.gram.float(), single.gram)
    assert torch.equal(double.mean.float(), single.mean)
