"""Figures from dataclasses. Pure: no model, no session. Light colours, which plotview.js swaps for dark ones.

Numbers travel as uint8 or float32 arrays, which Plotly sends as base64: a list of numbers is five times as
long. Layers, heads and channels count from 0. Ratios are removed shares, errors relative squared errors, both
in per cent.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from slimllm.budget import layer_cost
from slimllm.recovery import RECOVERIES
from slimllm.types import LayerAnalysis, LayerReport, Plan, Shape, SiteAnalysis, Unit
from ui.theme import PALETTE

Layers = Sequence[LayerAnalysis | None]
COLOUR: dict[str, Any] = PALETTE["light"]
LINES = {  # recovery: colour and dash, so that neither is needed alone
    "none": (COLOUR["fourth"], "dot"),
    "bias": (COLOUR["second"], "dash"),
    "regression": (COLOUR["accent"], "solid"),
    "least-squares": (COLOUR["third"], "dashdot"),
}
POINTS = 192  # points of a curve: more than a chart has pixels to tell apart is waste


# Layout -----------------------------------------------------------------------------------------------------


def laid_out(figure: go.Figure, *, title: str, key: str, **layout: Any) -> go.Figure:
    """The figure with our title, margins and transparent ground; the zoom stays as long as `key` does."""
    figure.update_layout(
        template=None,
        title={
            "text": title,
            "font": {"size": 14, "weight": 700},
            "x": 0, "xref": "container", "xanchor": "left",
            "y": 1, "yref": "container", "yanchor": "top",
            "pad": {"t": 16, "l": 18},
        },
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 64, "r": 24, "t": 52, "b": 52},
        font={"size": 13, "color": COLOUR["ink"]},
        uirevision=key,
        hovermode="closest",
        legend={
            "orientation": "h", "font": {"size": 12},
            "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom",
        },
    )  # fmt: skip
    figure.update_layout(**layout)
    return figure


def axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with thin lines and its unit in the title."""
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 12, "color": COLOUR["muted"]}},
        "showgrid": False,
        "zeroline": False,
        "gridcolor": COLOUR["line"],
        "linecolor": COLOUR["line-strong"],
        "tickfont": {"size": 12, "color": COLOUR["muted"]},
        "ticks": "",
    } | more


def layer_axis(total: int) -> dict[str, Any]:
    """The layers as a vertical axis, the first on top, all of them from the start so that nothing jumps."""
    return axis(
        "Layer",
        range=[total - 0.5, -0.5],
        tickmode="array",
        tickvals=ticks(total),
        showline=False,
        ticklabelstandoff=4,
    )


def ticks(n: int, most: int = 10) -> list[int]:
    """Round positions from 0 to n - 1."""
    step = next(s for s in (1, 2, 5, 10, 20, 50, 100, 200, 500, n) if math.ceil(n / s) <= most or s == n)
    return list(range(0, n, max(1, step)))


