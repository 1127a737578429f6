"""What is chosen on the maps: which units that is, how it is told, how it is drawn."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slimllm.core.types import Analysis, Pin, Plan
from slimllm.planning.pins import pin_units, whole_layer
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.charts import channels_map, heads_map, pin_marks
from ui.facts import selection
from ui.facts.selection import Picked


@pytest.fixture(scope="module")
def small() -> Analysis:
    return synthetic_analysis(layers=6, heads=9, groups=3, head_size=8, channels=96)


@pytest.fixture(scope="module")
def plan(small: Analysis) -> Plan:
    return make_plan(small, PlanRules(0.2))


def test_a_cell_is_the_units_between_its_borders() -> None:
    assert selection.span_of([2.5, 3.5], 9) == (3, 3)
    assert selection.span_of([-0.5, 11.5], 96) == (0, 11)
    assert selection.span_of([11.75, 24.25], 96) == (12, 24), "bins of unequal size meet within a quarter"
    assert selection.span_of([90, 400], 96) == (91, 95)


@given(st.one_of(st.none(), st.text(), st.floats(), st.lists(st.one_of(st.none(), st.floats(), st.text()))))
def test_bad_input_a_span_from_outside_is_refused_or_clipped(ends: Any) -> None:
    found = selection.span_of(ends, 9)
    assert found is None or 0 <= found[0] <= found[1] < 9


def test_by_rank_the_best_channels_are_meant(small: Analysis) -> None:
    chosen = Picked("channels", (1, 2), (0, 4), by_rank=True)
    found = selection.picked_pins(chosen, small.shape, small.layers)
    for index in (1, 2):
        mine = {u for p in found if p.layer == index for u in range(p.index, p.index + p.count)}
        assert mine == set(small.layers[index].mlp.ranking.order[:5].tolist())


def test_whole_layers_and_stretches_in_place(small: Analysis) -> None:
    assert selection.picked_pins(Picked("layers", (3, 3)), small.shape, small.layers) == whole_layer(
        small.shape, 3
    )
    heads = selection.picked_pins(Picked("heads", (0, 1), (7, 12)), small.shape, small.layers)
    assert heads == [Pin(0, "attention", 7, 2), Pin(1, "attention", 7, 2)]


def test_what_is_chosen_is_told_with_score_rank_and_standing(small: Analysis, plan: Plan) -> None:
    site = small.layers[2].attention["kv-group"]
    rank = site.ranking.order.tolist().index(4) + 1
    words = selection.describe_pick(Picked("heads", (2, 2), (4, 4)), small.shape, small.layers, plan)
    assert words.startswith("Layer 2, head 4 of KV group 1: score ")
    assert f"rank {rank} of 9. Free" in words
    held = pin_units(small, plan, "protect", [Pin(2, "attention", 4)])
    assert "Protected." in selection.describe_pick(
        Picked("heads", (2, 2), (4, 4)), small.shape, small.layers, held
    )
    row = selection.describe_pick(Picked("heads", (2, 3), (3, 5)), small.shape, small.layers, held)
    assert row.startswith(
        "Layers 2 to 3, heads 3 to 5 (6 in all). 1 protected and 2 staying with their KV group."
    )
    assert "the channels ranked 1 to 12 (12 in all)" in selection.describe_pick(
        Picked("channels", (0, 0), (0, 11), True), small.shape, small.layers, None
    )
    whole = selection.describe_pick(Picked("layers", (5, 5)), small.shape, small.layers, held)
    assert "9 heads and 96 channels" in whole
    with_group = selection.describe_pick(Picked("heads", (2, 2), (3, 3)), small.shape, small.layers, held)
    assert "Staying with its KV group." in with_group
    assert selection.summarise_pins(held).startswith("In the plan: 1 head protected.")
    assert selection.summarise_pins(plan) == ""


def test_marks_stand_where_the_units_are_in_every_order(small: Analysis, plan: Plan) -> None:
    held = dataclasses.replace(
        plan, protected=(Pin(1, "attention", 2, 2), Pin(1, "mlp", 10, 5)), forced=(Pin(4, "mlp", 0),)
    )
    heads = pin_marks.on_heads(heads_map.heads_map(small.layers, 6, small.shape), held, small.shape)
    signs = {t.name: (list(t.x), list(t.y)) for t in heads.data[1:]}
    assert signs == {
        "protected ●": ([2, 3], [1, 1]),
        "stays with its KV group +": ([0, 1, 4, 5], [1, 1, 1, 1]),
    }
    placed = channels_map.channels_map(small.layers, 6, small.shape, order="place")
    lines = pin_marks.on_channels(placed, held, small.layers, False).data[1:]
    assert [line.name for line in lines if line.showlegend] == ["protected", "forced out"]
    assert [list(line.x) for line in lines if line.showlegend] == [[9.5, 14.5, None], [-0.5, 0.5, None]]
    ranked = channels_map.channels_map(small.layers, 6, small.shape)
    shown = [t for t in pin_marks.on_channels(ranked, held, small.layers, True).data if t.showlegend]
    rank = small.layers[4].mlp.ranking.order.tolist().index(0)
    assert list(shown[1].x) == [rank - 0.5, rank + 0.5, None]
    assert sum(b - a for a, b in zip(shown[0].x[::3], shown[0].x[1::3], strict=True)) == 5
    alone = channels_map.every_channel(small.layers[1], 1, "place")
    (line, _) = pin_marks.on_channels(alone, held, small.layers, False, 1).data[1:]
    assert list(line.y) == [0, 0, None]
