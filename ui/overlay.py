"""A second method on the Analyse tab: chosen, scored on the same text, laid over the maps, compared layer by
layer."""

from __future__ import annotations

from typing import Any

import gradio as gr

from slimllm.methods import METHODS, settings
from slimllm.types import Analysis, Plan, Refusal
from ui import agreement as numbers
from ui import work
from ui.agreement_maps import agreement_chart, channels_agreement, heads_agreement
from ui.choices import for_ratio, source_of
from ui.drawing import Layers
from ui.pieces import job_line, start_and_stop
from ui.plotview import PlotView
from ui.registry import REGISTRY
from ui.screen import Screen
from ui.session import Session
from ui.words import method_title, note, unit_words

NOBODY = ""


def present_plan(session: Session) -> Plan | None:
    return session.plan if session.plans else None


def chooser(screen: Screen, offline: bool) -> None:
    """The second method, the button that scores it, and whose colours the maps wear."""
    with gr.Row(elem_classes="bar second"):
        second = gr.Dropdown(
            [("Nobody", NOBODY), *((row.title, name) for name, row in METHODS.items())],
            value=NOBODY,
            label="Compare with",
            info="a second method on the same text",
            elem_id="analyse-second",
            scale=0,
            min_width=260,
        )
        button = gr.Button(
            "Lay over", elem_id="analyse-second-button", scale=0, min_width=120, interactive=False
        )
        stop = gr.Button("Stop", elem_id="analyse-second-stop", scale=0, min_width=90, interactive=False)
        job_line(screen, "second", "analyse-second-progress", beside="analyse")
    colours = gr.Radio(
        [("who keeps what", "both"), ("first method", "first"), ("second method", "second")],
        value="both",
        label="The maps show",
        elem_id="analyse-overlay",
        elem_classes="inline-choice",
        visible=False,
    )
    screen.show(second, draw_chosen, "second")
    screen.show(colours, draw_colours, "second", "overlay")
    start_and_stop(screen, "second", button, stop, lambda s: s.analysis is not None)
    screen.on(button.click, "analyse", Press(offline), second)
    screen.on(second.input, "analyse", choose, second)
    screen.on(colours.input, "analyse", choose_colours, colours)


def agreement(screen: Screen) -> None:
    """What the agreement means in words, and the rank correlation of every layer."""
    words = gr.HTML(elem_id="analyse-agreement-words", padding=False)
    chart = PlotView(
        height=280,
        label="Rank agreement of two methods in every layer",
        placeholder="Choose a second method above and lay it over: here you see, layer by layer, whether "
        "both rank alike.",
        elem_id="analyse-agreement",
    )
    screen.show(words, draw_words, "second", "layers", "look")
    screen.show(chart, draw_chart, "second", "layers", "look", pace=1.0)


class Press:
    """Lays the second method over the maps, scoring by it first where that has not been done yet."""

    def __init__(self, offline: bool):
        self.offline = offline

    def __call__(self, session: Session, name: str) -> None:
        if not name:
            raise Refusal("Choose a second method to compare with first.")
        known = known_second(session, name)
        if known is not None:
            session.lay_over(known)
            return
        session.wishes["second"] = (name,)
        options = for_ratio(name, session.plan.ratio_requested if session.plans else work.START_RATIO)
        source = (name, tuple(sorted(settings(name, options).items())), session.known.calibration)
        if source == source_of(session.known):
            raise Refusal(
                f"The maps show {method_title(name)} already; choose another method to compare with."
            )
        work.start_second(REGISTRY, session, name, options, self.offline)


def choose(session: Session, name: str) -> None:
    """Takes away the second method, or lays over one whose scores are known already."""
    session.wishes["second"] = (name,)
    if not name:
        session.lay_over(None)
    elif (known := known_second(session, name)) is not None:
        session.lay_over(known)


def known_second(session: Session, name: str) -> Analysis | None:
    """The scores by a method from the text that the present analysis read, if there are any beside it."""
    first = session.analysis
    if first is None:
        return None
    fits = (a for a in session.analyses.values() if a.method == name and a.calibration == first.calibration)
    return next((a for a in fits if a is not first), None)


def choose_colours(session: Session, colours: str) -> None:
    """Shows one method's importance, or who keeps what."""
    session.wishes["overlay"] = (colours,)
    session.mark("overlay")


def pair(session: Session) -> tuple[Analysis, Analysis, Plan] | None:
    """Both analyses and the plan at whose widths they are compared, once there are all three."""
    if session.analysis is None or session.second is None or not session.plans:
        return None
    return session.analysis, session.second, session.plan


def names_of(first: Analysis, second: Analysis) -> tuple[str, str]:
    """What the two methods are called; with the same name the second is the one with its usual options."""
    one, other = method_title(first.method), method_title(second.method)
    return one, other if one != other else f"{other}, usual options"


def colours_of(session: Session) -> str:
    return str(session.wishes.get("overlay", ("both",))[0])


def shown_layers(session: Session) -> Layers:
    """The layers whose importance the maps show: the first method's, or the second's if asked for."""
    if session.second is not None and not filling(session) and colours_of(session) == "second":
        return session.second.layers
    return session.partial


def heads_picture(session: Session) -> Any:
    """Who keeps which heads; None where the map shows importance, or where heads cannot be compared."""
    found = laid(session)
    if found is None:
        return None
    first, second, plan = found
    unit = numbers.common_unit(first, second, plan)
    return None if unit is None else heads_agreement(first, second, plan, unit, names_of(first, second))


def channels_picture(session: Session, ordered: bool) -> Any:
    """Who keeps which channels; None where the map shows importance."""
    found = laid(session)
    if found is None:
        return None
    first, second, plan = found
    return channels_agreement(first, second, plan, names_of(first, second), ordered=ordered)


def laid(session: Session) -> tuple[Analysis, Analysis, Plan] | None:
    """The pair, if the maps are to show who keeps what and no analysis is filling them."""
    return None if filling(session) or colours_of(session) != "both" else pair(session)


def filling(session: Session) -> bool:
    """Whether an analysis is under way, whose layers the maps show as they come."""
    return session.analysis is None or session.partial[0] is not session.analysis.layers[0]


def draw_chosen(session: Session) -> str:
    if session.second is not None:
        return session.second.method
    return str(session.wishes.get("second", (NOBODY,))[0])


def draw_colours(session: Session) -> Any:
    """The choice of colours, with the methods' names, once there are two methods."""
    found = pair(session)
    if found is None:
        return gr.Radio(visible=False)
    one, other = names_of(found[0], found[1])
    choices = [("who keeps what", "both"), (f"importance by {one}", "first"), (f"by {other}", "second")]
    return gr.Radio(choices=choices, value=colours_of(session), visible=True)


def draw_words(session: Session) -> str:
    """The agreement in plain words."""
    found = pair(session)
    if found is None:
        return ""
    first, second, plan = found
    unit = numbers.common_unit(first, second, plan)
    units = None if unit is None else unit_words(unit)
    said = numbers.sentence(names_of(first, second), numbers.agreement(first, second, plan), units)
    return note("info", said)


def draw_chart(session: Session) -> Any:
    """The rank agreement of every layer."""
    found = pair(session)
    if found is None:
        return None
    first, second, plan = found
    unit = numbers.common_unit(first, second, plan)
    layers = numbers.agreement(first, second, plan)
    return agreement_chart(layers, names_of(first, second), unit_words(unit or ""))
