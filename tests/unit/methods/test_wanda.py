"""Claims about Wanda's metric: heads, channels and FASP's value columns equal loops over activations."""

from __future__ import annotations

import pytest
import torch

from slimllm.analysis.layer_analysis import head_errors
from slimllm.core.held_out import HeldOut, HeldOutReader
from slimllm.core.shapes import Grouping
from slimllm.core.types import Moments
from slimllm.methods.interface import HeadSite
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS
from tests.support.ranking_cases import (
    GROUPINGS,
    channel_case,
    channel_ranking,
    check_summed_heads,
    head_case,
    head_ranking,
    named,
)

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("grouping", GROUPINGS, ids=named)
def test_oracle_wanda_head_scores(grouping: Grouping) -> None:
    x, weight = head_case(grouping, seed=5)
    inputs = [
        sum(abs(float(w)) for w in weight[:, j]) * float((x[:, j] ** 2).sum()) ** 0.5
        for j in range(x.shape[1])
    ]
    check_summed_heads(head_ranking("wanda-sp", x, weight, grouping), inputs, grouping)


def test_oracle_wanda_channel_scores() -> None:
    _, down, _, inner = channel_case(seed=7)
    columns = range(inner.shape[1])
    naive = [float(down[:, j].abs().sum()) * float((inner[:, j] ** 2).sum()) ** 0.5 for j in columns]
    found = channel_ranking("wanda-sp", seed=7)
    torch.testing.assert_close(found.scores, torch.tensor(naive, dtype=torch.float64))
    assert found.kept(5).tolist() == sorted(sorted(columns, key=lambda j: -naive[j])[:5])


def test_fasp_columns_equal_an_oracle_on_activations() -> None:
    torch.manual_seed(0)
    heads, groups, size, outputs = 6, 3, 4, 5
    x = torch.randn(50, heads * size, dtype=torch.float64)
    weight = torch.randn(outputs, heads * size, dtype=torch.float64)
    grouping = Grouping(heads, groups, "value-column", size)
    moments = Moments(x.mean(0), x.T @ x / len(x), len(x))
    found = METHODS["fasp"].heads(HeadSite(weight, moments, grouping), {})
    naive = torch.zeros(groups, size, dtype=torch.float64)
    for h in range(heads):
        for j in range(size):
            column = h * size + j
            norm = sum(float(v) ** 2 for v in x[:, column]) ** 0.5
            naive[h // 2, j] += sum(abs(float(w)) for w in weight[:, column]) * norm
    assert torch.allclose(found.scores, naive.flatten())
    for width in range(size + 1):
        kept = found.kept(width, size)
        best = [sorted(naive[g].argsort(descending=True)[:width].tolist()) for g in range(groups)]
        assert kept.tolist() == [g * size + j for g in range(groups) for j in best[g]]
        inputs = grouping.inputs_of(kept, size).tolist()
        assert inputs == [h * size + j for h in range(heads) for j in best[h // 2]]


@pytest.mark.parametrize("recovery", RECOVERIES)
def test_fasp_curve_is_the_oracle_error_of_the_kept_columns(recovery: str) -> None:
    torch.manual_seed(1)
    grouping = Grouping(4, 2, "value-column", 3)
    x = torch.randn(60, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64) + 1
    weight = torch.randn(5, 12, dtype=torch.float64)
    moments = Moments(x.mean(0), x.T @ x / len(x), len(x))
    ranking = METHODS["fasp"].heads(HeadSite(weight, moments, grouping), {})
    unseen = torch.randn(20, 12, dtype=torch.float64) + 1
    reader = HeldOutReader(weight, HeldOut(unseen, torch.ones(len(unseen))))
    curve = head_errors(reader, moments, ranking, grouping, [recovery])[recovery]
    assert len(curve) == 4
    for width in range(4):
        kept = grouping.inputs_of(ranking.kept(width, 3), 3)
        repair = RECOVERIES[recovery].repair(weight, moments, kept)
        y = unseen[:, kept] @ repair.weight.T
        y = y + (0 if repair.bias is None else repair.bias)
        naive = ((unseen @ weight.T - y).square().sum() / (unseen @ weight.T).square().sum()).item()
        assert float(curve[width]) == pytest.approx(naive, rel=1e-4, abs=1e-7)
