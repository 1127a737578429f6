"""Locked layers keep their widths whatever is planned next, until the person unlocks them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from slimllm.core.errors import Refusal
from slimllm.core.types import Pin
from slimllm.planning import pins, plan_making
from slimllm.planning.locks import Locks
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.session.registry import Registry
from ui.session.session import Session
from ui.tabs.tune import preset_row, share_slider, tune_tab


@pytest.fixture
def planned() -> Session:
    session = Registry().open(None)
    analysis = synthetic_analysis(layers=4, channels=256)
    session.set_analysis(analysis, plan_making.make_plan(analysis, PlanRules(0.2)))
    return session


def lock(session: Session, *layers: int) -> tuple[tuple[int, int], ...]:
    """Locks these layers as the fader bank does; their widths."""
    plan = session.plan
    locks = [i in layers for i in range(len(plan.heads))]
    tune_tab.move_faders(session, {"heads": plan.heads, "channels": plan.channels, "locked": locks}, False)
    return widths(session, *layers)


def widths(session: Session, *layers: int) -> tuple[tuple[int, int], ...]:
    return tuple((session.plan.heads[i], session.plan.channels[i]) for i in layers)


def test_locking_is_a_step_of_undo(planned: Session) -> None:
    plan = planned.plan
    lock(planned, 0, 1, 2, 3)
    assert planned.locked == {0, 1, 2, 3}
    tune_tab.undo_step(planned)
    assert planned.locked == frozenset()
    assert planned.plan == plan


CHANGES: dict[str, Callable[[Session], object]] = {
    "dial": lambda s: tune_tab.change_rules(s, {0: 0.5}),
    "recovery": lambda s: tune_tab.change_rules(s, {1: "none", 0: 0.3}),
    "allocation": lambda s: tune_tab.change_rules(s, {2: "logarithmic"}),
    "align": lambda s: tune_tab.change_rules(s, {0: 0.4, 4: 64}),
    "count": lambda s: tune_tab.change_rules(s, {0: 0.02, 5: "all"}),
    "preset": lambda s: preset_row.take_preset(s, "ours Half"),
    "own preset": lambda s: preset_row.take_preset(s, "mine half"),
    "balance": lambda s: share_slider.move_share(s, 80),
    "whole plan": lambda s: s.take_plan(plan_making.make_plan(s.known, PlanRules(0.6))),
    "new analysis": lambda s: s.set_analysis(s.known, plan_making.make_plan(s.known, PlanRules(0.6))),
    "stale faders": lambda s: tune_tab.move_faders(
        s, {"heads": [6, 6, 6, 6], "channels": [96, 96, 96, 96], "locked": [False, True, False, False]}, False
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_lock_holds_against_everything_but_its_own_unlock(planned: Session, change: str) -> None:
    planned.presets = {"half": plan_making.make_plan(planned.known, PlanRules(0.5))}
    kept = lock(planned, 1)
    before = planned.plan
    CHANGES[change](planned)
    assert planned.plan != before, "the rest of the plan changes"
    assert widths(planned, 1) == kept
    tune_tab.undo_step(planned)
    assert widths(planned, 1) == kept, "undo does not move it either"
    tune_tab.undo_step(planned)
    assert not planned.locked, "and then it is the locking that is undone"


def test_the_dial_meets_its_target_around_locked_layers(planned: Session) -> None:
    lock(planned, 1)
    tune_tab.change_rules(planned, {0: 0.4})
    assert abs(planned.plan.ratio_achieved - 0.4) < 0.02


def test_what_a_lock_forbids_is_said(planned: Session) -> None:
    lock(planned, 1)
    before = planned.plan
    with pytest.raises(Refusal, match=r"no common width|smaller ratio"):
        tune_tab.change_rules(planned, {0: 0.8, 6: True})
    whole = pins.whole_layer(planned.known.shape, 1)
    with pytest.raises(Refusal, match=r"Layer 1 is locked at .* unlock it first"):
        planned.push(pins.pin_units(planned.known, planned.plan, "force", whole, planned.locks))
    assert planned.plan == before
    said = planned.take_plan(plan_making.make_plan(planned.known, PlanRules(0.6)))
    assert said == " Layer 1 is locked and kept as before."


def test_dropping_whole_layers_spares_locked_and_protected_ones(planned: Session) -> None:
    analysis = dataclasses.replace(planned.known, method="block-influence")
    free = plan_making.make_plan(analysis, PlanRules(0.5))
    gone = [i for i, heads in enumerate(free.heads) if not heads]
    dense = plan_making.make_plan(analysis, PlanRules(0.0))
    locked = plan_making.make_plan(analysis, PlanRules(0.5, locks=Locks(dense, frozenset(gone[:1]))))
    assert locked.heads[gone[0]] == dense.heads[gone[0]]
    protected = plan_making.make_plan(analysis, PlanRules(0.5, protected=(Pin(gone[0], "attention", 0),)))
    assert protected.heads[gone[0]] == dense.heads[gone[0]]
