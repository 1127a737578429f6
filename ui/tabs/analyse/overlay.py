"""A second method or text on the Analyse tab: scored, laid over the maps, and compared layer by layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import gradio as gr

from slimllm.core.attention_unit import QUERY_HEAD, UNITS
from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Plan
from slimllm.methods.table import METHODS, fill_options
from ui.charts.agreement_map import agreement_chart, channels_agreement, heads_agreement
from ui.charts.chart_style import Layers
from ui.charts.rank_difference_map import channels_difference, heads_difference
from ui.facts import agreement as numbers
from ui.facts.combinations import Source, for_ratio, source_of
from ui.look.formatting import method_title, note_html
from ui.page.elements import job_line, start_and_stop
from ui.page.plotview import PlotView
from ui.page.screen import Screen
from ui.session.forms import START_RATIO, ColoursForm, OverlayForm
from ui.session.registry import REGISTRY
from ui.session.requests import made_words, text_choices, text_title
from ui.session.session import Session
from ui.tasks import work

SAME = ""
COLOURS = {
    "both": "who keeps what",
    "difference": "difference in rank",
    "first": "first",
    "second": "second",
}


def build_chooser(screen: Screen) -> None:
    """Add the second method and text, the button that scores by them, and what the maps show."""
    limits = REGISTRY.settings.limits
    with gr.Row(elem_classes="bar second"):
        second = gr.Dropdown(
            [("The same method", SAME), *((row.title, name) for name, row in METHODS.items())],
            value=SAME,
            label="Compare with",
            info="another method",
            elem_id="analyse-second",
            scale=0,
            min_width=220,
        )
        text = gr.Dropdown(
            [("The same text", SAME), *text_choices(limits)],
            value=SAME,
            allow_custom_value=True,
            label="on",
            info="another text" if limits.shared else "another text, or the path of one",
            elem_id="analyse-second-text",
            scale=0,
            min_width=220,
        )
        button = gr.Button(
            "Lay over", elem_id="analyse-second-button", scale=0, min_width=120, interactive=False
        )
        stop = gr.Button("Stop", elem_id="analyse-second-stop", scale=0, min_width=90, interactive=False)
        job_line(screen, "second", "analyse-second-progress", beside="analyse")
    colours = gr.Radio(
        [(word, name) for name, word in COLOURS.items()],
        value="both",
        label="The maps show",
        elem_id="analyse-overlay",
        elem_classes="inline-choice",
        visible=False,
    )
    screen.keep([second, text], "analyse", OverlayForm.list_shown, choose_overlay)
    screen.keep(
        [colours],
        "analyse",
        ColoursForm.list_shown,
        ColoursForm.take_entered,
        draw=draw_colours,
        parts=["second"],
    )
    start_and_stop(screen, "second", button, stop, lambda s: s.analysis is not None)
    screen.on(button.click, "analyse", press_overlay, second, text)


def build_agreement(screen: Screen) -> None:
    """Add the words on agreement, and the rank correlation of every layer."""
    words = gr.HTML(elem_id="analyse-agreement-words", padding=False)
    chart = PlotView(
        height=280,
        label="Rank agreement in every layer",
        placeholder="Choose another method or another text above and lay it over: here you see, layer by "
        "layer, whether both rank alike.",
        folds=True,
        elem_id="analyse-agreement",
    )
    screen.show(words, draw_agreement_words, "second", "layers", "look")
    screen.show(chart, draw_chart, "second", "layers", "look", pace=1.0)


def press_overlay(session: Session, name: str, text: str) -> None:
    """Lay a second method or text over the maps, and score by it first if needed.

    Raise `Refusal` if it is what the maps show already, if there is no analysis, or if another job of the
    session is active.
    """
    form = OverlayForm(name, text)
    form.fill_in(session)
    wanted = wanted_of(session, form)
    if wanted is None:
        raise Refusal("Choose a second method or text first, other than what the maps show already.")
    known = known_second(session, wanted)
    if known is not None and work.is_current(known, session.subject, session.settings.offline):
        session.lay_over(known)
        return
    method, options, calibration = wanted
    work.start_second(REGISTRY, session, calibration, method, dict(options))


def wanted_of(session: Session, form: OverlayForm) -> Source | None:
    """Return (method, options, calibration) of the second analysis, or None if it has the first one's."""
    first = session.known
    method, options, calibration = source_of(first)
    if name := form.method:
        ratio = session.plan.ratio_requested if session.plans else START_RATIO
        method, options = name, tuple(sorted(fill_options(name, for_ratio(name, ratio)).items()))
    if text := str(form.text or "").strip():
        calibration = dataclasses.replace(calibration, text=text)
    wanted = (method, options, calibration)
    return None if wanted == source_of(first) else wanted


def known_second(session: Session, wanted: Source) -> Analysis | None:
    """Return the wanted analysis if it is remembered, if need be with other options, else None."""
    method, _, calibration = wanted
    known = session.analyses.remembered
    fits = (a for a in known.values() if (a.method, a.calibration) == (method, calibration))
    return known.get(wanted) or next((a for a in fits if a is not session.analysis), None)


