"""Draw the results: predicted and measured errors, size and perplexity of every run. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from ui.charts.chart_style import (
    COLOUR,
    finite_or_none,
    laid_out,
    plotly_safe,
    round_ticks,
    thin_axis,
    to_percent,
)


def errors_chart(errors: Sequence[tuple[float, float]]) -> go.Figure:
    """Return a chart of the predicted and the measured error of every pruned layer.

    `errors` holds (predicted, measured) for each layer. A click gives x = layer.
    """
    figure = go.Figure()
    x = np.arange(len(errors), dtype=np.int16)
    rows = (
        ("predicted", [predicted for predicted, _ in errors], "accent-ring", "circle-open"),
        ("measured", [measured for _, measured in errors], "second", "circle"),
    )
    for name, values, colour, symbol in rows:
        shown = COLOUR["accent"] if colour == "accent-ring" else COLOUR[colour]
        figure.add_scatter(
            x=x,
            y=to_percent(np.nan_to_num(np.array(values, dtype=np.float64), posinf=0.0, neginf=0.0)),
            name=name,
            mode="lines+markers",
            line={"color": shown, "width": 1.5, "dash": "dot" if name == "predicted" else "solid"},
            marker={"size": 7, "symbol": symbol, "color": shown, "line": {"width": 1.5, "color": shown}},
            hovertemplate=f"Layer %{{x}}<br>{name} error %{{y:.3g}} %<extra></extra>",
        )
    total = max(1, len(errors))
    return laid_out(
        figure,
        title="Error of each layer, predicted and measured",
        key=f"errors {total}",
        xaxis=thin_axis(
            "Layer", range=[-0.6, total - 0.4], tickmode="array", tickvals=round_ticks(total, 16)
        ),
        yaxis=thin_axis("Relative error, %", showgrid=True, rangemode="tozero", nticks=6),
        showlegend=True,
    )


def methods_chart(rows: Sequence[Mapping[str, Any]], dense: Mapping[str, Any] | None) -> go.Figure:
    """Return a chart of size against perplexity of several methods on one budget, with the dense model.

    The keys of a row are name, parameters, perplexity, words (a line for the hover) and present (whether it
    is the plan of the Tune tab). A click gives custom = the row's number in `rows`.
    """
    shown = [
        (i, r)
        for i, r in enumerate(rows)
        if finite_or_none(r["parameters"]) and finite_or_none(r["perplexity"])
    ]
    figure = go.Figure()
    for mine, name, fill in ((False, "methods", "accent"), (True, "your plan", "surface")):
        some = [(i, row) for i, row in shown if row["present"] is mine]
        if some:
            figure.add_trace(run_trace(some, name, COLOUR[fill], "markers", "middle right"))
            figure.data[-1].update(cliponaxis=True)
    everyone = [log_position(row) for _, row in shown]
    if dense is not None and finite_or_none(dense["perplexity"]):
        everyone.append(log_position(dense))
        trace = run_trace([(-1, dense)], "dense", COLOUR["ink"], "markers", "middle right")
        trace.marker.symbol, trace.marker.line.color = "diamond", COLOUR["ink"]
        figure.add_trace(trace)
        figure.add_hline(y=dense["perplexity"], line={"color": COLOUR["ink"], "width": 1, "dash": "dot"})
    heights = [math.log10(p) for _, p in everyone if p > 0]
    sizes = [size for size, _ in everyone]
    for label in place_labels([(row["name"], *log_position(row)) for _, row in shown], heights):
        figure.add_annotation(**label)
    return laid_out(
        figure,
        title="Size and perplexity of every method",
        key=f"methods {len(rows)}",
        xaxis=thin_axis(
            "Parameters, millions", showgrid=True, nticks=7, range=pad_range([size / 1e6 for size in sizes])
        ),
        yaxis=thin_axis(
            "Perplexity, lower is better", showgrid=True, type="log", range=pad_range(heights),
            tickformat=",d", dtick=1 if max(heights, default=0) - min(heights, default=0) > 1.2 else "D2",
        ),
        showlegend=True,
    )  # fmt: skip


# Approximate heights of the plot and of a label in pixels.
TALL, LINE = 280, 17


def place_labels(
    points: Sequence[tuple[str, float, float]], heights: Sequence[float]
) -> list[dict[str, Any]]:
    """Return a label to the right of each (name, parameters, perplexity).

    A label that would overlap the one below it is moved up. `heights` are the decimal logarithms of all
    perplexities on the chart.
    """
    found: list[dict[str, Any]] = []
    low, high = pad_range(heights) or [0.0, 1.0]
    taken = -math.inf
    for name, size, perplexity in sorted(points, key=lambda point: (point[2], point[1])):
        at = TALL * (math.log10(perplexity) - low) / (high - low)
        place = max(at, taken + LINE)
        taken = place
        found.append(
            {
                "x": size / 1e6, "y": math.log10(perplexity), "ax": 30, "ay": at - place,
                "text": plotly_safe(name), "showarrow": True, "arrowhead": 0, "arrowwidth": 1, "standoff": 7,
                "arrowcolor": COLOUR["line-strong"], "xanchor": "left", "yanchor": "middle",
                "font": {"size": 12, "color": COLOUR["ink"]},
            }
        )  # fmt: skip
    return found


def history_chart(
    rows: Sequence[Mapping[str, Any]],
    dense: Mapping[str, Any] | None = None,
    chosen: int | None = None,
) -> go.Figure:
    """Return a chart of size against perplexity of every run.

    A line joins the runs that no other run beats in both, and their marks are filled. The keys of a row are
    name, parameters and perplexity, and optionally words (a line for the hover). `dense` is drawn as the
    reference, and the row with the number `chosen` has a ring. A click gives custom = the row's number in
    `rows`.
    """
    shown = [
        (i, row)
        for i, row in enumerate(rows)
        if finite_or_none(row.get("parameters")) and finite_or_none(row.get("perplexity"))
    ]
    front = pareto_front([log_position(row) for _, row in shown])
    best = sorted(
        (pair for pair in shown if log_position(pair[1]) in front), key=lambda pair: log_position(pair[1])
    )
    beaten = [pair for pair in shown if log_position(pair[1]) not in front]
    figure = go.Figure()
    figure.add_trace(
        run_trace(beaten, "smaller and better exists", COLOUR["surface"], "markers+text", "top right")
    )
    figure.add_trace(
        run_trace(best, "best at its size", COLOUR["accent"], "lines+markers+text", "bottom left")
    )
    everyone = list(shown)
    told = separate_runs([*(pair for pair in shown if pair[0] == chosen), *reversed(shown)])
    for trace in figure.data:
        trace.text = [text if i in told else "" for i, text in zip(trace.customdata, trace.text, strict=True)]
    if dense is not None and finite_or_none(dense.get("perplexity")):
        everyone.append((-1, dense))
        figure.add_trace(run_trace([(-1, dense)], "dense", COLOUR["ink"], "markers", "top right"))
        figure.data[-1].marker.update(symbol="diamond", line={"color": COLOUR["ink"]})
    ring = [pair for pair in shown if pair[0] == chosen]
    if ring:
        figure.add_trace(run_trace(ring, "chosen", "rgba(0,0,0,0)", "markers", "top right"))
        figure.data[-1].marker.update(size=21, line={"color": COLOUR["second"], "width": 2.5})
        figure.data[-1].update(hoverinfo="skip", hovertemplate=None)
    return laid_out(
        figure,
        title="Size and perplexity of every run",
        key=f"history {len(rows)}",
        xaxis=thin_axis(
            "Parameters, millions",
            showgrid=True,
            nticks=7,
            range=pad_range([p[0] / 1e6 for p in shown_points(everyone)]),
        ),
        yaxis=thin_axis("Perplexity, lower is better", showgrid=True, nticks=6, **perplexity_axis(everyone)),
        showlegend=True,
    )


def separate_runs(runs: Sequence[Run]) -> set[int]:
    """Return the numbers of the runs whose labels do not overlap; earlier runs have precedence."""
    sizes, worth = [p[0] for p in shown_points(runs)], [math.log(max(p[1], 1e-9)) for p in shown_points(runs)]
    wide, high = (max(values, default=0) - min(values, default=0) or 1.0 for values in (sizes, worth))
    taken: list[tuple[float, float]] = []
    told: set[int] = set()
    for (i, _), size, value in zip(runs, sizes, worth, strict=True):
        place = (size / wide, value / high)
        if all(abs(place[0] - x) > 0.09 or abs(place[1] - y) > 0.07 for x, y in taken):
            taken.append(place)
            told.add(i)
    return told


Run = tuple[int, Mapping[str, Any]]  # the row's number and the row


def run_trace(runs: Sequence[Run], name: str, fill: str, mode: str, place: str) -> go.Scatter:
    """Return labelled points for some runs."""
    return go.Scatter(
        x=[row["parameters"] / 1e6 for _, row in runs],
        y=[row["perplexity"] for _, row in runs],
        customdata=[i for i, _ in runs],
        text=[plotly_safe(row.get("name", "")) for _, row in runs],
        hovertext=[run_hover(row) for _, row in runs],
        name=name,
        mode=mode,
        textposition=place,
        textfont={"size": 12, "color": COLOUR["muted"]},
        cliponaxis=False,
        line={"color": COLOUR["line-strong"], "width": 1.5, "shape": "hv"},
        marker={"size": 11, "color": fill, "opacity": 1, "line": {"width": 2, "color": COLOUR["accent"]}},
        hovertemplate="%{hovertext}<br>%{x:,.1f} M parameters, perplexity %{y:.2f}<extra></extra>",
    )


def run_hover(row: Mapping[str, Any]) -> str:
    """Return a run's name and words for the hover."""
    return "<br>".join(plotly_safe(row[key]) for key in ("name", "words") if row.get(key))


