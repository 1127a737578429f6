"""Draw two analyses on one map: by how many places each unit ranks higher in one of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from slimllm.core.attention_unit import UNITS, UnitName
from slimllm.core.types import Analysis, SiteAnalysis
from ui.charts.agreement_map import Names
from ui.charts.chart_style import (
    BESIDE_BAR,
    colour_bar,
    colour_scale,
    laid_out,
    layer_axis,
    plotly_safe,
    round_ticks,
    thin_axis,
)
from ui.charts.heads_map import axis_title, between_groups, cell_gap, units_per_group
from ui.facts.agreement import mean_ranks
from ui.facts.binning import bin_edges

# The colours end at this lead, in per cent of all places.
FAR = 50.0


def rank_lead(one: SiteAnalysis, other: SiteAnalysis) -> np.ndarray:
    """Return by how many places each unit (n,) ranks higher by `one` than by `other`.

    The leads are in per cent of all places.
    """
    first, second = (mean_ranks(np.nan_to_num(site.ranking.scores.double().numpy())) for site in (one, other))
    return 100 * (first - second) / max(1, len(first) - 1)


def heads_difference(first: Analysis, second: Analysis, unit: UnitName, names: Names) -> go.Figure:
    """Return a map of layers × heads (or value columns) by their lead in the first analysis.

    A click gives x = head and y = layer.
    """
    rows = [
        rank_lead(one.attention[unit], other.attention[unit])
        for one, other in zip(first.layers, second.layers, strict=True)
    ]
    shape = first.shape
    each = units_per_group(shape, unit)
    what = UNITS[unit].noun
    title = f"How differently the two rank the {UNITS[unit].plural}"
    label = axis_title(unit)
    figure = difference_map(rows, max(map(len, rows)), names, what, title, label)
    lines = [g * each - 0.5 for g in range(1, shape.groups)] if each > 1 else []
    return figure.update_layout(shapes=[between_groups(x) for x in lines])


def channels_difference(
    first: Analysis, second: Analysis, names: Names, *, ordered: bool, bins: int = 128
) -> go.Figure:
    """Return a map of layers × binned channels by their mean lead in the first analysis.

    The channels stand in the order of the first analysis (`ordered`) or in place.
    """
    rows = []
    for one, other in zip(first.layers, second.layers, strict=True):
        found = rank_lead(one.mlp, other.mlp)
        rows.append(found[one.mlp.ranking.order.numpy()] if ordered else found)
    what = "around rank" if ordered else "around channel"
    label = f"Channel rank by {plotly_safe(names[0])}" if ordered else "Channel"
    title = "How differently the two rank the channels"
    return difference_map(rows, bins, names, what, title, label)


def difference_map(
    rows: Sequence[np.ndarray], bins: int, names: Names, what: str, title: str, label: str
) -> go.Figure:
    """Return a map whose colours diverge from “alike”.

    `rows` holds the leads (n,) of each layer in per cent. Units that a narrower layer lacks count as alike.
    """
    size, total = max(map(len, rows)), len(rows)
    edges = bin_edges(size, bins)
    whole = np.zeros((total, size))
    for i, row in enumerate(rows):
        whole[i, : len(row)] = row
    means = np.add.reduceat(whole, edges[:-1], axis=1) / np.diff(edges)
    gaps = cell_gap(max(len(edges) - 1, total))
    one, other = (plotly_safe(name) for name in names)
    figure = go.Figure(
        go.Heatmap(
            z=np.round(100 + 100 * np.clip(means / FAR, -1, 1)).astype(np.uint8),
            x=((edges[:-1] + edges[1:] - 1) / 2).astype(np.float32),
            y=np.arange(total, dtype=np.int16),
            customdata=means.astype(np.float32),
            meta={"value": "lead in per cent of all places"},
            coloraxis="coloraxis",
            xgap=gaps[0],
            ygap=gaps[1],
            hovertemplate=f"Layer %{{y}}, {what} %{{x:,.0f}}<br>%{{customdata:+.1f}} % of all places: "
            f"above 0 it ranks higher by {one},<br>below 0 by {other}<extra></extra>",
        )
    )
    few: dict[str, Any] = (
        {"tickmode": "array", "tickvals": round_ticks(size, 16)} if size <= 40 else {"nticks": 6}
    )
    return laid_out(
        figure,
        title=title,
        key=f"difference {total} {size}",
        xaxis=thin_axis(label, range=[-0.5, size - 0.5], tickformat=",d", **few),
        yaxis=layer_axis(total),
        margin=BESIDE_BAR,
        coloraxis={
            "colorscale": colour_scale("diverging"),
            "cmin": 0,
            "cmax": 200,
            "colorbar": colour_bar(
                f"of all places; + higher by {one}", ("−50 %", "alike", "+50 %"), (0, 100, 200)
            ),
        },
    )
