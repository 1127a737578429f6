"""Draw the difference of two plans: what each keeps in every layer. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from slimllm.core.attention_unit import UNITS
from slimllm.core.types import Plan
from ui.charts.chart_style import COLOUR, laid_out, plotly_safe, round_ticks, thin_axis
from ui.facts.plan_changes import same_units


def difference_chart(before: Plan, after: Plan, names: tuple[str, str]) -> go.Figure:
    """Return a chart of what two plans keep in every layer: heads above, channels below.
    For each site, the upper panel shows both plans as steps over the layers, and the lower panel shows how
    many units more or fewer the second plan keeps. Both plans must be for equally wide models."""
    total, units = len(after.heads), UNITS[after.unit].plural
    figure = make_subplots(
        4, 1, shared_xaxes=True, vertical_spacing=0.05, row_heights=[0.26, 0.14, 0.38, 0.22]
    )
    sites = (
        (1, units.capitalize(), before.heads, after.heads),
        (3, "Channels", before.channels, after.channels),
    )
    for row, title, old, new in sites:
        if row == 1 and not same_units(before, after):
            figure.add_annotation(
                text="the two plans cut different units here", showarrow=False, x=0.5, y=0.5,
                xref="x domain", yref="y domain", font={"color": COLOUR["muted"]},
            )  # fmt: skip
            old = new = ()
        for trace in (
            *step_lines(old, new, names, title.lower(), row == 3),
            *difference_bars(old, new, row == 3),
        ):
            figure.add_trace(trace, row=row + (trace.type == "bar"), col=1)
        top = max((*old, *new, 1))
        most = max((abs(b - a) for a, b in zip(old, new, strict=True)), default=0) or 1
        figure.update_yaxes(
            **thin_axis(title, range=[0, 1.12 * top], nticks=4, showgrid=True, tickformat=",d"),
            row=row,
            col=1,
        )
        figure.update_yaxes(
            **thin_axis(
                "change",
                range=[-1.25 * most, 1.25 * most],
                tickvals=[-most, 0, most],
                ticktext=[f"−{most:,}", "0", f"+{most:,}"],
                showgrid=True,
                zeroline=True,
                zerolinecolor=COLOUR["line-strong"],
            ),
            row=row + 1, col=1,
        )  # fmt: skip
    places = {"range": [-0.6, total - 0.4], "tickmode": "array", "tickvals": round_ticks(total, 16)}
    figure.update_xaxes(**thin_axis("", **places), showticklabels=False)
    figure.update_xaxes(**thin_axis("Layer", **places), showticklabels=True, row=4, col=1)
    return laid_out(
        figure,
        title=f"Kept in every layer: {plotly_safe(names[0])} and {plotly_safe(names[1])}",
        key=f"difference {total}",
        bargap=0.35,
        barmode="overlay",
        showlegend=True,
        margin={"l": 64, "r": 24, "t": 52, "b": 86},
        legend={
            "orientation": "h", "font": {"size": 12},
            "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom",
        },
    )  # fmt: skip


def step_lines(
    old: Sequence[int], new: Sequence[int], names: tuple[str, str], what: str, legend: bool
) -> list[go.Scatter]:
    """Return both plans as step lines; the hover of the second line gives the values of both."""
    a, b = np.array(old, dtype=np.int32), np.array(new, dtype=np.int32)
    tell = f"Layer %{{x}}: {what} %{{customdata[0]:,d}} → %{{y:,d}} (%{{customdata[1]:+,d}})<extra></extra>"
    looks = ((names[0], a, "second", "dot", None), (names[1], b, "accent", "solid", tell))
    return [
        go.Scatter(
            x=np.arange(len(values), dtype=np.int16),
            y=values,
            customdata=np.stack([a, b - a], axis=1),
            mode="lines+markers",
            name=plotly_safe(name),
            legendgroup=name,
            showlegend=legend,
            line={"color": COLOUR[colour], "width": 2, "shape": "hvh", "dash": dash},
            marker={"color": COLOUR[colour], "size": 4},
            hovertemplate=words,
            hoverinfo="skip" if words is None else None,
        )
        for name, values, colour, dash, words in looks
    ]


def difference_bars(old: Sequence[int], new: Sequence[int], legend: bool) -> list[go.Bar]:
    """Return bars of the layers where the second plan keeps more, and of those where it keeps fewer."""
    moved = np.array(new, dtype=np.int32) - np.array(old, dtype=np.int32)
    layers = np.arange(len(moved), dtype=np.int16)
    return [
        go.Bar(
            x=layers[there],
            y=moved[there],
            # Without a width, Plotly makes three bars that stand far apart as wide as the gaps between them.
            width=0.65,
            marker={"color": COLOUR[colour], "line": {"width": 0}},
            name=f"{words} kept",
            legendgroup=words,
            showlegend=legend,
            hovertemplate="Layer %{x}: %{y:+,d}<extra></extra>",
        )
        for colour, there, words in (("accent", moved > 0, "more"), ("second", moved < 0, "fewer"))
    ]
