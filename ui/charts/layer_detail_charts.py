"""Draw figures of one layer: the error at every width, the scores, the spectrum of its MLP. Pure.

Errors are relative squared errors in per cent; heads, channels and layers count from 0.
"""

from __future__ import annotations

import numpy as np
import plotly.graph_objects as go

from slimllm.core.attention_unit import UNITS, UnitName
from slimllm.core.shapes import LayerShape, Shape
from slimllm.core.types import LayerAnalysis, Plan, SiteAnalysis
from slimllm.methods.recovery import RECOVERIES
from ui.charts.chart_style import COLOUR, laid_out, thin_axis, to_percent
from ui.charts.side_by_side import Panels
from ui.facts.agreement import attention_width, kept_units
from ui.look.formatting import is_dropped

# Colour and dash of each recovery, so that a reader can tell the lines apart by either.
LINES = {
    "none": (COLOUR["fourth"], "dot"),
    "bias": (COLOUR["second"], "dash"),
    "regression": (COLOUR["accent"], "solid"),
    "least-squares": (COLOUR["third"], "dashdot"),
    "guided": (COLOUR["ink"], "longdash"),
}
BELOW = {"orientation": "h", "x": 0, "xanchor": "left", "y": -0.3, "yanchor": "top", "font": {"size": 12}}
# Most points of a curve: a chart has not enough pixels to show more of them apart.
POINTS = 192


def unit_of(found: LayerAnalysis, plan: Plan | None) -> UnitName:
    """Return the attention unit to show: the plan's where the layer was scored by it, else the first one."""
    return plan.unit if plan is not None and plan.unit in found.attention else next(iter(found.attention))


