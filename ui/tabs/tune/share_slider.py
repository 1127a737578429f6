"""The slider for attention's share of the removed parameters; moving it keeps the size."""

from __future__ import annotations

from typing import Any

import gradio as gr

from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Plan
from slimllm.planning import attention_share
from ui.page.inputs import Slider
from ui.page.screen import Screen
from ui.session.session import Session
from ui.tabs.tune.preview_panel import preview_after


def build(screen: Screen) -> None:
    """Add the slider."""
    slider = Slider(
        0,
        100,
        value=0,
        step=1,
        label="Attention gives, %",
        info="the MLPs give the rest; the size stays",
        elem_id="tune-balance",
        min_width=240,
        buttons=[],
        interactive=False,
    )
    screen.show(slider, draw_slider, "plan")
    screen.on(slider.release, "tune", preview_after(move_share), slider, mode="always_last")


def draw_slider(session: Session) -> Any:
    """Return the slider at the present plan's share, or disabled if nothing is removed."""
    plan = session.present
    if plan is None or session.analysis is None or plan.ratio_achieved <= 0:
        return gr.Slider(interactive=False)
    return gr.Slider(value=shown_share(session.analysis, plan), interactive=True)


def shown_share(analysis: Analysis, plan: Plan) -> int:
    """Return attention's share of the removed parameters in whole percent, as the slider shows it."""
    return round(100 * attention_share.attention_share(analysis.shape, plan))


def move_share(session: Session, wanted: Any) -> None:
    """Plan the same size with `wanted` percent of the removal from attention; locked layers stay.

    A press into the number box sends the present share. Then nothing happens, because an answer would draw
    over what the user is about to type. Raise `Refusal` if the share is no number or not possible.
    """
    if not isinstance(wanted, int | float):
        raise Refusal("The share of attention is no number; move the slider again.")
    if wanted == shown_share(session.known, session.plan):
        return
    session.push(attention_share.rebalance_plan(session.known, session.plan, wanted / 100, session.locked))
