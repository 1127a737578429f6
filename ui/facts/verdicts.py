"""Say in plain words what the figures of a comparison mean, and suggest the next step. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from slimllm.core.types import Plan
from slimllm.evaluation.significance import losses_differ
from slimllm.evaluation.speed_words import compare_speeds
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import METHODS, find_method
from slimllm.planning.rules import TOKENS_PER_CHANNEL, combination_hindrance
from ui.facts.runs import Column, best_name
from ui.look.formatting import format_bytes, format_figure, format_share

Columns = Mapping[str, Column]
Pairs = Sequence[tuple[float, float]]  # (predicted, measured) relative error of every layer

# A smaller relative change of perplexity does not count.
SLIGHT = 0.02
# Perplexity of a model that knows nothing.
BROKEN = 1e6
# A measured error within this factor of the prediction counts as predicted.
STEADY = 1.25
ALTERNATIVE = "best"


@dataclass(frozen=True)
class Grade:
    """How well a model still reads: the kind of the note, a word or two, and a sentence."""

    kind: Literal["good", "info", "bad"]
    short: str
    words: str


ALMOST = Grade("good", "almost as well as before", "It reads almost as well as before.")
STILL = Grade("info", "noticeably worse", "It reads noticeably worse, but still well.")
DULLED = Grade("bad", "much worse", "It lost much of its fluency.")
DAMAGED = Grade("bad", "badly damaged", "It is badly damaged: what it writes will often make no sense.")
RUINED = Grade("bad", "ruined", "This cut ruined the model: it no longer knows what comes next.")


def grade_of(worse: float) -> Grade:
    """Return the grade of a model whose perplexity is `worse` times the dense one's; NaN counts as ruined."""
    for limit, found in ((1.1, ALMOST), (1.5, STILL), (4, DULLED), (20, DAMAGED)):
        if worse < limit:
            return found
    return RUINED


def best_of(columns: Columns) -> Column | None:
    """Return the column that represents a run: the best model that it has."""
    return columns.get(best_name(columns))


def perplexity_ratio(columns: Columns) -> float | None:
    """Return the perplexity of the best column divided by the dense one's; None before both are measured."""
    dense, best = columns.get("dense"), best_of(columns)
    if dense is None or best is None or not dense.perplexity or best.perplexity is None:
        return None
    return best.perplexity / dense.perplexity


def verdict_sentences(columns: Columns, plan: Plan) -> tuple[str, str]:
    """Return (kind, words): the verdict on a whole comparison; the words are empty before there is one."""
    worse, dense, best = perplexity_ratio(columns), columns.get("dense"), best_of(columns)
    if worse is None or dense is None or best is None:
        return "info", ""
    smaller = 1 - best.parameters / dense.parameters
    if smaller <= 0:
        return "good", "Nothing was removed, so nothing changed."
    if (dense.perplexity or 0.0) >= BROKEN:
        return "bad", (
            "The dense model cannot read this text at all: its perplexity is over 1,000,000. It is broken "
            "already, so what pruning cost it cannot be told."
        )
    found = grade_of(worse)
    times = f"{format_figure(worse)} times" if math.isfinite(worse) else "beyond measure"
    said = (
        f"{found.words} The model became {format_share(smaller)} smaller and is {times} as perplexed by "
        "real text."
    )
    effect = recovery_effect(columns)
    if effect is None:
        return found.kind, said
    healer = "Fine-tuning" if "tuned" in columns else "Recovery"
    without, after = (format_figure(c.perplexity or 0.0) for c in (columns["pruned"], best))
    if effect == "better":
        return found.kind, f"{said} {healer} brought perplexity down from {without} to {after}."
    if effect == "same":
        return found.kind, f"{said} {healer} changed little: perplexity {after}, and {without} without it."
    said += f" {healer} made the model worse: perplexity {after}, and {without} without it."
    if healer == "Recovery" and too_little_text(plan):
        said += f" It had too little text: {tokens_per_channel(plan):.1f} tokens per channel."
    return "bad", said


