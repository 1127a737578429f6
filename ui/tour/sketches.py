"""The small pictures of the tour, one for each idea, as SVG. Pure.

Functions take numbers and return text; colours are classes of the style sheet.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from ui.look.formatting import escape_html

WIDE, HIGH = 480, 200  # units of the drawing
SHADES = 7  # colours of the sequential scale
MOST_COLUMNS, MOST_ROWS = 48, 12
# The share of each layer that is kept, from 0 to 1.
Kept = Sequence[float]


def svg_drawing(body: str, label: str) -> str:
    """Return an SVG element of WIDE × HIGH units; a screen reader reads its label."""
    return (
        f'<svg class="sketch" viewBox="0 0 {WIDE} {HIGH}" role="img" aria-label="{escape_html(label)}">'
        '<defs><pattern id="gone" width="6" height="6" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(45)"><rect class="hole" width="6" height="6"/>'
        f'<line class="stripe" y2="6"/></pattern></defs>{body}</svg>'
    )


def svg_box(x: float, y: float, width: float, height: float, kind: str, round: float = 2) -> str:
    """Return a rectangle of the CSS class `kind`, with corners of the radius `round`."""
    return (
        f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{max(0.0, width):.1f}" '
        f'height="{max(0.0, height):.1f}" rx="{round:g}"/>'
    )


def svg_words(x: float, y: float, text: str, kind: str = "", anchor: str = "middle") -> str:
    """Return a text element at (x, y) of the CSS class `kind`."""
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape_html(text)}</text>'


def split_columns(count: int, left: float = 0, right: float = WIDE) -> tuple[list[float], float]:
    """Return the left edges of `count` columns, and the width of each, in units of the drawing."""
    pitch = (right - left) / max(1, count)
    gap = min(4.0, 0.25 * pitch)
    return [left + i * pitch for i in range(count)], pitch - gap


def thin_values(values: Sequence[float], most: int) -> list[float]:
    """Return at most `most` values; where there are more, they are means of neighbours."""
    if len(values) <= most:
        return list(values)
    edges = [round(i * len(values) / most) for i in range(most + 1)]
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


def layer_stack(layers: int, label: str) -> str:
    """Return the model as a row of layers between the words that go in and the word that comes out.

    The layers are pale if `layers` is 0, which means that their number is not known yet.
    """
    left, right = 84.0, WIDE - 84.0
    places, width = split_columns(min(layers or 16, MOST_COLUMNS), left, right)
    bars = "".join(svg_box(x, 40, width, 120, "k5" if layers else "k2") for x in places)
    ends = svg_words(36, 106, "… the") + svg_words(WIDE - 38, 106, "cat", "strong")
    arrows = "".join(f'<path class="arrow" d="M{x} 101h12m-5-5 5 5-5 5"/>' for x in (66, WIDE - 78))
    count = svg_words(WIDE / 2, 188, f"{layers} layers", "quiet") if layers else ""
    return svg_drawing(bars + ends + arrows + count, label)


def head_squares(rows: Sequence[Sequence[float] | None], label: str) -> str:
    """Return the scores of all heads: a column per layer, and in it a square per head.

    Each value is the head's share, 0 to 1, of its layer's best score. A row is None, and its squares stay
    empty, until the layer is scored.
    """
    tall = max((min(len(row), MOST_ROWS) for row in rows if row), default=MOST_ROWS)
    places, width = split_columns(len(rows))
    pitch = (HIGH - 24) / tall
    body = ""
    for x, row in zip(places, rows, strict=True):
        cells = [None] * tall if row is None else thin_values(row, MOST_ROWS)
        for i, value in enumerate(cells):
            body += svg_box(x, i * pitch, width, pitch - min(3.0, 0.25 * pitch), share_class(value))
    return svg_drawing(body + ends_of(len(rows)), label)


def share_class(value: float | None) -> str:
    """Return the CSS class of a share from 0 to 1; None stands for an unknown share."""
    return "k0" if value is None else f"k{1 + min(SHADES - 1, int(SHADES * max(0.0, value)))}"


def ends_of(count: int, y: float = HIGH - 6) -> str:
    """Return the labels of the first and the last of `count` layers, at height `y`."""
    return svg_words(0, y, "layer 0", "quiet", "start") + svg_words(
        WIDE - 4, y, f"layer {count - 1}", "quiet", "end"
    )


def kept_bars(kept: Kept, label: str) -> str:
    """Return a bar per layer: the part that is kept is full, and the removed part above it is striped."""
    places, width = split_columns(len(kept))
    tall = HIGH - 24
    body = ""
    for x, share in zip(places, kept, strict=True):
        cut = tall * (1 - min(max(share, 0.0), 1.0))
        body += svg_box(x, 0, width, cut, "gone") + svg_box(x, cut, width, tall - cut, "k5")
    return svg_drawing(body + ends_of(len(kept)), label)


def cut_columns(heads: Sequence[Sequence[bool]], channels: Kept, label: str) -> str:
    """Return a column per layer: its heads as squares, and below them a bar of its channels.

    `heads` says of every head of each layer whether it is kept; a removed head is crossed out.
    """
    tall = max((min(len(row), MOST_ROWS) for row in heads), default=1)
    places, width = split_columns(len(heads))
    split, end = 112.0, HIGH - 24.0
    pitch = split / tall
    body = ""
    for x, row, share in zip(places, heads, channels, strict=True):
        for i, kept in enumerate(thin_values([float(k) for k in row], MOST_ROWS)):
            body += cut_cell(x, i * pitch, width, pitch - min(3.0, 0.25 * pitch), kept >= 0.5)
        high = end - split - 8
        cut = high * (1 - share)
        body += svg_box(x, split + 8, width, cut, "gone") + svg_box(
            x, split + 8 + cut, width, high - cut, "k5"
        )
    return svg_drawing(body + ends_of(len(heads)), label)


def cut_cell(x: float, y: float, width: float, height: float, kept: bool) -> str:
    """Return the square of one head: full if it is kept, else crossed out."""
    if kept:
        return svg_box(x, y, width, height, "k5")
    right, low = f"{width - 4:.1f}", f"{height - 4:.1f}"
    cross = f"M{x + 2:.1f} {y + 2:.1f}l{right} {low}m0 -{low}l-{right} {low}"
    return svg_box(x, y, width, height, "hole") + f'<path class="cross" d="{cross}"/>'


def before_after_bars(rows: Sequence[tuple[str, float, float, str, str]], label: str) -> str:
    """Return pairs of bars, before and after; what was removed or added is striped.

    Each row is (title, before, after, before in words, after in words).
    """
    left, right = 72.0, WIDE - 128.0
    body = ""
    for i, (title, before, after, before_said, after_said) in enumerate(rows):
        top = 4 + i * HIGH / len(rows)
        unit = (right - left) / max(before, after, 1e-12)
        body += svg_words(0, top + 14, title, "strong", "start")
        for j, (name, value, said) in enumerate(
            (("before", before, before_said), ("now", after, after_said))
        ):
            y = top + 26 + 28 * j
            body += svg_words(0, y + 14, name, "quiet", "start")
            length, other = unit * value, unit * (before if j else value)
            full = min(length, other)
            body += svg_box(left, y, full, 20, "k5" if j else "k3")
            if j:
                body += svg_box(left + full, y, abs(other - length), 20, "gone" if length < other else "lost")
            body += svg_words(left + max(length, other) + 8, y + 15, said, "", "start")
    return svg_drawing(body, label)
