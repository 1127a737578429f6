"""The switch that gives every layer the same width, so that plain tools load the result, and its cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr

from slimllm.core.errors import Refusal
from slimllm.planning import forecast, plan_making
from slimllm.planning.rules import rules_of_plan
from ui.look.formatting import escape_html, format_share
from ui.page.screen import Screen
from ui.session.session import Session


def build(screen: Screen) -> gr.Checkbox:
    """Add the switch that gives every layer the same width, and its cost; return the switch."""
    with gr.Row(elem_classes="bar", elem_id="tune-same-row"):
        same = gr.Checkbox(
            False,
            label="Same width everywhere (a standard checkpoint)",
            elem_id="tune-same",
            container=False,
            scale=0,
            min_width=300,
        )
        cost = gr.HTML(elem_id="tune-same-cost", padding=False)
    screen.show(cost, draw_cost, token=cost_token, later=True)
    return same


def cost_token(session: Session) -> tuple[Any, ...]:
    """Return what the cost of equal widths depends on."""
    plan = session.present
    return session.born, session.serial["layers"], session.serial["bank"], plan


def draw_cost(session: Session) -> str:
    """Return the predicted error with and without equal widths, in words, as HTML."""
    if not session.plans or session.analysis is None:
        return ""
    plan, analysis = session.plan, session.analysis
    if plan.ratio_achieved <= 0:
        return cost_line("Nothing is cut yet, so it makes no difference.")
    chosen = plan.same_width
    rules = replace(
        rules_of_plan(plan),
        ratio=plan.ratio_requested if chosen else plan.ratio_achieved,
        allocation=None,
        same_width=not chosen,
        locks=session.locks,
    )
    try:
        other = plan_making.make_plan(analysis, rules)
    except Refusal as refusal:
        return cost_line(str(refusal))
    mine, theirs = (forecast.forecast_plan(analysis, p).total_error for p in (plan, other))
    if chosen:
        return cost_line(
            f"Predicted error {format_share(mine)}, against {format_share(theirs)} where each layer has a "
            "width of its own."
        )
    return cost_line(
        f"At this size: predicted error {format_share(theirs)} with it, {format_share(mine)} without."
    )


def cost_line(words: str) -> str:
    """Return words as a quiet paragraph of HTML."""
    return f'<p class="quiet">{escape_html(words)}</p>'