def recovery_effect(columns: Columns) -> Literal["better", "same", "worse"] | None:
    """Return what recovery, or fine-tuning, did to the pruned model, or None where that is not known.

    "same" stands for a change that is slight, or that chance explains on this text. The result is None where
    the perplexities were not measured, or where both are BROKEN or more.
    """
    pruned, best = columns.get("pruned"), best_of(columns)
    if pruned is None or best is None or best is pruned:
        return None
    if not pruned.perplexity or best.perplexity is None or min(best.perplexity, pruned.perplexity) >= BROKEN:
        return None
    if losses_differ(pruned.losses, best.losses) is False:
        return "same"
    moved = best.perplexity / pruned.perplexity - 1
    if abs(moved) < SLIGHT:
        return "same"
    return "worse" if not moved < 0 else "better"


def too_little_text(plan: Plan) -> bool:
    """Return whether the plan's recovery fits more numbers than its calibration text supports."""
    return RECOVERIES[plan.recovery].fits and tokens_per_channel(plan) < TOKENS_PER_CHANNEL


def tokens_per_channel(plan: Plan) -> float:
    """Return the calibration tokens per channel of the widest layer."""
    read = plan.calibration
    return read.samples * read.length / max(width[2] for width in plan.widths)


# One row of the table ---------------------------------------------------------------------------------------


def on_parameters(columns: Columns) -> str:
    """Return what the change in parameters means."""
    dense, best = columns.get("dense"), best_of(columns)
    if dense is None or best is None:
        return ""
    smaller = 1 - best.parameters / dense.parameters
    if smaller <= 0:
        return "Nothing was removed."
    if smaller < 0.02:
        return "Hardly any weights are gone."
    if smaller > 0.4:
        return f"{format_share(smaller, 0)} of all weights are gone."
    return f"About 1 in {round(1 / smaller)} of all weights is gone."


def on_memory(columns: Columns) -> str:
    """Return how much less memory the best model needs."""
    dense, best = columns.get("dense"), best_of(columns)
    if dense is None or best is None or best.bytes >= dense.bytes:
        return ""
    return f"It needs {format_bytes(dense.bytes - best.bytes)} less."


def on_perplexity(columns: Columns) -> str:
    """Return a short grade of every pruned model that has a perplexity."""
    dense = columns.get("dense")
    if dense is None or not dense.perplexity:
        return ""
    grades = {
        name: grade_of(column.perplexity / dense.perplexity).short
        for name, column in columns.items()
        if name != "dense" and column.perplexity is not None
    }
    if len(grades) == 1:
        return f"{sentence_case(next(iter(grades.values())))}."
    parts = [f"{who}: {grades[name]}." for name, who in WHO.items() if name in grades]
    return " ".join(parts)


WHO = {"pruned": "Pruned alone", "recovered": "With recovery", "tuned": "Fine-tuned"}


def on_writing(columns: Columns) -> str:
    """Return how the writing speeds of the dense and the best model compare."""
    dense, best = columns.get("dense"), best_of(columns)
    if dense is None or best is None:
        return ""
    return compare_speeds(dense.writing_rounds, best.writing_rounds, "writes")


def say_nothing(_: Columns) -> str:
    """Return an empty string, for a row that needs no words."""
    return ""


def on_errors(columns: Columns) -> str:
    """Return how the measured error compares with the predicted one."""
    best = best_of(columns)
    if best is None or best.error_measured is None or best.error_predicted is None:
        return ""
    if not best.held_out:
        return LEARNED
    return f"{sentence_case(compare_error(best.error_predicted, best.error_measured))}."


HELD_OUT = "All errors are told on part of the text, which was held out when the repair was fitted."
LEARNED = "An earlier version took these errors on the text that was learned, so they may be far too low."


def compare_error(predicted: float, measured: float) -> str:
    """Return how a measured error compares with its prediction, in words."""
    if not math.isfinite(predicted) or not math.isfinite(measured) or predicted <= 0:
        return "there was no prediction to hold it against"
    ratio = measured / predicted
    if ratio > STEADY:
        return f"{ratio:.1f} times the prediction"
    return "as predicted" if ratio > 1 / STEADY else "less than predicted"


