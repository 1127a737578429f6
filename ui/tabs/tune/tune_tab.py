"""The Tune tab: how much smaller, by which rules, and every layer by hand; undo, redo and plan files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Plan
from slimllm.methods.table import find_method
from slimllm.planning import forecast, plan_making
from slimllm.planning.plan_making import make_plan
from ui.facts.combinations import (
    Choice,
    allocations_for,
    possible_keys,
    recoveries_for,
    units_for,
    words_on_choices,
)
from ui.look.formatting import (
    dropped_layers,
    format_bytes,
    format_count,
    format_share,
    is_dropped,
    note_html,
)
from ui.page.elements import add_intro, add_lead
from ui.page.faders import Faders, bank_json, value_of
from ui.page.inputs import Slider
from ui.page.menu import Menu, menu_value
from ui.page.screen import Screen
from ui.session.forms import FIRST, HoldForm, RulesForm
from ui.session.requests import rules_from
from ui.session.session import Session
from ui.tabs.tune import preset_row, preview_panel, share_slider, width_switches
from ui.tabs.tune.plan_file import draw_file, draw_load, load_plan
from ui.tabs.tune.preview_panel import preview_after

PURPOSE = "Say how much smaller the model should become, and from where to take it."
ALIGNMENTS = (1, 8, 16, 32, 64, 128)
COUNTS = [("parameters in the layers", "decoder"), ("all parameters", "all")]


def build(screen: Screen) -> None:
    """Add the components and events of the tab."""
    add_intro(screen, "tune", PURPOSE, lambda s: "" if s.analysis else "It needs an analysis first.")
    with gr.Row(elem_classes="next"):
        add_lead(screen, "tune-missing", missing_step)
    target = Slider(
        0,
        0.9,
        value=0.2,
        step=0.005,
        label="How much smaller?",
        info="0 keeps everything; 0.2 removes a fifth; 0.5 removes half",
        elem_id="tune-target",
        buttons=[],
    )
    summary = gr.HTML(elem_id="tune-summary", padding=False)
    equal = width_switches.build(screen)
    preset_row.build(screen)
    rules = (target, *rules_box(screen), equal)
    with gr.Row(elem_classes="bar"):
        undo = gr.Button("Undo", elem_id="tune-undo", scale=0, min_width=90, interactive=False)
        redo = gr.Button("Redo", elem_id="tune-redo", scale=0, min_width=90, interactive=False)
        save = gr.DownloadButton("Save plan", elem_id="tune-save", scale=0, min_width=110, interactive=False)
        load = gr.UploadButton(
            "Load plan", file_types=[".json"], elem_id="tune-load", scale=0, min_width=110, interactive=False
        )
        add_lead(screen, "tune", lambda s: ("Next: prune and compare", "compare") if s.plans else None)
        hold = gr.Checkbox(
            False,
            label="Hold the size: other layers give way",
            elem_id="tune-hold",
            container=False,
            min_width=260,
        )
    faders = Faders(elem_id="tune-faders", label="Kept in every layer")
    preview_panel.build(screen)
    screen.show(summary, draw_summary, "plan")
    screen.show([undo, redo], draw_steps, token=step_token)
    screen.show(save, draw_file, "plan", "layers")
    screen.show(load, draw_load, token=lambda session: (session.born, session.analysis is not None))
    screen.keep(
        rules,
        "tune",
        lambda s: shown_rules(s).list_values(),
        preview_after(change_rules),
        draw=draw_rules,
        parts=["controls"],
    )
    screen.keep([hold], "tune", HoldForm.list_shown, HoldForm.take_entered)
    screen.show(faders, partial(draw_faders, faders), "plan", "bank", "locks")
    screen.on(faders.release, "tune", preview_after(move_faders), faders, hold, mode="always_last")
    screen.on(faders.grasp, "preview", preview_panel.grasp_fader)
    screen.on(faders.solo, "preview", preview_after(hear_alone), click=True, mode="multiple")
    screen.on(undo.click, "tune", preview_after(undo_step), mode="multiple")
    screen.on(redo.click, "tune", preview_after(redo_step), mode="multiple")
    screen.on(load.upload, "tune", preview_after(load_plan), load)


def rules_box(screen: Screen) -> tuple[Any, ...]:
    """Add the folded rules: recovery, allocation, unit, alignment, what is counted; return their controls."""

    def add_choice(choices: Any, value: Any, label: str, info: str, name: str) -> gr.Dropdown:
        return gr.Dropdown(
            choices, value=value, label=label, info=info, elem_id=f"tune-{name}", min_width=190
        )

    def add_menu(choices: list[Choice], value: str, label: str, info: str, name: str) -> Menu:
        shown = menu_value(choices, value)
        return Menu(shown, label=label, info=info, elem_id=f"tune-{name}", min_width=190)

    recoveries, allocations = recoveries_for(FIRST), allocations_for(FIRST)
    units = [Choice("Automatic", "auto")]
    alignments = [(f"multiples of {a}" if a > 1 else "any number", a) for a in ALIGNMENTS]
    first = find_method(FIRST)
    with gr.Accordion("By which rules", open=False, elem_id="tune-rules"):
        with gr.Row(elem_classes="controls"):
            recovery = add_menu(recoveries, first.recovery, "Recovery", "how the rest is mended", "recovery")
            allocation = add_menu(
                allocations, first.allocation, "Where to cut", "the share of each layer", "allocation"
            )
            unit = add_menu(units, "auto", "Attention loses", "the unit that leaves", "unit")
        said = gr.HTML(elem_id="tune-words", padding=False)
        with gr.Row(elem_classes="controls"):
            align = add_choice(alignments, 8, "Channels stay in", "processors work in blocks", "align")
            counted = add_choice(COUNTS, "decoder", "The dial counts", "what it is a share of", "count")
            share_slider.build(screen)
    screen.show(said, draw_rule_words, "plan", "layers")
    return recovery, allocation, unit, align, counted


def missing_step(session: Session) -> tuple[str, str] | None:
    """Return the label and the tab of what is still missing, or None."""
    if session.loaded is None:
        return "Go to Load", "load"
    return None if session.analysis else ("Go to Analyse", "analyse")


def shown_rules(session: Session) -> RulesForm:
    """Return the dial and the rules of the present plan.

    The plan does not know whether its unit was chosen automatically, nor its allocation before the widths
    were set by hand. Those are taken from what was entered.
    """
    if not session.plans or session.analysis is None:
        return RulesForm()
    plan, analysis, asked = session.plan, session.analysis, RulesForm.find_in(session)
    known, usual = possible_keys(allocations_for(analysis.method)), find_method(analysis.method).allocation
    wanted = (plan.allocation, str(asked.allocation) if asked else "", usual)
    unit_left_open = asked is None or asked.unit == "auto"
    first_unit = next(iter(analysis.layers[0].attention))
    return RulesForm(
        min(max(plan.ratio_requested, 0.0), 0.9),
        plan.recovery,
        next((cut for cut in wanted if cut in known), None),
        "auto" if unit_left_open and plan.unit == first_unit else plan.unit,
        plan.align,
        plan.count,
        plan.same_width,
    )


def change_rules(session: Session, entered: dict[int, Any]) -> None:
    """Make a new plan by the changed rules, with the others as they are.

    All plans of one movement of the dial are one step of undo. Raise `Refusal` if there is no analysis or the
    plan is not possible.
    """
    if session.analysis is None:
        raise Refusal("The model is not analysed yet; do that on the Analyse tab first.")
    shown = shown_rules(session)
    wanted = shown.with_entered(entered)
    # The user is typing a number, and a refusal would draw over it.
    if wanted.ratio is None:
        return
    plan = make_plan(session.known, rules_from(session.present, wanted, session.locks))
    session.push(plan, "dial" if wanted == replace(shown, ratio=wanted.ratio) else "")
    wanted.fill_in(session)
    session.mark("bank")


def move_faders(session: Session, value: dict[str, Any] | None, hold: bool) -> None:
    """Take the values of the faders; counts snap, and with `hold` the unlocked layers compensate."""
    if value is None or not session.plans:
        return
    turn = value.get("turn", session.turn + 1)
    # Gradio has sent one of our own answers back.
    if turn <= session.turn:
        return
    session.turn = turn
    plan, analysis = session.plan, session.known
    if len(value["heads"]) != len(plan.heads):
        session.mark("bank")
        return
    heads = merge_touched(value, "attention", value["heads"], plan.heads)
    channels = merge_touched(value, "mlp", value["channels"], plan.channels)
    locks = merge_touched(
        value, "lock", value["locked"], [i in session.locked for i in range(len(plan.heads))]
    )
    locked = frozenset(i for i, lock in enumerate(locks) if lock)
    held = locked & session.locked
    session.mark("plan")
    wanted, present = zip(heads, channels, strict=True), zip(plan.heads, plan.channels, strict=True)
    changes = {
        i: pair
        for i, (pair, old) in enumerate(zip(wanted, present, strict=True))
        if pair != old and i not in held
    }
    if changes:
        still = locked | {i for i in range(len(plan.heads)) if is_dropped(plan, i)}
        plan = plan_making.adjust_plan(analysis, plan, changes, hold=hold, locked=still)
        session.push(plan, locked=session.locked & locked)
    session.lock_layers(locked)


def merge_touched(value: dict[str, Any], what: str, sent: Sequence[Any], present: Sequence[Any]) -> list[Any]:
    """Return what the user set on a page, and the present values elsewhere.

    The page may show an old plan.
    """
    mine = value.get("touched")
    pairs = enumerate(zip(sent, present, strict=True))
    return [new if mine is None or f"{what} {i}" in mine else old for i, (new, old) in pairs]


def hear_alone(session: Session, event: Any) -> None:
    """Count the cuts of one site alone in figures and preview, or those of both sites."""
    site = str(getattr(event, "site", ""))
    session.preview.solo = site if site in ("attention", "mlp") else ""


def undo_step(session: Session) -> None:
    """Go back one plan."""
    session.step(-1)


def redo_step(session: Session) -> None:
    """Go forward one plan."""
    session.step(1)


def draw_summary(session: Session) -> str:
    """Return the plan in plain words as HTML."""
    if not session.plans or session.analysis is None:
        return note_html("info", "Once the model is analysed, this dial plans the whole pruning.")
    plan, shape = session.plan, session.analysis.shape
    view = forecast.forecast_plan(session.analysis, plan)
    saved = (shape.parameters - view.parameters) * session.analysis.bytes_per_parameter
    return note_html(
        "info",
        f"The model becomes {format_share(1 - view.parameters / shape.parameters)} smaller: "
        f"{format_count(view.parameters)} of {format_count(shape.parameters)} parameters stay, "
        f"{format_bytes(saved)} are saved"
        f"{'' if plan.count == 'all' else f' ({format_share(view.ratio)} of what is in the layers)'}. "
        f"{dropped_layers(plan)}{' ' if dropped_layers(plan) else ''}"
        f"Each layer's output is expected to move by {format_share(view.total_error)} on average, on text "
        "that was "
        "held out.",
    )


def step_token(session: Session) -> tuple[Any, ...]:
    """Return (when the session began, whether undo is possible, whether redo is possible)."""
    return session.born, session.cursor > 0, session.cursor < len(session.plans) - 1


def draw_steps(session: Session) -> list[Any]:
    """Return updates that enable undo and redo if they are possible."""
    _, back, forth = step_token(session)
    return [gr.Button(interactive=back), gr.Button(interactive=forth)]


def draw_rules(session: Session) -> list[Any]:
    """Return the dial and the rules; choices that do not combine are greyed."""
    rules = shown_rules(session)
    name = session.analysis.method if session.analysis else FIRST
    units = units_for(session.analysis) if session.analysis else [Choice("Automatic", "auto")]
    return [
        rules.ratio,
        menu_value(recoveries_for(name), rules.recovery),
        menu_value(allocations_for(name), rules.allocation),
        menu_value(units, rules.unit),
        rules.align if rules.align in ALIGNMENTS else gr.skip(),
        rules.count,
        rules.same_width,
    ]


def draw_rule_words(session: Session) -> str:
    """Return the chosen rules, and what does not combine with the method, in plain words."""
    return words_on_choices(session.plan, session.known) if session.plans else ""


def draw_faders(faders: Faders, session: Session) -> Any:
    """Return the update of the fader bank, with all its properties, because an update replaces them all."""
    if session.analysis is None or not session.plans:
        return gr.update(value=None, **faders.props)
    plan, analysis = session.plan, session.analysis
    value = value_of(
        plan,
        [i in session.locked for i in range(len(plan.heads))],
        automatic=automatic_plan(session),
        exact=forecast.forecast_plan(analysis, plan),
        solo=session.preview.solo,
        turn=session.turn,
    )
    return gr.update(value=value, **{**faders.props, "bank": bank_facts_of(session, analysis, plan)})


def bank_facts_of(session: Session, analysis: Analysis, plan: Plan) -> str:
    """Return the bank's facts as JSON.

    They take 20 ms for 80 layers, so they are made again only if the plan's settings have changed.
    """
    made_of = (plan.unit, plan.recovery, plan.align, plan.count, plan.protected, plan.forced)
    if session.bank is None or session.bank[0] is not analysis or session.bank[1] != made_of:
        session.bank = (analysis, made_of, bank_json(analysis, plan))
    return session.bank[2]


def automatic_plan(session: Session) -> Plan | None:
    """Return the last plan that was made by rules alone, to which single faders go back.

    Return None if there is none, or if it has another unit than the present plan.
    """
    for plan in reversed(session.plans[: session.cursor + 1]):
        if plan.allocation != "hand":
            return plan if plan.unit == session.plan.unit else None
    return None