def scale(name: str) -> list[list[Any]]:
    """A Plotly colour scale from the palette."""
    colours = COLOUR[name]
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def colour_bar(title: str, texts: Sequence[str], values: Sequence[float]) -> dict[str, Any]:
    """A thin colour bar with words for ticks."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": 12, "color": COLOUR["muted"]}},
        "thickness": 8,
        "outlinewidth": 0,
        "tickvals": list(values),
        "ticktext": list(texts),
        "tickfont": {"size": 12, "color": COLOUR["muted"]},
        "ticks": "",
        "x": 1.01,
        "xpad": 8,
    }


def percent(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32) * 100


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


# Maps -------------------------------------------------------------------------------------------------------


def heads_map(layers: Layers, total: int, shape: Shape, *, unit: Unit | None = None) -> go.Figure:
    """Layers × heads by score within the layer; KV groups stand apart. A click gives x = head, y = layer."""
    unit = unit or shape.units[0]
    figure = go.Figure()
    for first, run in runs(layers):
        scores = np.stack([padded_scores(found.attention[unit], shape.heads) for found in run])
        heads = np.arange(shape.heads, dtype=np.int16)
        figure.add_trace(map_trace(scores, of_best(scores), first, heads, gap(max(shape.heads, total))))
        figure.data[-1].update(
            hovertemplate="Layer %{y}, head %{x}<br>score %{customdata:.4g}<extra></extra>"
        )
    size, groups = shape.heads, shape.groups
    lines = [g * size / groups - 0.5 for g in range(1, groups)] if groups < size and figure.data else []
    layout: dict[str, Any] = {
        "xaxis": axis("Query head", range=[-0.5, size - 0.5], tickmode="array", tickvals=ticks(size, 16)),
        "yaxis": layer_axis(total),
        "shapes": [between_groups(x) for x in lines],
        "coloraxis": colours("of the layer’s best head", {"0 %": 0, "50 %": 100, "100 %": 200}),
    }
    words = f"Importance of each head, in {groups} KV groups" if groups < size else "Importance of each head"
    return laid_out(figure, title=words, key=f"heads {total} {size}", **layout)


def between_groups(x: float) -> dict[str, Any]:
    """A gap in the colour of the surface, so that heads of one KV group are seen as one block."""
    return {
        "type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": COLOUR["surface"], "width": 4},
    }  # fmt: skip


def channels_map(
    layers: Layers, total: int, shape: Shape, *, bins: int = 128, ordered: bool = True
) -> go.Figure:
    """Layers × binned channels by mean score, best first (`ordered`) or in place.

    Colours compare with the layer's median on a logarithmic scale: beside the few channels that outshine all
    others, the best would leave the rest alike. A click gives x = the middle channel (or rank) of the cell
    and y = layer.
    """
    figure = go.Figure()
    size = shape.channels
    edges = bin_edges(size, bins)
    middles = ((edges[:-1] + edges[1:] - 1) / 2).astype(np.float32)
    what = "rank" if ordered else "channel"
    for first, run in runs(layers):
        means = np.stack([binned(found.mlp, edges, ordered) for found in run])
        medians = np.array([[float(found.mlp.ranking.scores.float().nanmedian())] for found in run])
        figure.add_trace(map_trace(means, of_median(means, medians), first, middles, (0, gap(total)[1])))
        figure.data[-1].update(
            hovertemplate=f"Layer %{{y}}, around {what} %{{x:,.0f}}<br>"
            "mean score %{customdata:.4g}<extra></extra>"
        )
    width = size / max(1, len(middles))
    cells = f", {width:,.0f} per cell" if width > 1 else ""
    layout: dict[str, Any] = {
        "xaxis": axis(
            f"Channel rank, best first{cells}" if ordered else f"Channel{cells}",
            range=[-0.5, size - 0.5], tickformat=",d", nticks=6,
        ),
        "yaxis": layer_axis(total),
        "coloraxis": colours("times the layer’s median", {"½": 0, "1": 67, "2": 133, "4": 200}),
    }  # fmt: skip
    words = "Importance of the MLP channels"
    return laid_out(figure, title=words, key=f"channels {total} {size} {ordered}", **layout)


def padded_scores(site: SiteAnalysis, size: int) -> np.ndarray:
    """The scores (size,) of a site; layers may differ in width, and what a layer lacks counts nothing."""
    scores = np.zeros(size, dtype=np.float32)
    found = np.nan_to_num(site.ranking.scores.float().numpy())
    scores[: len(found)] = found
    return scores


def of_best(scores: np.ndarray) -> np.ndarray:
    """0 to 200 for 0 to 100 % of each row's best."""
    best = np.maximum(scores.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return 200 * np.clip(scores / best, 0, 1)


def of_median(scores: np.ndarray, medians: np.ndarray) -> np.ndarray:
    """0 to 200 for half to four times each row's median, equal steps for equal factors."""
    tiny = np.finfo(np.float32).tiny
    middle = np.maximum(np.nan_to_num(medians), tiny)
    shades = 200 * np.clip((1 + np.log2(np.maximum(scores, tiny) / middle)) / 3, 0, 1)
    return np.where(scores > 0, shades, 0)  # a dead channel is nothing, also in a dead layer


def colours(title: str, marks: Mapping[str, int]) -> dict[str, Any]:
    """The common colour axis of a map, with words at these values of 0 to 200."""
    return {
        "colorscale": scale("sequential"),
        "cmin": 0,
        "cmax": 200,
        "colorbar": colour_bar(title, tuple(marks), tuple(marks.values())),
    }


def map_trace(
    scores: np.ndarray, shades: np.ndarray, first: int, x: np.ndarray, gaps: tuple[int, int]
) -> go.Heatmap:
    """A map of consecutive layers: shades (0 to 200) in uint8, exact scores in float32 for the hover."""
    return go.Heatmap(
        z=np.round(shades).astype(np.uint8),
        x=x,
        y=np.arange(first, first + len(scores), dtype=np.int16),
        customdata=scores.astype(np.float32),
        coloraxis="coloraxis",
        xgap=gaps[0],
        ygap=gaps[1],
    )


def gap(cells: int) -> tuple[int, int]:
    """Pixels between cells: none where cells are only a few pixels wide themselves."""
    return (1, 1) if cells <= 40 else (0, 0)


def runs(layers: Layers) -> Iterator[tuple[int, list[LayerAnalysis]]]:
    """The stretches of layers that have arrived, each with the number of its first layer."""
    run: list[LayerAnalysis] = []
    for i, found in enumerate([*layers, None]):
        if found is not None:
            run.append(found)
        elif run:
            yield i - len(run), run
            run = []


def bin_edges(size: int, bins: int) -> np.ndarray:
    """Borders of at most `bins` stretches, as equal as whole channels allow."""
    return np.round(np.linspace(0, size, min(size, bins) + 1)).astype(np.int64)


def binned(site: SiteAnalysis, edges: np.ndarray, ordered: bool) -> np.ndarray:
    """The mean score within each stretch; layers narrower than the widest leave the last ones at zero."""
    scores = padded_scores(site, edges[-1]).astype(np.float64)
    count = len(site.ranking.scores)
    if ordered:
        scores[:count] = scores[site.ranking.order.numpy()]
    sizes = np.maximum(1, np.diff(np.minimum(edges, count)))
    return (np.add.reduceat(scores, edges[:-1]) / sizes).astype(np.float32)


# One layer --------------------------------------------------------------------------------------------------


def error_curves(found: LayerAnalysis, index: int, plan: Plan | None, shape: Shape) -> go.Figure:
    """Predicted error of one layer at every width, a line per recovery: attention left, MLP right.

    The widths of the plan are marked.
    """
    layer = shape.layers[index]
    unit = plan.unit if plan is not None and plan.unit in found.attention else next(iter(found.attention))
    figure = make_subplots(1, 2, subplot_titles=("Attention heads", "MLP channels"), horizontal_spacing=0.11)
    heads = np.arange(layer.steps(unit) + 1) * (layer.heads // layer.steps(unit))
    channels = thinned(layer.channels)
    sites = (
        (1, found.attention[unit], heads, np.arange(len(heads)), "heads"),
        (2, found.mlp, channels, channels, "channels"),
    )
    for column, site, widths, places, what in sites:
        for name, (colour, dash) in LINES.items():
            if name in site.error:
                values = site.error[name].float().numpy()[places]
                figure.add_trace(curve(widths, values, name, colour, dash, what, column), row=1, col=column)
    if plan is not None:
        mark(
            figure,
            1,
            plan.heads[index],
            found.attention[unit],
            plan,
            layer.steps(unit) / layer.heads,
            "heads",
        )
        mark(figure, 2, plan.channels[index], found.mlp, plan, 1.0, "channels")
    marks = {"tickvals": heads.tolist()} if len(heads) <= 12 else {"nticks": 6}
    figure.update_xaxes(
        **axis("Heads kept", range=[-0.04 * layer.heads, 1.04 * layer.heads], **marks), row=1, col=1
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
        title=f"Layer {index}: what each width costs",
        key=f"errors {index}",
        margin={"l": 64, "r": 24, "t": 76, "b": 84},
        legend={
            "orientation": "h",
            "x": 0,
            "xanchor": "left",
            "y": -0.3,
            "yanchor": "top",
            "font": {"size": 12},
        },
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


# Runs -------------------------------------------------------------------------------------------------------


def errors_chart(reports: Sequence[LayerReport]) -> go.Figure:
    """Predicted against measured error of every pruned layer. A click gives x = layer."""
    figure = go.Figure()
    x = np.arange(len(reports), dtype=np.int16)
    rows = (
        ("predicted", [r.error_predicted for r in reports], "accent-ring", "circle-open"),
        ("measured", [r.error_measured for r in reports], "second", "circle"),
    )
    for name, values, colour, symbol in rows:
        shown = COLOUR["accent"] if colour == "accent-ring" else COLOUR[colour]
        figure.add_scatter(
            x=x,
            y=percent(np.nan_to_num(np.array(values, dtype=np.float64), posinf=0.0, neginf=0.0)),
            name=name,
            mode="lines+markers",
            line={"color": shown, "width": 1.5, "dash": "dot" if name == "predicted" else "solid"},
            marker={"size": 7, "symbol": symbol, "color": shown, "line": {"width": 1.5, "color": shown}},
            hovertemplate=f"Layer %{{x}}<br>{name} error %{{y:.3g}} %<extra></extra>",
        )
    total = max(1, len(reports))
    return laid_out(
        figure,
        title="Error of each layer, predicted and measured",
        key=f"reports {total}",
        xaxis=axis("Layer", range=[-0.6, total - 0.4], tickmode="array", tickvals=ticks(total, 16)),
        yaxis=axis("Relative error, %", showgrid=True, rangemode="tozero", nticks=6),
        showlegend=True,
    )


def history_chart(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Size against perplexity of every run; runs that no other beats in both are filled and joined by a line.

    Row keys: name, parameters, perplexity; optional: words (a line for the hover). A click gives custom =
    the row's number in `rows`.
    """
    shown = [
        (i, row)
        for i, row in enumerate(rows)
        if finite(row.get("parameters")) and finite(row.get("perplexity"))
    ]
    front = pareto([position(row) for _, row in shown])
    best = sorted((pair for pair in shown if position(pair[1]) in front), key=lambda pair: position(pair[1]))
    beaten = [pair for pair in shown if position(pair[1]) not in front]
    figure = go.Figure()
    figure.add_trace(
        run_trace(beaten, "smaller and better exists", COLOUR["surface"], "markers+text", "top right")
    )
    figure.add_trace(
        run_trace(best, "best at its size", COLOUR["accent"], "lines+markers+text", "bottom left")
    )
    return laid_out(
        figure,
        title="Size and perplexity of every run",
        key=f"history {len(rows)}",
        xaxis=axis(
            "Parameters, millions", showgrid=True, nticks=7, range=padded([p[0] / 1e6 for p in points(shown)])
        ),
        yaxis=axis("Perplexity, lower is better", showgrid=True, nticks=6, **perplexity_axis(shown)),
        showlegend=True,
    )


Run = tuple[int, Mapping[str, Any]]  # the row's number and the row


def run_trace(runs: Sequence[Run], name: str, fill: str, mode: str, place: str) -> go.Scatter:
    """Labelled points for some runs."""
    return go.Scatter(
        x=[row["parameters"] / 1e6 for _, row in runs],
        y=[row["perplexity"] for _, row in runs],
        customdata=[i for i, _ in runs],
        text=[safe(row.get("name", "")) for _, row in runs],
        hovertext=[safe(row.get("words", "")) for _, row in runs],
        name=name,
        mode=mode,
        textposition=place,
        textfont={"size": 12, "color": COLOUR["muted"]},
        cliponaxis=False,
        line={"color": COLOUR["line-strong"], "width": 1.5, "shape": "hv"},
        marker={"size": 11, "color": fill, "opacity": 1, "line": {"width": 2, "color": COLOUR["accent"]}},
        hovertemplate="%{text}<br>%{x:,.1f} M parameters, perplexity %{y:.2f}<br>%{hovertext}<extra></extra>",
    )


def position(row: Mapping[str, Any]) -> tuple[float, float]:
    return row["parameters"], row["perplexity"]


def points(shown: Sequence[Run]) -> list[tuple[float, float]]:
    return [position(row) for _, row in shown]


def padded(values: Sequence[float]) -> list[float] | None:
    """A range with room for labels around these values."""
    if not values:
        return None
    low, high = min(values), max(values)
    room = 0.2 * ((high - low) or abs(high) or 1.0)
    return [low - room, high + room]


def perplexity_axis(shown: Sequence[Run]) -> dict[str, Any]:
    """The range; on a logarithmic scale where one broken model would squeeze all others into a line."""
    values = [perplexity for _, perplexity in points(shown)]
    if values and min(values) > 0 and max(values) > 8 * min(values):
        return {"type": "log", "range": padded([math.log10(v) for v in values])}
    return {"range": padded(values)}


def pareto(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in both size and perplexity, smallest first."""
    front: list[tuple[float, float]] = []
    for size, perplexity in sorted(points):
        if not front or perplexity < front[-1][1]:
            front.append((size, perplexity))
    return front


def finite(x: Any) -> bool:
    return isinstance(x, int | float) and math.isfinite(x)


def safe(words: Any) -> str:
    """Words that Plotly will not read as its small HTML."""
    return str(words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def payload(figure: go.Figure) -> int:
    """The bytes of the figure's JSON."""
    return len(figure.to_json().encode())
