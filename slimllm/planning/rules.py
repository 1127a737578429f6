"""The rules that a person chooses for a plan, and which of them can be combined. Pure."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import get_args

from slimllm.core.attention_unit import UNITS, UnitName
from slimllm.core.errors import Refusal
from slimllm.core.shapes import Shape
from slimllm.core.types import Analysis, Count, Pin, Plan
from slimllm.methods.recovery import RECOVERIES
from slimllm.methods.table import find_method
from slimllm.planning.allocation import ALLOCATIONS
from slimllm.planning.locks import Locks

# With fewer tokens, least squares overfits its text and has larger errors on others.
TOKENS_PER_CHANNEL = 8
COUNT_KINDS: tuple[Count, ...] = get_args(Count)


@dataclass(frozen=True)
class PlanRules:
    """Everything that a person chooses for a plan; None means the method's own choice.

    `ratio` is the share (0 to 1) of parameters to remove, of the decoder or of all by `count`. `unit` is an
    attention unit or auto. Channels are kept in multiples of `align`. `same_width` gives all layers one
    width. Protected units are kept, forced ones are removed, and locked layers keep their widths.
    """

    ratio: float
    allocation: str | None = None
    recovery: str | None = None
    unit: str = "auto"
    align: int = 8
    count: Count = "decoder"
    same_width: bool = False
    protected: tuple[Pin, ...] = ()
    forced: tuple[Pin, ...] = ()
    locks: Locks | None = None


def rules_of_plan(plan: Plan) -> PlanRules:
    """Return the rules of a plan; for a plan made by hand, the allocation is the method's own."""
    return PlanRules(
        plan.ratio_requested,
        allocation=plan.allocation if plan.allocation in ALLOCATIONS else None,
        recovery=plan.recovery,
        unit=plan.unit,
        align=plan.align,
        count=plan.count,
        same_width=plan.same_width,
        protected=plan.protected,
        forced=plan.forced,
    )


def keep_pins(rules: PlanRules, present: Plan | None, locks: Locks | None) -> PlanRules:
    """Return the rules with the pins of the present plan and the locked layers."""
    protected, forced = (present.protected, present.forced) if present else ((), ())
    return dataclasses.replace(rules, protected=protected, forced=forced, locks=locks)


def resolve_unit(analysis: Analysis, unit: str, offered: tuple[UnitName, ...] = ()) -> UnitName:
    """Return the requested attention unit, which must be `offered` (by default analysed).

    For auto, return the first one, which the method prefers. Raise `Refusal` for any other unit.
    """
    known = offered or tuple(analysis.layers[0].attention)
    if unit == "auto":
        return known[0]
    if unit not in UNITS:
        raise Refusal(f"Unit '{unit}' is not known; use {', '.join(UNITS)} or auto.")
    if unit not in known:
        raise Refusal(
            f"Unit '{unit}' offers no choice in this model with method '{analysis.method}'; use {known[0]}."
        )
    return unit


def combination_hindrance(name: str, recovery: str, allocation: str) -> str:
    """Return one sentence that says why a method does not work with a recovery and an allocation.

    Return an empty string if it does.
    """
    row = find_method(name)
    if row.recoveries and recovery not in row.recoveries:
        return f"{row.title} does not combine with recovery '{recovery}': {row.alone}."
    if row.allocations and allocation not in row.allocations:
        return f"{row.title} has an allocation of its own: {', '.join(row.allocations)}."
    only = ALLOCATIONS[allocation].methods
    if only and name not in only:
        return f"Allocation '{allocation}' belongs to {', '.join(only)}; choose another for {row.title}."
    return ""


def check_combination(name: str, allocation: str | None, recovery: str | None) -> tuple[str, str]:
    """Return the allocation and the recovery, each the method's own unless one is given.

    Raise `Refusal` if one is unknown or if they cannot be combined.
    """
    row = find_method(name)
    allocation, recovery = allocation or row.allocation, recovery or row.recovery
    check_known(allocation, ALLOCATIONS)
    check_known(recovery, RECOVERIES)
    if reason := combination_hindrance(name, recovery, allocation):
        raise Refusal(reason)
    return allocation, recovery


def check_known(name: str, table: Collection[str]) -> None:
    """Raise `Refusal` if a name is not in a table."""
    if name not in table:
        raise Refusal(f"'{name}' is not known; use one of: {', '.join(table)}.")


def text_doubt(shape: Shape, recovery: str, tokens: int) -> str:
    """Return one sentence of warning if a recovery has too few tokens to fit, or an empty string."""
    row, inputs = RECOVERIES[recovery], max(layer.channels for layer in shape.layers)
    if not row.fits or tokens >= TOKENS_PER_CHANNEL * inputs:
        return ""
    return (
        f"{row.title} fits a number to each of {inputs:,} channels and has only {tokens:,} tokens to learn "
        f"from, {tokens / inputs:.1f} per channel where about {TOKENS_PER_CHANNEL} are needed, so it learns "
        "much of that text by heart; read more text, or choose recovery regression."
    )


def check_ratio(ratio: float) -> float:
    """Return the ratio as a float; raise `Refusal` if it is not in [0, 1)."""
    if not (isinstance(ratio, int | float) and math.isfinite(ratio) and 0 <= ratio < 1):
        raise Refusal(
            f"Ratio {ratio} is not possible; give a share from 0 up to, but not including, 1, such as 0.2."
        )
    return float(ratio)


def check_pins(shape: Shape, pins: Collection[Pin]) -> None:
    """Raise `Refusal` for a pin on a layer, head or channel that the model does not have."""
    for pin in pins:
        inside = 0 <= pin.layer < len(shape.layers)
        widths = shape.widths[pin.layer] if inside else (0, 0, 0)
        most = widths[0 if pin.site == "attention" else 2]
        if not (pin.count >= 1 and 0 <= pin.index <= most - pin.count):
            raise Refusal(
                f"Layer {pin.layer} has no {pin.site} unit {pin.index + pin.count - 1} to protect or force "
                "out; choose one that the model has."
            )


def check_align(align: int) -> int:
    """Return the alignment; raise `Refusal` if it is not a whole number from 1 to 4096."""
    if not (isinstance(align, int) and 1 <= align <= 4096):
        raise Refusal(f"Alignment {align} is not possible; use 1, 8, 16, 32, 64 or 128.")
    return align
