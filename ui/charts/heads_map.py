"""Draw maps of all layers, one row per layer and one cell per head, and the parts that maps share. Pure.

Shades travel as uint8 and scores as float32 arrays, which Plotly sends as base64: a list is five times as
long. Layers, heads and channels count from 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from slimllm.core.attention_unit import UNITS, VALUE_COLUMN, UnitName
from slimllm.core.shapes import Shape
from slimllm.core.types import LayerAnalysis, SiteAnalysis
from ui.charts.chart_style import (
    BESIDE_BAR,
    COLOUR,
    Layers,
    colour_bar,
    colour_scale,
    laid_out,
    layer_axis,
    round_ticks,
    thin_axis,
)
from ui.facts.binning import bin_edges, bin_scores, of_best, padded_scores


def first_unit(layers: Layers, shape: Shape) -> UnitName:
    """Return the first attention unit by which the layers were scored."""
    units: list[UnitName] = [unit for found in layers if found for unit in found.attention]
    return units[0] if units else shape.units[0]


def units_per_group(shape: Shape, unit: UnitName) -> int:
    """Return the number of columns that one KV group has on a map of this unit."""
    if UNITS[unit].narrows_heads:
        return max(layer.values for layer in shape.layers)
    return shape.heads // shape.groups


def axis_title(unit: UnitName) -> str:
    """Return the title of an axis of this unit."""
    return "Value column" if UNITS[unit].narrows_heads else "Query head"


def heads_map(layers: Layers, total: int, shape: Shape, *, unit: UnitName | None = None) -> go.Figure:
    """Return a map of layers × heads by score within the layer, with gaps between KV groups.

    A click gives x = head and y = layer.
    """
    unit = unit or first_unit(layers, shape)
    if UNITS[unit].narrows_heads:
        return columns_map(layers, total, shape)
    figure = go.Figure()
    for first, run in arrived_stretches(layers):
        scores = np.stack([padded_scores(found.attention[unit], shape.heads) for found in run])
        heads = np.arange(shape.heads, dtype=np.int16)
        ranks = np.stack([ranks_of(found.attention[unit], shape.heads) for found in run])
        gaps = cell_gap(max(shape.heads, total))
        figure.add_trace(map_trace(scores, of_best(scores), first, heads, gaps, ranks))
        figure.data[-1].update(
            hovertemplate="Layer %{y}, head %{x}<br>score %{customdata:.4g}, "
            f"rank %{{text}} of {shape.heads}<extra></extra>"
        )
    size, groups = shape.heads, shape.groups
    lines = [g * size / groups - 0.5 for g in range(1, groups)] if groups < size and figure.data else []
    layout: dict[str, Any] = {
        "xaxis": thin_axis(
            "Query head", range=[-0.5, size - 0.5], tickmode="array", tickvals=round_ticks(size, 16)
        ),
        "yaxis": layer_axis(total),
        "margin": BESIDE_BAR,
        "shapes": [between_groups(x) for x in lines],
        "coloraxis": colour_axis("of the layer’s best head", {"0 %": 0, "50 %": 100, "100 %": 200}),
    }
    words = f"Importance of each head, in {groups} KV groups" if groups < size else "Importance of each head"
    return laid_out(figure, title=words, key=f"heads {total} {size}", **layout)


def columns_map(layers: Layers, total: int, shape: Shape, *, bins: int = 192) -> go.Figure:
    """Return a map of layers × value columns, group after group, by score within the layer."""
    each = max(layer.values for layer in shape.layers)
    size = shape.groups * each
    edges = bin_edges(size, bins)
    middles = ((edges[:-1] + edges[1:] - 1) / 2).astype(np.float32)
    figure = go.Figure()
    for first, run in arrived_stretches(layers):
        scores = np.stack([bin_scores(found.attention[VALUE_COLUMN.name], edges, False) for found in run])
        figure.add_trace(map_trace(scores, of_best(scores), first, middles, (0, cell_gap(total)[1])))
        figure.data[-1].update(
            hovertemplate="Layer %{y}, around value column %{x:,.0f}<br>"
            "score %{customdata:.4g}<extra></extra>"
        )
    lines = [g * each - 0.5 for g in range(1, shape.groups)] if figure.data else []
    layout: dict[str, Any] = {
        "xaxis": thin_axis("Value column", range=[-0.5, size - 0.5], tickformat=",d", nticks=6),
        "yaxis": layer_axis(total),
        "margin": BESIDE_BAR,
        "shapes": [between_groups(x) for x in lines],
        "coloraxis": colour_axis("of the layer’s best column", {"0 %": 0, "50 %": 100, "100 %": 200}),
    }
    words = f"Importance of each value column, in {shape.groups} KV groups of {each}"
    return laid_out(figure, title=words, key=f"columns {total} {size}", **layout)


def between_groups(x: float) -> dict[str, Any]:
    """Return a line in the colour of the surface, so that the heads of one KV group look like one block."""
    return {
        "type": "line", "x0": x, "x1": x, "y0": 0, "y1": 1, "yref": "paper",
        "line": {"color": COLOUR["surface"], "width": 4},
    }  # fmt: skip


def colour_axis(title: str, marks: Mapping[str, int]) -> dict[str, Any]:
    """Return the colour axis that all traces of a map share, with words at these values from 0 to 200."""
    return {
        "colorscale": colour_scale("sequential"),
        "cmin": 0,
        "cmax": 200,
        "colorbar": colour_bar(title, tuple(marks), tuple(marks.values())),
    }


def map_trace(
    scores: np.ndarray,
    shades: np.ndarray,
    first: int,
    x: np.ndarray,
    gaps: tuple[int, int],
    ranks: np.ndarray | None = None,
) -> go.Heatmap:
    """Return a heatmap of consecutive layers, the first of which has the number `first`.

    `shades` (layers, cells) are 0 to 200 and travel as uint8. `scores` (layers, cells) in float32 and `ranks`
    (layers, cells), if any, are for the hover. `x` (cells,) are the places on the horizontal axis.
    """
    return go.Heatmap(
        z=np.round(shades).astype(np.uint8),
        x=x,
        y=np.arange(first, first + len(scores), dtype=np.int16),
        customdata=scores.astype(np.float32),
        text=None if ranks is None else ranks.astype(np.uint16),
        meta={"value": "score", "text": "rank"},
        coloraxis="coloraxis",
        xgap=gaps[0],
        ygap=gaps[1],
    )


def ranks_of(site: SiteAnalysis, size: int) -> np.ndarray:
    """Return the rank (size,) of each unit of a site, from 1; 0 for units that a narrower layer lacks."""
    ranks = np.zeros(size, dtype=np.int64)
    order = site.ranking.order.numpy()
    ranks[order] = np.arange(1, len(order) + 1)
    return ranks


def cell_gap(cells: int) -> tuple[int, int]:
    """Return the pixels between cells: none where the cells themselves are only a few pixels wide."""
    return (1, 1) if cells <= 40 else (0, 0)


def arrived_stretches(layers: Layers) -> Iterator[tuple[int, list[LayerAnalysis]]]:
    """Yield the runs of consecutive layers that have arrived, each with the number of its first layer."""
    run: list[LayerAnalysis] = []
    for i, found in enumerate([*layers, None]):
        if found is not None:
            run.append(found)
        elif run:
            yield i - len(run), run
            run = []
