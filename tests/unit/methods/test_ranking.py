"""Claims about the rankings of all methods: broken inputs give no NaN; kept sets are balanced; pins hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from slimllm.core.shapes import Grouping, LayerShape
from slimllm.core.types import Pin
from slimllm.methods.interface import ChannelSite, HeadSite
from slimllm.methods.ranking import rank_inputs
from slimllm.methods.table import METHODS, fill_options
from slimllm.planning.budget import bounds_of
from tests.support.ranking_cases import (
    GROUPINGS,
    KV,
    OUTPUTS,
    SIZE,
    channel_case,
    channel_ranking,
    head_case,
    head_ranking,
    kept_at_every_step,
    moments_of,
    named,
    normal,
)

HEADED = [name for name, row in METHODS.items() if "value-column" not in row.units]  # the others cut no heads

pytestmark = pytest.mark.usefixtures("one_thread")


def test_keep_lowest_keeps_the_lowest_one_percent_and_cuts_the_next() -> None:
    values = normal(300, seed=8)
    ascending = values.argsort().tolist()
    found = rank_inputs(values, keep_lowest=0.01)
    for width in (3, 4, 150, 299, 300):
        assert found.kept(width).tolist() == sorted(ascending[:3] + ascending[300 - (width - 3) :])


# Broken inputs ---------------------------------------------------------------------------------------------


def broken(x: Tensor, kind: str) -> Tensor:
    x = x.clone()
    if kind == "dead channel":
        x[:, 4] = 0
    elif kind == "dead site":
        x[:] = 0
    elif kind == "constant site":
        x[:] = x[:1]
    elif kind == "one token":
        x = x[:1]
    elif kind == "sink token":
        x[0] *= 1e4
    return x


@pytest.mark.parametrize("kind", ["dead channel", "dead site", "constant site", "one token", "sink token"])
@pytest.mark.parametrize("name", HEADED)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_broken_inputs_give_finite_scores_and_complete_orders(
    kind: str, name: str, dtype: torch.dtype
) -> None:
    x, weight = head_case(KV[1], seed=9)
    moments = moments_of(broken(x, kind).to(dtype))
    site = HeadSite(weight.to(dtype), moments, KV[1], learned=torch.ones(8))
    channels = ChannelSite(
        weight.to(dtype),
        moments,
        [normal(24, OUTPUTS, seed=3).to(dtype)],
        torch.zeros(OUTPUTS, dtype=dtype),
        learned=torch.ones(24),
    )
    found = (
        METHODS[name].heads(site, fill_options(name, {})),
        METHODS[name].channels(channels, fill_options(name, {})),
    )
    for ranking, n in zip(found, (8, 24), strict=True):
        assert torch.isfinite(ranking.scores).all()
        assert sorted(ranking.order.tolist()) == list(range(n))
        assert len(ranking.kept(n // 2)) == n // 2


# Invariance, kept sets, pins -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["slimllm", "wanda-sp", "magnitude"])
def test_permuting_units_permutes_scores_and_kept_sets(name: str) -> None:
    grouping, shuffle = Grouping(6, 6, "kv-group"), torch.tensor([3, 0, 5, 1, 4, 2])
    x, weight = head_case(grouping, seed=11)
    columns = (shuffle[:, None] * SIZE + torch.arange(SIZE)).flatten()
    before = head_ranking(name, x, weight, grouping)
    after = head_ranking(name, x[:, columns], weight[:, columns], grouping)
    torch.testing.assert_close(after.scores, before.scores[shuffle])
    for width in range(7):
        assert sorted(shuffle[after.kept(width)].tolist()) == before.kept(width).tolist()
    mlp, down, writers, inner = channel_case(seed=12)
    mix = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    site = ChannelSite(
        down[:, mix], moments_of(inner[:, mix]), [w[mix] for w in writers], mlp.square().mean(0)
    )
    mixed, straight = METHODS[name].channels(site, fill_options(name, {})), channel_ranking(name, seed=12)
    torch.testing.assert_close(mixed.scores, straight.scores[mix])
    assert mix[mixed.order].tolist() == straight.order.tolist()


@pytest.mark.parametrize("grouping", GROUPINGS, ids=named)
@pytest.mark.parametrize("name", HEADED)
def test_kept_is_ascending_and_has_equally_many_heads_of_every_pool(name: str, grouping: Grouping) -> None:
    found = head_ranking(name, *head_case(grouping, seed=13), grouping)
    group_of = torch.arange(grouping.heads) // (grouping.heads // grouping.groups)
    for step, kept in enumerate(kept_at_every_step(found, grouping)):
        assert kept == sorted(set(kept))
        assert len(kept) == step * grouping.heads // grouping.steps
        per_group = torch.bincount(group_of[kept], minlength=grouping.groups).tolist()
        whole = grouping.heads // grouping.groups
        allowed = {0, whole} if grouping.unit == "kv-group" else {step}
        assert set(per_group) <= allowed
    channels = channel_ranking(name, seed=13)
    for width in range(17):
        kept = channels.kept(width).tolist()
        assert kept == sorted(set(kept))
        assert len(kept) == width


@pytest.mark.parametrize("grouping", GROUPINGS, ids=named)
@pytest.mark.parametrize("name", HEADED)
def test_pinned_heads_are_honoured_at_every_feasible_width(name: str, grouping: Grouping) -> None:
    x, weight = head_case(grouping, seed=14)
    layer = LayerShape(grouping.heads, grouping.groups, 16, 1, 1, 1, 0, False, False)
    free = head_ranking(name, x, weight, grouping).order.tolist()
    worst, best = free[-1], free[0]  # protect what would go first, force out what would stay
    if grouping.unit_of_head()[worst] == grouping.unit_of_head()[best]:
        best = next(h for h in free if grouping.unit_of_head()[h] != grouping.unit_of_head()[worst])
    protected, forced = (Pin(0, "attention", worst),), (Pin(0, "attention", best),)
    pinned = torch.zeros(grouping.heads, dtype=torch.int64)
    pinned[worst], pinned[best] = 1, -1
    bounds = bounds_of(layer, 0, grouping.unit, 1, protected, forced)
    learned = normal(grouping.heads, seed=21).abs()
    site = HeadSite(weight, moments_of(x), grouping, pinned, learned=learned)
    found = METHODS[name].heads(site, fill_options(name, {}))
    assert len(bounds.heads) == grouping.steps - 1
    for width in bounds.heads:
        kept = found.kept(width).tolist()
        assert len(kept) == width
        assert worst in kept
        assert best not in kept


@pytest.mark.parametrize("name", METHODS)
def test_pinned_channels_are_honoured_at_every_feasible_width(name: str) -> None:
    free = channel_ranking(name, seed=15).order.tolist()
    pinned = torch.zeros(16, dtype=torch.int64)
    pinned[free[-3:]], pinned[free[:2]] = 1, -1
    found = channel_ranking(name, seed=15, pinned=pinned)
    for width in range(3, 15):
        kept = found.kept(width).tolist()
        assert set(free[-3:]) <= set(kept)
        assert not set(free[:2]) & set(kept)
    if name != "slimgpt":  # there, what is gone already changes what goes next
        assert [j for j in found.order.tolist() if pinned[j] == 0] == free[2:-3]
