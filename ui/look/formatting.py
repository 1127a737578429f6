"""Numbers and states in plain words, always with their unit. Text in, text out: no Gradio, no model."""

from __future__ import annotations

import html
import math
from datetime import datetime

from slimllm.core.types import Plan
from slimllm.methods.table import METHODS


def format_count(number: float) -> str:
    """A count that is easy to read: 134.5 million."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if abs(number) >= size:
            return f"{number / size:.{2 if size == 1e9 else 1}f} {name}"
    return f"{number:,.0f}"


def format_bytes(number: float) -> str:
    """Bytes as kB, MB or GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(number) >= unit:
            return f"{number / unit:.{2 if unit == 1e9 else 1}f} {name}"
    return f"{number:.0f} B"


def format_duration(seconds: float) -> str:
    """Seconds as 8 s, 1 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_share(ratio: float, digits: int = 1) -> str:
    least = 10.0**-digits
    if 0 < 100 * ratio < least / 2:
        return f"under {least:g} %"
    return f"{100 * ratio:.{digits}f} %"


def format_figure(number: float, digits: int = 2) -> str:
    """A measured number; very large or impossible ones say so."""
    if math.isnan(number):
        return "–"
    if math.isinf(number) or number >= 1e6:
        return "over 1,000,000"
    return f"{number:,.{digits if number < 1000 else 0}f}"


def format_change(after: float, before: float) -> str:
    """The change relative to before, signed: −20.0 %."""
    if not before or not math.isfinite(after) or not math.isfinite(before):
        return ""
    ratio = after / before - 1
    if abs(ratio) >= 9.995:
        return f"×{after / before:,.0f}"
    return f"{'+' if ratio > 0 else '−' if ratio < 0 else '±'}{abs(100 * ratio):.1f} %"


def is_dropped(plan: Plan, index: int) -> bool:
    """Whether the plan takes this layer out whole."""
    return not plan.heads[index] and not plan.channels[index]


def dropped_layers(plan: Plan) -> str:
    """The layers that the plan takes out whole, as a sentence; empty where there are none."""
    gone = [i for i in range(len(plan.heads)) if is_dropped(plan, i)]
    if not gone:
        return ""
    if len(gone) == 1:
        return f"Layer {gone[0]} is dropped whole."
    return f"Layers {', '.join(map(str, gone[:-1]))} and {gone[-1]} are dropped whole."


def method_title(name: str) -> str:
    """What a method is called on the page."""
    return METHODS[name].title if name in METHODS else name


def escape_html(text: object) -> str:
    """Text made harmless for HTML."""
    return html.escape(str(text), quote=True)


def note_html(kind: str, words: str) -> str:
    """A sentence in a quiet box: kind is info, good, bad or old."""
    return f'<p class="note {kind}">{escape_html(words)}</p>' if words else ""


def format_time(made: str) -> str:
    """A time as 26 Nov, 14:05; the year where it is another one."""
    try:
        time = datetime.fromisoformat(made)
    except ValueError:
        return made[:16]
    year = f" {time.year}" if time.year != datetime.now().year else ""
    return f"{time.day} {time:%b}{year}, {time:%H:%M}"