def choose_overlay(session: Session, entered: dict[int, Any]) -> None:
    """Take the choice, and lay its analysis over the maps if it is known, or take the overlay away."""
    form = OverlayForm.of_session(session).with_entered(entered)
    form.fill_in(session)
    if session.analysis is None:
        return
    wanted = wanted_of(session, form)
    if wanted is None:
        session.lay_over(None)
    elif (known := known_second(session, wanted)) is not None:
        session.lay_over(known)


def overlay_pair(session: Session) -> tuple[Analysis, Analysis, Plan] | None:
    """Return both analyses, and the plan at whose widths they are compared; None if one is missing."""
    if session.analysis is None or session.analyses.second is None or not session.plans:
        return None
    return session.analysis, session.analyses.second, session.plan


def names_of(first: Analysis, second: Analysis) -> tuple[str, str]:
    """Return what the two analyses are called: by their methods, their texts or their options."""
    one, other = method_title(first.method), method_title(second.method)
    if first.calibration.text != second.calibration.text:
        here, there = (f"“{text_title(a.calibration.text)}”" for a in (first, second))
        return (here, there) if one == other else (f"{one} on {here}", f"{other} on {there}")
    return one, other if one != other else f"{other}, usual options"


def colours_of(session: Session) -> str:
    """Return what the maps show: a key of COLOURS."""
    return str(ColoursForm.of_session(session).colours)


def shown_layers(session: Session) -> Layers:
    """Return the layers whose importance the maps show: the first analysis's, or the second's if chosen."""
    second = session.analyses.second
    if second is not None and not is_filling(session) and colours_of(session) == "second":
        return second.layers
    return session.analyses.partial


def heads_picture(session: Session) -> Any:
    """Return the map of which heads each analysis keeps, or of their difference in rank.

    Return None if the map shows importance, or if the heads cannot be compared.
    """
    found = laid_pair(session)
    if found is None:
        return None
    first, second, plan = found
    unit, names = numbers.common_unit(first, second, plan), names_of(first, second)
    if unit is None:
        return None
    if colours_of(session) == "difference":
        return heads_difference(first, second, unit, names)
    return heads_agreement(first, second, plan, unit, names)


def channels_picture(session: Session, ordered: bool) -> Any:
    """Return the map of which channels each analysis keeps, or of their difference in rank.

    Return None if the map shows importance.
    """
    found = laid_pair(session)
    if found is None:
        return None
    first, second, plan = found
    names = names_of(first, second)
    if colours_of(session) == "difference":
        return channels_difference(first, second, names, ordered=ordered)
    return channels_agreement(first, second, plan, names, ordered=ordered)


def made_of(session: Session) -> str:
    """Return the method, text and tokens of the analysis on the maps, or of both; empty without one."""
    if session.analyses.made is None:
        return ""
    (method, read), second = session.analyses.made, session.analyses.second
    if second is None or is_filling(session) or colours_of(session) == "first":
        return made_words(method, read)
    if colours_of(session) == "second":
        return made_words(second.method, second.calibration)
    if read == second.calibration and method != second.method:
        return made_words(method, read, second.method)
    return f"{made_words(method, read)}; beside {made_words(second.method, second.calibration)}"


def laid_pair(session: Session) -> tuple[Analysis, Analysis, Plan] | None:
    """Return the pair if the maps are to show both analyses and no analysis is running, else None."""
    return (
        None
        if is_filling(session) or colours_of(session) not in ("both", "difference")
        else overlay_pair(session)
    )


def is_filling(session: Session) -> bool:
    """Return whether the maps show the layers of a running analysis as they arrive."""
    return session.analysis is None or session.analyses.partial[0] is not session.analysis.layers[0]


def draw_colours(session: Session) -> list[Any]:
    """Return the choice of what the maps show, with both names; it is hidden without a second analysis."""
    found = overlay_pair(session)
    if found is None:
        return [gr.Radio(visible=False)]
    one, other = names_of(found[0], found[1])
    named = COLOURS | {"first": f"importance by {one}", "second": f"by {other}"}
    choices = [(word, name) for name, word in named.items()]
    return [gr.Radio(choices=choices, value=colours_of(session), visible=True)]


def draw_agreement_words(session: Session) -> str:
    """Return how far the two analyses agree, in words, as HTML."""
    found = overlay_pair(session)
    if found is None:
        return ""
    first, second, plan = found
    unit = numbers.common_unit(first, second, plan)
    units = None if unit is None else UNITS[unit].plural
    said = numbers.agreement_sentence(
        names_of(first, second), numbers.compare_analyses(first, second, plan), units
    )
    return note_html("info", said)


def draw_chart(session: Session) -> Any:
    """Return the picture of the rank agreement in every layer, or None."""
    found = overlay_pair(session)
    if found is None:
        return None
    first, second, plan = found
    unit = numbers.common_unit(first, second, plan)
    layers = numbers.compare_analyses(first, second, plan)
    return agreement_chart(layers, names_of(first, second), UNITS[unit or QUERY_HEAD.name].plural)
