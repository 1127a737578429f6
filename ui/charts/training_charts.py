"""Draw trainings step by step: the training of gates, and fine-tuning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from ui.charts.chart_style import COLOUR, laid_out, thin_axis, to_percent

# Most points of a curve: a chart has not enough pixels to show more of them apart.
POINTS = 400


def training_chart(steps: Sequence[Mapping[str, float]]) -> go.Figure:
    """Return the chart of a training of gates, step by step.

    The left axis shows the losses in nats per token, the right axis the shares of heads and channels that
    count as kept.
    """
    every = max(1, len(steps) // POINTS)
    places = [*range(0, len(steps), every)]
    x = np.array(places, dtype=np.int32) + 1
    lines = (
        ("ce", "loss on the text", "accent", "solid", "y", "%{y:.3f} nats per token"),
        ("kl", "distance from the dense model", "second", "dash", "y", "%{y:.3f} nats per token"),
        ("kept_heads", "heads kept", "third", "dot", "y2", "%{y:.1f} %"),
        ("kept_channels", "channels kept", "fourth", "dashdot", "y2", "%{y:.1f} %"),
    )
    figure = go.Figure()
    for key, name, colour, dash, side, words in lines:
        values = np.nan_to_num([steps[i].get(key, 0.0) for i in places], posinf=0.0, neginf=0.0)
        figure.add_scatter(
            x=x,
            y=to_percent(values) if side == "y2" else np.asarray(values, dtype=np.float32),
            name=name,
            mode="lines",
            yaxis=side,
            line={"color": COLOUR[colour], "width": 2, "dash": dash},
            hovertemplate=f"Step %{{x:,d}}, {name}<br>{words}<extra></extra>",
        )
    return laid_out(
        figure,
        title="The training of the gates",
        key="training",
        xaxis=thin_axis("Step", nticks=8, tickformat=",d"),
        yaxis=thin_axis("Loss, nats per token", showgrid=True, rangemode="tozero", nticks=6),
        yaxis2=thin_axis("Kept, %", overlaying="y", side="right", range=[0, 105], dtick=25),
        margin={"l": 64, "r": 64, "t": 52, "b": 86},
        legend={
            "orientation": "h", "font": {"size": 12},
            "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom",
        },
        showlegend=True,
    )  # fmt: skip


def loss_chart(losses: Sequence[float], total: int) -> go.Figure:
    """Return the loss of every step so far, and its running mean, in nats per token.

    The mean is over a tenth of all steps and is easier to follow. The axis is as long as the whole training
    of `total` steps.
    """
    values = np.nan_to_num(np.asarray(losses, dtype=np.float32))
    places = np.arange(0, len(values), max(1, len(values) // POINTS))
    sums = np.cumsum(np.concatenate(([0.0], values)))
    first = np.maximum(0, places + 1 - max(1, total // 10))
    means = ((sums[places + 1] - sums[first]) / (places + 1 - first)).astype(np.float32)
    x = (places + 1).astype(np.int32)
    figure = go.Figure()
    for name, y, line in (
        ("each step", values[places], {"color": COLOUR["line-strong"], "width": 1}),
        ("mean of the last steps", means, {"color": COLOUR["accent"], "width": 2.5}),
    ):
        hover = f"Step %{{x:,d}}, {name}<br>%{{y:.3f}} nats per token<extra></extra>"
        figure.add_scatter(x=x, y=y, name=name, mode="lines", line=line, hovertemplate=hover)
    return laid_out(
        figure,
        title="The loss while it learns",
        key="polish",
        xaxis=thin_axis("Step", nticks=8, tickformat=",d", range=[1, max(2, total)]),
        yaxis=thin_axis("Loss, nats per token", showgrid=True, nticks=6),
        showlegend=True,
    )
