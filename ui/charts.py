"""Figures from dataclasses. Pure: no model, no session. Maps and results are in modules of their own and
offered here as well.

Numbers travel as float32 arrays, which Plotly sends as base64: a list is five times as long. Layers, heads
and channels count from 0. Ratios are removed shares, errors relative squared errors, both in per cent.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from slimllm.budget import layer_cost
from slimllm.recovery import RECOVERIES
from slimllm.shapes import Shape
from slimllm.types import LayerAnalysis, Plan, SiteAnalysis
from ui.agreement import attention_width
from ui.drawing import COLOUR, Layers, axis, laid_out, payload, percent, ticks
from ui.maps import channels_map, heads_map
from ui.results import errors_chart, history_chart, methods_chart, training_chart
from ui.words import dropped, unit_words

__all__ = [
    "channels_map", "error_curves", "errors_chart", "heads_map", "history_chart", "layer_chart",
    "methods_chart", "payload", "score_chart", "training_chart",
]  # fmt: skip

LINES = {  # recovery: colour and dash, so that neither is needed alone
    "none": (COLOUR["fourth"], "dot"),
    "bias": (COLOUR["second"], "dash"),
    "regression": (COLOUR["accent"], "solid"),
    "least-squares": (COLOUR["third"], "dashdot"),
    "guided": (COLOUR["ink"], "longdash"),
}
BELOW = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.3, "yanchor": "top", "font": {"size": 12}}
POINTS = 192  # points of a curve: more than a chart has pixels to tell apart is waste


# Layers -----------------------------------------------------------------------------------------------------


def layer_chart(layers: Layers, total: int, plan: Plan | None, shape: Shape) -> go.Figure:
    """Bars of each layer's input/output cosine; with a plan, a line of the share it removes of each layer.

    A click gives x = layer.
    """
    present = [i for i, found in enumerate(layers) if found is not None]
    cosines = np.array([found.cosine for found in layers if found is not None], dtype=np.float32)
    figure = go.Figure()
    figure.add_bar(
        x=np.array(present, dtype=np.int16),
        y=cosines,
        name="cosine of input and output",
        marker={"color": COLOUR["sequential"][2], "line": {"width": 0}},
        hovertemplate="Layer %{x}<br>cosine %{y:.3f}: 1 would leave its input as it is<extra></extra>",
    )
    low = min(0.0, float(cosines.min())) if len(cosines) else 0.0
    layout: dict[str, Any] = {
        "bargap": 0.28,
        "xaxis": axis("Layer", range=[-0.6, total - 0.4], tickmode="array", tickvals=ticks(total, 16)),
        "yaxis": axis("Cosine", range=[low, 1.0], showgrid=True, dtick=0.25),
    }
    if plan is not None:
        shares = removed_shares(plan, shape)
        figure.add_scatter(
            x=np.arange(len(shares), dtype=np.int16),
            y=percent(shares),
            name="removed by the plan",
            mode="lines+markers",
            line={"color": COLOUR["second"], "width": 2, "shape": "hvh"},
            marker={"color": COLOUR["second"], "size": 4},
            yaxis="y2",
            hovertemplate="Layer %{x}<br>the plan removes %{y:.1f} % of its parameters<extra></extra>",
        )
        top = next(t for t in (20, 40, 60, 80, 100) if t >= 105 * max(shares, default=0.0) or t == 100)
        bottom = top * low  # so that both zeros are at the same height
        layout["yaxis2"] = axis(
            "Removed, %", overlaying="y", side="right", range=[bottom, top], dtick=top / 4
        )
        layout["margin"] = {"l": 64, "r": 64, "t": 52, "b": 52}
    return laid_out(
        figure, title="How alike the input and the output of each layer are", key=f"layers {total}", **layout
    )


def removed_shares(plan: Plan, shape: Shape) -> list[float]:
    """The share of each layer's parameters that the plan removes."""
    return [
        1 - layer_cost(layer, h, c, plan.unit, plan.recovery, shape.hidden) / layer.dense
        for layer, h, c in zip(shape.layers, plan.heads, plan.channels, strict=True)
    ]


# One layer ------------------------------------------------------------------------------------------------


