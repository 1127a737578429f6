"""Presets, equal widths, and what the bank is told of both, without a page."""

from __future__ import annotations

import dataclasses

import pytest

from slimllm.core.errors import Refusal
from slimllm.core.types import Pin
from slimllm.planning import forecast, plan_making
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.page.faders import bank_json, forecast_figures, value_of
from ui.session.kept import presets
from ui.session.kept.run_store import RunStore
from ui.session.plan_history import PlanHistory, PlanStep
from ui.session.registry import Registry
from ui.session.session import Session
from ui.tabs.tune import preset_row, tune_tab, width_switches


@pytest.fixture
def planned() -> Session:
    session = Registry().open("a-browser-of-its-own-0001")
    analysis = synthetic_analysis(layers=4, channels=256)
    session.set_analysis(analysis, plan_making.make_plan(analysis, PlanRules(0.2)))
    return session


@pytest.mark.parametrize("preset", presets.OURS, ids=lambda p: p.name)
def test_each_of_ours_makes_a_plan(planned: Session, preset: presets.Preset) -> None:
    preset_row.take_preset(planned, f"ours {preset.name}")
    assert planned.plan.ratio_achieved == pytest.approx(preset.rules.ratio, abs=0.02)
    assert planned.plan.same_width == preset.rules.same_width
    assert preset_row.present_key(planned) == f"ours {preset.name}"
    tune_tab.undo_step(planned)
    assert preset_row.present_key(planned) in (None, f"ours {preset.name}")


def test_a_kept_plan_comes_back_after_a_restart(planned: Session) -> None:
    value = value_of(planned.plan)
    value["channels"][1] = 64
    tune_tab.move_faders(planned, value, False)
    mine = planned.plan
    preset_row.keep_plan(planned, "  My <b>cut</b>  ")
    again = Registry().open("a-browser-of-its-own-0001")
    assert again.presets == {"My <b>cut</b>": mine}
    again.set_analysis(planned.known, plan_making.make_plan(planned.known, PlanRules(0.5)))
    preset_row.take_preset(again, "mine My <b>cut</b>")
    assert again.plan.channels == mine.channels
    preset_row.forget_preset(again, "mine My <b>cut</b>")
    assert again.presets == presets.read_presets(again.id) == {}
    assert again.plan.channels == mine.channels
    assert Registry().open("b-browser-of-its-own-0002").presets == {}


def test_a_preset_for_another_model_gives_its_rules(planned: Session) -> None:
    preset_row.keep_plan(planned, "Fifth")
    other = synthetic_analysis(layers=6, channels=512)
    planned.forget_analysis()
    planned.set_analysis(other, plan_making.make_plan(other, PlanRules(0.5)))
    preset_row.take_preset(planned, "mine Fifth")
    assert planned.plan.ratio_requested == 0.2
    assert len(planned.plan.heads) == 6
    assert "another model" in planned.notes["tune"][1]


@pytest.mark.parametrize("name", ["", "   ", "x" * 61, None])
def test_improper_names_are_refused(planned: Session, name: str | None) -> None:
    with pytest.raises(Refusal) as caught:
        preset_row.keep_plan(planned, name)
    assert "name" in str(caught.value).lower()
    assert planned.presets == {}


@pytest.mark.parametrize("text", ["", "{", '{"format": 1, "presets": [{"name": "x", "plan": {}}]}', "[]"])
def test_a_spoilt_file_loses_only_the_presets(planned: Session, text: str) -> None:
    preset_row.keep_plan(planned, "Mine")
    (RunStore(planned.id).folder / presets.FILE).write_text(text)
    assert presets.read_presets(planned.id) == {}


def test_what_is_not_there_is_refused_and_nothing_changes(planned: Session) -> None:
    before = planned.plan
    for key in ("mine nobody", "ours nobody", "rubbish"):
        with pytest.raises(Refusal, match="not there"):
            preset_row.take_preset(planned, key)
    assert planned.plan == before


def test_equal_widths_say_what_they_cost(planned: Session) -> None:
    said = width_switches.draw_cost(planned)
    assert "with it" in said
    analysis, plan = planned.known, planned.plan
    equal = plan_making.make_plan(analysis, PlanRules(plan.ratio_achieved, same_width=True))
    cost = forecast.forecast_plan(analysis, equal).total_error
    assert f"{100 * cost:.1f} %" in said
    assert cost > forecast.forecast_plan(analysis, plan).total_error
    planned.push(plan_making.make_plan(analysis, PlanRules(0.2, same_width=True)))
    assert "a width of its own" in width_switches.draw_cost(planned)
    planned.push(plan_making.make_plan(analysis, PlanRules(0.0)))
    assert "no difference" in width_switches.draw_cost(planned)


def test_a_double_click_goes_back_to_the_latest_rules(planned: Session) -> None:
    rules = planned.plan
    assert tune_tab.automatic_plan(planned) == rules
    value = value_of(rules)
    value["channels"][1] = 64
    tune_tab.move_faders(planned, value, False)
    assert tune_tab.automatic_plan(planned) == rules
    only = dataclasses.replace(rules, allocation="hand")
    planned.history = PlanHistory()
    planned.history.push_step(PlanStep(only))
    assert tune_tab.automatic_plan(planned) is None


def test_the_bank_is_told_exact_figures_pins_and_the_soloist(planned: Session) -> None:
    analysis = planned.known
    pins = (Pin(1, "mlp", 3), Pin(1, "mlp", 4), Pin(2, "attention", 0))
    plan = plan_making.make_plan(analysis, PlanRules(0.2, protected=pins, forced=(Pin(1, "mlp", 9),)))
    view = forecast.forecast_plan(analysis, plan)
    told = value_of(plan, exact=view, automatic=plan, solo="mlp")
    assert told["exact"]["parameters"] == view.parameters
    assert len(told["exact"]["errors"]) == 4
    assert told["auto"]["channels"] == list(plan.channels)
    assert told["solo"] == "mlp"
    assert forecast_figures(view)["error"] == view.total_error
    assert '"pins":{"attention":[0,0],"mlp":[2,1]}' in bank_json(analysis, plan)


def test_solo_takes_only_the_two_sites(planned: Session) -> None:
    class Event:
        site: object = "mlp"

    tune_tab.hear_alone(planned, Event())
    assert planned.preview.solo == "mlp"
    Event.site = {"x": 1}
    tune_tab.hear_alone(planned, Event())
    assert planned.preview.solo == ""
