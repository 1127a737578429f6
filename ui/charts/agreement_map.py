"""Compare two methods on one map: which units each keeps, and how alike they rank each layer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from slimllm.core.attention_unit import UNITS, UnitName
from slimllm.core.types import Analysis, Plan
from ui.charts.chart_style import COLOUR, laid_out, layer_axis, plotly_safe, round_ticks, thin_axis
from ui.charts.heads_map import axis_title, between_groups, cell_gap, units_per_group
from ui.facts.agreement import LayerAgreement, Shared, sides_of_channels, sides_of_heads

Names = tuple[str, str]
# Most cells of a map, because each carries a word for the hover.
CELLS = 8_000
# Most cells in a row: a screen cannot show more of them apart.
MOST_CELLS = 384
# Kept by both, by the first only, by the second only, by neither.
SHADES = ("accent", "second", "third", "track")


def heads_agreement(first: Analysis, second: Analysis, plan: Plan, unit: UnitName, names: Names) -> go.Figure:
    """Return a map of layers × heads (or value columns) that shows which method keeps each.

    A click on the map gives x = head and y = layer.
    """
    rows = [sides_of_heads(first, second, plan, i, unit) for i in range(len(first.layers))]
    shape = first.shape
    each = units_per_group(shape, unit)
    lines = [g * each - 0.5 for g in range(1, shape.groups)] if each > 1 else []
    what = UNITS[unit].noun
    figure = agreement_map(rows, names, what)
    figure.update_layout(shapes=[between_groups(x) for x in lines])
    title = f"Which {UNITS[unit].plural} the two methods keep"
    return title_map(figure, title, axis_title(unit), rows)


def channels_agreement(
    first: Analysis, second: Analysis, plan: Plan, names: Names, *, ordered: bool
) -> go.Figure:
    """Return a map of layers × channels that shows which method keeps each.

    The channels stand in the first method's order (`ordered`) or in place. Where there are more channels than
    cells, each cell shows the channel in its middle.
    """
    rows = []
    for index, layer in enumerate(first.layers):
        found = sides_of_channels(first, second, plan, index)
        rows.append(found[layer.mlp.ranking.order.numpy()] if ordered else found)
    figure = agreement_map(rows, names, "rank" if ordered else "channel")
    every = max(map(len, rows)) / columns_of(rows)
    cells = f", one of {every:,.0f} shown" if every > 1.5 else ""
    title = "Which channels the two methods keep"
    label = f"Channel rank by {plotly_safe(names[0])}{cells}" if ordered else f"Channel{cells}"
    return title_map(figure, title, label, rows)


def title_map(figure: go.Figure, title: str, label: str, rows: Sequence[np.ndarray]) -> go.Figure:
    """Return the map `figure` with its title, axes and legend."""
    total, size = len(rows), max(map(len, rows))
    few = {"tickmode": "array", "tickvals": round_ticks(size, 16)} if size <= 40 else {"nticks": 6}
    return laid_out(
        figure,
        title=title,
        key=f"agreement {total} {size}",
        xaxis=thin_axis(label, range=[-0.5, size - 0.5], tickformat=",d", **few),
        yaxis=layer_axis(total),
        showlegend=True,
        margin={"l": 64, "r": 24, "t": 52, "b": 86},
        legend={
            "orientation": "h", "font": {"size": 12}, "traceorder": "normal",
            "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom",
        },
    )  # fmt: skip


def columns_of(rows: Sequence[np.ndarray]) -> int:
    """Return the number of cells in a row of the map."""
    return max(1, min(max(map(len, rows)), MOST_CELLS, CELLS // len(rows)))


def agreement_map(rows: Sequence[np.ndarray], names: Names, what: str) -> go.Figure:
    """Return a map of the four categories with a legend of their colours.

    `rows` holds an array of codes (n,) for each layer, as `compare_choices` makes them. Units that a narrower
    layer lacks count as kept by neither method.
    """
    size, columns = max(map(len, rows)), columns_of(rows)
    places = ((np.arange(columns) + 0.5) * size / columns).astype(np.int64)
    whole = np.full((len(rows), size), 3, dtype=np.uint8)
    for i, row in enumerate(rows):
        whole[i, : len(row)] = row
    shown = whole[:, places]
    words = ("kept by both", f"only by {names[0]}", f"only by {names[1]}", "by neither")
    gaps = cell_gap(max(columns, len(rows)))
    figure = go.Figure(
        go.Heatmap(
            z=shown,
            x=places.astype(np.int32),
            y=np.arange(len(rows), dtype=np.int16),
            text=np.array([plotly_safe(w) for w in words])[shown],
            colorscale=[[(i + j) / 4, COLOUR[shade]] for i, shade in enumerate(SHADES) for j in (0, 1)],
            zmin=-0.5,
            zmax=3.5,
            showscale=False,
            xgap=gaps[0],
            ygap=gaps[1],
            hovertemplate=f"Layer %{{y}}, {what} %{{x:,d}}<br>%{{text}}<extra></extra>",
        )
    )
    # A map has no legend of its own, so each colour gets a point outside the axes.
    for name, shade in zip(words, SHADES, strict=True):
        mark = {"color": COLOUR[shade], "size": 11, "symbol": "square"}
        mark["line"] = {"width": 1, "color": COLOUR["line-strong"]}
        figure.add_scatter(
            x=[-9], y=[-9], mode="markers", name=plotly_safe(name), marker=mark, hoverinfo="skip",
            hovertemplate=f"{plotly_safe(name)}<extra></extra>",
        )  # fmt: skip
    return figure


def agreement_chart(layers: Sequence[LayerAgreement], names: Names, units: str) -> go.Figure:
    """Return a chart of the two methods' rank correlation in every layer.

    Heads and channels have a line each. A click gives x = layer.
    """
    figure = go.Figure()
    lines = (
        (units, "second", "dash", "circle-open", [(x.heads, x.shared_heads) for x in layers]),
        ("channels", "accent", "solid", "circle", [(x.channels, x.shared_channels) for x in layers]),
    )
    for what, colour, dash, symbol, values in lines:
        known = [(i, rho, both) for i, (rho, both) in enumerate(values) if rho is not None]
        if not known:
            continue
        figure.add_scatter(
            x=np.array([i for i, _, _ in known], dtype=np.int16),
            y=np.array([rho for _, rho, _ in known], dtype=np.float32),
            text=[choice_words(both, what) for _, _, both in known],
            name=what,
            mode="lines+markers",
            line={"color": COLOUR[colour], "width": 2, "dash": dash},
            marker={"color": COLOUR[colour], "size": 7, "symbol": symbol},
            hovertemplate=f"Layer %{{x}}, {what}<br>rank correlation %{{y:.2f}}<br>%{{text}}<extra></extra>",
        )
    total = len(layers)
    layout: dict[str, Any] = {
        "xaxis": thin_axis(
            "Layer", range=[-0.6, total - 0.4], tickmode="array", tickvals=round_ticks(total, 16)
        ),
        "yaxis": thin_axis("Rank correlation", range=[-1.05, 1.05], showgrid=True, dtick=0.5, zeroline=True),
    }
    title = f"How alike {plotly_safe(names[0])} and {plotly_safe(names[1])} rank each layer"
    return laid_out(figure, title=title, key=f"ranks {total}", showlegend=True, **layout)


def choice_words(found: Shared | None, what: str) -> str:
    """Return how many units both methods keep, in words."""
    if found is None:
        return "the plan leaves nothing to choose here"
    return f"both keep {found.both:,} of {found.kept:,} {what}: {found.share:.0%}"
