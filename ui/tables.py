"""The three-way table and its verdict, as HTML. Text out, no Gradio, no model."""

from __future__ import annotations

import math

from ui.runs import LABELS, NAMES, Column, Protocol
from ui.session import Comparison
from ui.words import change, count, figure, note, safe, share, size


def table_of(columns: dict[str, Column], protocol: Protocol, recovery: str) -> str:
    """Rows of figures, a column per model, each with its change against the dense one."""
    names = [name for name in NAMES if name != "recovered" or recovery != "none"]
    dense = columns.get("dense")
    rows = (
        ("Parameters", "", lambda c: c.parameters, count),
        ("Memory of the weights", "", lambda c: c.bytes, size),
        ("Perplexity", "how surprised it is by real text; lower is better", lambda c: c.perplexity, figure),
        ("Writing speed", "tokens per second, one text at a time", lambda c: c.tokens_per_second, speed),
        ("Error per layer, predicted", "mean over layers", lambda c: c.error_predicted, share),
        ("Error per layer, measured", "mean over layers", lambda c: c.error_measured, share),
    )
    head = "".join(f'<th scope="col">{LABELS[name]}</th>' for name in names)
    body = ""
    for title, hint, of, say in rows:
        cells = ""
        for name in names:
            column = columns.get(name)
            value = None if column is None else of(column)
            base = None if dense is None else of(dense)
            relative = change(value, base) if name != "dense" and value is not None and base else ""
            quiet = name == "dense" and title.startswith("Error")
            said = "–" if quiet else "…" if value is None else safe(say(value))
            cells += f"<td>{said}<small>{relative}</small></td>"
        body += f'<tr><th scope="row">{title}<small>{hint}</small></th>{cells}</tr>'
    measured = next((c.tokens for c in columns.values() if c.tokens), 0)
    how = f"{measured:,} tokens of " if measured else ""
    foot = (
        f"Perplexity over {how}{safe(protocol.text)}, evaluation part, in windows of {protocol.window:,} "
        "tokens that do not overlap. Percentages are changes against the dense model. "
        f"Recovery: {safe(recovery)}."
    )
    return (
        f'<div class="wide"><table class="figures"><thead><tr><th scope="col">What</th>{head}</tr></thead>'
        f'<tbody>{body}</tbody></table></div><p class="foot">{foot}</p>'
    )


def speed(number: float) -> str:
    return f"{figure(number, 1)} tokens/s"


def verdict(comparison: Comparison) -> str:
    """What the figures mean, in plain words."""
    dense, pruned = comparison.columns.get("dense"), comparison.columns.get("pruned")
    best = comparison.columns.get("recovered") or pruned
    if dense is None or best is None or not dense.perplexity or best.perplexity is None:
        return ""
    smaller = 1 - best.parameters / dense.parameters
    worse = best.perplexity / dense.perplexity
    if smaller <= 0:
        return note("good", "Nothing was removed, so nothing changed.")
    if worse < 1.1:
        kind, judgement = "good", "It reads almost as well as before."
    elif worse < 1.5:
        kind, judgement = "good", "It reads noticeably worse, but still well."
    elif worse < 4:
        kind, judgement = (
            "info",
            "It lost much of its fluency; a smaller cut or another recovery may serve better.",
        )
    else:
        kind, judgement = "bad", "It is badly damaged: cut less, or spread the cut differently."
    said = f"The model became {share(smaller)} smaller and is {figure(worse)} times as perplexed. {judgement}"
    if pruned is not None and best is not pruned and pruned.perplexity and math.isfinite(pruned.perplexity):
        if best.perplexity < pruned.perplexity:
            way = f"from {figure(pruned.perplexity)} to {figure(best.perplexity)}"
            said += f" Recovery brought perplexity down {way}."
        else:
            said += " Recovery did not help this time."
    return note(kind, said)
