"""What the figures of a comparison mean in plain words, and the next sensible step. Pure: figures in,
sentences out."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from slimllm.methods import METHODS, method
from slimllm.planning import hindrance
from slimllm.types import Plan
from ui.runs import Column, best_name
from ui.words import figure, share, size

Columns = Mapping[str, Column]
Pairs = Sequence[tuple[float, float]]  # (predicted, measured) relative error of every layer

NOISE = 0.07  # speeds closer than this cannot be told apart on a machine that also does other things
STEADY = 1.25  # a measured error within this factor of the prediction is called as predicted
ALTERNATIVE = "best"


@dataclass(frozen=True)
class Grade:
    """How well a model still reads: `kind` of the note, in a word or two, and as a sentence."""

    kind: Literal["good", "info", "bad"]
    short: str
    words: str


ALMOST = Grade("good", "almost as well as before", "It reads almost as well as before.")
STILL = Grade("good", "noticeably worse", "It reads noticeably worse, but still well.")
DULLED = Grade("info", "much worse", "It lost much of its fluency.")
DAMAGED = Grade("bad", "badly damaged", "It is badly damaged: what it writes will often make no sense.")
RUINED = Grade("bad", "ruined", "This cut ruined the model: it no longer knows what comes next.")


def grade(worse: float) -> Grade:
    """The grade for perplexity `worse` times that of the dense model; not a number counts as ruined."""
    for limit, found in ((1.1, ALMOST), (1.5, STILL), (4, DULLED), (20, DAMAGED)):
        if worse < limit:
            return found
    return RUINED


def best_of(columns: Columns) -> Column | None:
    """The column that a run stands for."""
    return columns.get(best_name(columns))


def worsening(columns: Columns) -> float | None:
    """Perplexity of the best column over that of the dense model; None before both are measured."""
    dense, best = columns.get("dense"), best_of(columns)
    if dense is None or best is None or not dense.perplexity or best.perplexity is None:
        return None
    return best.perplexity / dense.perplexity


def sentences(columns: Columns) -> tuple[str, str]:
    """(kind, words): the verdict on a whole comparison; empty words before there is one."""
    worse, dense, best = worsening(columns), columns.get("dense"), best_of(columns)
    if worse is None or dense is None or best is None:
        return "info", ""
    smaller = 1 - best.parameters / dense.parameters
    if smaller <= 0:
        return "good", "Nothing was removed, so nothing changed."
    found, pruned = grade(worse), columns.get("pruned")
    times = f"{figure(worse)} times" if math.isfinite(worse) else "beyond measure"
    said = (
        f"{found.words} The model became {share(smaller)} smaller and is {times} as perplexed by real text."
    )
    if pruned is not None and best is not pruned and pruned.perplexity and best.perplexity is not None:
        healer = "Fine-tuning" if "tuned" in columns else "Recovery"
        if best.perplexity < pruned.perplexity:
            said += (
                f" {healer} brought perplexity down from {figure(pruned.perplexity)} to "
                f"{figure(best.perplexity)}."
            )
        else:
            said += f" {healer} did not help this time."
    return found.kind, said


# One row of the table ---------------------------------------------------------------------------------------


def on_parameters(columns: Columns) -> str:
    dense, best = columns.get("dense"), best_of(columns)
    if dense is None or best is None:
        return ""
    smaller = 1 - best.parameters / dense.parameters
    if smaller <= 0:
        return "Nothing was removed."
    if smaller < 0.02:
        return "Hardly any weights are gone."
    if smaller > 0.4:
        return f"{share(smaller, 0)} of all weights are gone."
    return f"About 1 in {round(1 / smaller)} of all weights is gone."


def on_memory(columns: Columns) -> str:
    dense, best = columns.get("dense"), best_of(columns)
    if dense is None or best is None or best.bytes >= dense.bytes:
        return ""
    return f"It needs {size(dense.bytes - best.bytes)} less."


def on_perplexity(columns: Columns) -> str:
    """A short grade for every pruned column that has a perplexity."""
    dense = columns.get("dense")
    if dense is None or not dense.perplexity:
        return ""
    grades = {
        name: grade(column.perplexity / dense.perplexity).short
        for name, column in columns.items()
        if name != "dense" and column.perplexity is not None
    }
    if len(grades) == 1:
        return f"{sentence_case(next(iter(grades.values())))}."
    parts = [f"{who}: {grades[name]}." for name, who in WHO.items() if name in grades]
    return " ".join(parts)


WHO = {"pruned": "Pruned alone", "recovered": "With recovery", "tuned": "Fine-tuned"}


def on_writing(columns: Columns) -> str:
    dense, best = columns.get("dense"), best_of(columns)
    if dense is None or best is None or not dense.tokens_per_second or not best.tokens_per_second:
        return ""
    return pace(best.tokens_per_second / dense.tokens_per_second, "writes")


def pace(ratio: float, verb: str) -> str:
    """What a ratio of speeds means; `verb` is reads or writes."""
    if ratio > 1 + NOISE:
        return f"It {verb} {ratio:.1f} times as fast."
    if ratio < 1 / (1 + NOISE):
        return f"It {verb} more slowly: narrow layers can fit a processor less well."
    return f"It {verb} about as fast as before."


def silent(_: Columns) -> str:
    """Nothing: a row that speaks for itself."""
    return ""


def on_errors(columns: Columns) -> str:
    best = best_of(columns)
    if best is None or best.error_measured is None or best.error_predicted is None:
        return ""
    return f"{sentence_case(against(best.error_predicted, best.error_measured))}."


def against(predicted: float, measured: float) -> str:
    """A measured error beside its prediction, in words."""
    if not math.isfinite(predicted) or not math.isfinite(measured) or predicted <= 0:
        return "there was no prediction to hold it against"
    ratio = measured / predicted
    if ratio > STEADY:
        return f"{ratio:.1f} times the prediction"
    return "as predicted" if ratio > 1 / STEADY else "less than predicted"


def on_layers(errors: Pairs) -> str:
    """The picture of predicted and measured errors as a sentence or two."""
    known = [(i, p, m) for i, (p, m) in enumerate(errors) if math.isfinite(m)]
    if not known or max(m for _, _, m in known) <= 0:
        return ""
    layer, predicted, measured = max(known, key=lambda row: row[2])
    foreseen = f"; {share(predicted)} was predicted" if math.isfinite(predicted) else ""
    told = [(p, m) for _, p, m in known if math.isfinite(p) and max(p, m) > 1e-4]
    said = f"Layer {layer} lost most: {share(measured)} of what it says{foreseen}."
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
    return words[:1].upper() + words[1:]


# What next --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NextStep:
    """What a button offers after a run: another ratio or recovery to prune with, or another method."""

    label: str
    ratio: float | None = None
    recovery: str | None = None
    method: str | None = None


def next_steps(plan: Plan, worse: float) -> tuple[NextStep, ...]:
    """What to try next, the most promising first: repair, a smaller cut or another method after a bad run, a
    bolder cut after a good one."""
    if worse < 1.1:
        bolder = round(min(1.5 * plan.ratio_achieved, plan.ratio_achieved + 0.15) * 20) / 20
        if plan.ratio_achieved < bolder <= 0.7:
            return (NextStep(f"Try a bolder cut: {share(bolder, 0)}", ratio=bolder),)
        return ()
    found = []
    if plan.recovery == "none":
        row = method(plan.method)
        wish = next((r for r in (row.recovery, "least-squares") if r != "none" and fits(plan, r)), None)
        if wish is not None:
            found.append(NextStep("Try it with recovery", recovery=wish))
    if worse < 1.5:
        return tuple(found)
    gentler = gentler_ratio(plan.ratio_achieved)
    if gentler is not None:
        found.append(NextStep(f"Try a smaller cut: {share(gentler, 0)}", ratio=gentler))
    if plan.method != ALTERNATIVE and ALTERNATIVE in METHODS:
        title = METHODS[ALTERNATIVE].title
        found.append(NextStep(f"Try another method: {title}", method=ALTERNATIVE))
    return tuple(found)


def gentler_ratio(ratio: float) -> float | None:
    """About half the ratio in round numbers; None where there is nothing left to halve."""
    half = ratio / 2
    found = round(half * 20) / 20 if half >= 0.05 else round(half, 2)
    return found if 0 < found < ratio else None


def fits(plan: Plan, recovery: str) -> bool:
    """Whether this recovery combines with the plan's method, and with its allocation if that has a rule."""
    row = method(plan.method)
    return not hindrance(plan.method, recovery, row.allocation)
