"""Hands on a plan: what is protected stays possible, what is forced out goes, and clearing brings it back."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from slimllm import pipeline
from slimllm.calibration import texts
from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Calibration, Pin, Plan
from slimllm.planning import plan_json, plan_making
from slimllm.planning.budget import bounds_of, pinned_units
from slimllm.planning.pins import mark_spots, merge_pins, pin_units, whole_layer
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from tests.support.serving import columns_analysis
from tests.support.tiny_models import tiny_subject


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return synthetic_analysis(layers=10, heads=9, groups=3, head_size=8, channels=96)


@pytest.fixture
def plan(analysis: Analysis) -> Plan:
    return plan_making.make_plan(analysis, PlanRules(0.3, align=1))


def test_neighbours_become_one_pin() -> None:
    assert merge_pins(2, "mlp", [5, 3, 4, 9, 4]) == [Pin(2, "mlp", 3, 3), Pin(2, "mlp", 9)]


def test_no_unit_is_protected_and_forced_at_once(plan: Plan) -> None:
    protected, forced = mark_spots(plan, "protect", [Pin(1, "mlp", 10, 20)])
    plan = dataclasses.replace(plan, protected=protected, forced=forced)
    protected, forced = mark_spots(plan, "force", [Pin(1, "mlp", 15, 5), Pin(1, "attention", 2)])
    assert protected == (Pin(1, "mlp", 10, 5), Pin(1, "mlp", 20, 10))
    assert forced == (Pin(1, "attention", 2), Pin(1, "mlp", 15, 5))
    plan = dataclasses.replace(plan, protected=protected, forced=forced)
    assert mark_spots(plan, "clear", [Pin(1, "mlp", 0, 96), Pin(1, "attention", 0, 9)]) == ((), ())


def test_a_plan_by_rules_keeps_its_size(analysis: Analysis, plan: Plan) -> None:
    found = pin_units(
        analysis, plan, "protect", [Pin(4, "mlp", 0, 90), Pin(4, "attention", 0), Pin(4, "attention", 8)]
    )
    assert (found.allocation, found.ratio_requested) == (plan.allocation, plan.ratio_requested)
    assert found.ratio_achieved == pytest.approx(plan.ratio_achieved, abs=0.01)
    assert found.channels[4] >= 90 > plan.channels[4]
    assert found.heads[4] >= 6, "two KV groups are protected"
    assert pin_units(analysis, found, "clear", [*whole_layer(analysis.shape, 4)]) == plan


def test_a_plan_by_hand_moves_only_where_it_must(analysis: Analysis, plan: Plan) -> None:
    hand = plan_making.adjust_plan(analysis, plan, {2: (6, 40), 5: (3, 60)})
    found = pin_units(analysis, hand, "force", [Pin(5, "mlp", 0, 50)])
    changed = [
        i for i in range(10) if (hand.heads[i], hand.channels[i]) != (found.heads[i], found.channels[i])
    ]
    assert changed == [5]
    assert found.channels[5] == 46


def test_a_layer_forced_out_is_dropped_and_comes_back(analysis: Analysis, plan: Plan) -> None:
    found = pin_units(analysis, plan, "force", whole_layer(analysis.shape, 5))
    assert (found.heads[5], found.channels[5]) == (0, 0)
    assert found.ratio_achieved == pytest.approx(0.3, abs=0.01), "the others give up less"
    assert plan_json.plan_from_text(plan_json.plan_text(found)) == found
    assert pin_units(analysis, found, "clear", whole_layer(analysis.shape, 5)) == plan
    hand = plan_making.adjust_plan(analysis, found, {2: (6, 40)})
    back = pin_units(analysis, hand, "clear", whole_layer(analysis.shape, 5))
    assert (back.heads[5], back.channels[5]) == (9, 96)
    kept = pin_units(analysis, plan, "protect", whole_layer(analysis.shape, 5))
    assert (kept.heads[5], kept.channels[5]) == (9, 96)


@pytest.mark.parametrize("allocation", ["cosine", "uniform", "error", "standing", "logarithmic", "inner"])
def test_every_allocation_leaves_out_a_forced_layer(analysis: Analysis, allocation: str) -> None:
    forced = tuple(whole_layer(analysis.shape, 4))
    for ratio in (0.0, 0.15, 0.5):
        found = plan_making.make_plan(
            analysis, PlanRules(ratio, allocation=allocation, forced=forced, align=8)
        )
        assert (found.heads[4], found.channels[4]) == (0, 0)
        assert all(
            h and c for i, (h, c) in enumerate(zip(found.heads, found.channels, strict=True)) if i != 4
        )


def test_what_cannot_be_is_refused_in_a_sentence(analysis: Analysis, plan: Plan) -> None:
    everything = [p for i in range(10) for p in whole_layer(analysis.shape, i)]
    with pytest.raises(Refusal, match="nothing would be left"):
        pin_units(analysis, plan, "force", everything)
    with pytest.raises(Refusal, match="At most"):
        pin_units(analysis, plan, "protect", everything)
    with pytest.raises(Refusal, match="no mlp unit 96"):
        pin_units(analysis, plan, "protect", [Pin(0, "mlp", 90, 7)])
    with pytest.raises(Refusal, match="no common width"):
        plan_making.make_plan(
            analysis, PlanRules(0.2, same_width=True, forced=tuple(whole_layer(analysis.shape, 4)))
        )


def test_value_columns_know_whole_layers_only() -> None:
    analysis = columns_analysis()
    plan = plan_making.make_plan(analysis, PlanRules(0.2, align=1))
    with pytest.raises(Refusal, match="single heads"):
        pin_units(analysis, plan, "protect", [Pin(1, "attention", 2)])
    assert pin_units(analysis, plan, "protect", whole_layer(analysis.shape, 1)).heads[1] == 8
    gone = pin_units(analysis, plan, "force", whole_layer(analysis.shape, 1))
    assert (gone.heads[1], gone.channels[1]) == (0, 0)
    assert pin_units(analysis, gone, "clear", whole_layer(analysis.shape, 1)) == plan


def test_a_long_stretch_in_a_large_model_is_quick_to_bound() -> None:
    analysis = synthetic_analysis(layers=80, heads=64, groups=8, head_size=128, channels=28_672)
    layer, pins = analysis.shape.layers[3], whole_layer(analysis.shape, 3)
    bounds = bounds_of(layer, 3, "kv-group", 8, pins, ())
    assert (bounds.heads, bounds.low, bounds.high) == ((64,), 28_672, 28_672)
    assert len(pinned_units(pins, 3, "mlp")) == 28_672


@pytest.mark.parametrize(
    "wrong", [{"count": 0}, {"count": True}, {"count": 97}, {"count": "2"}, {"index": 95, "count": 2}]
)
def test_bad_input_a_pin_beyond_its_layer_is_refused(plan: Plan, wrong: dict[str, object]) -> None:
    row = {"layer": 1, "site": "mlp", "index": 0, **wrong}
    data = plan_json.plan_to_dict(plan) | {"forced": [row]}
    with pytest.raises(Refusal, match="'forced'"):
        plan_json.plan_from_text(plan_json.json.dumps(data))


def test_pins_without_a_count_are_read_as_one_unit(plan: Plan) -> None:
    data = plan_json.plan_to_dict(plan) | {"protected": [{"layer": 1, "site": "mlp", "index": 7}]}
    assert plan_json.plan_from_text(plan_json.json.dumps(data)).protected == (Pin(1, "mlp", 7),)


def test_pruning_keeps_what_is_protected_and_cuts_what_is_forced(page: object) -> None:
    subject, text = tiny_subject(), texts.find_text(str(page))
    made = pipeline.finish_job(pipeline.analyse_model(subject, text, Calibration(str(page), 4, 32)))
    plan = plan_making.make_plan(made, PlanRules(0.4, align=1))
    worst = made.layers[1].mlp.ranking.order[-6:].tolist()
    best = made.layers[1].mlp.ranking.order[:6].tolist()
    plan = pin_units(made, plan, "protect", merge_pins(1, "mlp", worst))
    plan = pin_units(made, plan, "force", [*merge_pins(1, "mlp", best), *whole_layer(made.shape, 2)])
    pruned = pipeline.finish_job(pipeline.prune_model(subject, plan, text, made))
    kept = set(pruned.layers[1].kept_channels)
    assert kept >= set(worst)
    assert not kept & set(best)
    assert len(pruned.subject.layers) == 2
    tokens = torch.arange(12)[None]
    assert torch.isfinite(pruned.subject.model(tokens).logits).all()
