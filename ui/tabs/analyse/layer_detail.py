"""One layer on the Analyse tab: words and pictures."""

from __future__ import annotations

from typing import Any

import gradio as gr

from slimllm.core.attention_unit import UNITS
from slimllm.core.types import LayerAnalysis
from ui.charts import layer_detail_charts
from ui.facts import head_swaps
from ui.look.formatting import escape_html, format_figure, format_share, is_dropped, note_html
from ui.page.plotview import PlotView
from ui.page.screen import Screen
from ui.session.parts import Part
from ui.session.session import Session

# The parts of the session on which all that shows the plan depends.
EVERY: tuple[Part, ...] = ("detail", "layers", "look")


def build(screen: Screen) -> None:
    """Add the words and the three pictures of one layer."""
    with gr.Column(elem_id="analyse-detail"):
        about = gr.HTML(padding=False, elem_id="analyse-about")
        with gr.Row(equal_height=False):
            curves = PlotView(
                height=340,
                label="What pruning this layer would cost",
                placeholder="What pruning this layer would cost, at every width.",
                elem_id="analyse-curves",
            )
            scores = PlotView(
                height=340,
                label="Scores of this layer's heads and channels",
                placeholder="How importance is spread over this layer's heads and channels.",
                elem_id="analyse-scores",
            )
        with gr.Row(equal_height=False):
            spectrum = PlotView(
                height=280,
                label="PCA spectrum of what this layer's MLP writes",
                placeholder="In how many directions this layer's MLP writes.",
                elem_id="analyse-spectrum",
            )
            story = gr.HTML(padding=False, elem_id="analyse-swaps")
    screen.show(about, draw_layer_words, *EVERY, pace=1.0)
    screen.show(curves, draw_curves, *EVERY, pace=2.0)
    screen.show(scores, draw_scores, *EVERY, pace=2.0)
    screen.show(spectrum, draw_spectrum, "detail", "layers", pace=2.0)
    screen.show(story, draw_story, *EVERY, pace=1.0)


def chosen_layer(session: Session) -> tuple[int, LayerAnalysis] | None:
    """Return (index, analysis) of the opened layer, else of the middle one once all are scored, else None."""
    index, layers = session.focus.detail, session.analyses.partial
    if index is None and session.analysis is not None:
        index = len(layers) // 2
    if index is None or index >= len(layers):
        return None
    layer = layers[index]
    return None if layer is None else (index, layer)


def draw_layer_words(session: Session) -> str:
    """Return a few sentences on the layer as HTML."""
    found = chosen_layer(session)
    if found is None:
        return note_html("quiet", "Click on a layer in any of the pictures to look inside it.")
    return about_layer(session, *found)


def draw_curves(session: Session) -> Any:
    """Return the layer's error curves, or None."""
    found = chosen_layer(session)
    if found is None:
        return None
    return layer_detail_charts.error_curves(found[1], found[0], session.present, session.subject.shape)


def draw_scores(session: Session) -> Any:
    """Return the picture of the layer's scores, or None."""
    found = chosen_layer(session)
    if found is None:
        return None
    return layer_detail_charts.score_chart(found[1], found[0], session.present, session.subject.shape)


def draw_spectrum(session: Session) -> Any:
    """Return the picture of the principal directions of the layer's output, or None."""
    found = chosen_layer(session)
    return None if found is None else layer_detail_charts.spectrum_chart(found[1], found[0])


def draw_story(session: Session) -> str:
    """Return, as HTML, what the search did with the heads, and what the spectrum says."""
    found = chosen_layer(session)
    if found is None:
        return ""
    index, layer = found
    plan = session.present
    unit = layer_detail_charts.unit_of(layer, plan)
    said = head_swaps.describe_swaps(
        layer.attention[unit], session.subject.shape.layers[index], unit, index, plan
    )
    parts = [("Heads and the company they keep", said)]
    if layer.mlp.spectrum is not None:
        shares = layer_detail_charts.spectrum_shares(layer.mlp.spectrum.double().numpy())
        needed, all = layer_detail_charts.count_directions(shares, 0.9), len(shares)
        parts.append(
            (
                "How many ways the MLP writes",
                f"{needed:,} of {all:,} directions carry 90 % of what moves in the MLP's output. "
                "The fewer they are, the more alike its channels work, and the more of them can stand in for "
                "each other.",
            )
        )
    return "".join(f"<h4>{escape_html(title)}</h4><p>{escape_html(words)}</p>" for title, words in parts)


def about_layer(session: Session, index: int, layer: LayerAnalysis) -> str:
    """Return what there is to say about one layer, in plain words, as HTML."""
    shape = session.subject.shape
    widths = shape.layers[index]
    cosines = [other.cosine for other in session.analyses.partial if other is not None]
    place = sum(cosine > layer.cosine for cosine in cosines) + 1
    recovery = "regression" if "regression" in layer.mlp.error else next(iter(layer.mlp.error))
    half = float(layer.mlp.error[recovery][widths.channels // 2])
    scores = layer.mlp.ranking.scores.sort(descending=True).values.clamp(min=0)
    needed = int((scores.cumsum(0) < 0.8 * scores.sum()).sum()) + 1
    sentences = [
        f"Input and output point {format_figure(layer.cosine)} the same way (1 would mean that it changes "
        "nothing): "
        f"number {place} of {len(cosines)} in how little it changes.",
        f"{format_share(needed / widths.channels, 0)} of its {widths.channels:,} channels carry 80 % of the "
        "importance.",
        f"Half of its channels gone would leave an error of {format_share(half)} in what its MLP writes "
        f"(with recovery {recovery}).",
        kept_units_words(session, index),
    ]
    return f"<h3>Layer {index}</h3><p>{' '.join(escape_html(s) for s in sentences if s)}</p>"


def kept_units_words(session: Session, index: int) -> str:
    """Return a sentence on what the present plan keeps of a layer; empty without a plan."""
    plan = session.present
    if plan is None:
        return ""
    if is_dropped(plan, index):
        return "The plan drops it whole."
    layer = session.subject.shape.layers[index]
    return (
        f"The plan keeps {plan.heads[index]} of {layer.widest(plan.unit)} {UNITS[plan.unit].plural} and "
        f"{plan.channels[index]:,} of {layer.channels:,} channels."
    )
