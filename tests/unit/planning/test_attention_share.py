"""The share of what goes that is attention: told, and moved at the same size."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slimllm.core.attention_unit import UnitName
from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Pin, Plan
from slimllm.planning.attention_share import attention_share, rebalance_plan
from slimllm.planning.forecast import decoder_parameters, forecast_plan
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis

ANALYSIS = synthetic_analysis(12, 16, 4, 16, 800)
UNITS = tuple(ANALYSIS.layers[0].attention)


def plan_of(ratio: float, unit: str = "auto", **more: object) -> Plan:
    return make_plan(
        ANALYSIS, PlanRules(ratio, allocation="uniform", recovery="regression", unit=unit, **more)
    )  # type: ignore[arg-type]


def naive_share(analysis: Analysis, plan: Plan) -> float:
    """By hand: what heads and groups take away, against all that goes."""
    gone = [0, 0]
    for layer, heads, channels in zip(analysis.shape.layers, plan.heads, plan.channels, strict=True):
        groups = heads * layer.groups // layer.heads if plan.unit == "kv-group" else layer.groups
        gone[0] += (layer.heads - heads) * layer.head_cost + (layer.groups - groups) * layer.group_cost
        gone[1] += (layer.channels - channels) * layer.channel_cost
    return gone[0] / sum(gone)


@pytest.mark.parametrize("unit", UNITS)
def test_the_share_is_what_heads_take_away(unit: UnitName) -> None:
    plan = plan_of(0.3, unit)
    assert attention_share(ANALYSIS.shape, plan) == pytest.approx(naive_share(ANALYSIS, plan), rel=1e-12)
    assert attention_share(ANALYSIS.shape, plan_of(0.0)) == 0.0


@settings(max_examples=60, deadline=None)
@given(share=st.floats(0, 1), ratio=st.floats(0.05, 0.6), unit=st.sampled_from(UNITS))
def test_the_size_stays_and_the_share_is_met(share: float, ratio: float, unit: UnitName) -> None:
    plan = plan_of(ratio, unit)
    moved = rebalance_plan(ANALYSIS, plan, share)
    before, after = (decoder_parameters(ANALYSIS.shape, p) for p in (plan, moved))
    layer = ANALYSIS.shape.layers[0]
    assert before - 8 * layer.channel_cost - 2 * ANALYSIS.shape.hidden < after <= before
    step = layer.dense - layer.at(
        layer.widest(unit) * (layer.steps(unit) - 1) // layer.steps(unit), 800, unit
    )
    removed = ANALYSIS.shape.decoder - before
    attention_most = sum(
        each.dense - each.at(each.widest(unit) // each.steps(unit), each.channels, unit)
        for each in ANALYSIS.shape.layers
    )
    channels_most = sum((800 - 40) * each.channel_cost for each in ANALYSIS.shape.layers)
    wanted = max(min(share * removed, attention_most), removed - channels_most)
    found = attention_share(ANALYSIS.shape, moved) * removed
    assert abs(found - wanted) <= step + 0.02 * removed
    assert moved.allocation == "hand"


def test_the_heads_that_go_first_are_those_that_cost_least() -> None:
    energies = [layer.attention[UNITS[0]].energy for layer in ANALYSIS.layers]
    whole = rebalance_plan(ANALYSIS, plan_of(0.2), 0.0)
    assert set(whole.heads) == {16}
    calm = rebalance_plan(ANALYSIS, whole, 0.4)

    def harm(heads: Sequence[int]) -> float:
        other = dataclasses.replace(calm, heads=tuple(heads))
        errors = forecast_plan(ANALYSIS, other).attention_error
        return sum(energy * error for energy, error in zip(energies, errors, strict=True))

    draw = random.Random(0)
    assert len(set(calm.heads)) > 1
    for _ in range(50):
        assert harm(calm.heads) <= harm(draw.sample(calm.heads, len(calm.heads))) + 1e-12


def test_locked_dropped_and_pinned_layers_stay() -> None:
    forced = (Pin(3, "attention", 0, 16), Pin(3, "mlp", 0, 800))
    protected = (Pin(5, "attention", 0, 16),)
    plan = plan_of(0.4, protected=protected, forced=forced)
    moved = rebalance_plan(ANALYSIS, plan, 0.9, locked=[7])
    assert (moved.heads[3], moved.channels[3]) == (0, 0)
    assert (moved.heads[7], moved.channels[7]) == (plan.heads[7], plan.channels[7])
    assert moved.heads[5] == 16
    assert sum(moved.heads) < sum(plan.heads)


def test_layers_that_the_plan_leaves_whole_stay_whole() -> None:
    plan = make_plan(ANALYSIS, PlanRules(0.2, allocation="cosine", recovery="regression"))
    whole = [i for i in range(12) if (plan.heads[i], plan.channels[i]) == (16, 800)]
    moved = rebalance_plan(ANALYSIS, plan, 0.9)
    assert {0, 11} <= set(whole)
    assert [(moved.heads[i], moved.channels[i]) for i in whole] == [(16, 800)] * len(whole)
    assert sum(moved.heads) < sum(plan.heads)


@pytest.mark.parametrize("share", [-0.1, 1.1, math.nan, math.inf])
def test_a_share_that_is_none_is_refused(share: float) -> None:
    with pytest.raises(Refusal, match="from 0 to 1"):
        rebalance_plan(ANALYSIS, plan_of(0.2), share)
