"""The analyses of one model: which is present, which is laid over it, which are remembered."""

from __future__ import annotations

import dataclasses

import pytest

from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration
from slimllm.planning.plan_making import make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.session import analyses
from ui.session.analyses import Analyses

FIRST = synthetic_analysis(layers=3, channels=64)
OTHER = dataclasses.replace(FIRST, method="wanda-sp")


@pytest.fixture
def known() -> Analyses:
    known = Analyses()
    for analysis in (OTHER, FIRST):
        known.remember_analysis(analysis)
    known.make_present(FIRST)
    return known


def test_layers_of_an_analysis_that_is_stopped_give_way_to_those_before(known: Analyses) -> None:
    known.training = [{"loss": 1.0}]
    bring_back = known.begin_filling("wanda-sp", Calibration("new"), 3)
    assert (known.partial, known.training) == ([None] * 3, [])
    assert known.made == ("wanda-sp", Calibration("new"))
    bring_back()
    assert known.partial == list(FIRST.layers)
    assert (known.made, known.training) == ((FIRST.method, FIRST.calibration), [{"loss": 1.0}])


def test_a_second_analysis_stays_while_one_thing_tells_it_apart(known: Analyses) -> None:
    known.second = OTHER
    known.make_present(FIRST)
    assert known.second is OTHER
    known.make_present(dataclasses.replace(FIRST, calibration=Calibration("another text")))
    assert known.second is None


def test_the_oldest_analyses_are_forgotten_but_for_the_present_one(
    known: Analyses, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(analyses, "KEPT_ANALYSES", 2)
    known.remember_analysis(OTHER)  # it is the latest once more
    known.remember_analysis(dataclasses.replace(FIRST, calibration=Calibration("another text")))
    assert known.find_analysis("wanda-sp", {}, OTHER.calibration) is OTHER
    assert known.find_analysis(FIRST.method, {}, FIRST.calibration) is FIRST
    known.make_present(OTHER)
    known.remember_analysis(dataclasses.replace(FIRST, calibration=Calibration("a third text")))
    assert known.find_analysis(FIRST.method, {}, FIRST.calibration) is None


def test_a_plan_finds_what_it_was_made_from_or_what_knows_its_units(known: Analyses) -> None:
    plan = make_plan(OTHER, PlanRules(0.2))
    assert known.find_origin(plan) is known.find_suitable(plan) is OTHER
    stranger = dataclasses.replace(plan, calibration=Calibration("a text that nobody read"))
    assert known.find_origin(stranger) is None
    assert known.find_suitable(stranger) is OTHER, "the same method comes next"
    with pytest.raises(Refusal, match="cuts value-column units"):
        known.find_suitable(dataclasses.replace(plan, unit="value-column"))
