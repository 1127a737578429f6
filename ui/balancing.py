"""How much of what goes comes from attention: shown of the present plan, and moved at the same size."""

from __future__ import annotations

from typing import Any

import gradio as gr

from slimllm import balance
from slimllm.types import Refusal
from ui.own import Slider
from ui.preview_panel import heard
from ui.screen import Screen
from ui.session import Session


def build(screen: Screen) -> None:
    """The slider."""
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
    screen.show(slider, draw, "plan")
    screen.on(slider.release, "tune", heard(move), slider, mode="always_last")


def draw(session: Session) -> Any:
    """The slider where the present plan has it; there is none where nothing goes."""
    plan = session.present
    if plan is None or session.analysis is None or plan.ratio_achieved <= 0:
        return gr.Slider(interactive=False)
    share = balance.attention_share(session.analysis.shape, plan)
    return gr.Slider(value=round(100 * share), interactive=True)


def move(session: Session, wanted: Any) -> None:
    """Plans the same size with this share of attention; locked layers stay."""
    if not isinstance(wanted, int | float):
        raise Refusal("The share of attention is no number; move the slider again.")
    session.push(balance.rebalanced(session.known, session.plan, wanted / 100, session.locked))
