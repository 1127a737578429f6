"""Define what all figures share: layout, axes, colour scales, and the size of their JSON.

Figures use the light colours; plotview.js swaps them for the dark ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from slimllm.core.types import LayerAnalysis
from ui.look.theme import PALETTE

SUBTITLE = 20  # pixels
Layers = Sequence[LayerAnalysis | None]
COLOUR: dict[str, Any] = PALETTE["light"]


def laid_out(figure: go.Figure, *, title: str, key: str, **layout: Any) -> go.Figure:
    """Return the figure with our title, margins and transparent background.

    The zoom stays as long as `key` stays the same.
    """
    # One assignment, because `update_layout` takes ten times as long: most of the time that a chart takes.
    present = figure.layout.to_plotly_json() | {"template": {}}
    figure.layout = merge_layouts(present, usual_layout(title, key), layout)
    return figure


def add_subtitle(figure: go.Figure, words: str) -> go.Figure:
    """Return the figure with a line under its title, and with room for that line."""
    present = figure.layout.to_plotly_json()
    line = {"text": plotly_safe(words), "font": {"size": 12, "weight": 400, "color": COLOUR["muted"]}}
    room = {"t": present["margin"]["t"] + SUBTITLE}
    figure.layout = merge_layouts(present, {"title": {"subtitle": line}, "margin": room})
    return figure


def usual_layout(title: str, key: str) -> dict[str, Any]:
    """Return the layout that all figures start from."""
    return {
        "title": {
            "text": title,
            "font": {"size": 14, "weight": 700},
            "x": 0, "xref": "container", "xanchor": "left",
            "y": 1, "yref": "container", "yanchor": "top",
            "pad": {"t": 16, "l": 18},
        },
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 64, "r": 24, "t": 52, "b": 52},
        "font": {"size": 13, "color": COLOUR["ink"]},
        "uirevision": key,
        "hovermode": "closest",
        "legend": {
            "orientation": "h", "font": {"size": 12},
            "x": 1, "xanchor": "right", "y": 1.02, "yanchor": "bottom",
        },
    }  # fmt: skip


def merge_layouts(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the mappings merged recursively; where several have a key, the last one wins."""
    found: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = found.get(key)
            if isinstance(value, Mapping) and isinstance(below, Mapping):
                value = merge_layouts(below, value)
            found[key] = value
    return found


def thin_axis(title: str, **more: Any) -> dict[str, Any]:
    """Return the settings of an axis with thin lines and its unit in the title."""
    return {
        "title": {"text": title, "standoff": 10, "font": {"size": 12, "color": COLOUR["muted"]}},
        "showgrid": False,
        "zeroline": False,
        "gridcolor": COLOUR["line"],
        "linecolor": COLOUR["line-strong"],
        "tickfont": {"size": 12, "color": COLOUR["muted"]},
        "ticks": "",
    } | more


def layer_axis(total: int) -> dict[str, Any]:
    """Return a vertical axis of all layers, the first on top.

    The axis has its full length from the start, so that nothing moves when more layers arrive.
    """
    return thin_axis(
        "Layer",
        range=[total - 0.5, -0.5],
        tickmode="array",
        tickvals=round_ticks(total),
        showline=False,
        ticklabelstandoff=4,
    )


# Margins with room for a colour bar, so that a map keeps its place when its first layer arrives.
BESIDE_BAR = {"l": 64, "r": 92, "t": 52, "b": 52}


def round_ticks(n: int, most: int = 10) -> list[int]:
    """Return at most `most` round positions from 0 to n - 1."""
    power = 10 ** max(0, math.floor(math.log10(max(1, n) / most)))
    return list(range(0, n, next(s * power for s in (1, 2, 5, 10, 20) if n <= most * s * power)))


def colour_scale(name: str) -> list[list[Any]]:
    """Return a Plotly colour scale from the palette."""
    colours = COLOUR[name]
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def colour_bar(title: str, texts: Sequence[str], values: Sequence[float]) -> dict[str, Any]:
    """Return the settings of a thin colour bar with `texts` as tick labels at `values`."""
    return {
        "title": {"text": title, "side": "right", "font": {"size": 12, "color": COLOUR["muted"]}},
        "thickness": 8,
        "outlinewidth": 0,
        "tickvals": list(values),
        "ticktext": list(texts),
        "tickfont": {"size": 12, "color": COLOUR["muted"]},
        "ticks": "",
        "x": 1.01,
        "xpad": 8,
    }


def plotly_safe(words: Any) -> str:
    """Return the words escaped, so that Plotly does not read them as its subset of HTML."""
    return str(words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def finite_or_none(x: Any) -> bool:
    """Return whether `x` is a finite number."""
    return isinstance(x, int | float) and math.isfinite(x)


def payload_bytes(figure: go.Figure) -> int:
    """Return the size of the figure's JSON in bytes."""
    return len(figure.to_json().encode())


def to_percent(values: Any) -> np.ndarray:
    """Return shares as per cent in float32."""
    return np.asarray(values, dtype=np.float32) * 100