def error_curves(found: LayerAnalysis, index: int, plan: Plan | None, shape: Shape) -> go.Figure:
    """Return the predicted error of one layer at every width: attention on the left, MLP on the right.

    Each recovery has a line. The widths of the plan are marked.
    """
    layer = shape.layers[index]
    unit = unit_of(found, plan)
    units = UNITS[unit].plural
    titles = (f"Attention {units}", "MLP channels")
    panels = Panels(*titles, title="Predicted error, %", showgrid=True, rangemode="tozero", nticks=6)
    widest = layer.widest(unit)
    heads = np.arange(layer.steps(unit) + 1) * (widest // layer.steps(unit))
    channels = thin_widths(layer.channels)
    sites = (
        (1, found.attention[unit], heads, np.arange(len(heads)), units),
        (2, found.mlp, channels, channels, "channels"),
    )
    for column, site, widths, places, what in sites:
        for name in RECOVERIES:
            colour, dash = LINES.get(name, (COLOUR["muted"], "longdash"))
            if name in site.error:
                values = site.error[name].float().numpy()[places]
                panels.add(column, error_curve(widths, values, name, colour, dash, what, column))
    if plan is not None:
        mark_plan(
            panels,
            1,
            attention_width(plan, index, layer, unit),
            found.attention[unit],
            plan,
            layer.steps(unit) / widest,
            units,
        )
        mark_plan(panels, 2, plan.channels[index], found.mlp, plan, 1.0, "channels")
    marks = {"tickvals": heads.tolist()} if len(heads) <= 12 else {"nticks": 6}
    panels.across(1, f"{units.capitalize()} kept", range=[-0.04 * widest, 1.04 * widest], **marks)
    whole = [-0.04 * layer.channels, 1.04 * layer.channels]
    panels.across(2, "Channels kept", range=whole, nticks=6, tickformat=",d")
    return panels.figure(
        title=f"Layer {index}: what each width costs"
        + (", dropped by the plan" if plan is not None and is_dropped(plan, index) else ""),
        key=f"errors {index}",
        margin={"l": 64, "r": 24, "t": 76, "b": 84},
        legend=BELOW,
    )


def error_curve(
    widths: np.ndarray, values: np.ndarray, name: str, colour: str, dash: str, what: str, column: int
) -> go.Scatter:
    """Return the line of one recovery: the predicted errors (n,) at these widths (n,), drawn in per cent."""
    few = len(widths) <= 24
    return go.Scatter(
        x=widths.astype(np.int32),
        y=to_percent(np.nan_to_num(values, posinf=0.0, neginf=0.0)),
        name=RECOVERIES[name].title,
        mode="lines+markers" if few else "lines",
        marker={"size": 5},
        line={"color": colour, "dash": dash, "width": 2},
        legendgroup=name,
        showlegend=column == 1,
        hovertemplate=f"{RECOVERIES[name].title} recovery<br>%{{x:,d}} {what} kept: "
        "predicted error %{y:.3g} %<extra></extra>",
    )


def mark_plan(
    panels: Panels, column: int, width: int, site: SiteAnalysis, plan: Plan, places: float, what: str
) -> None:
    """Add a thin line and a ring at the plan's width to a panel.

    `places` is the number of entries of the error curve per unit of width.
    """
    error = 100 * float(site.error[plan.recovery][round(width * places)])
    panels.upright(column, width)
    panels.add(
        column,
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
    )


def thin_widths(n: int) -> np.ndarray:
    """Return at most 193 widths from 0 to n, evenly spaced."""
    return np.unique(np.round(np.linspace(0, n, min(n, POINTS) + 1)).astype(np.int64))


def score_chart(found: LayerAnalysis, index: int, plan: Plan | None, shape: Shape) -> go.Figure:
    """Return how one layer's scores are spread, best first, and what the plan keeps and cuts.

    Heads (or value columns) stand on the left, channels on the right.
    """
    unit = unit_of(found, plan)
    titles = ("Attention " + UNITS[unit].plural, "MLP channels")
    panels = Panels(*titles, title="Score", showgrid=True, rangemode="tozero", nticks=6)
    head_bars(panels, found.attention[unit], shape.layers[index], unit, index, plan)
    channel_curve(panels, found.mlp, plan.channels[index] if plan is not None else None)
    return panels.figure(
        title=f"Layer {index}: scores, best first",
        key=f"scores {index} {unit}",
        showlegend=True,
        bargap=0.2,
        margin={"l": 64, "r": 24, "t": 76, "b": 84},
        legend=BELOW,
    )


def head_bars(
    panels: Panels, site: SiteAnalysis, layer: LayerShape, unit: UnitName, index: int, plan: Plan | None
) -> None:
    """Add a bar for every head or value column, best first; those that the plan cuts are hollow.

    Hatched bars would take Plotly four times as long.
    """
    scores, order = site.ranking.scores, site.ranking.order
    widest = layer.widest(unit)
    width = attention_width(plan, index, layer, unit) if plan is not None else widest
    kept = kept_units(site, width, widest)[order.numpy()]
    values = np.nan_to_num(scores[order].float().numpy())
    what = UNITS[unit].noun
    full, hollow = COLOUR["accent"], faint_colour(COLOUR["second"])
    for name, mask, inside, rim in (("kept", kept, full, 0.0), ("cut", ~kept, hollow, 1.5)):
        places = np.flatnonzero(mask)
        if len(places):
            panels.add(
                1,
                go.Bar(
                    x=(places + 1).astype(np.int32),
                    y=values[places],
                    customdata=order[places].numpy().astype(np.int32),
                    name=name,
                    legendgroup=name,
                    showlegend=False,
                    marker={
                        "color": inside,
                        "line": {"width": rim, "color": COLOUR["second"]},
                    },
                    hovertemplate=f"{what} %{{customdata}}, rank %{{x}}, {name}<br>"
                    "score %{y:.4g}<extra></extra>",
                ),
            )
    n = len(values)
    marks = {"dtick": 1} if n <= 12 else {"nticks": 6, "tickformat": ",d"}
    panels.across(1, f"Rank of the {what}", range=[0.4, n + 0.6], **marks)


def channel_curve(panels: Panels, site: SiteAnalysis, kept: int | None) -> None:
    """Add the scores of the channels, best first, and the place where the plan cuts."""
    scores = np.nan_to_num(site.ranking.scores[site.ranking.order].float().numpy())
    n = len(scores)
    cut = n if kept is None else kept
    for name, low, high, colour in (("kept", 0, cut, "accent"), ("cut", cut, n, "second")):
        if high > low:
            places = low + thin_widths(high - low - 1)
            panels.add(
                2,
                go.Scatter(
                    x=(places + 1).astype(np.int32),
                    y=scores[places].astype(np.float32),
                    name=f"{name}: {high - low:,} channels",
                    legendgroup=name,
                    mode="lines",
                    fill="tozeroy",
                    line={"color": COLOUR[colour], "width": 2},
                    fillcolor=faint_colour(COLOUR[colour]),
                    hovertemplate=f"rank %{{x:,d}}, {name}<br>score %{{y:.4g}}<extra></extra>",
                ),
            )
    if 0 < cut < n:
        panels.upright(2, cut + 0.5)
    panels.across(2, "Rank of the channel", range=[0.5, n + 0.5], tickformat=",d", nticks=5)


def spectrum_chart(found: LayerAnalysis, index: int) -> go.Figure | None:
    """Return the PCA spectrum of the output of one layer's MLP, or None where it is not known.

    The curve shows the share of the variance that the first k principal directions carry.
    """
    if found.mlp.spectrum is None:
        return None
    shares = spectrum_shares(found.mlp.spectrum.double().numpy())
    places = thin_widths(len(shares) - 1)
    needed = count_directions(shares, 0.9)
    own = np.diff(shares, prepend=0.0)
    figure = go.Figure(
        go.Scatter(
            x=(places + 1).astype(np.int32),
            y=to_percent(shares[places]),
            customdata=to_percent(own[places]),
            mode="lines",
            fill="tozeroy",
            line={"color": COLOUR["accent"], "width": 2},
            fillcolor=faint_colour(COLOUR["accent"]),
            hovertemplate="the first %{x:,d} directions carry %{y:.1f} %<br>"
            "this one alone %{customdata:.3g} %<extra></extra>",
        )
    )
    figure.add_vline(
        x=needed,
        line={"color": COLOUR["ink"], "width": 1, "dash": "dot"},
        annotation={
            "text": f"90 % in {needed:,} of {len(shares):,}",
            "y": 0.5, "yref": "paper",
            "font": {"size": 12, "color": COLOUR["ink"]},
            "xanchor": "left" if needed < 0.6 * len(shares) else "right",
        },
    )  # fmt: skip
    return laid_out(
        figure,
        title=f"Layer {index}: PCA spectrum of what its MLP writes",
        key=f"spectrum {index}",
        xaxis=thin_axis(
            "Principal directions, largest first", range=[0.5, len(shares) + 0.5], tickformat=",d", nticks=7
        ),
        yaxis=thin_axis("Carried together, %", showgrid=True, range=[0, 102], dtick=25),
    )


def spectrum_shares(variances: np.ndarray) -> np.ndarray:
    """Return the share (o,) of the variance that the first directions carry together; ones where it is 0."""
    total = variances.sum()
    return np.cumsum(variances) / total if total > 0 else np.ones(len(variances))


def count_directions(shares: np.ndarray, goal: float) -> int:
    """Return how many directions carry the share `goal` of the variance."""
    return int(np.searchsorted(shares, goal - 1e-9)) + 1


def faint_colour(colour: str) -> str:
    """Return the colour with 16 % opacity, which suits a light and a dark background."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.16)"
