"""Draw the channels of all layers as a map, and those of one layer as a curve. Pure.

Channels stand in place, best first, or add up from the best. Shades travel as uint8 and scores as float32
arrays. Layers and channels count from 0, ranks from 1.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import plotly.graph_objects as go

from slimllm.core.shapes import Shape
from slimllm.core.types import LayerAnalysis, SiteAnalysis
from ui.charts.chart_style import BESIDE_BAR, COLOUR, Layers, laid_out, layer_axis, thin_axis
from ui.charts.heads_map import arrived_stretches, cell_gap, colour_axis, map_trace, ranks_of
from ui.charts.layer_detail_charts import faint_colour
from ui.facts.binning import bin_edges, bin_scores, of_median

Order = Literal["sorted", "place", "sum"]
ORDERS: tuple[Order, ...] = ("sorted", "place", "sum")


def channels_map(
    layers: Layers, total: int, shape: Shape, *, bins: int = 128, order: Order = "sorted"
) -> go.Figure:
    """Return a map of layers × binned channels.

    The cells show mean scores, best first or in place, or the share of the importance that the best channels
    carry together. The colours of scores compare with the layer's median on a logarithmic scale: a few
    channels have far higher scores than all others, and on a linear scale they would make the rest look
    alike. A click gives x = the middle channel (or rank) of the cell and y = layer.
    """
    figure = go.Figure()
    size = shape.channels
    edges = bin_edges(size, bins)
    middles = ((edges[:-1] + edges[1:] - 1) / 2).astype(np.float32)
    for first, run in arrived_stretches(layers):
        figure.add_trace(row_of_cells(run, edges, middles, first, cell_gap(total), order))
    width = size / max(1, len(middles))
    cells = f", {width:,.0f} per cell" if width > 1 else ""
    shares = {"0 %": 0, "50 %": 100, "100 %": 200}
    scores = {"½": 0, "1": 67, "2": 133, "4": 200}
    layout: dict[str, Any] = {
        "xaxis": thin_axis(
            f"{order_label(order)}{cells}", range=[-0.5, size - 0.5], tickformat=",d", nticks=6
        ),
        "yaxis": layer_axis(total),
        "margin": BESIDE_BAR,
        "coloraxis": colour_axis("of the layer’s importance, up to here", shares)
        if order == "sum"
        else colour_axis("times the layer’s median", scores),
    }
    return laid_out(figure, title=TITLES[order], key=f"channels {total} {size} {order}", **layout)


TITLES = {
    "sorted": "Importance of the MLP channels",
    "place": "Importance of the MLP channels",
    "sum": "Importance of the MLP channels, adding up",
}


def order_label(order: Order) -> str:
    """Return the title of the channel axis."""
    return "Channel" if order == "place" else "Channel rank, best first"


def row_of_cells(
    run: list[LayerAnalysis],
    edges: np.ndarray,
    middles: np.ndarray,
    first: int,
    gaps: tuple[int, int],
    order: Order,
) -> go.Heatmap:
    """Return the cells of consecutive layers, with their text for the hover.

    `edges` (cells + 1,) are the borders of the bins, `middles` (cells,) their middles, and `first` is the
    number of the first layer. `gaps` are the pixels between cells, horizontally and vertically.
    """
    if order == "sum":
        shares = np.stack([cumulative_share(found.mlp, edges[-1])[edges[1:] - 1] for found in run])
        trace = map_trace(100 * shares, 200 * shares, first, middles, (0, gaps[1]))
        words = "the channels up to rank %{x:,.0f} carry %{customdata:.1f} % of its importance"
        return trace.update(hovertemplate=f"Layer %{{y}}<br>{words}<extra></extra>")
    means = np.stack([bin_scores(found.mlp, edges, order == "sorted") for found in run])
    medians = np.array([[float(found.mlp.ranking.scores.float().nanmedian())] for found in run])
    best = None
    words, more = "rank", ""
    if order == "place":
        best = np.stack([best_ranks(found.mlp, edges) for found in run])
        words, more = "channel", ", best rank %{text:,d}"
    trace = map_trace(means, of_median(means, medians), first, middles, (0, gaps[1]), best)
    return trace.update(
        hovertemplate=f"Layer %{{y}}, around {words} %{{x:,.0f}}<br>"
        f"mean score %{{customdata:.4g}}{more}<extra></extra>"
    )


def best_ranks(site: SiteAnalysis, edges: np.ndarray) -> np.ndarray:
    """Return the best rank (cells,) within each bin of channels."""
    ranks = ranks_of(site, edges[-1])
    # A rank of 0 marks a channel that a narrower layer lacks.
    ranks[ranks == 0] = edges[-1]
    return np.minimum.reduceat(ranks, edges[:-1])


def cumulative_share(site: SiteAnalysis, size: int) -> np.ndarray:
    """Return the share (size,) of the layer's importance that the best channels carry together."""
    shares = np.ones(size)
    scores = np.nan_to_num(site.ranking.scores[site.ranking.order].double().numpy()).clip(min=0)
    total = scores.sum()
    shares[: len(scores)] = np.cumsum(scores) / total if total > 0 else 1.0
    return shares


def every_channel(found: LayerAnalysis, index: int, order: Order) -> go.Figure:
    """Return a chart of one layer with a point for every channel.

    A click gives x = channel (or rank from 0).
    """
    site = found.mlp
    n = len(site.ranking.scores)
    by = site.ranking.order.numpy()
    if order == "sum":
        values, other = 100 * cumulative_share(site, n), by
        words = "channel %{customdata:,d}<br>with all that rank higher it carries %{y:.1f} %"
    elif order == "sorted":
        values, other = np.nan_to_num(site.ranking.scores[site.ranking.order].float().numpy()), by
        words = "channel %{customdata:,d}<br>score %{y:.4g}"
    else:
        values, other = np.nan_to_num(site.ranking.scores.float().numpy()), ranks_of(site, n)
        words = f"channel %{{x:,d}}<br>score %{{y:.4g}}, rank %{{customdata:,d}} of {n:,}"
    figure = go.Figure(
        go.Scatter(
            x=np.arange(n, dtype=np.uint16 if n < 65_536 else np.int32),
            y=values.astype(np.float32),
            customdata=other.astype(np.uint16 if n < 65_536 else np.int32),
            meta={"custom": "rank" if order == "place" else "channel"},
            mode="lines",
            showlegend=False,
            fill="tozeroy",
            line={"color": COLOUR["accent"], "width": 1, "shape": "hvh"},
            fillcolor=faint_colour(COLOUR["accent"]),
            hovertemplate=f"Layer {index}, {words}<extra></extra>",
        )
    )
    unit = "Carried together, %" if order == "sum" else "Score"
    return laid_out(
        figure,
        title=f"Layer {index}: every channel" + (", adding up" if order == "sum" else ""),
        key=f"every {index} {order}",
        xaxis=thin_axis(order_label(order), range=[-0.5, n - 0.5], tickformat=",d", nticks=6),
        yaxis=thin_axis(unit, showgrid=True, rangemode="tozero", nticks=6),
    )
