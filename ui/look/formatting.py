"""Numbers and states in plain words, always with their unit. Text in, text out: no Gradio, no model."""

from __future__ import annotations

import html
import math

from slimllm.core.types import Plan
from slimllm.methods.method_table import METHODS
from ui.session.jobs import Job


def count(number: float) -> str:
    """A count that is easy to read: 134.5 million."""
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if abs(number) >= size:
            return f"{number / size:.{2 if size == 1e9 else 1}f} {name}"
    return f"{number:,.0f}"


def size(number: float) -> str:
    """Bytes as kB, MB or GB."""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(number) >= unit:
            return f"{number / unit:.{2 if unit == 1e9 else 1}f} {name}"
    return f"{number:.0f} B"


def duration(seconds: float) -> str:
    """Seconds as 8 s, 1 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def share(ratio: float, digits: int = 1) -> str:
    least = 10.0**-digits
    if 0 < 100 * ratio < least / 2:
        return f"under {least:g} %"
    return f"{100 * ratio:.{digits}f} %"


def figure(number: float, digits: int = 2) -> str:
    """A measured number; very large or impossible ones say so."""
    if math.isnan(number):
        return "–"
    if math.isinf(number) or number >= 1e6:
        return "over 1,000,000"
    return f"{number:,.{digits if number < 1000 else 0}f}"


def change(after: float, before: float) -> str:
    """The change relative to before, signed: −20.0 %."""
    if not before or not math.isfinite(after) or not math.isfinite(before):
        return ""
    ratio = after / before - 1
    if abs(ratio) >= 9.995:
        return f"×{after / before:,.0f}"
    return f"{'+' if ratio > 0 else '−' if ratio < 0 else '±'}{abs(100 * ratio):.1f} %"


def unit_words(unit: str) -> str:
    """What attention loses, in the plural."""
    return "value columns" if unit == "value-column" else "heads"


def dropped(plan: Plan, index: int) -> bool:
    """Whether the plan takes this layer out whole."""
    return not plan.heads[index] and not plan.channels[index]


def same_width(plan: Plan) -> bool:
    """Whether a plan gives all layers the same widths, and not their own."""
    return plan.ratio_requested > 0 and len(set(zip(plan.heads, plan.channels, strict=True))) == 1


def dropped_layers(plan: Plan) -> str:
    """The layers that the plan takes out whole, as a sentence; empty where there are none."""
    gone = [i for i in range(len(plan.heads)) if dropped(plan, i)]
    if not gone:
        return ""
    if len(gone) == 1:
        return f"Layer {gone[0]} is dropped whole."
    return f"Layers {', '.join(map(str, gone[:-1]))} and {gone[-1]} are dropped whole."


def method_title(name: str) -> str:
    """What a method is called on the page."""
    return METHODS[name].title if name in METHODS else name


def safe(text: object) -> str:
    """Text made harmless for HTML."""
    return html.escape(str(text), quote=True)


def progress_line(job: Job | None, place: int, *, named: bool = False) -> str:
    """What a job is doing, as HTML: a bar, the step, the elapsed and the remaining time; `named` says which
    job it is, where it stands among other things."""
    if job is None:
        return ""
    if job.state == "queued":
        if not place:
            return strip("run", f"{job.title}: starting.", "", None)
        ahead = "1 job is" if place == 1 else f"{place} jobs are"
        return strip("wait", f"{job.title}: waiting, {ahead} before yours.", "", None)
    if job.state == "failed":
        return strip("bad", job.error, "", None)
    if job.state == "stopped":
        return strip("off", f"{job.title}: stopped after {duration(job.elapsed)}; {job.leaves}.", "", None)
    if job.state == "done":
        return strip("good", f"{job.title}: done in {duration(job.elapsed)}.", "", 1.0)
    step = job.progress
    if step is None:
        return strip("run", f"{job.title}: starting.", duration(job.elapsed), None)
    if job.stopping.is_set():
        return strip("run", f"{job.title}: stopping after this step.", duration(job.elapsed), None)
    times = f"{duration(job.elapsed)} so far"
    if job.remaining is not None and step.done < step.total:
        times += f", about {duration(job.remaining)} left in this step"
    said = f"{job.title} is going on. {step.words}" if named else step.words
    return strip("run", said, times, step.done / step.total if step.total else None)


def strip(kind: str, words: str, times: str, fraction: float | None) -> str:
    """One line of state with a bar under it; without a fraction the bar only moves."""
    width = f"{100 * fraction:.1f}%" if fraction is not None else "100%"
    moving = " moving" if kind == "run" and fraction is None else ""
    now = f' aria-valuenow="{100 * fraction:.0f}"' if fraction is not None else ""
    return (
        f'<div class="job {kind}"><div class="job-words" role="status"><span>{safe(words)}</span>'
        f'<span class="job-times">{safe(times)}</span></div>'
        f'<div class="job-bar{moving}" role="progressbar" aria-label="Progress" aria-valuemin="0" '
        f'aria-valuemax="100"{now}><div style="width:{width}"></div></div></div>'
    )


def note(kind: str, words: str) -> str:
    """A sentence in a quiet box: kind is info, good, bad or old."""
    return f'<p class="note {kind}">{safe(words)}</p>' if words else ""
