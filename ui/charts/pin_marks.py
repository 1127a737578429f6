"""Draw on the maps which units the plan protects and forces out. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import plotly.graph_objects as go

from slimllm.core.shapes import Shape
from slimllm.core.types import Pin, Plan
from slimllm.planning.budget import pinned_units
from slimllm.planning.pins import merge_pins
from ui.charts.chart_style import COLOUR, Layers
from ui.facts.pin_effects import find_effects

# Name, colour, sign and dash, so that a reader can tell the kinds apart without colour.
PIN_KINDS = (
    ("protected", "ink", "●", "solid"),
    ("forced out", "second", "×", "dot"),
)
PinKind = tuple[str, str, str, str]


# Heads that follow others of their KV group: name, colour and sign.
FOLLOWING = (
    ("goes with its KV group", "second", "–"),
    ("stays with its KV group", "ink", "+"),
)


def on_heads(figure: go.Figure, plan: Plan | None, shape: Shape) -> go.Figure:
    """Return the map of heads with a sign on every head that the pins of the plan affect.

    These are the heads that are protected or forced out, and the heads that follow others of their KV group.
    """
    for pins, (name, colour, sign, _) in held_pins(plan):
        spots = [
            (unit, pin.layer)
            for pin in pins
            if pin.site == "attention"
            for unit in range(pin.index, pin.index + pin.count)
        ]
        if spots:
            figure.add_trace(pin_signs(spots, name, colour, sign))
    if plan is not None:
        effects = [find_effects(plan, layer, i) for i, layer in enumerate(shape.layers)]
        goes = [(head, found.layer) for found in effects for head in found.going]
        stays = [(head, found.layer) for found in effects for head in found.staying]
        for spots, kind in zip((goes, stays), FOLLOWING, strict=True):
            if spots:
                figure.add_trace(pin_signs(spots, *kind))
    return figure


def pin_signs(spots: Sequence[tuple[int, int]], name: str, colour: str, sign: str) -> go.Scatter:
    """Return a sign in each of these (head, layer) cells, on a disc that keeps it readable on any shade."""
    return go.Scatter(
        x=np.array([x for x, _ in spots], dtype=np.int16),
        y=np.array([y for _, y in spots], dtype=np.int16),
        mode="markers+text",
        name=f"{name} {sign}",
        hoverinfo="skip",
        showlegend=True,
        marker={
            "size": 11,
            "color": COLOUR["surface"],
            "line": {"width": 1.5, "color": COLOUR[colour]},
        },
        text=[sign] * len(spots),
        textfont={"size": 11, "color": COLOUR[colour], "weight": 700},
        unselected={"marker": {"opacity": 1}, "textfont": {"color": COLOUR[colour]}},
        hovertemplate=f"{name}<extra></extra>",
    )


def on_channels(
    figure: go.Figure, plan: Plan | None, layers: Layers, by_rank: bool, only: int | None = None
) -> go.Figure:
    """Return the map of channels with a line through every stretch that is protected or forced out.

    The stretches follow the order of the map. Where the map shows `only` one layer, the lines stand below the
    scores.
    """
    for pins, kind in held_pins(plan):
        mine = [pin for pin in pins if pin.site == "mlp" and only in (None, pin.layer)]
        pieces = list(pinned_runs(mine, layers, by_rank))
        if pieces:
            draw_lines(figure, [(0 if only is not None else i, a, b) for i, a, b in pieces], kind)
    return figure


def pinned_runs(pins: Sequence[Pin], layers: Layers, by_rank: bool) -> Iterator[tuple[int, int, int]]:
    """Yield (layer, first, last) of every pinned stretch of channels along the axis."""
    for index in sorted({pin.layer for pin in pins}):
        units = pinned_units(pins, index, "mlp")
        found = layers[index] if index < len(layers) else None
        if by_rank:
            if found is None:
                continue
            order = found.mlp.ranking.order.numpy()
            units = set(np.flatnonzero(np.isin(order, list(units))).tolist())
        for piece in merge_pins(index, "mlp", units):
            yield index, piece.index, piece.index + piece.count - 1


def draw_lines(figure: go.Figure, pieces: Sequence[tuple[int, int, int]], kind: PinKind) -> None:
    """Draw a line through each (height, first, last), with a light edge so that it shows on dark shades."""
    name, colour, _, dash = kind
    x = [v for _, low, high in pieces for v in (low - 0.5, high + 0.5, None)]
    y = [v for height, _, _ in pieces for v in (height, height, None)]
    for width, shade, style, shown in ((6, "surface", "solid", False), (3, colour, dash, True)):
        figure.add_scatter(
            x=x,
            y=y,
            mode="lines",
            name=name,
            legendgroup=name,
            showlegend=shown,
            hoverinfo="skip",
            line={"color": COLOUR[shade], "width": width, "dash": style},
            hovertemplate=f"{name}<extra></extra>",
        )


def held_pins(plan: Plan | None) -> Iterator[tuple[Sequence[Pin], PinKind]]:
    """Yield the plan's protected pins, then its forced ones, each with the way they are drawn."""
    if plan is not None:
        yield from zip((plan.protected, plan.forced), PIN_KINDS, strict=True)