def on_layers(errors: Pairs, held_out: bool = True) -> str:
    """Return what the chart of predicted and measured errors shows, in a few sentences."""
    known = [(i, p, m) for i, (p, m) in enumerate(errors) if math.isfinite(m)]
    if not known or max(m for _, _, m in known) <= 0:
        return ""
    layer, predicted, measured = max(known, key=lambda row: row[2])
    foreseen = f"; {format_share(predicted)} was predicted" if math.isfinite(predicted) else ""
    told = [(p, m) for _, p, m in known if math.isfinite(p) and max(p, m) > 1e-4]
    said = f"{HELD_OUT if held_out else LEARNED} Layer {layer} lost most: {format_share(measured)}{foreseen}."
    if not held_out:
        return said
    close = sum(p / STEADY <= m <= p * STEADY for p, m in told)
    if told and close == len(told):
        said += " Every layer came out about as predicted."
    elif told:
        said += (
            f" {close} of {len(told)} cut layers came out about as predicted. The prediction knows only the "
            "dense model; the measurement is taken in the pruned one, where every layer reads what the cuts "
            "before it changed."
        )
    return said


def sentence_case(words: str) -> str:
    """Return the words with a capital first letter."""
    return words[:1].upper() + words[1:]


# What next --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NextStep:
    """What a button offers after a run: another ratio, recovery or method, or more calibration samples.

    A field that is None stays as it is in the plan.
    """

    label: str
    ratio: float | None = None
    recovery: str | None = None
    method: str | None = None
    samples: int | None = None


def next_steps(plan: Plan, worse: float, harmed: bool = False) -> tuple[NextStep, ...]:
    """Return what to try next, the most promising first.

    This is another recovery or more text where recovery `harmed` the model; recovery, a smaller cut or
    another method after a bad run; and a bolder cut after a good one. `worse` is the perplexity divided by
    the dense one's.
    """
    if harmed:
        return (*without_harm(plan), *next_steps(plan, max(worse, 1.1)))
    if worse < 1.1:
        bolder = round(min(1.5 * plan.ratio_achieved, plan.ratio_achieved + 0.15) * 20) / 20
        if plan.ratio_achieved < bolder <= 0.7:
            return (NextStep(f"Try a bolder cut: {format_share(bolder, 0)}", ratio=bolder),)
        return ()
    found = []
    if plan.recovery == "none":
        row = find_method(plan.method)
        wish = next(
            (r for r in (row.recovery, "least-squares") if r != "none" and recovery_fits(plan, r)), None
        )
        if wish is not None:
            found.append(NextStep("Try it with recovery", recovery=wish))
    if worse < 1.5:
        return tuple(found)
    gentler = gentler_ratio(plan.ratio_achieved)
    if gentler is not None:
        found.append(NextStep(f"Try a smaller cut: {format_share(gentler, 0)}", ratio=gentler))
    if plan.method != ALTERNATIVE and ALTERNATIVE in METHODS:
        title = METHODS[ALTERNATIVE].title
        found.append(NextStep(f"Try another method: {title}", method=ALTERNATIVE))
    return tuple(found)


def without_harm(plan: Plan) -> tuple[NextStep, ...]:
    """Return what to try where recovery made the model worse."""
    other = next((r for r in ("regression", "none") if r != plan.recovery and recovery_fits(plan, r)), None)
    found = []
    if other is not None:
        label = "Prune without recovery" if other == "none" else f"Use {RECOVERIES[other].title.lower()}"
        found.append(NextStep(label, recovery=other))
    if too_little_text(plan):
        wanted = TOKENS_PER_CHANNEL * max(width[2] for width in plan.widths)
        samples = -(-wanted // plan.calibration.length)
        found.append(NextStep(f"Read more text: {wanted:,} tokens", samples=samples))
    return tuple(found)


def gentler_ratio(ratio: float) -> float | None:
    """Return about half the ratio as a round number, or None where that would not be smaller."""
    half = ratio / 2
    found = round(half * 20) / 20 if half >= 0.05 else round(half, 2)
    return found if 0 < found < ratio else None


def recovery_fits(plan: Plan, recovery: str) -> bool:
    """Return whether this recovery combines with the plan's method (and the method's own allocation)."""
    row = find_method(plan.method)
    return not combination_hindrance(plan.method, recovery, row.allocation)
