"""The Analyse tab: read a text, score every layer, head and channel, and show maps and one layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import gradio as gr

from slimllm.core.attention_unit import VALUE_COLUMN
from slimllm.planning import forecast
from slimllm.planning.allocation import implied_ratios
from ui.charts import channels_map, heads_map, layer_charts, pin_marks, training_charts
from ui.charts.chart_style import add_subtitle
from ui.facts.combinations import options_of
from ui.facts.selection import Picked
from ui.page.elements import add_intro, add_lead, job_line, start_and_stop
from ui.page.plotview import PlotView
from ui.page.screen import Screen
from ui.session.forms import AnalyseForm, MapsForm
from ui.session.parts import Part
from ui.session.registry import REGISTRY
from ui.session.requests import calibration_of, made_words
from ui.session.session import Session
from ui.tabs.analyse import layer_detail, overlay, pin_bar
from ui.tabs.analyse.analyse_settings import build_controls, draw_preflight
from ui.tasks import work

PURPOSE = "Let the model read a text while we watch which of its parts matter."
ORDERS = [("sorted, best first", "sorted"), ("in place", "place"), ("adding up", "sum")]
ZOOMS = [("all layers", "all"), ("one layer, every channel", "one")]


def build(screen: Screen) -> None:
    """Add the components and events of the tab."""
    add_intro(screen, "analyse", PURPOSE, lambda s: "" if s.loaded else "It needs a model first.")
    with gr.Row(elem_classes="next"):
        add_lead(screen, "analyse-missing", lambda s: None if s.loaded else ("Go to Load", "load"))
    asked = build_controls(screen)
    preflight = gr.HTML(elem_id="analyse-preflight", padding=False)
    with gr.Row(elem_classes="bar"):
        button = gr.Button(
            "Analyse", variant="primary", elem_id="analyse-button", scale=0, min_width=130, interactive=False
        )
        stop = gr.Button("Stop", elem_id="analyse-stop", scale=0, min_width=90, interactive=False)
        add_lead(screen, "analyse", next_step)
        job_line(screen, "analyse", "analyse-progress", beside="second")
    screen.keep(asked, "analyse", AnalyseForm.list_shown, AnalyseForm.take_entered)
    screen.show(preflight, draw_preflight, "subject", "preflight")
    start_and_stop(screen, "analyse", button, stop, lambda s: s.loaded is not None, dress_analyse)
    screen.on(button.click, "analyse", press_analyse, *asked)
    build_training(screen)
    build_maps(screen)
    layer_detail.build(screen)


def build_training(screen: Screen) -> None:
    """Add the loss curve of a method that trains; it is hidden until there is one."""
    with gr.Column(visible=False, elem_id="analyse-training-panel") as panel:
        curve = PlotView(
            height=300,
            label="How the training of the gates goes",
            placeholder="The loss and what is kept, step by step.",
            elem_id="analyse-training",
        )
    screen.show(
        panel,
        lambda session: gr.Column(visible=bool(session.analyses.training)),
        token=lambda session: (session.born, bool(session.analyses.training)),
    )
    screen.show(curve, draw_training, "training", pace=1.0)


def draw_training(session: Session) -> Any:
    """Return the training curve, or None if there is none."""
    steps = session.analyses.training
    return training_charts.training_chart(steps) if steps else None


def build_maps(screen: Screen) -> None:
    """Add the three pictures of the whole model, and the second method over them.

    A click on a layer opens it.
    """
    layers = PlotView(
        height=260,
        label="How little each layer changes what passes through it",
        placeholder="How little each layer changes its input: a layer that changes little can lose more.",
        elem_id="analyse-layers",
    )
    overlay.build_chooser(screen)
    with gr.Row(equal_height=False, elem_classes="maps"):
        heads = PlotView(
            height=420,
            label="Importance of the heads",
            placeholder="The importance of every head: each row a layer, each cell one head.",
            picks=True,
            elem_id="analyse-heads",
        )
        channels = PlotView(
            height=420,
            label="Importance of the channels",
            placeholder="The importance of the channels: each row a layer, each cell a handful of channels.",
            picks=True,
            elem_id="analyse-channels",
        )
    with gr.Row(elem_classes="map-choices"):
        order = choice_of(ORDERS, "Channels are", "analyse-order")
        zoom = choice_of(ZOOMS, "The map of channels shows", "analyse-zoom")
    pin_bar.build_bar(screen)
    overlay.build_agreement(screen)
    screen.show(layers, draw_layers, token=map_token("layers", "look"), pace=1.0)
    screen.show(heads, draw_heads, token=map_token("layers", "overlay", "second", "look"), pace=1.0)
    parts: tuple[Part, ...] = ("layers", "order", "overlay", "second", "look")
    screen.show(
        channels, draw_channels, token=lambda s: (map_token(*parts)(s), pin_bar.zoomed_layer(s)), pace=1.0
    )
    screen.keep([order, zoom], "analyse", lambda s: [pin_bar.order_of(s), pin_bar.zoom_of(s)], choose_order)
    screen.on(layers.click, "analyse", click_bar, click=True, mode="always_last")
    screen.on(heads.click, "analyse", ClickMap("heads"), click=True, mode="multiple")
    screen.on(channels.click, "analyse", ClickMap("channels"), click=True, mode="multiple")
    pin_bar.listen_to_map(screen, heads, "heads")
    pin_bar.listen_to_map(screen, channels, "channels")


def choice_of(choices: list[tuple[str, str]], label: str, elem_id: str) -> gr.Radio:
    """Return a row of choices for the maps, with the first one chosen."""
    return gr.Radio(
        choices,
        value=choices[0][1],
        label=label,
        elem_id=elem_id,
        elem_classes="inline-choice",
    )


def map_token(*parts: Part) -> Callable[[Session], Any]:
    """Return a function that gives what a map depends on: these parts of the session, and the plan's pins.

    Pins may change on other tabs.
    """
    return lambda session: (
        session.born,
        *(session.serial[part] for part in parts),
        pin_bar.held_pins(session),
        failure_words(session),
    )


def next_step(session: Session) -> tuple[str, str] | None:
    """Return the label and the tab of the next step, or None until the analysis is finished."""
    return ("Next: choose how small", "tune") if session.analysis and not session.busy else None


def press_analyse(session: Session, *asked: Any) -> None:
    """Start the analysis that the controls ask for.

    Raise `Refusal` if a setting is not possible, if there is no model, or if another job of the session is
    active.
    """
    form = AnalyseForm.from_values(asked)
    form.fill_in(session)
    calibration, name = calibration_of(form), str(form.method)
    work.start_analyse(REGISTRY, session, calibration, name, options_of(name, form.options))


def dress_analyse(session: Session) -> dict[str, Any]:
    """Return the label and the look of the analyse button."""
    if session.analysis:
        return {"value": "Analyse again", "variant": "secondary"}
    return {"value": "Analyse", "variant": "primary"}


def missing_words(session: Session) -> str | None:
    """Return the words in place of a picture after a failed analysis, else None."""
    return f"Nothing to draw yet. {failure_words(session)}" if failure_words(session) else None


def failure_words(session: Session) -> str:
    """Return why the latest analysis failed; empty if it did not fail."""
    job = session.job
    return job.error if job is not None and (job.kind, job.state) == ("analyse", "failed") else ""


def draw_layers(session: Session) -> Any:
    """Return the picture of how much each layer changes its input, with what the plan removes.

    Return words or None before there is a picture.
    """
    if session.loaded is None or not session.analyses.partial:
        return missing_words(session)
    shape, plan = session.subject.shape, session.present
    implied: Sequence[float] = ()
    if session.analysis is None or plan is None or overlay.is_filling(session):
        plan = None
    else:
        implied = implied_ratios(session.analysis, shape.decoder - forecast.decoder_parameters(shape, plan))
    layers, made = session.analyses.partial, session.analyses.made
    chart = layer_charts.layer_chart(layers, len(layers), plan, shape, implied)
    return add_subtitle(chart, made_words(*made)) if made else chart


def draw_heads(session: Session) -> Any:
    """Return the map of the heads with the plan's pins.

    Return words or None before there is a map.
    """
    if session.loaded is None or not session.analyses.partial:
        return missing_words(session)
    shape, plan = session.subject.shape, session.present
    laid = overlay.heads_picture(session)
    if laid is None:
        layers = overlay.shown_layers(session)
        laid = heads_map.heads_map(layers, len(layers), shape)
    laid = add_subtitle(laid, overlay.made_of(session))
    columns = any(layer and VALUE_COLUMN.name in layer.attention for layer in session.analyses.partial)
    return laid if columns else pin_marks.on_heads(laid, plan, session.subject.shape)


def draw_channels(session: Session) -> Any:
    """Return the map of the channels with the plan's pins, of all layers or of one.

    Return words or None before there is a map.
    """
    if session.loaded is None or not session.analyses.partial:
        return missing_words(session)
    order, by_rank, only = pin_bar.order_of(session), pin_bar.by_rank(session), pin_bar.zoomed_layer(session)
    layers, plan = overlay.shown_layers(session), session.present
    if only is not None and (found := layers[only]) is not None:
        every = add_subtitle(channels_map.every_channel(found, only, order), overlay.made_of(session))
        return pin_marks.on_channels(every, plan, layers, by_rank, only)
    laid = None if order == "sum" else overlay.channels_picture(session, by_rank)
    if laid is None:
        laid = channels_map.channels_map(layers, len(layers), session.subject.shape, order=order)
    laid = add_subtitle(laid, overlay.made_of(session))
    return pin_marks.on_channels(laid, plan, layers, by_rank)


def choose_order(session: Session, entered: dict[int, Any]) -> None:
    """Set whether the map of channels is sorted, in place or adding up, and whether it shows one layer.

    A cell then shows other channels than before, so the choice of units is cleared.
    """
    session.focus.picked = None
    MapsForm.take_entered(session, entered)


def click_bar(session: Session, event: gr.EventData) -> None:
    """Open and choose the layer of a clicked bar."""
    if show_layer(session, event._data.get("x")) and session.focus.detail is not None:
        session.focus.picked = Picked("layers", (session.focus.detail, session.focus.detail))


class ClickMap:
    """The handler of clicks on a map: it chooses the clicked cell and opens its layer."""

    def __init__(self, what: Literal["heads", "channels"]):
        self.what = what

    def __call__(self, session: Session, event: gr.EventData) -> None:
        pin_bar.choose_event(session, self.what, event._data.get("cell"))


def show_tab(session: Session) -> None:
    """Draw the present plan into the pictures when the tab opens.

    While another tab is open, changes of the plan draw nothing here.
    """
    if session.focus.drawn_plan != session.present:
        session.focus.drawn_plan = session.present
        session.mark("look")


def show_layer(session: Session, where: Any) -> bool:
    """Open the layer whose number is `where`; return whether there is one."""
    try:
        index = round(float(where))
    except (TypeError, ValueError, OverflowError):
        return False
    layers = session.analyses.partial
    if not (0 <= index < len(layers) and layers[index] is not None):
        return False
    session.focus.detail = index
    session.mark("detail")
    return True