def error_curves(found: LayerAnalysis, index: int, plan: Plan | None, shape: Shape) -> go.Figure:
    """Predicted error of one layer at every width, a line per recovery: attention left, MLP right.

    The widths of the plan are marked.
    """
    layer = shape.layers[index]
    unit = plan.unit if plan is not None and plan.unit in found.attention else next(iter(found.attention))
    units = unit_words(unit)
    titles = (f"Attention {units}", "MLP channels")
    figure = make_subplots(1, 2, subplot_titles=titles, horizontal_spacing=0.11)
    widest = layer.widest(unit)
    heads = np.arange(layer.steps(unit) + 1) * (widest // layer.steps(unit))
    channels = thinned(layer.channels)
    sites = (
        (1, found.attention[unit], heads, np.arange(len(heads)), units),
        (2, found.mlp, channels, channels, "channels"),
    )
    for column, site, widths, places, what in sites:
        for name in RECOVERIES:
            colour, dash = LINES.get(name, (COLOUR["muted"], "longdash"))
            if name in site.error:
                values = site.error[name].float().numpy()[places]
                figure.add_trace(curve(widths, values, name, colour, dash, what, column), row=1, col=column)
    if plan is not None:
        mark(
            figure,
            1,
            attention_width(plan, index, layer, unit),
            found.attention[unit],
            plan,
            layer.steps(unit) / widest,
            units,
        )
        mark(figure, 2, plan.channels[index], found.mlp, plan, 1.0, "channels")
    marks = {"tickvals": heads.tolist()} if len(heads) <= 12 else {"nticks": 6}
    figure.update_xaxes(
        **axis(f"{units.capitalize()} kept", range=[-0.04 * widest, 1.04 * widest], **marks), row=1, col=1
    )
    figure.update_xaxes(
        **axis(
            "Channels kept", range=[-0.04 * layer.channels, 1.04 * layer.channels], nticks=6, tickformat=",d"
        ),
        row=1, col=2,
    )  # fmt: skip
    figure.update_yaxes(**axis("Predicted error, %", showgrid=True, rangemode="tozero", nticks=6))
    figure.update_yaxes(title_text="", row=1, col=2)
    figure.update_annotations(font={"size": 13, "color": COLOUR["muted"]})
    return laid_out(
        figure,
        title=f"Layer {index}: what each width costs"
        + (", dropped by the plan" if plan is not None and dropped(plan, index) else ""),
        key=f"errors {index}",
        margin={"l": 64, "r": 24, "t": 76, "b": 84},
        legend=BELOW,
    )


def curve(
    widths: np.ndarray, values: np.ndarray, name: str, colour: str, dash: str, what: str, column: int
) -> go.Scatter:
    few = len(widths) <= 24
    return go.Scatter(
        x=widths.astype(np.int32),
        y=percent(np.nan_to_num(values, posinf=0.0, neginf=0.0)),
        name=RECOVERIES[name].title,
        mode="lines+markers" if few else "lines",
        marker={"size": 5},
        line={"color": colour, "dash": dash, "width": 2},
        legendgroup=name,
        showlegend=column == 1,
        hovertemplate=f"{RECOVERIES[name].title} recovery<br>%{{x:,d}} {what} kept: "
        "predicted error %{y:.3g} %<extra></extra>",
    )


def mark(
    figure: go.Figure, column: int, width: int, site: SiteAnalysis, plan: Plan, places: float, what: str
) -> None:
    """A thin line and a ring where the plan stands."""
    error = 100 * float(site.error[plan.recovery][round(width * places)])
    figure.add_vline(x=width, line={"color": COLOUR["ink"], "width": 1, "dash": "dot"}, row=1, col=column)
    figure.add_trace(
        go.Scatter(
            x=[width],
            y=[error],
            name="the plan",
            mode="markers",
            legendgroup="plan",
            showlegend=column == 1,
            marker={"size": 10, "symbol": "circle-open", "color": COLOUR["ink"], "line": {"width": 2}},
            cliponaxis=False,
            hovertemplate=f"The plan: {width:,} {what} kept, predicted error {error:.3g} %<extra></extra>",
        ),
        row=1,
        col=column,
    )


def thinned(n: int) -> np.ndarray:
    """At most 193 widths from 0 to n."""
    return np.unique(np.round(np.linspace(0, n, min(n, POINTS) + 1)).astype(np.int64))


def score_chart(found: LayerAnalysis, index: int, plan: Plan | None) -> go.Figure:
    """One layer's channel scores in the order in which they are kept, with the plan's cut."""
    ranking = found.mlp.ranking
    scores = np.nan_to_num(ranking.scores[ranking.order].float().numpy())
    n, kept = len(scores), plan.channels[index] if plan is not None else len(scores)
    figure = go.Figure()
    for name, low, high, colour in (("kept", 0, kept, "accent"), ("cut", kept, n, "second")):
        if high > low:
            places = low + thinned(high - low - 1)
            figure.add_scatter(
                x=places.astype(np.int32),
                y=scores[places].astype(np.float32),
                name=f"{name}: {high - low:,} channels",
                mode="lines",
                fill="tozeroy",
                line={"color": COLOUR[colour], "width": 2},
                fillcolor=faint(COLOUR[colour]),
                hovertemplate=f"rank %{{x:,d}}, {name}<br>score %{{y:.4g}}<extra></extra>",
            )
    if 0 < kept < n:
        figure.add_vline(x=kept - 0.5, line={"color": COLOUR["ink"], "width": 1, "dash": "dot"})
    return laid_out(
        figure,
        title=f"Layer {index}: channel scores, best first",
        key=f"scores {index}",
        xaxis=axis("Channel rank", range=[0, n], tickformat=",d", nticks=7),
        yaxis=axis("Score", showgrid=True, rangemode="tozero", nticks=6),
        showlegend=True,
    )


def faint(colour: str) -> str:
    """The colour as a wash that suits a light and a dark ground."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"
