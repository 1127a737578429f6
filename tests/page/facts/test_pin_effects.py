"""What pins on heads do to the rest of their KV groups: what is told is what the ranking does."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from slimllm.core.shapes import Grouping
from slimllm.core.types import Analysis, Pin, Plan
from slimllm.methods.ranking import rank_heads
from slimllm.planning.pins import pin_units
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.facts.pin_effects import find_effects, tell_effects

LAYER = 2


@pytest.fixture(scope="module")
def small() -> Analysis:
    return synthetic_analysis(layers=6, heads=9, groups=3, head_size=8, channels=96)


@pytest.fixture(scope="module")
def plan(small: Analysis) -> Plan:
    return make_plan(small, PlanRules(0.2))


def kept_heads(small: Analysis, plan: Plan) -> set[int]:
    """The heads that a ranking keeps under the plan's pins, as pruning asks for them."""
    pins = torch.zeros(9)
    for value, which in ((-1.0, plan.forced), (1.0, plan.protected)):
        for found in which:
            pins[found.index : found.index + found.count] = value
    scores = small.layers[LAYER].attention["kv-group"].ranking.scores
    ranking = rank_heads(scores, Grouping(9, 3, "kv-group", 8), pinned=pins)
    return set(ranking.kept(plan.heads[LAYER], 9).tolist())


def test_a_forced_out_head_takes_its_group_along(small: Analysis, plan: Plan) -> None:
    forced = pin_units(small, plan, "force", [Pin(LAYER, "attention", 3)])
    found = find_effects(forced, small.shape.layers[LAYER], LAYER)
    assert found.going == (4, 5)
    assert not kept_heads(small, forced) & {3, 4, 5}
    said = tell_effects(forced, small.shape)
    assert said == "In layer 2, heads 4 and 5 go too, because they belong to the same KV group."


def test_a_protected_head_keeps_its_group_also_against_a_forced_one(small: Analysis, plan: Plan) -> None:
    held = pin_units(small, plan, "protect", [Pin(LAYER, "attention", 3)])
    both = pin_units(small, held, "force", [Pin(LAYER, "attention", 4)])
    found = find_effects(both, small.shape.layers[LAYER], LAYER)
    assert (found.going, found.staying, found.in_vain) == ((), (5,), (4,))
    assert kept_heads(small, both) >= {3, 4, 5}
    said = tell_effects(both, small.shape)
    assert "In layer 2, head 5 stays too, because it belongs to the same KV group." in said
    assert "Layer 2: a forced-out head stays where another head of its KV group is protected." in said


def test_many_layers_are_counted_and_the_last_group_is_told(small: Analysis, plan: Plan) -> None:
    spots = [Pin(layer, "attention", 0, 4) for layer in (1, 2, 3)]
    said = tell_effects(pin_units(small, plan, "force", spots), small.shape)
    assert said == "6 more heads in 3 layers go too, because they belong to the same KV groups."
    everything = pin_units(small, plan, "force", [Pin(LAYER, "attention", 0, 9)])
    assert everything.heads[LAYER] == 3
    said = tell_effects(everything, small.shape)
    assert said == "Layer 2: attention keeps at least one KV group unless the whole layer is forced out."


def test_single_heads_go_from_every_group_alike(small: Analysis, plan: Plan) -> None:
    single = dataclasses.replace(plan, unit="query-head", forced=(Pin(LAYER, "attention", 0),))
    assert not find_effects(single, small.shape.layers[LAYER], LAYER).going
    assert "Layer 2: every KV group keeps equally many heads" in tell_effects(single, small.shape)


def test_no_pins_no_words(small: Analysis, plan: Plan) -> None:
    assert tell_effects(plan, small.shape) == ""
    channels = pin_units(small, plan, "force", [Pin(LAYER, "mlp", 3, 9)])
    assert tell_effects(channels, small.shape) == ""
