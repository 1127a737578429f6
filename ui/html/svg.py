"""Draw pictures for a page without plotly: maps as PNG in an SVG frame, layers as bars, steps and dots.

Pure: numbers in, text out. The only script shows the values under the pointer.
"""

from __future__ import annotations

import base64
import json
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ui.charts.chart_style import COLOUR, round_ticks
from ui.facts.run_maps import FULL, Grid, grid_to_dict
from ui.look.formatting import escape_html

WIDE, LEFT_MARGIN, RIGHT = 960, 52, 16  # of the drawing
# Shades of removed units, from little to much importance.
GONE = ("#f7ecdd", "#ecd0ac", "#d08f4e", "#a6500f")


@dataclass(frozen=True)
class Series:
    """One value per layer, drawn as "bars", "steps" or "dots" in one colour; `words` formats a value."""

    name: str
    values: Sequence[float]
    kind: str
    colour: str
    words: str = "{:,.3g}"


def map_of(grid: Grid, what: str, than: str, groups: int = 0) -> str:
    """Return a layers × units map as HTML, with gaps between `groups` of units.

    `what` names one unit ("head"), and `than` says what its shade compares with ("best" or "median").
    """
    high = min(max(9 * grid.rows, 140), 440)
    wide = WIDE - LEFT_MARGIN - RIGHT
    row, column = high / grid.rows, wide / grid.units
    lines = [(float(LEFT_MARGIN), i * row, float(wide), 0.0) for i in range(1, grid.rows) if grid.rows <= 40]
    lines += [(LEFT_MARGIN + g * wide / groups, 0.0, 0.0, float(high)) for g in range(1, groups)]
    gaps = "".join(
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{x + dx:.1f}" y2="{y + dy:.1f}"/>' for x, y, dx, dy in lines
    )
    rows = "".join(
        f'<text x="{LEFT_MARGIN - 8}" y="{(i + 0.5) * row + 4:.1f}" class="left">{i}</text>'
        for i in round_ticks(grid.rows)
    )
    columns = "".join(
        f'<text x="{LEFT_MARGIN + (i + 0.5) * column:.1f}" y="{high + 18}">{i:,}</text>'
        for i in round_ticks(grid.units, 12)
    )
    data = grid_to_dict(grid) | {"what": what, "than": than}
    label = (
        f"Map of {grid.rows} layers by {grid.units:,} {what}s: how much each matters, and which were removed"
    )
    return (
        f'<div class="wide"><svg class="map" viewBox="0 -8 {WIDE} {high + 50}" role="img" '
        f'aria-label="{escape_html(label)}" '
        f'data-map="{escape_html(json.dumps(data))}">'
        f'<image href="{png_address(colours_of(grid))}" x="{LEFT_MARGIN}" y="0" '
        f'width="{wide}" height="{high}" preserveAspectRatio="none"/>'
        f'<g class="gaps">{gaps}</g>{rows}{columns}{upright_title(high)}'
        f'<text x="{LEFT_MARGIN + wide / 2:.0f}" y="{high + 38}">'
        f"{escape_html(what.capitalize())}</text></svg></div>"
    )


def upright_title(high: float, title: str = "Layer") -> str:
    """Return the title of the vertical axis of a drawing that is `high` pixels high."""
    return f'<text transform="translate(12 {high / 2:.0f}) rotate(-90)">{escape_html(title)}</text>'


def colours_of(grid: Grid) -> np.ndarray:
    """Return the colours (rows, cells, 3) of a map in uint8.

    Each cell mixes the colours of its shade on the scales of kept and of removed units, by its kept share.
    """
    shades = np.frombuffer(grid.shades, np.uint8).reshape(grid.rows, grid.cells) / FULL
    kept = np.frombuffer(grid.kept, np.uint8).reshape(grid.rows, grid.cells, 1) / FULL
    mixed = kept * shade_values(shades, COLOUR["sequential"]) + (1 - kept) * shade_values(shades, GONE)
    return np.round(mixed).astype(np.uint8)


