"""The outcome of a comparison: verdict, next steps, the three columns, and the errors of the layers."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from slimllm.core.errors import Refusal
from slimllm.planning import plan_making
from slimllm.planning.rules import rules_of_plan
from ui.charts import result_charts
from ui.facts.comparison import Comparison
from ui.facts.verdicts import (
    NextStep,
    Pairs,
    best_of,
    next_steps,
    on_layers,
    perplexity_ratio,
    recovery_effect,
)
from ui.html.tables import table_of, verdict_html
from ui.look.formatting import escape_html, format_share, method_title, note_html
from ui.page.plotview import PlotView
from ui.page.screen import Screen
from ui.session.forms import AnalyseForm, MeasureForm
from ui.session.registry import REGISTRY
from ui.session.requests import asked_for
from ui.session.session import Session
from ui.tasks import comparing

MOST_NEXT_STEPS = 4
PLACE = "The table of all three models appears here, column by column, while they are measured."


def build(screen: Screen) -> None:
    """Add the verdict, the next steps, the table and the picture."""
    said = gr.HTML(elem_id="compare-verdict", padding=False)
    with gr.Row(elem_classes="bar steps", elem_id="compare-steps"):
        buttons = [
            gr.Button("", visible=False, elem_id=f"compare-step-{i}", scale=0, min_width=200)
            for i in range(MOST_NEXT_STEPS)
        ]
    table = gr.HTML(elem_id="compare-table", padding=False)
    errors = PlotView(
        height=340,
        label="Predicted and measured error of every layer",
        placeholder="How far each layer's output moved, as predicted and as measured.",
        elem_id="compare-errors",
    )
    words = gr.HTML(elem_id="compare-errors-words", padding=False)

    def table_token(session: Session) -> tuple[Any, ...]:
        parts = (session.serial["table"], session.serial["runs"], session.born)
        return (*parts, session.busy, bool(session.plans), tell_outdated(session))

    screen.show(said, draw_verdict, token=table_token)
    screen.show(buttons, draw_steps, token=table_token)
    screen.show(table, draw_columns, token=table_token)
    screen.show(errors, draw_errors, "table", "runs", pace=2.0)
    screen.show(words, draw_layer_words, token=table_token, pace=2.0)
    for place, button in enumerate(buttons):
        screen.on(button.click, "compare", partial(go_on, place=place))


def shown_comparison(session: Session) -> Comparison | None:
    """Return the comparison being filled, else the present one, else one with the last run's figures."""
    found = session.results.pending or session.comparison
    if found is not None or not session.runs:
        return found
    run = session.runs[-1]
    return Comparison(run.plan, run.protocol, dict(run.columns), run=run.number)


def errors_of(session: Session) -> Pairs:
    """Return (predicted, measured) error of every layer of what is shown."""
    found = shown_comparison(session)
    if found is None:
        return ()
    if reports := comparing.best_reports(found):
        return [(r.error_predicted, r.error_measured) for r in reports]
    run = session.archive.find(found.run)
    return run.errors if run else ()


def tell_outdated(session: Session) -> str:
    """Return sentences if the figures shown are not those of the present plan; empty if they are."""
    last = session.comparison
    if last is None or session.results.pending is not None or not session.plans:
        return ""
    run = session.archive.find(last.run)
    whose = f"{run.name} ({format_share(last.plan.ratio_achieved)} removed)" if run else "an earlier plan"
    if session.busy and session.job is not None and session.job.kind == "compare":
        return f"These results belong to {whose}. New ones replace them as soon as they are measured."
    if last.plan != session.plan:
        return f"These results belong to {whose}. The plan has changed since; prune again to measure it."
    return ""


def mark_outdated(session: Session, html: str) -> str:
    """Return the HTML, greyed if it belongs to another plan than the present one."""
    return f'<div class="outdated">{html}</div>' if html and tell_outdated(session) else html


