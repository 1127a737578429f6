"""Claims about Σ xᵀx: the naive sum in float64, whatever the width, dtype and weights."""

from __future__ import annotations

import pytest
import torch

from slimllm.calibration.gram import Gram, bfloat16_products, split_bands


@pytest.mark.parametrize("columns", [1, 63, 64, 65, 300, 576])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("weighted", [False, True])
def test_oracle_gram_is_the_naive_sum(columns: int, dtype: torch.dtype, weighted: bool) -> None:
    g = torch.Generator().manual_seed(columns)
    gram, expected = Gram(), torch.zeros(columns, columns, dtype=torch.float64)
    for tokens in (17, 400):
        x = (torch.randn(tokens, columns, generator=g) + 0.3).to(dtype)
        weights = torch.rand(tokens, generator=g) if weighted else None
        gram.add(x, weights)
        for row, weight in zip(x.double(), torch.ones(tokens) if weights is None else weights, strict=True):
            expected += float(weight) * torch.outer(row, row)
    torch.testing.assert_close(gram.whole.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.max()))
    assert torch.equal(gram.whole, gram.whole.T)


@pytest.mark.parametrize("columns", [1, 64, 257, 1536])
def test_bands_cover_every_row_once(columns: int) -> None:
    assert [row for start, end in split_bands(columns) for row in range(start, end)] == list(range(columns))


def test_the_setting_of_products_is_put_back_even_after_a_failure() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(ValueError, match="on purpose"), bfloat16_products():
        raise ValueError("on purpose")
    assert torch.backends.mkldnn.matmul.fp32_precision == before
    left = torch.randn(64, 64)
    torch.testing.assert_close((left @ left).double(), left.double() @ left.double(), rtol=1e-5, atol=1e-4)
