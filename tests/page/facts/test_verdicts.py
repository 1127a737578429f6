"""What the Compare tab makes of figures: verdicts, next steps, words about layers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from slimllm.core.errors import Refusal
from slimllm.core.types import Calibration, Plan
from slimllm.methods.table import METHODS
from slimllm.planning import plan_making
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.facts import verdicts
from ui.facts.comparison import Comparison
from ui.facts.runs import Column, Protocol, Run
from ui.html.tables import ROWS, line_of
from ui.session.forms import AnalyseForm
from ui.session.registry import Registry
from ui.session.session import Session
from ui.tabs.compare import outcome


def columns(recovered: float, pruned: float = 40.0) -> dict[str, Column]:
    return {
        "dense": Column(1000, 2000, 10.0, 64, 5.0),
        "pruned": Column(800, 1600, pruned, 64, 6.0, 0.1, 0.2, True),
        "recovered": Column(810, 1620, recovered, 64, 6.0, 0.1, 0.1, True),
    }


def verdict_of(made: Mapping[str, Column], **changes: Any) -> tuple[str, str]:
    """The verdict on a run of a plan with these changes."""
    return verdicts.verdict_sentences(made, dataclasses.replace(PLAN, **changes))


def timed(dense: Sequence[float], recovered: Sequence[float]) -> dict[str, Column]:
    """Columns with the writing speed of every round."""
    made = columns(13.0)
    for name, rounds in (("dense", dense), ("recovered", recovered)):
        made[name] = dataclasses.replace(made[name], writing_rounds=tuple(rounds))
    return made


ANALYSIS = synthetic_analysis(layers=4, channels=256)
PLAN = plan_making.make_plan(ANALYSIS, PlanRules(0.4, recovery="regression"))


@pytest.fixture
def planned() -> Session:
    session = Registry().open(None)
    analysis = synthetic_analysis(layers=4, channels=256)
    session.set_analysis(analysis, plan_making.make_plan(analysis, PlanRules(0.4, recovery="none")))
    return session


@pytest.mark.parametrize(
    ("worse", "kind", "words"),
    [
        (1.0, "good", "almost as well"),
        (1.3, "info", "noticeably"),
        (2.9, "bad", "fluency"),
        (10.0, "bad", "damaged"),
        (500.0, "bad", "ruined"),
        (math.inf, "bad", "ruined"),
        (math.nan, "bad", "ruined"),
    ],
)
def test_grades_follow_the_worsening(worse: float, kind: str, words: str) -> None:
    found = verdicts.grade_of(worse)
    assert found.kind == kind
    assert words in found.words


def test_every_row_says_what_it_means() -> None:
    made = columns(13.0)
    assert verdicts.on_parameters(made) == "About 1 in 5 of all weights is gone."
    assert verdicts.on_memory(made) == "It needs 380 B less."
    assert verdicts.on_perplexity(made) == "Pruned alone: badly damaged. With recovery: noticeably worse."
    assert verdicts.on_writing(made) == "", "nothing is said of speeds without their rounds"
    assert verdicts.on_errors(made) == "As predicted."
    assert "down from 40.00 to 13.00" in verdict_of(made)[1]


def test_speeds_are_told_apart_only_where_their_rounds_are() -> None:
    slow, fast = (10.1, 10.0, 9.8, 10.2, 9.9), (12.0, 12.1, 11.9, 12.2, 11.8)
    assert verdicts.on_writing(timed(slow, fast)) == (
        "It writes 1.20 times as fast (11.8–12.2 against 9.8–10.2 tokens/s)."
    )
    assert verdicts.on_writing(timed(fast, slow)) == (
        "It writes 17 % more slowly (9.8–10.2 against 11.8–12.2 tokens/s)."
    )
    noisy = timed((5.4, 22.7, 9.0, 14.0, 11.0), (7.4, 13.8, 8.0, 9.0, 12.0))
    assert verdicts.on_writing(noisy) == (
        "No difference could be measured (7.4–13.8 against 5.4–22.7 tokens/s)."
    )
    assert verdicts.on_writing(timed(slow[:3], fast[:3])).startswith("Too few rounds to tell")
    assert "%" not in line_of(ROWS[3], ["dense", "recovered"], noisy), "no change without a spread"


def test_recovery_that_made_the_model_worse_is_told_with_the_reason_and_the_next_step() -> None:
    kind, said = verdict_of(
        columns(40.2, 31.6), recovery="least-squares", calibration=Calibration(samples=12, length=16)
    )
    assert kind == "bad"
    assert "Recovery made the model worse: perplexity 40.20, and 31.60 without it." in said
    assert "It had too little text: 0.8 tokens per channel." in said
    few = dataclasses.replace(PLAN, recovery="least-squares", calibration=Calibration(samples=12, length=16))
    found = verdicts.next_steps(few, 4.0, harmed=True)
    assert [step.label for step in found[:2]] == ["Use regression", "Read more text: 2,048 tokens"]
    assert found[0].recovery == "regression"
    assert found[1].samples == 128
    enough = dataclasses.replace(few, calibration=Calibration(samples=64, length=256))
    assert "too little" not in verdicts.verdict_sentences(columns(40.2, 31.6), enough)[1]
    plain = verdicts.next_steps(dataclasses.replace(few, recovery="regression"), 1.01, harmed=True)
    assert plain[0].label == "Prune without recovery"
    assert not any("bolder" in step.label for step in plain)


def test_a_slight_change_of_perplexity_is_no_success() -> None:
    assert "changed little: perplexity 23.91, and 24.05 without it" in verdict_of(columns(23.91, 24.05))[1]
    huge = verdict_of(columns(2e6, 3e6))[1]
    assert "Recovery" not in huge
    made = columns(20.0, 24.0)
    for spread, words in ((0.01, "down from"), (3.0, "changed little")):
        jitter = [spread * (-1) ** i for i in range(16)]
        made["pruned"] = dataclasses.replace(made["pruned"], losses=(math.log(24.0),) * 16)
        losses = tuple(math.log(20.0) + each for each in jitter)
        made["recovered"] = dataclasses.replace(made["recovered"], losses=losses)
        assert words in verdict_of(made)[1]


def test_a_dense_model_that_reads_nothing_is_called_broken() -> None:
    made = columns(2e6, 3e6)
    made["dense"] = dataclasses.replace(made["dense"], perplexity=2e6)
    kind, said = verdict_of(made)
    assert kind == "bad"
    assert "broken already" in said


def test_errors_of_earlier_versions_are_not_called_as_predicted() -> None:
    made = {name: dataclasses.replace(column, held_out=False) for name, column in columns(13.0).items()}
    assert verdicts.on_errors(made) == verdicts.LEARNED


def test_words_on_figures_that_are_not_there_yet_are_empty() -> None:
    for made in ({}, {"dense": Column(1000, 2000)}, {"pruned": Column(800, 1600)}):
        said = [verdicts.on_parameters, verdicts.on_memory, verdicts.on_perplexity, verdicts.on_writing]
        assert [words(made) for words in said] == ["", "", "", ""]
        assert verdict_of(made)[1] == ""


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
    assert "40.00" in outcome.draw_columns(planned)
    assert "Layer 0 lost most" in outcome.draw_layer_words(planned)
    assert outcome.steps_for(planned) == ()
    planned.results.comparison = Comparison(planned.plan, columns=columns(90.0, 100.0))
    assert "This is Run 3" not in outcome.draw_verdict(planned)
    assert len(outcome.steps_for(planned)) == 3


def test_another_method_is_chosen_on_the_analyse_tab(planned: Session) -> None:
    planned.results.comparison = Comparison(planned.plan, columns=columns(90.0, 100.0))
    place = next(i for i, step in enumerate(outcome.steps_for(planned)) if step.method)
    assert outcome.go_on(planned, place=place) == "analyse"
    assert AnalyseForm.of_session(planned) == AnalyseForm.of_reading(planned.plan.calibration, "best")
    assert METHODS["best"].title in planned.notes["analyse"][1]
    with pytest.raises(Refusal, match="no longer on offer"):
        outcome.go_on(planned, place=4)


def test_more_text_is_asked_for_on_the_analyse_tab(planned: Session) -> None:
    few = Calibration(samples=12, length=16)
    plan = dataclasses.replace(planned.plan, recovery="least-squares", calibration=few)
    planned.take_plan(plan)
    planned.results.comparison = Comparison(planned.plan, columns=columns(90.0))
    steps = outcome.steps_for(planned)
    assert [step.label for step in steps[:2]] == ["Use regression", "Read more text: 2,048 tokens"]
    assert outcome.draw_steps(planned)[0].variant == "primary"
    assert outcome.go_on(planned, place=1) == "analyse"
    more = dataclasses.replace(few, samples=128)
    assert AnalyseForm.of_session(planned) == AnalyseForm.of_reading(more, plan.method)
    assert "2,048 tokens are chosen" in planned.notes["analyse"][1]
