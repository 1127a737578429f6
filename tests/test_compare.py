"""What the Compare tab makes of figures: verdicts, next steps, words about layers."""

from __future__ import annotations

import dataclasses
import math

import pytest

from slimllm import planning
from slimllm.methods import METHODS
from slimllm.types import Plan, Refusal
from tests.synthetic import synthetic_analysis
from ui import outcome, verdicts
from ui.registry import Registry
from ui.runs import Column, Protocol, Run
from ui.session import Comparison, Session


def columns(recovered: float, pruned: float = 40.0) -> dict[str, Column]:
    return {
        "dense": Column(1000, 2000, 10.0, 64, 5.0),
        "pruned": Column(800, 1600, pruned, 64, 6.0, 0.1, 0.2),
        "recovered": Column(810, 1620, recovered, 64, 6.0, 0.1, 0.1),
    }


@pytest.fixture
def planned() -> Session:
    session = Registry().open(None)
    analysis = synthetic_analysis(layers=4, channels=256)
    session.set_analysis(analysis, planning.make_plan(analysis, 0.4, recovery="none"))
    return session


@pytest.mark.parametrize(
    ("worse", "kind", "words"),
    [
        (1.0, "good", "almost as well"),
        (1.3, "good", "noticeably"),
        (3.0, "info", "fluency"),
        (10.0, "bad", "damaged"),
        (500.0, "bad", "ruined"),
        (math.inf, "bad", "ruined"),
        (math.nan, "bad", "ruined"),
    ],
)
def test_grades_follow_the_worsening(worse: float, kind: str, words: str) -> None:
    found = verdicts.grade(worse)
    assert found.kind == kind
    assert words in found.words


def test_every_row_says_what_it_means() -> None:
    made = columns(13.0)
    assert verdicts.on_parameters(made) == "About 1 in 5 of all weights is gone."
    assert verdicts.on_memory(made) == "It needs 380 B less."
    assert verdicts.on_perplexity(made) == "Pruned alone: badly damaged. With recovery: noticeably worse."
    assert verdicts.on_writing(made) == "It writes 1.2 times as fast."
    assert verdicts.on_errors(made) == "As predicted."
    assert "down from 40.00 to 13.00" in verdicts.sentences(made)[1]
    assert "did not help" in verdicts.sentences(columns(50.0))[1]


def test_words_on_figures_that_are_not_there_yet_are_empty() -> None:
    for made in ({}, {"dense": Column(1000, 2000)}, {"pruned": Column(800, 1600)}):
        said = [verdicts.on_parameters, verdicts.on_memory, verdicts.on_perplexity, verdicts.on_writing]
        assert [words(made) for words in said] == ["", "", "", ""]
        assert verdicts.sentences(made)[1] == ""


def test_layers_are_told_by_the_one_that_lost_most() -> None:
    said = verdicts.on_layers([(0.01, 0.01), (0.02, 0.08), (0.0, 0.0)])
    assert "Layer 1 lost most: 8.0 %" in said
    assert "2.0 % was predicted" in said
    assert "1 of 2 cut layers" in said
    assert verdicts.on_layers([]) == ""
    assert "predict" not in verdicts.on_layers([(math.nan, 0.1)])


def labels(plan: Plan, worse: float) -> str:
    return " | ".join(step.label for step in verdicts.next_steps(plan, worse))


def test_bad_runs_are_offered_repair_a_smaller_cut_and_another_method(planned: Session) -> None:
    plan = planned.plan
    assert labels(plan, 50.0) == (
        f"Try it with recovery | Try a smaller cut: 20 % | Try another method: {METHODS['best'].title}"
    )
    best = dataclasses.replace(plan, method="best", recovery="guided", ratio_achieved=0.06)
    assert labels(best, 50.0) == "Try a smaller cut: 3 %"
    assert labels(plan, 1.3) == "Try it with recovery"
    assert labels(plan, 1.0) == "Try a bolder cut: 55 %"
    assert labels(dataclasses.replace(plan, ratio_achieved=0.9), 1.0) == ""


def test_figures_of_the_last_run_are_still_there_after_a_restart(planned: Session) -> None:
    run = Run(3, "2026-01-01T12:00:00", planned.plan, Protocol(), columns(13.0), errors=((0.1, 0.2),) * 4)
    planned.archive.runs = [run]
    assert "This is Run 3" in outcome.draw_verdict(planned)
    assert "40.00" in outcome.draw_table(planned)
    assert "Layer 0 lost most" in outcome.draw_words(planned)
    assert outcome.steps_for(planned) == ()
    planned.comparison = Comparison(planned.plan, columns=columns(90.0))
    assert "This is Run 3" not in outcome.draw_verdict(planned)
    assert len(outcome.steps_for(planned)) == 3


def test_another_method_is_chosen_on_the_analyse_tab(planned: Session) -> None:
    planned.comparison = Comparison(planned.plan, columns=columns(90.0))
    place = next(i for i, step in enumerate(outcome.steps_for(planned)) if step.method)
    assert outcome.go_on(planned, place=place, offline=True) == "analyse"
    asked = planned.wishes["analyse"]
    read = planned.plan.calibration
    assert asked[:5] == (read.text, read.samples, read.length, read.seed, "best")
    assert METHODS["best"].title in planned.notes["analyse"][1]
    with pytest.raises(Refusal, match="no longer on offer"):
        outcome.go_on(planned, place=3, offline=True)
