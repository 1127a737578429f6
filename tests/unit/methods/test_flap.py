"""Claims about FLAP's scores: each equals plain loops over activations; what does not vary counts nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slimllm.core.types import Moments
from slimllm.methods.flap import fluctuation_heads, fluctuation_scores

TOKENS, OUTPUTS, HEADS, SIZE = 40, 5, 4, 3


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def case(seed: int) -> tuple[Tensor, Tensor]:
    """Activations (t, d) with means far from zero, and a reader (o, d)."""
    d = HEADS * SIZE
    return normal(TOKENS, d, seed=seed) + 3 * normal(d, seed=seed + 1), normal(OUTPUTS, d, seed=seed + 2)


def moments_of(x: Tensor) -> Moments:
    return Moments(x.mean(0), x.T @ x / len(x), len(x))


def naive_channel(x: Tensor, weight: Tensor, j: int) -> float:
    """The variance of one input over tokens times the sum of its squared weights, number by number."""
    values = x[:, j].tolist()
    mean = sum(values) / len(values)
    variance = sum((v - mean) ** 2 for v in values) / len(values)
    return variance * sum(w * w for w in weight[:, j].tolist())


def test_oracle_fluctuation_of_channels() -> None:
    x, weight = case(seed=0)
    expected = [naive_channel(x, weight, j) for j in range(x.shape[1])]
    found = fluctuation_scores(moments_of(x), weight)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_oracle_fluctuation_of_heads() -> None:
    x, weight = case(seed=10)
    expected = []
    for h in range(HEADS):
        squares = [naive_channel(x, weight, h * SIZE + i) ** 2 for i in range(SIZE)]
        expected.append(sum(squares) / SIZE)
    found = fluctuation_heads(moments_of(x), weight, HEADS)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_one_loud_input_outweighs_a_louder_sum() -> None:
    """Why the squares matter: by plain sums the other head would win."""
    x = torch.tensor([[-1.0], [1.0]]).double() * torch.tensor([3.0, 0.1, 2.0, 2.0]).double().sqrt()
    moments, weight = moments_of(x), torch.ones(1, 4, dtype=torch.float64)
    sums = fluctuation_scores(moments, weight).view(2, 2).sum(1)
    assert sums[1] > sums[0]
    heads = fluctuation_heads(moments, weight, 2)
    torch.testing.assert_close(heads, torch.tensor([(9 + 0.01) / 2, 4.0], dtype=torch.float64))
    assert heads[0] > heads[1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("value", [0.0, 0.3, 1000.7])
def test_a_constant_input_counts_nothing_however_large(value: float, dtype: torch.dtype) -> None:
    x, weight = case(seed=20)
    x[:, 4] = value
    weight[:, 4] *= 100
    found = fluctuation_scores(moments_of(x.to(dtype)), weight.to(dtype))
    assert float(found[4]) == 0
    assert (found[torch.arange(12) != 4] > 0).all()


def test_a_shift_of_the_input_changes_nothing() -> None:
    """Constants are put back by the bias that FLAP adds, so they must not count."""
    x, weight = case(seed=30)
    torch.testing.assert_close(
        fluctuation_scores(moments_of(x), weight), fluctuation_scores(moments_of(x + 2), weight)
    )
