"""Sentences about the speeds of two models, limited to what their rounds show. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from slimllm.evaluation.significance import FEWEST, SURE, rank_test

# A smaller difference in speed is not noticeable, even if it is significant.
SMALL = 0.02


def compare_speeds(dense: Sequence[float], other: Sequence[float], verb: str) -> str:
    """Return a sentence about two models' tokens per second in alternating rounds.

    `verb` is "reads" or "writes".
    """
    if not dense or not other:
        return ""
    spans = f"{rounds_span(other)} against {rounds_span(dense)} tokens/s"
    if min(len(dense), len(other)) < FEWEST:
        return f"Too few rounds to tell a difference ({spans}); measure at least {FEWEST}."
    if rank_test(dense, other) > SURE:
        return f"No difference could be measured ({spans})."
    ratio = statistics.median(other) / statistics.median(dense)
    if abs(ratio - 1) < SMALL:
        return f"It {verb} about as fast ({spans})."
    if ratio < 1:
        return f"It {verb} {1 - ratio:.0%} more slowly ({spans}).".replace("%", " %")
    return f"It {verb} {ratio:.{1 if ratio > 1.2 else 2}f} times as fast ({spans})."


def rounds_span(rounds: Sequence[float]) -> str:
    """Return the slowest and the fastest round, such as "5.4–22.7"."""
    low, high = (f"{value:,.1f}" for value in (min(rounds), max(rounds)))
    return low if low == high else f"{low}–{high}"
