"""Hands on the maps without a browser: what an event does to the session."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from slimllm.core.errors import Refusal
from slimllm.core.types import Pin
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.facts.resources.estimates import Rates
from ui.facts.selection import Picked
from ui.session.loaded import Loaded
from ui.session.plan_history import PlanHistory
from ui.session.registry import Registry
from ui.session.session import Session
from ui.tabs.analyse import analyse_tab, pin_bar


@pytest.fixture
def planned() -> Session:
    session = Registry().open(None)
    made = synthetic_analysis(layers=4, channels=256)
    subject: Any = SimpleNamespace(shape=made.shape)
    session.loaded = Loaded(subject, Rates(1.0), "cpu", "float32")
    session.set_analysis(made, plan_making.make_plan(made, PlanRules(0.2)))
    return session


def event(**data: Any) -> Any:
    return SimpleNamespace(_data=data)


def cell(x: int, y: int) -> dict[str, list[float]]:
    return {"x": [x - 0.5, x + 0.5], "y": [y - 0.5, y + 0.5]}


def test_a_click_chooses_a_head_and_opens_its_layer(planned: Session) -> None:
    analyse_tab.ClickMap("heads")(planned, event(cell=cell(4, 2)))
    assert planned.focus.picked == Picked("heads", (2, 2), (4, 4))
    assert planned.focus.detail == 2
    analyse_tab.click_bar(planned, event(x=1))
    assert planned.focus.picked == Picked("layers", (1, 1))
    assert planned.focus.detail == 1


def test_a_letter_is_one_step_of_undo(planned: Session) -> None:
    act = pin_bar.letter_handler("heads")
    act(planned, event(mark="protect", **cell(4, 2)))
    assert planned.plan.protected == (Pin(2, "attention", 4),)
    act(planned, event(mark="force", **cell(5, 2)))
    assert planned.plan.forced == (Pin(2, "attention", 5),)
    pin_bar.undo_step(planned)
    assert planned.plan.protected == (Pin(2, "attention", 4),)
    assert planned.plan.forced == ()
    pin_bar.undo_step(planned)
    assert pin_bar.held_pins(planned) == ((), ())


def test_an_event_that_covers_nothing_changes_nothing(planned: Session) -> None:
    act = pin_bar.letter_handler("heads")
    act(planned, event(mark="layer", **cell(0, 1)))
    chosen, plan = planned.focus.picked, planned.plan
    assert chosen == Picked("layers", (1, 1))
    for data in ({}, {"x": None, "y": None}, {"x": [90, 95], "y": [0, 1]}, {"x": "a", "y": [None]}):
        act(planned, event(mark="force", **data))
    act(planned, event(mark="burn", **cell(0, 1)))
    assert planned.plan == plan


def test_one_layer_in_full_is_chosen_from_without_rows(planned: Session) -> None:
    analyse_tab.choose_order(planned, {0: "place", 1: "one"})
    planned.focus.detail = 3
    pin_bar.letter_handler("channels")(planned, event(mark="force", x=[9.5, 12.5], y=None))
    assert planned.plan.forced == (Pin(3, "mlp", 10, 3),)
    assert "every channel" in analyse_tab.draw_channels(planned).layout.title.text
    analyse_tab.choose_order(planned, {0: "sum", 1: "all"})
    assert planned.focus.picked is None, "what was chosen in another order is not meant any more"
    assert "adding up" in analyse_tab.draw_channels(planned).layout.title.text


def test_without_a_choice_or_a_plan_there_is_a_sentence(planned: Session) -> None:
    with pytest.raises(Refusal, match="Choose heads"):
        pin_bar.apply_mark(planned, "protect")
    planned.focus.picked = Picked("layers", (1, 1))
    planned.history = PlanHistory()
    with pytest.raises(Refusal, match="no plan yet"):
        pin_bar.apply_mark(planned, "protect")
    assert "Click on a cell" in pin_bar.draw_said(Registry().open(None))
