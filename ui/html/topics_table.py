"""Write the perplexity of every topic as a table with bars. Text out, no Gradio."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ui.facts.findings import Findings, Found
from ui.facts.runs import LABELS, Protocol, best_name
from ui.html.tables import windows_of
from ui.look.formatting import escape_html, format_change, format_figure, note_html


def topics_html(findings: Findings | Found) -> str:
    """Return a summary and a row per topic with figures and bars, the hardest hit on top, as HTML.

    A note says which topics could not be measured.
    """
    left_out = short_html(findings)
    if not findings.topics:
        return left_out
    rows = rank_topics(findings.topics)
    names = [name for name in LABELS if any(name in found for _, found in rows)]
    pruned = [name for name in names if name != "dense"]
    longest = max((abs(log_change(found, name)) for _, found in rows for name in pruned), default=0.0) or 1.0
    head = "".join(f'<th scope="col">{LABELS[name]}</th>' for name in names)
    body = ""
    for topic, found in rows:
        cells = "".join(f"<td>{format_figure(found[name]) if name in found else '…'}</td>" for name in names)
        bars = "".join(bar_html(found, name, longest) for name in pruned)
        body += f'<tr><th scope="row">{escape_html(topic)}</th>{cells}<td class="bars">{bars}</td></tr>'
    keys = [(name, LABELS[name]) for name in pruned] + [("easier", "became easier")]
    legend = "".join(f'<li><span class="fill {kind}"></span> {words}</li>' for kind, words in keys)
    legend = f'<ul class="tk-legend" aria-label="Bars">{legend}</ul>'
    windows = escape_html(windows_of(Protocol(window=findings.window, begins_with=findings.begins_with)))
    tokens = sorted(findings.counts.values())
    span = f"{tokens[0]:,}" if tokens[0] == tokens[-1] else f"{tokens[0]:,} to {tokens[-1]:,}"
    return (
        f'<p class="tk-words">{escape_html(topics_summary(rows, findings.spreads))}</p>'
        f'<div class="wide"><table class="figures topics" style="--columns: {len(names)}"><thead><tr>'
        f'<th scope="col">Topic</th>{head}<th scope="col" class="bars">Change against dense</th></tr></thead>'
        f'<tbody>{body}</tbody></table></div>{legend}{left_out}<p class="foot">Perplexity, lower is better, '
        f"over {span} tokens of each topic's evaluation part in {windows}. The length of a bar goes by the "
        "logarithm of the change.</p>"
    )


def short_html(findings: Findings | Found) -> str:
    """Return a note on the topics that were too short to measure, and what helps.

    The result is empty where there are none.
    """
    if not findings.too_short:
        return ""
    named = ", ".join(f"{topic} ({count:,} tokens)" for topic, count in findings.too_short.items())
    return note_html(
        "info",
        f"Not measured, because shorter than one window of {findings.window:,} tokens: {named}. Measure the "
        "comparison with a smaller window, then the topics again.",
    )


def rank_topics(topics: Topics) -> list[tuple[str, Mapping[str, float]]]:
    """Return the topics by how much the best pruned model changed on them, the hardest hit first."""
    return sorted(topics.items(), key=lambda pair: -log_change(pair[1], best_name(pair[1])))


def log_change(found: Mapping[str, float], name: str) -> float:
    """Return the logarithm of a perplexity divided by the dense one, clamped to ±20.

    The result is 0 while either is unknown.
    """
    mine, dense = found.get(name), found.get("dense")
    if not mine or not dense or math.isnan(mine):
        return 0.0
    return max(-20.0, min(20.0, math.log(mine / dense))) if math.isfinite(mine) else 20.0


def bar_html(found: Mapping[str, float], name: str, longest: float) -> str:
    """Return a bar with its change in words; it is hollow where a topic became easier.

    `longest` is the log change that fills the whole track.
    """
    if name not in found:
        return ""
    long = log_change(found, name)
    kind = f"{name} easier" if long < 0 else name
    said = format_change(found[name], found["dense"]) or "beyond measure"
    return (
        f'<div class="bar-line"><span class="track"><span class="fill {kind}" '
        f'style="width:{100 * abs(long) / longest:.1f}%"></span></span><span>{escape_html(said)}</span></div>'
    )


def topics_summary(rows: list[tuple[str, Mapping[str, float]]], spreads: Topics) -> str:
    """Return which topic suffered most and which least, where they differ by more than chance explains."""
    known = [(topic, found) for topic, found in rows if best_name(found) in found and "dense" in found]
    if len(known) < 2:
        return ""
    (worst, most), (mildest, least) = known[0], known[-1]
    name = best_name(most)
    said = [
        format_change(found[best_name(found)], found["dense"]) or "beyond measure" for found in (most, least)
    ]
    errors = [spreads.get(topic, {}).get(name) for topic in (worst, mildest)]
    distance = log_change(most, name) - log_change(least, best_name(least))
    if None in errors or not distance > APART * math.hypot(*(e for e in errors if e is not None)):
        return (
            f"{LABELS[name]}: on this much text no topic stands out by more than chance; changes reach from "
            f"{said[1]} to {said[0]} perplexity."
        )
    return f"{LABELS[name]}: hardest hit is {worst} ({said[0]} perplexity), least {mildest} ({said[1]})."


# Among a dozen topics, chance alone does not put the extremes this many standard errors apart.
APART = 3


Topics = Mapping[str, Mapping[str, float]]
