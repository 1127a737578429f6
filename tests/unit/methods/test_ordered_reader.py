"""Claims about the sums over every width: equal to naive ones, and no dearer than they say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from slimllm.methods.ordered_reader import fit_slopes, measure_losses, multiply_lower, tail_sums

pytestmark = pytest.mark.usefixtures("one_thread")

# Outputs, tokens, inputs. Of the first form, of the second, and of both in one curve.
SHAPES = {
    "few outputs, few tokens": (3, 5, 40),
    "fewer outputs than tokens than inputs": (6, 20, 40),
    "more outputs than inputs": (50, 9, 7),
    "many outputs and tokens": (60, 70, 24),
    "one token": (4, 1, 30),
    "one output": (1, 8, 30),
    "one input": (4, 3, 1),
}


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("band", [1, 3, 64])
@pytest.mark.parametrize("name", SHAPES)
def test_oracle_losses_of_every_width(name: str, band: int) -> None:
    o, n, d = SHAPES[name]
    weight, inputs = normal(o, d), normal(n, d, seed=1) + 0.5
    found = tail_sums(measure_losses(weight, inputs, inputs @ weight.T, band))
    assert found.shape == (o, d + 1)
    for k in range(d + 1):
        naive = (inputs[:, k:] @ weight[:, k:].T).square().sum(0)
        torch.testing.assert_close(found[:, k], naive, rtol=1e-10, atol=1e-10 * float(found.max()))
    assert not found[:, d].any()


@pytest.mark.parametrize(("o", "n", "d"), [(8, 8, 512), (128, 128, 64), (24, 40, 128)])
def test_losses_take_the_cheaper_form_for_every_input(o: int, n: int, d: int) -> None:
    weight, inputs, band = normal(o, d), normal(n, d, seed=1), 8
    outputs = inputs @ weight.T
    with FlopCounterMode(display=False) as counter:
        measure_losses(weight, inputs, outputs, band)
    within = (o + n) * d * band
    cheaper = sum(min(2 * o * n, (o + n) * (d - j)) for j in range(d))
    assert counter.get_total_flops() / 2 <= cheaper + within


@pytest.mark.parametrize("band", [1, 5, 64])
def test_oracle_slopes_of_every_width(band: int) -> None:
    weight, x = normal(7, 20), normal(90, 20, seed=1) @ normal(20, 20, seed=2)
    x = x - x.mean(0)
    weight[2, 0] = 0
    slopes = fit_slopes(weight, x.T @ x / len(x), band)
    for k in range(1, 21):
        y, part = x @ weight.T, x[:, :k] @ weight[:, :k].T
        expected = (y * part).sum(0) / part.square().sum(0)
        torch.testing.assert_close(slopes[:, k - 1], expected.nan_to_num(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("d", [1, 7, 8, 30])
def test_a_product_with_a_lower_triangle_skips_its_zeros(d: int) -> None:
    weight, root = normal(5, d), normal(d, d, seed=1).tril()
    torch.testing.assert_close(multiply_lower(weight, root), weight @ root, rtol=1e-12, atol=1e-12)
