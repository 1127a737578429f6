"""Draw figures of all layers side by side. Pure: no model, no session.

Numbers travel as float32 arrays, which Plotly sends as base64: a list is five times as long. Layers, heads
and channels count from 0. Ratios are removed shares, errors are relative squared errors, both in per cent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from slimllm.core.shapes import Shape
from slimllm.core.types import Plan
from slimllm.planning.budget import layer_cost
from ui.charts.chart_style import COLOUR, Layers, laid_out, round_ticks, thin_axis, to_percent


def layer_chart(
    layers: Layers, total: int, plan: Plan | None, shape: Shape, implied: Sequence[float] = ()
) -> go.Figure:
    """Return bars of each layer's input/output cosine, and lines of the share that the plan removes.

    One line shows the share of each layer that the plan removes, the other the share that the cosine alone
    would imply (`implied`). A click gives x = layer.
    """
    present = [i for i, found in enumerate(layers) if found is not None]
    cosines = np.array([found.cosine for found in layers if found is not None], dtype=np.float32)
    figure = go.Figure()
    figure.add_bar(
        x=np.array(present, dtype=np.int16),
        y=cosines,
        name="cosine of input and output",
        showlegend=True,
        marker={"color": COLOUR["sequential"][2], "line": {"width": 0}},
        hovertemplate="Layer %{x}<br>cosine %{y:.3f}: 1 would leave its input as it is<extra></extra>",
    )
    shares = removed_shares(plan, shape) if plan is not None else []
    if len(implied):
        words = "Layer %{x}<br>by its cosine alone it would lose %{y:.1f} %<extra></extra>"
        figure.add_trace(share_line(implied, "implied by the cosine", "third", "dot", words))
    if shares:
        words = "Layer %{x}<br>the plan removes %{y:.1f} % of its parameters<extra></extra>"
        figure.add_trace(share_line(shares, "removed by the plan", "second", "solid", words))
    low = min(0.0, float(cosines.min())) if len(cosines) else 0.0
    most = max([*shares, *implied], default=0.0)
    top = next(t for t in (20, 40, 60, 80, 100) if t >= 105 * most or t == 100)
    layout: dict[str, Any] = {
        "bargap": 0.28,
        "xaxis": thin_axis(
            "Layer", range=[-0.6, total - 0.4], tickmode="array", tickvals=round_ticks(total, 16)
        ),
        "yaxis": thin_axis("Cosine", range=[low, 1.0], showgrid=True, dtick=0.25),
        # Both axes have their zero at the same height. The axis has its room from the start, so that nothing
        # moves when a plan arrives.
        "yaxis2": thin_axis(
            "Removed, %", overlaying="y", side="right", range=[top * low, top], dtick=top / 4
        ),
        "margin": {"l": 64, "r": 64, "t": 52, "b": 52},
    }
    return laid_out(
        figure, title="How alike the input and the output of each layer are", key=f"layers {total}", **layout
    )


def share_line(shares: Sequence[float], name: str, colour: str, dash: str, words: str) -> go.Scatter:
    """Return a stepped line of shares, one for each layer, in per cent on the right axis."""
    return go.Scatter(
        x=np.arange(len(shares), dtype=np.int16),
        y=to_percent(shares),
        name=name,
        mode="lines+markers",
        line={"color": COLOUR[colour], "width": 2, "shape": "hvh", "dash": dash},
        marker={"color": COLOUR[colour], "size": 4},
        yaxis="y2",
        hovertemplate=words,
    )


def removed_shares(plan: Plan, shape: Shape) -> list[float]:
    """Return the share of each layer's parameters that the plan removes."""
    return [
        1 - layer_cost(layer, h, c, plan.unit, plan.recovery, shape.hidden) / layer.dense
        for layer, h, c in zip(shape.layers, plan.heads, plan.channels, strict=True)
    ]
