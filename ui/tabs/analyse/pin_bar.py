"""The bar of pins below the maps: it protects, forces out or releases what is chosen, by button or key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, cast

import gradio as gr

from slimllm.core.attention_unit import UNITS
from slimllm.core.errors import Refusal
from slimllm.planning.pins import Mark, pin_units
from ui.charts.channels_map import ORDERS, Order
from ui.facts import pin_effects, selection
from ui.look.formatting import escape_html, note_html
from ui.page.plotview import PlotView
from ui.page.screen import Screen
from ui.session.forms import MapsForm
from ui.session.session import Session
from ui.tabs.analyse.layer_detail import chosen_layer
from ui.tabs.analyse.overlay import shown_layers

MARKS: tuple[tuple[str, str, Mark], ...] = (
    ("Protect (P)", "analyse-protect", "protect"),
    ("Force out (F)", "analyse-force", "force"),
    ("Clear (C)", "analyse-clear", "clear"),
)
EMPTY = (
    "Click on a cell, drag over several, or walk a map with the arrow keys. Then protect it or force it out."
)


def build_bar(screen: Screen) -> None:
    """Add the words on what is chosen, and the buttons that pin it."""
    with gr.Row(elem_id="analyse-pins", elem_classes="bar pins"):
        said = gr.HTML(elem_id="analyse-picked", padding=False)
        buttons = [
            gr.Button(label, elem_id=id, scale=0, min_width=96, size="sm", interactive=False)
            for label, id, _ in MARKS
        ]
        layer = gr.Button(
            "Whole layer (L)", elem_id="analyse-whole", scale=0, min_width=110, size="sm", interactive=False
        )
        undo = gr.Button("Undo", elem_id="analyse-undo", scale=0, min_width=70, size="sm", interactive=False)
    screen.show(said, draw_said, token=bar_token)
    screen.show([*buttons, layer, undo], draw_buttons, token=bar_token)
    for button, (_, _, mark) in zip(buttons, MARKS, strict=True):
        screen.on(button.click, "analyse", press_handler(mark), mode="multiple")
    screen.on(layer.click, "analyse", widen_to_layers, mode="multiple")
    screen.on(undo.click, "analyse", undo_step, mode="multiple")


def listen_to_map(screen: Screen, view: PlotView, what: Literal["heads", "channels"]) -> None:
    """Connect the choices made on a map, and the letters pressed there."""
    screen.on(view.pick, "analyse", pick_handler(what), click=True, mode="multiple")
    screen.on(view.pin, "analyse", letter_handler(what), click=True, mode="multiple")


def bar_token(session: Session) -> Any:
    """Return what the bar depends on: the choice, the scores, and the plan's pins.

    Pins may change on other tabs.
    """
    return (
        session.born,
        session.focus.picked,
        session.serial["layers"],
        session.cursor > 0,
        held_pins(session),
    )


def held_pins(session: Session) -> Any:
    """Return the protected and the forced units of the present plan, or None without a plan."""
    plan = session.present
    return None if plan is None else (plan.protected, plan.forced)


def order_of(session: Session) -> Order:
    """Return how the map of channels is ordered."""
    found = MapsForm.of_session(session).order
    return found if found in ORDERS else ORDERS[0]


def by_rank(session: Session) -> bool:
    """Return whether the map of channels is in order of rank."""
    return order_of(session) != "place"


def pick_handler(what: Literal["heads", "channels"]) -> Callable[[Session, gr.EventData], None]:
    """Return a handler that chooses the units covered by an event on a map."""

    def pick_event(session: Session, event: gr.EventData) -> None:
        choose_event(session, what, event._data)

    return pick_event


def choose_event(session: Session, what: Literal["heads", "channels"], where: Any) -> bool:
    """Choose the units that an event covers, and open their first layer; return whether there are any."""
    if session.loaded is None or not session.analyses.partial or not isinstance(where, Mapping):
        return False
    unit = next((u for x in session.analyses.partial if x for u in x.attention), None)
    layer = zoomed_layer(session) if what == "channels" else None
    found = selection.pick_units(
        session.subject.shape, what, where, what == "channels" and by_rank(session), layer
    )
    if found is None:
        return False
    session.focus.picked = found.whole() if what == "heads" and unit and UNITS[unit].narrows_heads else found
    if session.analyses.partial[found.layers[0]] is not None and session.focus.detail != found.layers[0]:
        session.focus.detail = found.layers[0]
        session.mark("detail")
    return True


def zoom_of(session: Session) -> str:
    """Return "one" if the map of channels shows a single layer, else "all"."""
    return "one" if MapsForm.of_session(session).zoom == "one" else "all"


def zoomed_layer(session: Session) -> int | None:
    """Return the index of the single layer that the map of channels shows, or None if it shows all."""
    found = chosen_layer(session) if zoom_of(session) == "one" else None
    return None if found is None else found[0]


def letter_handler(what: Literal["heads", "channels"]) -> Callable[[Session, gr.EventData], None]:
    """Return a handler of the letters pressed on a map."""

    def mark_event(session: Session, event: gr.EventData) -> None:
        mark = event._data.get("mark")
        if not choose_event(session, what, event._data):
            return
        if mark == "layer":
            widen_to_layers(session)
        elif mark in ("protect", "force", "clear"):
            apply_mark(session, cast(Mark, mark))

    return mark_event


def press_handler(mark: Mark) -> Callable[[Session], None]:
    """Return a handler of the button for `mark`."""
    return lambda session: apply_mark(session, mark)


def apply_mark(session: Session, mark: Mark) -> None:
    """Protect, force out or release what is chosen, as one step of undo.

    Raise `Refusal` if nothing is chosen, if there is no plan, or if no plan with these pins is possible.
    """
    if session.focus.picked is None:
        raise Refusal("Choose heads, channels or a layer on a map first.")
    if not session.plans:
        raise Refusal("There is no plan yet that could keep this; wait until the model is analysed.")
    spots = selection.picked_pins(session.focus.picked, session.subject.shape, shown_layers(session))
    session.push(pin_units(session.known, session.plan, mark, spots, session.locks))
    redraw_plan(session)


def widen_to_layers(session: Session) -> None:
    """Choose everything in the layers in which something is chosen."""
    if session.focus.picked is not None:
        session.focus.picked = session.focus.picked.whole()


def undo_step(session: Session) -> None:
    """Go back one plan."""
    session.step(-1)
    redraw_plan(session)


def redraw_plan(session: Session) -> None:
    """Draw the plan into the pictures of this tab, and into the faders and rules of Tune."""
    session.focus.drawn_plan = session.present
    session.mark("look", "bank", "controls")


def draw_said(session: Session) -> str:
    """Return, as HTML, what is chosen, what the plan does with it, and a summary of all pins."""
    plan = session.present
    if session.focus.picked is None or session.loaded is None or not session.analyses.partial:
        said = note_html("quiet", EMPTY)
    else:
        shape = session.subject.shape
        words = selection.describe_pick(session.focus.picked, shape, shown_layers(session), plan)
        said = f"<p>{escape_html(words)}</p>"
    rest = ""
    if plan is not None and session.loaded is not None:
        effects = pin_effects.tell_effects(plan, session.subject.shape)
        rest = " ".join(words for words in (selection.summarise_pins(plan), effects) if words)
    return said + (f'<p class="quiet">{escape_html(rest)}</p>' if rest else "")


def draw_buttons(session: Session) -> list[Any]:
    """Return updates that enable the buttons that can do something."""
    picked = session.focus.picked
    able = picked is not None and bool(session.plans)
    wider = able and picked is not None and picked != picked.whole()
    marks = [gr.Button(interactive=able) for _ in MARKS]
    return [*marks, gr.Button(interactive=wider), gr.Button(interactive=session.cursor > 0)]
