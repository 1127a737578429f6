"""Claims about plans: every allocation meets its budget within one step, pins bind, refusals are sentences.

Parameters are counted by hand from matrix shapes, never with the product's own cost function.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from slimllm.core.attention_unit import UnitName
from slimllm.core.errors import Refusal
from slimllm.core.shapes import LayerShape, Shape, SiteName
from slimllm.core.types import Analysis, Calibration, LayerAnalysis, Pin, Plan, Ranking, SiteAnalysis
from slimllm.methods.recovery import RECOVERIES
from slimllm.planning.allocation import ALLOCATIONS, cosine_weights, fill_ratios
from slimllm.planning.budget import MAX_RATIO
from slimllm.planning.forecast import forecast_plan
from slimllm.planning.plan_making import adjust_plan, check_plan, make_plan
from slimllm.planning.rules import PlanRules, text_doubt

pytestmark = pytest.mark.usefixtures("one_thread")

ANYONES = [name for name, row in ALLOCATIONS.items() if not row.methods]
CLIPPED = [name for name in ANYONES if name != "cosine-unclipped"]
quick = settings(
    max_examples=50, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
PLAIN: dict[str, Any] = {"recovery": "none", "align": 1, "count": "decoder"}
HEAVY = {
    "layers": 4,
    "heads": 4,
    "groups": 4,
    "head_size": 8,
    "channels": 20,
    "hidden": 16,
}  # mostly attention
BIASED = {name for name, recovery in RECOVERIES.items() if recovery.bias}


def decreasing(steps: int, power: float, top: float) -> torch.Tensor:
    """A convex error curve (s+1,) that falls from `top` to 0."""
    return top * (1 - torch.arange(steps + 1, dtype=torch.float64) / steps) ** power


def layer_shape(
    hidden: int, heads: int, groups: int, head_size: int, channels: int, bias: bool
) -> LayerShape:
    """A Llama-like layer: q and o per head, k and v per group, gate, up and down per channel, two norms."""
    pair = 2 * hidden * head_size
    fixed = 2 * hidden + 2 * hidden * bias
    return LayerShape(
        heads, groups, channels, pair, pair, 3 * hidden, fixed, attention_bias=bias, mlp_bias=bias
    )


def random_analysis(
    layers: int = 6,
    heads: int = 8,
    groups: int = 4,
    head_size: int = 4,
    channels: int = 96,
    seed: int = 0,
    *,
    hidden: int | None = None,
    bias: bool = False,
    energies: tuple[float, float] = (1.0, 1.0),
    cosines: Sequence[float] | None = None,
) -> Analysis:
    """An analysis with random convex curves for every recovery and unit; no model stands behind it."""
    g = torch.Generator().manual_seed(seed)
    random = lambda low, high: low + (high - low) * float(torch.rand(1, generator=g, dtype=torch.float64))  # noqa: E731
    hidden = hidden or heads * head_size
    layer = layer_shape(hidden, heads, groups, head_size, channels, bias)
    shape = Shape("llama", hidden, head_size, 100, 512, 100 * hidden + hidden, (layer,) * layers)

    def site(n: int, steps: int, energy: float) -> SiteAnalysis:
        scores = torch.rand(n, generator=g, dtype=torch.float64)
        error = {name: decreasing(steps, random(1, 3), random(0.05, 1)) for name in RECOVERIES}
        return SiteAnalysis(Ranking(scores, scores.argsort(descending=True)), error, energy)

    found = tuple(
        LayerAnalysis(
            cosines[i] if cosines else random(0.3, 0.99),
            {unit: site(heads, layer.steps(unit), energies[0]) for unit in shape.units},
            site(channels, channels, energies[1]),
        )
        for i in range(layers)
    )
    return Analysis("synthetic", shape, Calibration(), "slimllm", {}, found, tokens=1000)


@st.composite
def sizes(draw: st.DrawFn, layers: int = 10) -> dict[str, Any]:
    """Arguments of `random_analysis`, from attention-heavy to MLP-heavy models."""
    groups, per = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return {
        "layers": draw(st.integers(1, layers)),
        "heads": groups * per,
        "groups": groups,
        "head_size": draw(st.sampled_from((2, 4, 8))),
        "channels": draw(st.integers(20, 200)),
        "seed": draw(st.integers(0, 99)),
        "hidden": draw(st.sampled_from((16, 64))),
        "bias": draw(st.booleans()),
    }


def choices() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {
            "recovery": st.sampled_from(list(RECOVERIES)),
            "align": st.sampled_from((1, 8, 32)),
            "count": st.sampled_from(("decoder", "all")),
        }
    )


def by_hand(
    analysis: Analysis, heads: Sequence[int], channels: Sequence[int], unit: UnitName, recovery: str
) -> int:
    """Parameters of the decoder, summed over its matrices, norms and biases."""
    hidden, size, total = analysis.shape.hidden, analysis.shape.head_size, 0
    for layer, h, c in zip(analysis.shape.layers, heads, channels, strict=True):
        groups = h // (layer.heads // layer.groups) if unit == "kv-group" else layer.groups
        total += 2 * hidden * (h * size) + 2 * hidden * (groups * size) + 3 * hidden * c + 2 * hidden
        for cut, has in ((h < layer.heads, layer.attention_bias), (c < layer.channels, layer.mlp_bias)):
            total += hidden * (has or (cut and recovery in BIASED))
    return total


def decoder_of(analysis: Analysis, plan: Plan) -> int:
    return by_hand(analysis, plan.heads, plan.channels, plan.unit, plan.recovery)


def dense_of(analysis: Analysis) -> int:
    layers = analysis.shape.layers
    return by_hand(analysis, [s.heads for s in layers], [s.channels for s in layers], "kv-group", "none")


def head_step(analysis: Analysis, unit: UnitName) -> int:
    layer = analysis.shape.layers[0]
    return layer.heads // layer.groups if unit == "kv-group" else layer.groups


def floor_of(analysis: Analysis, unit: UnitName, align: int) -> tuple[int, int]:
    """The fewest heads and channels a layer may keep: one step; 5 %, on the grid."""
    dense = analysis.shape.layers[0].channels
    return head_step(analysis, unit), min(
        dense, math.ceil(math.ceil(dense * (1 - MAX_RATIO)) / align) * align
    )


def budget_of(analysis: Analysis, ratio: float, count: str) -> float:
    dense = dense_of(analysis)
    return dense - ratio * (dense + analysis.shape.outside if count == "all" else dense)


def one_step(analysis: Analysis, align: int) -> int:
    """One aligned channel step of one layer, and the bias that may come with it."""
    return (3 * align + 1) * analysis.shape.hidden


def whole(analysis: Analysis, plan: Plan) -> bool:
    dense = analysis.shape.layers
    return plan.heads == tuple(s.heads for s in dense) and plan.channels == tuple(s.channels for s in dense)


# Budgets ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("allocation", CLIPPED)
@given(sizes(), choices(), st.floats(0, 0.99))
@quick
def test_every_allocation_meets_its_budget_and_stays_feasible(
    allocation: str, size: dict[str, Any], choice: dict[str, Any], ratio: float
) -> None:
    analysis = random_analysis(**size)
    dense, align = analysis.shape.layers[0], choice["align"]
    budget = budget_of(analysis, ratio, choice["count"])
    for unit in analysis.shape.units:
        low_heads, low_channels = floor_of(analysis, unit, align)
        n = len(analysis.shape.layers)
        floor = by_hand(analysis, [low_heads] * n, [low_channels] * n, unit, choice["recovery"])
        if floor > budget:
            with pytest.raises(Refusal):
                make_plan(analysis, PlanRules(ratio, allocation=allocation, unit=unit, **choice))
            continue
        plan = make_plan(analysis, PlanRules(ratio, allocation=allocation, unit=unit, **choice))
        assert decoder_of(analysis, plan) <= budget + 1e-6
        for heads, channels in zip(plan.heads, plan.channels, strict=True):
            assert heads in range(low_heads, dense.heads + 1, low_heads)
            assert low_channels <= channels <= dense.channels
            assert channels % align == 0 or channels == dense.channels


@pytest.mark.parametrize("allocation", CLIPPED)
@given(sizes(), choices(), st.floats(0, 0.9))
@example(HEAVY, PLAIN, 0.15)
@example(HEAVY, PLAIN, 0.05)
@quick
def test_every_allocation_spends_its_budget_to_within_one_channel_step(
    allocation: str, size: dict[str, Any], choice: dict[str, Any], ratio: float
) -> None:
    analysis = random_analysis(**size)
    for unit in analysis.shape.units:
        try:
            plan = make_plan(analysis, PlanRules(ratio, allocation=allocation, unit=unit, **choice))
        except Refusal:
            continue
        gap = budget_of(analysis, ratio, choice["count"]) - decoder_of(analysis, plan)
        assert gap < one_step(analysis, choice["align"]) or whole(analysis, plan)


@pytest.mark.parametrize("allocation", ANYONES)
@given(sizes(), choices(), st.floats(1e-6, 0.02))
@quick
def test_no_layer_ever_grows(
    allocation: str, size: dict[str, Any], choice: dict[str, Any], ratio: float
) -> None:
    analysis = random_analysis(**size)
    try:
        plan = make_plan(analysis, PlanRules(ratio, allocation=allocation, **choice))
    except Refusal:  # a grid this coarse has no step that small
        assume(False)
    for i in range(len(plan.heads)):
        alone = dataclasses.replace(analysis.shape, layers=(analysis.shape.layers[i],))
        single = dataclasses.replace(analysis, shape=alone)
        cost = by_hand(single, plan.heads[i : i + 1], plan.channels[i : i + 1], plan.unit, plan.recovery)
        assert cost <= dense_of(single)


@pytest.mark.parametrize("allocation", ANYONES)
@given(sizes(), choices())
@quick
def test_ratio_zero_gives_the_dense_widths(
    allocation: str, size: dict[str, Any], choice: dict[str, Any]
) -> None:
    analysis = random_analysis(**size)
    plan = make_plan(analysis, PlanRules(0, allocation=allocation, **choice))
    assert whole(analysis, plan)
    assert plan.ratio_achieved == 0
    assert set(plan.predicted_error) == {0.0}


@given(sizes(), choices(), st.floats(0.01, 0.8))
@quick
def test_same_width_gives_equal_widths_within_the_budget(
    size: dict[str, Any], choice: dict[str, Any], ratio: float
) -> None:
    analysis = random_analysis(**size)
    try:
        plan = make_plan(analysis, PlanRules(ratio, same_width=True, **choice))
    except Refusal:
        assume(False)
    assert len(set(plan.heads)) == len(set(plan.channels)) == 1
    gap = budget_of(analysis, ratio, choice["count"]) - decoder_of(analysis, plan)
    assert gap >= -1e-6
    if gap >= len(plan.heads) * one_step(analysis, choice["align"]) and not whole(analysis, plan):
        # a head step that costs more than all channels: then no wider equal widths may fit
        layer, n = analysis.shape.layers[0], len(plan.heads)
        step = layer.heads // layer.steps(plan.unit)
        assert plan.channels[0] == layer.channels
        wider = by_hand(analysis, [plan.heads[0] + step] * n, [1] * n, plan.unit, plan.recovery)
        assert wider > budget_of(analysis, ratio, choice["count"])


def test_same_width_spends_the_budget_where_attention_outweighs_the_mlp() -> None:
    analysis = random_analysis(2, 4, 4, 8, 20, hidden=16)  # a head step costs more than half of the channels
    plan = make_plan(analysis, PlanRules(0.2, same_width=True, recovery="none", align=1))
    gap = budget_of(analysis, 0.2, "decoder") - decoder_of(analysis, plan)
    assert 0 <= gap < 2 * one_step(analysis, 1)


# What the allocations do -----------------------------------------------------------------------------------


def naive_cosine_ratios(cosines: Sequence[float], ratio: float, m: int, alpha: float) -> list[float]:
    """SlimLLM: r0·m·softmax(α c) over the m largest inner cosines, with the r0 that meets the total."""
    n = len(cosines)
    chosen = sorted(range(1, n - 1), key=lambda i: cosines[i], reverse=True)[:m]
    total = sum(math.exp(alpha * cosines[i]) for i in chosen)
    r0 = ratio * n / m
    return [r0 * m * math.exp(alpha * cosines[i]) / total if i in chosen else 0.0 for i in range(n)]


@pytest.mark.parametrize(("ratio", "m", "alpha"), [(0.2, 26, 10.0), (0.5, 30, 7.0)])
def test_cosine_allocation_is_the_paper_formula_where_nothing_clips(
    ratio: float, m: int, alpha: float
) -> None:
    cosines = [0.9 + 0.03 * math.sin(7 * i) for i in range(32)]
    analysis = random_analysis(32, 8, 8, 4, 400, cosines=cosines)
    naive = naive_cosine_ratios(cosines, ratio, m, alpha)
    assert max(naive) < 0.95
    size = analysis.shape.layers[0].dense
    found = fill_ratios(cosine_weights(analysis, ratio), [size] * 32, ratio * 32 * size, 0.95)
    assert found == pytest.approx(naive, rel=1e-9)
    plan = make_plan(analysis, PlanRules(ratio, allocation="cosine", recovery="none", align=1))
    for heads, channels, expected in zip(plan.heads, plan.channels, naive, strict=True):
        single = dataclasses.replace(
            analysis, shape=dataclasses.replace(analysis.shape, layers=analysis.shape.layers[:1])
        )
        kept = by_hand(single, [heads], [channels], plan.unit, "none")
        assert 1 - kept / size == pytest.approx(expected, abs=one_step(analysis, 1) / size)
        assert heads == pytest.approx(8 * (1 - expected), abs=0.5 + 1e-9)


def test_cosine_ratios_that_would_exceed_a_layer_are_clipped_and_the_target_is_still_met() -> None:
    cosines = [0.1, *[0.2] * 8, 0.99, 0.1]
    analysis = random_analysis(11, 8, 8, 4, 400, cosines=cosines)
    assert max(naive_cosine_ratios(cosines, 0.3, 9, 9.0)) > 1
    plan = make_plan(analysis, PlanRules(0.3, allocation="cosine", align=1))
    assert min(plan.heads) >= 1
    assert min(plan.channels) >= 20
    assert 0.3 <= plan.ratio_achieved < 0.3 + one_step(analysis, 1) / dense_of(analysis)


def test_cosine_allocation_leaves_the_first_and_last_layer_whole() -> None:
    analysis = random_analysis(12, cosines=[0.99, *[0.5] * 10, 0.99])
    plan = make_plan(analysis, PlanRules(0.3, allocation="cosine"))
    for i in (0, 11):
        assert (plan.heads[i], plan.channels[i]) == (8, 96)


def test_uniform_and_rising_allocations_cut_as_their_names_say() -> None:
    analysis = random_analysis(8, 16, 16, 4, 400)
    uniform, rising = (
        make_plan(analysis, PlanRules(0.3, allocation=a, align=1)) for a in ("uniform", "logarithmic")
    )
    assert max(uniform.heads) == min(uniform.heads)
    assert max(uniform.channels) - min(uniform.channels) <= 1
    assert (rising.heads[0], rising.channels[0]) == (16, 400)
    assert list(rising.heads) == sorted(rising.heads, reverse=True)
    assert rising.heads[-1] < rising.heads[1]


@given(st.integers(0, 200), st.floats(0.05, 0.6), st.sampled_from((1, 8)))
@quick
def test_allocation_by_error_predicts_no_more_error_than_uniform(seed: int, ratio: float, align: int) -> None:
    analysis = random_analysis(8, 16, 16, 4, 192, seed)
    by_error, uniform = (
        make_plan(analysis, PlanRules(ratio, allocation=a, align=align, recovery="none"))
        for a in ("error", "uniform")
    )
    found, plain = (sum(plan.predicted_error) for plan in (by_error, uniform))
    assert found <= plain


def with_curves(analysis: Analysis, tops: Sequence[tuple[float, float]]) -> Analysis:
    """The analysis with quadratic curves that start at (attention, mlp) tops in each layer."""

    def site(old: SiteAnalysis, top: float) -> SiteAnalysis:
        steps = len(old.error["none"]) - 1
        return dataclasses.replace(old, error={name: decreasing(steps, 2, top) for name in RECOVERIES})

    layers = tuple(
        dataclasses.replace(
            layer, attention={u: site(s, a) for u, s in layer.attention.items()}, mlp=site(layer.mlp, m)
        )
        for layer, (a, m) in zip(analysis.layers, tops, strict=True)
    )
    return dataclasses.replace(analysis, layers=layers)


def test_allocation_by_error_spares_the_layers_that_are_hurt_most() -> None:
    analysis = with_curves(random_analysis(8, 16, 16, 4, 192), [(1.0, 1.0), (0.1, 0.1)] * 4)
    by_error, uniform = (make_plan(analysis, PlanRules(0.3, allocation=a)) for a in ("error", "uniform"))
    assert min(by_error.heads[::2]) > max(by_error.heads[1::2])
    assert min(by_error.channels[::2]) > max(by_error.channels[1::2])
    assert sum(by_error.predicted_error) < 0.7 * sum(uniform.predicted_error)


@pytest.mark.parametrize(
    "energies", [(1.0, 1.0), (1.0, 100.0), (100.0, 1.0)], ids=["equal", "mlp", "attention"]
)
def test_allocation_by_error_lowers_the_error_that_the_forecast_shows(energies: tuple[float, float]) -> None:
    """The forecast weighs both sites of a layer by their energies; the allocation must weigh them alike."""
    analysis = random_analysis(8, 16, 16, 4, 128, energies=energies)
    for tops in ((0.9, 0.3), (0.3, 0.9)):
        case = with_curves(analysis, [tops] * 8)
        by_error, uniform = (
            forecast_plan(case, make_plan(case, PlanRules(0.3, allocation=a, align=1))).total_error
            for a in ("error", "uniform")
        )
        assert by_error <= uniform * 1.02


# Hand changes ----------------------------------------------------------------------------------------------


@given(sizes(layers=6), choices(), st.floats(0, 0.6), st.data())
@quick
def test_adjusting_without_hold_changes_only_the_named_layers(
    size: dict[str, Any], choice: dict[str, Any], ratio: float, data: st.DataObject
) -> None:
    analysis = random_analysis(**size)
    dense = analysis.shape.layers[0]
    try:
        plan = make_plan(analysis, PlanRules(ratio, **choice))
    except Refusal:
        assume(False)
    index = data.draw(st.integers(0, len(plan.heads) - 1))
    wanted = data.draw(st.tuples(st.integers(0, dense.heads + 3), st.integers(0, dense.channels + 40)))
    after = adjust_plan(analysis, plan, {index: wanted})
    for i in range(len(plan.heads)):
        if i != index:
            assert (after.heads[i], after.channels[i]) == (plan.heads[i], plan.channels[i])
    low_heads, low_channels = floor_of(analysis, plan.unit, choice["align"])
    feasible = range(low_heads, dense.heads + 1, low_heads)
    assert abs(after.heads[index] - wanted[0]) == min(abs(h - wanted[0]) for h in feasible)
    grid = {c for c in range(low_channels, dense.channels + 1) if c % choice["align"] == 0} | {dense.channels}
    assert after.channels[index] in grid
    assert after.channels[index] == max((c for c in grid if c <= wanted[1]), default=low_channels)
    assert after.allocation == "hand"
    assert after.ratio_achieved == pytest.approx(forecast_plan(analysis, after).ratio)


@given(sizes(layers=6), choices(), st.floats(0.05, 0.6), st.data())
@quick
def test_adjusting_with_hold_keeps_the_total_and_the_locked_layers(
    size: dict[str, Any], choice: dict[str, Any], ratio: float, data: st.DataObject
) -> None:
    analysis = random_analysis(**size)
    dense, n, align = analysis.shape.layers[0], len(analysis.layers), choice["align"]
    try:
        plan = make_plan(analysis, PlanRules(ratio, **choice))
    except Refusal:
        assume(False)
    index = data.draw(st.integers(0, n - 1))
    wanted = data.draw(st.tuples(st.integers(0, dense.heads), st.integers(0, dense.channels)))
    locked = data.draw(st.sets(st.integers(0, n - 1)))
    others = [i for i in range(n) if i != index and i not in locked]
    free = adjust_plan(analysis, plan, {index: wanted})
    lowest = [floor_of(analysis, plan.unit, align)[1] if i in others else free.channels[i] for i in range(n)]
    before = decoder_of(analysis, plan)
    if by_hand(analysis, free.heads, lowest, plan.unit, plan.recovery) > before:
        with pytest.raises(Refusal, match=r"^[^\n]+$"):
            adjust_plan(analysis, plan, {index: wanted}, hold=True, locked=locked)
        return
    after = adjust_plan(analysis, plan, {index: wanted}, hold=True, locked=locked)
    assert after.heads == free.heads
    assert after.channels[index] == free.channels[index]
    for i in locked - {index}:
        assert after.channels[i] == plan.channels[i]
    gap = before - decoder_of(analysis, after)
    assert gap >= 0
    assert gap < one_step(analysis, align) or all(after.channels[i] == dense.channels for i in others)


# Pins ------------------------------------------------------------------------------------------------------


def pins(layer: int, site: SiteName, indices: Sequence[int]) -> tuple[Pin, ...]:
    return tuple(Pin(layer, site, i) for i in indices)


PINS: dict[str, Any] = {  # on 4 groups of 3 heads, 96 channels
    "protected": pins(1, "mlp", range(50))
    + pins(2, "attention", (0, 1, 4)),  # two heads of group 0, one of group 1
    "forced": pins(3, "mlp", range(20)) + pins(4, "attention", (9,)),  # one head of group 3
}


def assert_pins_bound(plan: Plan) -> None:
    groups = plan.unit == "kv-group"
    assert plan.channels[1] >= 50
    assert plan.channels[3] <= 96 - 20
    assert plan.heads[2] >= (2 * 3 if groups else 2 * 4)
    assert plan.heads[4] <= (3 * 3 if groups else 2 * 4)
    assert (plan.protected, plan.forced) == (PINS["protected"], PINS["forced"])


@pytest.mark.parametrize("unit", ["kv-group", "query-head"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.6])
def test_pins_bound_the_kept_counts(unit: str, ratio: float) -> None:
    analysis = random_analysis(5, 12, 4, 4, 96)
    for allocation in ANYONES:
        plan = make_plan(analysis, PlanRules(ratio, allocation=allocation, unit=unit, **PINS))
        assert_pins_bound(plan)
        assert_pins_bound(adjust_plan(analysis, plan, {1: (12, 1), 2: (1, 96), 3: (12, 96), 4: (12, 96)}))


@pytest.mark.parametrize("unit", ["kv-group", "query-head"])
@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.3])
def test_pins_of_any_layer_bound_a_same_width_plan(unit: str, ratio: float) -> None:
    plan = make_plan(random_analysis(5, 12, 4, 4, 96), PlanRules(ratio, same_width=True, unit=unit, **PINS))
    assert len(set(plan.heads)) == len(set(plan.channels)) == 1
    assert_pins_bound(plan)


# Forecast --------------------------------------------------------------------------------------------------


@given(sizes(), choices(), st.floats(0, 0.7))
@quick
def test_forecast_is_the_sum_by_hand(size: dict[str, Any], choice: dict[str, Any], ratio: float) -> None:
    analysis = random_analysis(**size)
    for unit in analysis.shape.units:
        try:
            plan = make_plan(analysis, PlanRules(ratio, unit=unit, **choice))
        except Refusal:
            continue
        view, shape, kept = forecast_plan(analysis, plan), analysis.shape, decoder_of(analysis, plan)
        base = dense_of(analysis) + (shape.outside if choice["count"] == "all" else 0)
        assert (view.decoder_parameters, view.parameters) == (kept, kept + shape.outside)
        assert view.ratio == plan.ratio_achieved == pytest.approx((dense_of(analysis) - kept) / base)
        assert view.bytes == 2 * view.parameters
        per = shape.layers[0].heads // shape.layers[0].groups
        groups = [h // per if unit == "kv-group" else shape.layers[0].groups for h in plan.heads]
        assert view.kv_bytes_per_token == sum(2 * g * shape.head_size * 2 for g in groups)
        assert view.flops_per_token == 2 * (kept + shape.vocab * shape.hidden)
        assert view.error == plan.predicted_error
        for i, found in enumerate(analysis.layers):
            attention = found.attention[unit].error[plan.recovery][plan.heads[i] // head_step(analysis, unit)]
            mlp = found.mlp.error[plan.recovery][plan.channels[i]]
            assert view.attention_error[i] == pytest.approx(float(attention))
            assert view.mlp_error[i] == pytest.approx(float(mlp))
            assert view.error[i] == pytest.approx(float(attention + mlp) / 2)  # equal energies


@pytest.mark.parametrize("bias", [False, True], ids=["without bias slots", "with bias slots"])
@pytest.mark.parametrize("recovery", RECOVERIES)
def test_biases_are_counted_only_for_cut_readers(recovery: str, bias: bool) -> None:
    analysis = random_analysis(4, bias=bias)
    hidden, layer = analysis.shape.hidden, analysis.shape.layers[0]
    plan = make_plan(analysis, PlanRules(0, recovery=recovery))
    after = adjust_plan(analysis, plan, {0: (6, 96), 1: (8, 88), 2: (6, 88)})  # attention; MLP; both; neither
    assert after.heads == (6, 8, 6, 8)
    saved = 2 * (2 * layer.head_cost + layer.group_cost) + 16 * layer.channel_cost
    added = 4 * hidden if recovery in BIASED and not bias else 0
    assert forecast_plan(analysis, after).decoder_parameters == analysis.shape.decoder - saved + added


# Refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        *(({"ratio": r}, str(r)) for r in (1, 1.0, 1.5, -0.1, math.nan, math.inf, -math.inf)),
        *(({"ratio": r, "allocation": a}, "removed") for r in (0.96, 0.999) for a in CLIPPED),
        ({"ratio": 0.97, "same_width": True}, "removed"),
        ({"ratio": 0.9, "count": "all"}, "removed"),
        ({"allocation": "bogus"}, "bogus"),
        ({"recovery": "bogus"}, "bogus"),
        ({"unit": "bogus"}, "bogus"),
        ({"count": "bogus"}, "bogus"),
        *(({"align": a}, str(a)) for a in (0, -8, 2.5, 10**6)),
    ],
)
def test_what_cannot_be_met_is_refused_in_one_sentence_that_names_it(
    choice: dict[str, Any], named: str
) -> None:
    with pytest.raises(Refusal) as refusal:
        make_plan(random_analysis(), PlanRules(**{"ratio": 0.2, **choice}))
    words = str(refusal.value)
    assert named in words
    assert "\n" not in words
    assert words.endswith(".")


@pytest.mark.parametrize(("groups", "unit"), [(8, "query-head"), (1, "kv-group")], ids=["MHA", "MQA"])
def test_a_unit_that_offers_no_choice_is_refused_or_leaves_heads_whole(groups: int, unit: str) -> None:
    analysis = random_analysis(4, 8, groups)
    assert unit not in analysis.shape.units
    try:
        plan = make_plan(analysis, PlanRules(0.2, unit=unit))
    except Refusal:
        return
    assert set(plan.heads) == {8}


@pytest.mark.parametrize(
    "pin",
    [Pin(0, "attention", 8), Pin(0, "mlp", 96), Pin(6, "mlp", 0), Pin(0, "attention", -1), Pin(-1, "mlp", 0)],
)
def test_a_pin_that_names_nothing_is_refused(pin: Pin) -> None:
    for unit in ("kv-group", "query-head"):
        for role in ("protected", "forced"):
            with pytest.raises(Refusal):
                make_plan(random_analysis(), PlanRules(0.2, unit=unit, **{role: (pin,)}))


def test_layers_that_already_differ_cannot_be_given_the_same_width() -> None:
    analysis = random_analysis()
    first, *rest = analysis.shape.layers
    uneven = dataclasses.replace(analysis.shape, layers=(dataclasses.replace(first, channels=64), *rest))
    with pytest.raises(Refusal, match="differ"):
        make_plan(dataclasses.replace(analysis, shape=uneven), PlanRules(0.2, same_width=True))


def test_a_plan_of_another_model_is_refused() -> None:
    analysis = random_analysis()
    plan = make_plan(analysis, PlanRules(0.2))
    check_plan(plan, analysis.shape)  # its own model is accepted
    strangers = [random_analysis(7), random_analysis(channels=104), random_analysis(groups=2)]
    shapes = [stranger.shape for stranger in strangers]
    for shape in (*shapes, dataclasses.replace(analysis.shape, family="qwen3")):
        with pytest.raises(Refusal, match=r"^[^\n]+\.$"):
            check_plan(plan, shape)


@pytest.mark.parametrize(
    ("recovery", "tokens", "doubtful"),
    [
        ("least-squares", 3199, True),
        ("guided", 1, True),
        ("least-squares", 3200, False),
        ("regression", 1, False),
        ("none", 1, False),
    ],
)
def test_least_squares_from_less_than_eight_tokens_per_channel_is_doubted(
    recovery: str, tokens: int, doubtful: bool
) -> None:
    shape = random_analysis(3, 8, 8, 4, 400).shape
    said = text_doubt(shape, recovery, tokens)
    assert ("400 channels" in said and f"only {tokens:,} tokens" in said) == bool(said) == doubtful