def draw_verdict(session: Session) -> str:
    """Return the verdict as HTML once all is measured.

    For a run from before this session, say so.
    """
    found = shown_comparison(session)
    if found is None:
        return ""
    if session.results.pending is not None:
        return note_html("info", "The verdict comes once all is measured.")
    if session.comparison is not None:
        old = tell_outdated(session)
        return (note_html("info", old) if old else "") + mark_outdated(session, verdict_html(found))
    earlier = (
        f"This is Run {found.run} of {found.plan.model}, from before; its figures were kept, its weights not."
    )
    return note_html("info", earlier) + verdict_html(found)


def draw_columns(session: Session) -> str:
    """Return the table of the models as HTML, or what will appear here."""
    found = shown_comparison(session)
    if found is None:
        return note_html("info", PLACE)
    return mark_outdated(session, table_of(found.columns, found.protocol, found.plan.recovery))


def draw_errors(session: Session) -> Any:
    """Return the picture of predicted against measured errors, or None."""
    errors = errors_of(session)
    return result_charts.errors_chart(errors) if errors else None


def draw_layer_words(session: Session) -> str:
    """Return what the errors of the layers mean, as HTML."""
    found = shown_comparison(session)
    best = best_of(found.columns) if found else None
    said = on_layers(errors_of(session), best is None or best.held_out)
    if old := tell_outdated(session):
        said = f"{said} {old}".strip()
    return f'<p class="foot">{escape_html(said)}</p>' if said else ""


def steps_for(session: Session) -> tuple[NextStep, ...]:
    """Return the steps that the buttons offer.

    There are none while a job runs, if there is no analysis to plan from, or if the figures are not those of
    the present plan.
    """
    last = session.comparison
    if last is None or session.busy or not session.plans or session.analysis is None:
        return ()
    if tell_outdated(session):
        return ()
    worse = perplexity_ratio(last.columns)
    return () if worse is None else next_steps(last.plan, worse, recovery_harmed(session))[:MOST_NEXT_STEPS]


def recovery_harmed(session: Session) -> bool:
    """Return whether recovery made the model worse."""
    return session.comparison is not None and recovery_effect(session.comparison.columns) == "worse"


def draw_steps(session: Session) -> list[Any]:
    """Return a button for each step; after a bad result, the first one stands out."""
    steps, worse = (
        steps_for(session),
        perplexity_ratio(session.comparison.columns) if session.comparison else None,
    )
    bad = (worse is not None and worse >= 1.5) or recovery_harmed(session)
    updates = []
    for place in range(MOST_NEXT_STEPS):
        if place < len(steps):
            variant = "primary" if bad and not place else "secondary"
            updates.append(gr.Button(steps[place].label, visible=True, variant=variant))
        else:
            updates.append(gr.Button(visible=False))
    return updates


def go_on(session: Session, *, place: int) -> str | None:
    """Take the step of a button, and return the tab that it leads to, if any.

    The step prunes by a changed plan at once, or fills in the settings of another analysis. Raise `Refusal`
    if it is no longer offered or not possible.
    """
    steps = steps_for(session)
    if place >= len(steps) or session.comparison is None:
        raise Refusal("This step is no longer on offer; prune again first.")
    step, plan = steps[place], session.comparison.plan
    if step.method is not None or step.samples is not None:
        read, name = plan.calibration, step.method or plan.method
        samples = step.samples or read.samples
        AnalyseForm.of_reading(replace(read, samples=samples), name).fill_in(session)
        said = (
            f"Method {method_title(name)} is chosen"
            if step.method
            else f"{samples * read.length:,} tokens are chosen"
        )
        session.say("analyse", f"{said}; press Analyse to try it.", "good")
        return "analyse"
    session.suit(plan)
    ratio = plan.ratio_achieved if step.ratio is None else step.ratio
    rules = replace(
        rules_of_plan(plan),
        ratio=ratio,
        recovery=step.recovery or plan.recovery,
        same_width=False,
        locks=session.locks,
    )
    made = plan_making.make_plan(session.known, rules)
    session.take_plan(made)
    comparing.start_compare(REGISTRY, session, asked_for(MeasureForm.of_session(session)))
    return None
