"""Make up runs as the page would keep them, so that tests of the history need no model."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

from slimllm.core.types import Analysis, LayerReport, Plan
from slimllm.planning.forecast import forecast_plan
from slimllm.planning.plan_making import adjust_plan, make_plan
from slimllm.planning.rules import PlanRules
from tests.support.made_up_analyses import synthetic_analysis
from ui.facts.command_line import rules_of
from ui.facts.findings import Found, Guess, Passage, Piece
from ui.facts.plan_changes import told_change
from ui.facts.run_maps import portrait_of
from ui.facts.runs import Column, Protocol, Run

PROMPTS = ("The capital of France is", "Once upon a time <b>there</b> was")


def reports_of(analysis: Analysis, plan: Plan) -> list[LayerReport]:
    """Return the reports that pruning by this plan would give, layer by layer."""
    found = []
    for i, layer in enumerate(analysis.layers):
        heads = layer.attention[plan.unit].ranking.kept(plan.heads[i])
        channels = layer.mlp.ranking.kept(plan.channels[i])
        error = plan.predicted_error[i]
        kept = (tuple(heads.tolist()), tuple(channels.tolist()))
        found.append(LayerReport(plan.heads[i], plan.channels[i], *kept, error, error * (1.1 + 0.02 * i)))
    return found


def found_of() -> Found:
    """Return findings on a passage and on topics for three models."""
    words = ("The", " capital", " of", " France", " is", "\n", " Paris", ".")
    pieces = [Piece(words[0], {})]
    for place, word in enumerate(words[1:]):
        loss = {"dense": 0.5, "pruned": 0.5 + place, "recovered": 0.4 + 0.5 * place}
        guesses = {name: Guess(value, " <i>the</i>", math.exp(-value)) for name, value in loss.items()}
        pieces.append(Piece(word, guesses))
    topics = {
        "Arts": {"dense": 20.0, "pruned": 60.0, "recovered": 30.0},
        "Physics": {"dense": 18.0, "pruned": math.inf, "recovered": 17.5},
    }
    passage = Passage("encyclopedia, passage 1", tuple(pieces))
    spreads = {topic: {"recovered": 0.02} for topic in topics}
    return Found(passage, topics, {"Arts": 508, "Physics": 762}, 128, spreads=spreads)


def run_of(analysis: Analysis, plan: Plan, number: int = 1, **more: object) -> Run:
    """Return a run of this plan with plausible figures; `more` replaces fields of the run."""
    shape, view = analysis.shape, forecast_plan(analysis, plan)
    size, dense, reports = view.parameters, shape.parameters, reports_of(analysis, plan)
    worse = math.exp(4 * (1 - size / dense))
    columns = {
        "dense": Column(dense, 2 * dense, 18.31, 8128, 41.2),
        "pruned": Column(size, 2 * size, 18.31 * worse**2, 8128, 48.9, view.total_error, 0.21, True),
        "recovered": Column(size, 2 * size, 18.31 * worse, 8128, 48.7, view.total_error, 0.17, True),
    }
    answers = {"dense": " Paris, a city.", "pruned": " the the the", "recovered": " Paris <i>and</i> more."}
    run = Run(
        number,
        f"2026-11-2{number % 10}T14:0{number % 10}:00+00:00",
        plan,
        Protocol(),
        columns,
        errors=tuple((r.error_predicted, r.error_measured) for r in reports),
        rules=rules_of(analysis, plan),
        dtype="float32",
        answers=tuple((prompt, answers) for prompt in PROMPTS),
        portrait=portrait_of(analysis, plan, reports),
        found=found_of(),
    )
    return dataclasses.replace(run, **more)  # type: ignore[arg-type]


def family(analysis: Analysis | None = None, ratios: Sequence[float] = (0.1, 0.2, 0.3)) -> list[Run]:
    """Return one run for each ratio, each the parent of the next, and a last one that was changed by hand.

    The last run widens one layer of the run before it.
    """
    made = analysis or synthetic_analysis()
    runs: list[Run] = []
    for number, ratio in enumerate(ratios, 1):
        plan = make_plan(made, PlanRules(ratio))
        told = told_change(runs[-1].plan, plan) if runs else ""
        runs.append(run_of(made, plan, number, parent=number - 1 or None, told=told))
    last = runs[-1].plan
    layer = len(last.heads) // 2
    wider = adjust_plan(
        made, last, {layer: (last.heads[layer], last.channels[layer] + made.shape.channels // 20)}
    )
    number = len(runs) + 1
    told = told_change(last, wider)
    return [*runs, run_of(made, wider, number, parent=number - 1, told=told)]