def shade_values(values: np.ndarray, scale: Sequence[str]) -> np.ndarray:
    """Return the colours (…, 3) from 0 to 255 of values (…) from 0 to 1 on a scale of hex colours."""
    stops = np.array([[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in scale], dtype=float)
    places = np.linspace(0, 1, len(stops))
    return np.stack([np.interp(values, places, stops[:, i]) for i in range(3)], axis=-1)


def png_address(pixels: np.ndarray) -> str:
    """Return the pixels (height, width, 3) as the data URL of a PNG."""
    high, wide, _ = pixels.shape
    raw = b"".join(b"\0" + line.tobytes() for line in pixels)

    def png_chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", wide, high, 8, 2, 0, 0, 0)
    parts = png_chunk(b"IHDR", head) + png_chunk(b"IDAT", zlib.compress(raw, 9)) + png_chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def key_of(than: str) -> str:
    """Return the legend of a map as HTML; `than` is that of `map_of`."""
    ends = {"best": ("0 %", "100 % of the layer’s best"), "median": ("half", "four times the layer’s median")}
    low, high = ends[than]
    bars = "".join(
        f'<span class="key"><i style="background:linear-gradient(90deg,{",".join(scale)})"></i>{name}</span>'
        for name, scale in (("kept", COLOUR["sequential"]), ("removed", GONE))
    )
    return f'<p class="keys">{bars}<span class="quiet">each from {low} to {high}</span></p>'


# Layers -----------------------------------------------------------------------------------------------------


def layers_chart(series: Sequence[Series], unit: str, high: int = 170) -> str:
    """Return a chart of all layers with a legend, as HTML.

    Every layer shows its values under the pointer. `unit` is the title of the vertical axis, `high` its
    height in pixels.
    """
    total = max(len(one.values) for one in series)
    wide = (WIDE - LEFT_MARGIN - RIGHT) / max(1, total)
    values = [value for one in series for value in one.values if math.isfinite(value)]
    low, top, step = nice_range(min([0.0, *values]), max([0.0, *values]))

    def height_at(value: float) -> float:
        inside = min(max(value if math.isfinite(value) else top, low), top)
        return 8 + (high - 8) * (top - inside) / (top - low)

    grid = "".join(
        f'<line class="grid" x1="{LEFT_MARGIN}" x2="{WIDE - RIGHT}" '
        f'y1="{height_at(y):.1f}" y2="{height_at(y):.1f}"/>'
        f'<text x="{LEFT_MARGIN - 8}" y="{height_at(y) + 4:.1f}" class="left">{y:g}</text>'
        for y in np.arange(round(low / step), round(top / step) + 1) * step
    )
    body = "".join(draw_series(one, wide, height_at) for one in series)
    places = "".join(
        f'<text x="{LEFT_MARGIN + (i + 0.5) * wide:.1f}" y="{high + 18}">{i}</text>'
        for i in round_ticks(total, 16)
    )
    hits = "".join(
        f'<rect class="hit" x="{LEFT_MARGIN + i * wide:.1f}" y="8" width="{wide:.1f}" height="{high - 8}">'
        f"<title>{escape_html(layer_title(series, i))}</title></rect>"
        for i in range(total)
    )
    legend = "".join(
        f'<span class="key"><i class="{one.kind}" style="--c:{one.colour}"></i>{escape_html(one.name)}</span>'
        for one in series
    )
    label = f"{', '.join(one.name for one in series)} of each layer"
    return (
        f'<p class="keys">{legend}</p><div class="wide"><svg viewBox="0 0 {WIDE} {high + 42}" role="img" '
        f'aria-label="{escape_html(label)}">{grid}{body}{places}'
        f'<text x="{WIDE / 2:.0f}" y="{high + 38}">Layer</text>'
        f"{upright_title(high, unit)}{hits}</svg></div>"
    )


def layer_title(series: Sequence[Series], index: int) -> str:
    """Return the values of one layer in words."""
    shown = [one for one in series if index < len(one.values)]
    return f"Layer {index}: " + ", ".join(
        f"{one.name} {one.words.format(one.values[index])}" for one in shown
    )


def draw_series(series: Series, wide: float, at: Any) -> str:
    """Return the marks of one series as SVG.

    `wide` is the width of a layer in pixels, and `at(value)` gives the vertical position of a value.
    """
    colour, base = series.colour, at(0.0)
    places = [(LEFT_MARGIN + i * wide, at(value)) for i, value in enumerate(series.values)]
    if series.kind == "bars":
        return "".join(
            f'<rect x="{x + 0.14 * wide:.1f}" y="{min(y, base):.1f}" width="{0.72 * wide:.1f}" '
            f'height="{abs(base - y):.1f}" fill="{colour}"/>'
            for x, y in places
        )
    if series.kind == "steps":
        path = " ".join(
            f"{'L' if i else 'M'}{x:.1f} {y:.1f} H{x + wide:.1f}" for i, (x, y) in enumerate(places)
        )
        return f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
    return "".join(
        f'<circle cx="{x + wide / 2:.1f}" cy="{y:.1f}" r="{min(4.5, 0.36 * wide):.1f}" fill="{colour}"/>'
        for x, y in places
    )


def nice_range(low: float, high: float) -> tuple[float, float, float]:
    """Return round ends of an axis that covers `low` to `high`, and its step."""
    rough = ((high - low) or 1.0) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * 0.999)
    return math.floor(low / step + 1e-9) * step, max(math.ceil(high / step - 1e-9), 1) * step, step
