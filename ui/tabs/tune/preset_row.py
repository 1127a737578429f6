"""The row of presets on the Tune tab: take one, keep the present plan under a name, forget one."""

from __future__ import annotations

from typing import Any

import gradio as gr

from slimllm.planning import forecast
from ui.page.screen import Screen
from ui.session.forms import PresetForm
from ui.session.kept import presets
from ui.session.session import Session
from ui.tabs.tune.preview_panel import preview_after


def build(screen: Screen) -> None:
    """Add the components and events of the row."""
    with gr.Row(elem_classes="bar", elem_id="tune-presets"):
        chosen = gr.Dropdown(
            presets.preset_choices({}),
            value=None,
            label="Start from a preset",
            info="ours are rules; yours are whole plans",
            elem_id="tune-preset",
            scale=2,
            min_width=220,
        )
        name = gr.Textbox(
            label="Name for this plan",
            info="kept on this machine, also over restarts",
            max_length=presets.LONGEST_NAME,
            lines=1,
            elem_id="tune-preset-name",
            scale=2,
            min_width=200,
        )
        keep = gr.Button("Keep", elem_id="tune-preset-keep", scale=0, min_width=90, interactive=False)
        forget = gr.Button("Forget", elem_id="tune-preset-forget", scale=0, min_width=90, interactive=False)
    screen.show(chosen, draw_choices, "presets", "plan")
    screen.show([keep, forget], draw_preset_buttons, "presets", "plan")
    screen.on(chosen.input, "tune", preview_after(take_preset), chosen, mode="always_last")
    screen.on([keep.click, name.submit], "tune", keep_plan, name)
    screen.on(forget.click, "tune", forget_preset, chosen)


def present_key(session: Session) -> str | None:
    """Return the key of the last preset taken if its plan is still the present one, else None."""
    taken = PresetForm.of_session(session)
    gone = taken.key.startswith("mine ") and taken.key.removeprefix("mine ") not in session.presets
    return taken.key if session.plans and taken.plan == session.plan and not gone else None


def draw_choices(session: Session) -> Any:
    """Return the list of presets, with the present plan's own chosen."""
    return gr.Dropdown(choices=presets.preset_choices(session.presets), value=present_key(session))


def draw_preset_buttons(session: Session) -> list[Any]:
    """Return updates that enable Keep if there is a plan, and Forget for a preset of the user."""
    mine = (present_key(session) or "").startswith("mine ")
    return [gr.Button(interactive=bool(session.plans)), gr.Button(interactive=mine)]


def take_preset(session: Session, key: Any) -> None:
    """Make the plan of a preset the present one, as one step of undo.

    Raise `Refusal` if the preset is gone or its plan is not possible.
    """
    if not key:
        return
    # If this preset is refused, the list must show the present plan's again.
    session.mark("presets")
    present = session.present
    plan, said = presets.plan_of(str(key), session.presets, session.known, present, session.locks)
    session.suit(plan)
    plan = forecast.fill_forecast(session.known, plan)
    said += session.take_plan(plan)
    PresetForm(str(key), session.plan).fill_in(session)
    if said:
        session.say("tune", said.strip())


def keep_plan(session: Session, name: Any) -> None:
    """Store the present plan under a name, also on disk; raise `Refusal` if the name is not possible."""
    proper, plan = presets.preset_name(name), session.plan
    mine = presets.keep_preset(session.presets, proper, plan)
    presets.write_presets(session.id, mine)
    session.presets = mine
    PresetForm(f"mine {proper}", plan).fill_in(session)
    session.mark("presets")
    session.say("tune", f"The plan is kept as “{proper}”.", "good")


def forget_preset(session: Session, key: Any) -> None:
    """Remove one of the user's presets; its plan stays the present one."""
    name = str(key or "").removeprefix("mine ")
    if name not in session.presets:
        return
    mine = {other: plan for other, plan in session.presets.items() if other != name}
    presets.write_presets(session.id, mine)
    session.presets = mine
    session.mark("presets")
    session.say("tune", f"“{name}” is forgotten; its plan is still the present one, so Keep brings it back.")
