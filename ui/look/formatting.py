"""Write numbers and states in plain words, always with their unit. Text in, text out: no Gradio, no model."""

from __future__ import annotations

import html
import math
from datetime import datetime

from slimllm.core.types import Plan
from slimllm.methods.table import METHODS


def format_count(number: float) -> str:
    """Return a count that is easy to read: 134.5 million."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if abs(number) >= size:
            return f"{number / size:.{2 if size == 1e9 else 1}f} {name}"
    return f"{number:,.0f}"


def format_bytes(number: float) -> str:
    """Return a number of bytes as kB, MB or GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(number) >= unit:
            return f"{number / unit:.{2 if unit == 1e9 else 1}f} {name}"
    return f"{number:.0f} B"


def format_duration(seconds: float) -> str:
    """Return a number of seconds as 8 s, 1 min 20 s or 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_share(ratio: float, digits: int = 1) -> str:
    """Return a share as per cent; a share that would round to zero becomes “under” the least one."""
    least = 10.0**-digits
    if 0 < 100 * ratio < least / 2:
        return f"under {least:g} %"
    return f"{100 * ratio:.{digits}f} %"


def format_figure(number: float, digits: int = 2) -> str:
    """Return a measured number; NaN becomes a dash, and a very large number “over 1,000,000”."""
    if math.isnan(number):
        return "–"
    if math.isinf(number) or number >= 1e6:
        return "over 1,000,000"
    return f"{number:,.{digits if number < 1000 else 0}f}"


def format_change(after: float, before: float) -> str:
    """Return the relative change with its sign, −20.0 %, or as a factor, ×12, where it is large.

    The result is empty where the change cannot be computed.
    """
    if not before or not math.isfinite(after) or not math.isfinite(before):
        return ""
    ratio = after / before - 1
    if abs(ratio) >= 9.995:
        return f"×{after / before:,.0f}"
    return f"{'+' if ratio > 0 else '−' if ratio < 0 else '±'}{abs(100 * ratio):.1f} %"


def is_dropped(plan: Plan, index: int) -> bool:
    """Return whether the plan drops this layer whole."""
    return not plan.heads[index] and not plan.channels[index]


def dropped_layers(plan: Plan) -> str:
    """Return a sentence on the layers that the plan drops whole, or an empty string."""
    gone = [i for i in range(len(plan.heads)) if is_dropped(plan, i)]
    if not gone:
        return ""
    if len(gone) == 1:
        return f"Layer {gone[0]} is dropped whole."
    return f"Layers {', '.join(map(str, gone[:-1]))} and {gone[-1]} are dropped whole."


def method_title(name: str) -> str:
    """Return the name of a method as the page shows it."""
    return METHODS[name].title if name in METHODS else name


def escape_html(text: object) -> str:
    """Return the text escaped for HTML."""
    return html.escape(str(text), quote=True)


def note_html(kind: str, words: str) -> str:
    """Return a sentence in a box, or an empty string without words; `kind` is info, good, bad or old."""
    return f'<p class="note {kind}">{escape_html(words)}</p>' if words else ""


def format_time(made: str) -> str:
    """Return an ISO time as 26 Nov, 14:05, with the year where it is not the present one.

    The first 16 letters of a text that is no time are returned as they are.
    """
    try:
        time = datetime.fromisoformat(made)
    except ValueError:
        return made[:16]
    year = f" {time.year}" if time.year != datetime.now().year else ""
    return f"{time.day} {time:%b}{year}, {time:%H:%M}"
