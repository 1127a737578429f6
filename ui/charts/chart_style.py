"""What all figures share: layout, axes, colour scales, and their size on the wire.

Light colours, which plotview.js swaps for dark ones.
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
    """The figure with our title, margins and transparent ground; the zoom stays as long as `key` does."""
    # One assignment: `update_layout` takes ten times as long, which is most of a chart's time.
    present = figure.layout.to_plotly_json() | {"template": {}}
    figure.layout = merge_layouts(present, usual_layout(title, key), layout)
    return figure


def add_subtitle(figure: go.Figure, words: str) -> go.Figure:
    """The figure with a line under its title, and room for it."""
    present = figure.layout.to_plotly_json()
    line = {"text": plotly_safe(words), "font": {"size": 12, "weight": 400, "color": COLOUR["muted"]}}
    room = {"t": present["margin"]["t"] + SUBTITLE}
    figure.layout = merge_layouts(present, {"title": {"subtitle": line}, "margin": room})
    return figure


def usual_layout(title: str, key: str) -> dict[str, Any]:
    """The layout that all figures begin with."""
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
    """The mappings laid over each other, those inside them as well; the last one wins."""
    found: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = found.get(key)
            if isinstance(value, Mapping) and isinstance(below, Mapping):
                value = merge_layouts(below, value)
            found[key] = value
    return found


def thin_axis(title: str, **more: Any) -> dict[str, Any]:
    """An axis with thin lines and its unit in the title."""
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
    """The layers as a vertical axis, the first on top, all of them from the start so that nothing jumps."""
    return thin_axis(
        "Layer",
        range=[total - 0.5, -0.5],
        tickmode="array",
        tickvals=round_ticks(total),
        showline=False,
        ticklabelstandoff=4,
    )


# Room for a colour bar from the start, so that a map keeps its place when its first layer arrives.
BESIDE_BAR = {"l": 64, "r": 92, "t": 52, "b": 52}


def round_ticks(n: int, most: int = 10) -> list[int]:
    """Round positions from 0 to n - 1."""
    power = 10 ** max(0, math.floor(math.log10(max(1, n) / most)))
    return list(range(0, n, next(s * power for s in (1, 2, 5, 10, 20) if n <= most * s * power)))


def colour_scale(name: str) -> list[list[Any]]:
    """A Plotly colour scale from the palette."""
    colours = COLOUR[name]
    return [[i / (len(colours) - 1), colour] for i, colour in enumerate(colours)]


def colour_bar(title: str, texts: Sequence[str], values: Sequence[float]) -> dict[str, Any]:
    """A thin colour bar with words for ticks."""
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
    """Words that Plotly will not read as its small HTML."""
    return str(words).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def finite_or_none(x: Any) -> bool:
    return isinstance(x, int | float) and math.isfinite(x)


def payload_bytes(figure: go.Figure) -> int:
    """The bytes of the figure's JSON."""
    return len(figure.to_json().encode())


def to_percent(values: Any) -> np.ndarray:
    return np.asarray(values, dtype=np.float32) * 100
