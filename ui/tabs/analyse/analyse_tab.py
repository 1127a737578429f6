"""The Analyse tab: read a text, score every layer, head and channel, look at the maps and at one layer."""

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
    """The components and events of the tab."""
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
    """The loss curve of a method that trains, shown only once there is one."""
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
    steps = session.analyses.training
    return training_charts.training_chart(steps) if steps else None


def build_maps(screen: Screen) -> None:
    """The three pictures of the whole model, with a second method over them; a click on a layer opens it."""
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
    parts = ("layers", "order", "overlay", "second", "look")
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
    """A quiet row of choices under the maps, the first one chosen."""
    return gr.Radio(
        choices,
        value=choices[0][1],
        label=label,
        elem_id=elem_id,
        elem_classes="inline-choice",
    )


def map_token(*parts: str) -> Callable[[Session], Any]:
    """What a map depends on: these parts, and the plan's pins, from wherever they changed."""
    return lambda session: (
        session.born,
        *(session.serial[part] for part in parts),
        pin_bar.held_pins(session),
        failure_words(session),
    )


def next_step(session: Session) -> tuple[str, str] | None:
    """The way to the next tab, once the analysis is there."""
    return ("Next: choose how small", "tune") if session.analysis and not session.busy else None


def press_analyse(session: Session, *asked: Any) -> None:
    """Start the analysis that the controls ask for."""
    form = AnalyseForm.from_values(asked)
    form.fill_in(session)
    calibration, name = calibration_of(form), str(form.method)
    work.start_analyse(REGISTRY, session, calibration, name, options_of(name, form.options))


def dress_analyse(session: Session) -> dict[str, Any]:
    if session.analysis:
        return {"value": "Analyse again", "variant": "secondary"}
    return {"value": "Analyse", "variant": "primary"}


def missing_words(session: Session) -> str | None:
    """What stands in a picture's place while there is nothing to draw, where an analysis failed."""
    return f"Nothing to draw yet. {failure_words(session)}" if failure_words(session) else None


def failure_words(session: Session) -> str:
    """Why the latest analysis failed; empty where it did not."""
    job = session.job
    return job.error if job is not None and (job.kind, job.state) == ("analyse", "failed") else ""


def draw_layers(session: Session) -> Any:
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
    """Shows the channels sorted, in place or adding up; of all layers or each of one."""
    session.focus.picked = None
    MapsForm.take_entered(session, entered)


def click_bar(session: Session, event: gr.EventData) -> None:
    """Opens and chooses the layer of a clicked bar."""
    if show_layer(session, event._data.get("x")) and session.focus.detail is not None:
        session.focus.picked = Picked("layers", (session.focus.detail, session.focus.detail))


class ClickMap:
    """Chooses a clicked cell of a map, and opens its layer."""

    def __init__(self, what: Literal["heads", "channels"]):
        self.what = what

    def __call__(self, session: Session, event: gr.EventData) -> None:
        pin_bar.choose_event(session, self.what, event._data.get("cell"))


def show_tab(session: Session) -> None:
    """On coming back to the tab: the present plan is drawn into the detail, once instead of at every move."""
    if session.focus.drawn_plan != session.present:
        session.focus.drawn_plan = session.present
        session.mark("look")


def show_layer(session: Session, where: Any) -> bool:
    """Shows one layer in the detail, if there is one by that number; says whether there is."""
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