def log_position(row: Mapping[str, Any]) -> tuple[float, float]:
    """Return the (parameters, perplexity) of a row."""
    return row["parameters"], row["perplexity"]


def shown_points(shown: Sequence[Run]) -> list[tuple[float, float]]:
    """Return the (parameters, perplexity) of each run."""
    return [log_position(row) for _, row in shown]


def pad_range(values: Sequence[float]) -> list[float] | None:
    """Return a range around these values with room for labels, or None where there are no values."""
    if not values:
        return None
    low, high = min(values), max(values)
    room = 0.2 * ((high - low) or abs(high) or 1.0)
    return [low - room, high + room]


def perplexity_axis(shown: Sequence[Run]) -> dict[str, Any]:
    """Return the range and the type of the perplexity axis.

    The axis is logarithmic where one broken model would otherwise squeeze all others into a line.
    """
    values = [perplexity for _, perplexity in shown_points(shown)]
    if values and min(values) > 0 and max(values) > 8 * min(values):
        return {"type": "log", "range": pad_range([math.log10(v) for v in values])}
    return {"range": pad_range(values)}


def pareto_front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other point beats in both size and perplexity, smallest first."""
    front: list[tuple[float, float]] = []
    for size, perplexity in sorted(points):
        if not front or perplexity < front[-1][1]:
            front.append((size, perplexity))
    return front
