"""The Tune tab: how much smaller, by which rules, and every layer by hand; undo, redo, save and load of
plans."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from slimllm import planning, recipes
from slimllm.methods import method
from slimllm.types import Analysis, Plan, Refusal
from ui import balancing, preset_row, preview_panel, same
from ui.choices import Choice, allocations_for, possible, recoveries_for, units_for, words_on_choices
from ui.faders import Faders, bank, value_of
from ui.menu import Menu, menu_value
from ui.own import Slider
from ui.pieces import intro, lead
from ui.preview_panel import heard
from ui.screen import Screen
from ui.session import Session
from ui.wishes import plan_for
from ui.words import count, dropped, dropped_layers, note, same_width, share, size

PURPOSE = "Say how much smaller the model should become, and from where to take it."
ALIGNMENTS = (1, 8, 16, 32, 64, 128)
COUNTS = [("parameters in the layers", "decoder"), ("all parameters", "all")]
FIRST = "best"  # the method whose rules are offered before there is an analysis
LARGEST_PLAN = 5_000_000  # bytes


def build(screen: Screen) -> None:
    """The components and events of the tab."""
    intro(screen, "tune", PURPOSE, lambda s: "" if s.analysis else "It needs an analysis first.")
    with gr.Row(elem_classes="next"):
        lead(screen, "tune-missing", missing)
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
    equal = same.build(screen)
    preset_row.build(screen)
    rules = (target, *rules_box(screen), equal)
    with gr.Row(elem_classes="bar"):
        undo = gr.Button("Undo", elem_id="tune-undo", scale=0, min_width=90, interactive=False)
        redo = gr.Button("Redo", elem_id="tune-redo", scale=0, min_width=90, interactive=False)
        save = gr.DownloadButton("Save plan", elem_id="tune-save", scale=0, min_width=110, interactive=False)
        load = gr.UploadButton(
            "Load plan", file_types=[".json"], elem_id="tune-load", scale=0, min_width=110, interactive=False
        )
        lead(screen, "tune", lambda s: ("Next: prune and compare", "compare") if s.plans else None)
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
    screen.show([undo, redo], draw_steps, token=steps)
    screen.show(save, draw_file, "plan", "layers")
    screen.show(load, draw_load, token=lambda session: (session.born, session.analysis is not None))
    screen.show(list(rules), draw_rules, "controls")
    screen.show(faders, partial(draw_faders, faders), "plan", "bank", "locks")
    for trigger, act, inputs in (
        (target.input, turn_dial, rules),
        ([control.input for control in rules[1:]], change_rules, rules),
        (faders.release, move_faders, (faders, hold)),
    ):
        screen.on(trigger, "tune", heard(act), *inputs, mode="always_last")
    screen.on(faders.grasp, "preview", preview_panel.grasp)
    screen.on(faders.solo, "preview", heard(hear_alone), click=True)
    screen.on(undo.click, "tune", heard(undo_step))
    screen.on(redo.click, "tune", heard(redo_step))
    screen.on(load.upload, "tune", heard(load_plan), load)


def rules_box(screen: Screen) -> tuple[Any, ...]:
    """The second level, folded away: recovery, allocation, unit, alignment, what is counted."""

    def choice(choices: Any, value: Any, label: str, info: str, name: str) -> gr.Dropdown:
        return gr.Dropdown(
            choices, value=value, label=label, info=info, elem_id=f"tune-{name}", min_width=190
        )

    def menu(choices: list[Choice], value: str, label: str, info: str, name: str) -> Menu:
        shown = menu_value(choices, value)
        return Menu(shown, label=label, info=info, elem_id=f"tune-{name}", min_width=190)

    recoveries, allocations = recoveries_for(FIRST), allocations_for(FIRST)
    units = [Choice("Automatic", "auto")]
    alignments = [(f"multiples of {a}" if a > 1 else "any number", a) for a in ALIGNMENTS]
    first = method(FIRST)
    with gr.Accordion("By which rules", open=False, elem_id="tune-rules"):
        with gr.Row(elem_classes="controls"):
            recovery = menu(recoveries, first.recovery, "Recovery", "how the rest is mended", "recovery")
            allocation = menu(
                allocations, first.allocation, "Where to cut", "the share of each layer", "allocation"
            )
            unit = menu(units, "auto", "Attention loses", "the unit that leaves", "unit")
        said = gr.HTML(elem_id="tune-words", padding=False)
        with gr.Row(elem_classes="controls"):
            align = choice(alignments, 8, "Channels stay in", "multiples run faster", "align")
            counted = choice(COUNTS, "decoder", "The dial counts", "what it is a share of", "count")
            balancing.build(screen)
    screen.show(said, draw_words, "plan", "layers")
    return recovery, allocation, unit, align, counted


def missing(session: Session) -> tuple[str, str] | None:
    """The way to what this tab lacks."""
    if session.loaded is None:
        return "Go to Load", "load"
    return None if session.analysis else ("Go to Analyse", "analyse")


def turn_dial(session: Session, *rules: Any) -> None:
    """Plans anew for the dial; while it moves this is one step of undo. Its box is empty while a number is
    being typed: a refusal then would draw over what comes next."""
    if rules[0] is not None:
        change(session, "dial", *rules)


def change_rules(session: Session, *rules: Any) -> None:
    """Plans anew by other rules."""
    change(session, "", *rules)


def change(session: Session, gesture: str, *rules: Any) -> None:
    if session.analysis is None:
        session.mark("controls")
        raise Refusal("The model is not analysed yet; do that on the Analyse tab first.")
    ratio, recovery, allocation, unit, align, counted, equal = rules
    plan = plan_for(
        session.known,
        session.present,
        ratio,
        recovery,
        allocation,
        unit,
        align,
        counted,
        equal,
        session.locks,
    )
    session.push(plan, gesture)
    session.wishes["rules"] = (unit, allocation)
    session.mark("bank")


def move_faders(session: Session, value: dict[str, Any] | None, hold: bool) -> None:
    """Takes what the faders say; counts snap, and with `hold` the unlocked layers give way."""
    if value is None or not session.plans:
        return
    turn = value.get("turn", session.turn + 1)
    if turn <= session.turn:  # Gradio has sent an answer of ours back
        return
    session.turn = turn
    plan, analysis = session.plan, session.known
    if len(value["heads"]) != len(plan.heads):
        session.mark("bank")
        return
    locked = frozenset(i for i, lock in enumerate(value["locked"]) if lock)
    held = locked & session.locked
    wanted = list(zip(value["heads"], value["channels"], strict=True))
    present = list(zip(plan.heads, plan.channels, strict=True))
    changes = {i: pair for i, pair in enumerate(wanted) if tuple(pair) != present[i] and i not in held}
    session.mark("plan")
    if changes:
        still = locked | {i for i in range(len(present)) if dropped(plan, i)}
        plan = planning.adjust(analysis, plan, changes, hold=hold, locked=still)
        session.push(plan, locked=session.locked & locked)
    session.lock_layers(locked)


def hear_alone(session: Session, event: Any) -> None:
    """Lets the cuts of one site alone count in figures and preview, or those of both."""
    site = str(getattr(event, "site", ""))
    session.preview.solo = site if site in ("attention", "mlp") else ""


def undo_step(session: Session) -> None:
    """One plan back."""
    session.step(-1)


def redo_step(session: Session) -> None:
    """One plan forth."""
    session.step(1)


def load_plan(session: Session, path: str | None) -> None:
    """Takes a plan from an uploaded file; nothing changes if it is malformed or for another model."""
    if not path:
        return
    file = Path(path)
    try:
        if file.stat().st_size > LARGEST_PLAN:
            raise Refusal("The file is too large to be a plan; choose a plan.json.")
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise Refusal("The file is not readable text; choose a plan.json.") from None
    plan = recipes.plan_from_text(text, "The plan")
    if fits(session, plan):
        session.suit(plan)
        plan = planning.told(session.known, plan)
    said = "The plan is loaded." + session.take_plan(plan)
    if session.made_from(plan) is None:
        said += " It was made with another method or text; errors shown are from the present analysis."
    session.say("tune", said, "good")


def fits(session: Session, plan: Plan) -> bool:
    """Whether a plan is for the model at hand."""
    with contextlib.suppress(Refusal):
        planning.check_plan(plan, session.known.shape)
        return True
    return False


def draw_summary(session: Session) -> str:
    """The plan in one plain sentence."""
    if not session.plans or session.analysis is None:
        return note("info", "Once the model is analysed, this dial plans the whole pruning.")
    plan, shape = session.plan, session.analysis.shape
    view = planning.forecast(session.analysis, plan)
    saved = (shape.parameters - view.parameters) * session.analysis.bytes_per_parameter
    return note(
        "info",
        f"The model becomes {share(1 - view.parameters / shape.parameters)} smaller: "
        f"{count(view.parameters)} of {count(shape.parameters)} parameters stay, {size(saved)} are saved"
        f"{'' if plan.count == 'all' else f' ({share(view.ratio)} of what is in the layers)'}. "
        f"{dropped_layers(plan)}{' ' if dropped_layers(plan) else ''}"
        f"Each layer's output is expected to move by {share(view.total_error)} on average.",
    )


def steps(session: Session) -> tuple[Any, ...]:
    """Whether there is a plan to go back to, and one to go forth to."""
    return session.born, session.cursor > 0, session.cursor < len(session.plans) - 1


def draw_steps(session: Session) -> list[Any]:
    """Undo and redo, as far as they can do something."""
    _, back, forth = steps(session)
    return [gr.Button(interactive=back), gr.Button(interactive=forth)]


def draw_file(session: Session) -> Any:
    """The plan as a file to download."""
    if not session.plans:
        return gr.DownloadButton(interactive=False)
    file = session.folder / "plan.json"
    file.write_text(recipes.plan_text(session.plan), encoding="utf-8")
    return gr.DownloadButton(value=str(file), interactive=True)


def draw_load(session: Session) -> Any:
    """The button that takes a plan, once there is an analysis to judge it by."""
    return gr.UploadButton(interactive=session.analysis is not None)


def draw_rules(session: Session) -> list[Any]:
    """The dial and the rules as the present plan has them; what does not combine is greyed."""
    if not session.plans:
        return [gr.skip()] * 7
    plan, analysis = session.plan, session.known
    name = analysis.method
    unit, allocation = session.wishes.get("rules", ("auto", ""))
    cuts = allocations_for(name)
    known = possible(cuts)
    cut = next((a for a in (plan.allocation, str(allocation), method(name).allocation) if a in known), None)
    align = gr.Dropdown(value=plan.align) if plan.align in ALIGNMENTS else gr.skip()
    first = next(iter(analysis.layers[0].attention))
    return [
        min(max(plan.ratio_requested, 0.0), 0.9),
        menu_value(recoveries_for(name), plan.recovery),
        menu_value(cuts, cut),
        menu_value(units_for(analysis), "auto" if unit == "auto" and plan.unit == first else plan.unit),
        align,
        plan.count,
        same_width(plan),
    ]


def draw_words(session: Session) -> str:
    """The chosen rules in plain words, and what does not combine with the method."""
    return words_on_choices(session.plan, session.known) if session.plans else ""


def draw_faders(faders: Faders, session: Session) -> Any:
    """The bank at the present plan; an update replaces all properties, so all of them are given."""
    if session.analysis is None or not session.plans:
        return gr.update(value=None, **faders.props)
    plan, analysis = session.plan, session.analysis
    value = value_of(
        plan,
        [i in session.locked for i in range(len(plan.heads))],
        automatic=automatic(session),
        exact=planning.forecast(analysis, plan),
        solo=session.preview.solo,
        turn=session.turn,
    )
    return gr.update(value=value, **{**faders.props, "bank": facts_of(session, analysis, plan)})


def facts_of(session: Session, analysis: Analysis, plan: Plan) -> str:
    """The bank's facts, made anew (20 ms for 80 layers) only where they are not those of the last plan."""
    made_of = (plan.unit, plan.recovery, plan.align, plan.count, plan.protected, plan.forced)
    if session.bank is None or session.bank[0] is not analysis or session.bank[1] != made_of:
        session.bank = (analysis, made_of, bank(analysis, plan))
    return session.bank[2]


def automatic(session: Session) -> Plan | None:
    """The plan that the rules alone gave last, which single faders go back to; None where there is none with
    the present unit."""
    for plan in reversed(session.plans[: session.cursor + 1]):
        if plan.allocation != "hand":
            return plan if plan.unit == session.plan.unit else None
    return None
