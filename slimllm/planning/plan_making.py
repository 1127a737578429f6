"""Making plans: widths for a target ratio, and changes by hand. Pure.

Ratios are removed shares of parameters; counts are kept units.
"""

from __future__ import annotations

import bisect
import dataclasses
from collections.abc import Collection
from importlib import metadata

from slimllm.core.attention_unit import UNITS, UnitName
from slimllm.core.errors import Refusal
from slimllm.core.shapes import Shape
from slimllm.core.types import Analysis, Pin, Plan
from slimllm.methods.table import fill_options
from slimllm.planning.allocation import ALLOCATIONS
from slimllm.planning.budget import (
    Problem,
    Widths,
    bounds_of,
    round_channels,
    spread_channels,
    unreachable_budget,
)
from slimllm.planning.forecast import decoder_parameters, fill_forecast
from slimllm.planning.locks import hold_locked
from slimllm.planning.plan_check import check_lengths, check_pinned
from slimllm.planning.rules import (
    COUNT_KINDS,
    PlanRules,
    check_align,
    check_combination,
    check_known,
    check_pins,
    check_ratio,
    combination_hindrance,
    resolve_unit,
)


def make_plan(analysis: Analysis, rules: PlanRules) -> Plan:
    """Return the plan that follows from the rules, with its forecast.

    Raise `Refusal` if the rules are impossible or the ratio cannot be reached.
    """
    shape, ratio = analysis.shape, rules.ratio
    check_ratio(ratio)
    check_align(rules.align)
    check_pins(shape, (*rules.protected, *rules.forced))
    check_known(rules.count, COUNT_KINDS)
    allocation, recovery = check_combination(analysis.method, rules.allocation, rules.recovery)
    unit = resolve_unit(analysis, rules.unit)
    free = problem_of(analysis, unit, recovery, rules.align, rules.protected, rules.forced)
    problem = hold_locked(free, rules.locks)
    budget = shape.decoder - ratio * (shape.parameters if rules.count == "all" else shape.decoder)
    if rules.same_width:
        heads, channels = equal_widths(problem, budget)
    elif ratio == 0:
        heads, channels = [max(b.heads) for b in problem.bounds], [b.high for b in problem.bounds]
    else:
        heads, channels = ALLOCATIONS[allocation].widths(problem, budget)
    plan = Plan(
        model=analysis.model,
        family=shape.family,
        widths=shape.widths,
        heads=tuple(heads),
        channels=tuple(channels),
        calibration=analysis.calibration,
        method=analysis.method,
        options=tuple(sorted(fill_options(analysis.method, analysis.options).items())),
        recovery=recovery,
        allocation=allocation,
        unit=unit,
        ratio_requested=float(ratio),
        count=rules.count,
        align=rules.align,
        same_width=rules.same_width,
        protected=rules.protected,
        forced=rules.forced,
        seed=analysis.calibration.seed,
        versions=library_versions(),
        fingerprints=tuple(sorted(analysis.fingerprints.items())),
    )
    return fill_forecast(analysis, plan)


def problem_of(
    analysis: Analysis,
    unit: UnitName,
    recovery: str,
    align: int,
    protected: Collection[Pin],
    forced: Collection[Pin],
) -> Problem:
    """Return the problem with the bounds of every layer; raise `Refusal` if every layer is forced out."""
    layers = enumerate(analysis.shape.layers)
    bounds = tuple(bounds_of(layer, i, unit, align, protected, forced) for i, layer in layers)
    if not any(b.high for b in bounds):
        raise Refusal("Every layer is forced out, so nothing would be left; release at least one.")
    return Problem(analysis, unit, recovery, bounds)


def problem_of_plan(analysis: Analysis, plan: Plan) -> Problem:
    """Return the problem that a plan solves."""
    return problem_of(analysis, plan.unit, plan.recovery, plan.align, plan.protected, plan.forced)


def equal_widths(problem: Problem, budget: float) -> Widths:
    """Return one head count and one channel count for all layers, the largest within the budget.

    Raise `Refusal` if the layers differ in width, have no common width, or exceed the budget.
    """
    if len({(layer.heads, layer.groups, layer.channels) for layer in problem.layers}) > 1:
        raise Refusal(
            "The layers of this model already differ in width, so they cannot all be given the same one."
        )
    n = len(problem.layers)
    common = set.intersection(*(set(b.heads) for b in problem.bounds))
    first = dataclasses.replace(
        problem.bounds[0],
        heads=tuple(sorted(common)),
        low=max(b.low for b in problem.bounds),
        high=min(b.high for b in problem.bounds),
    )
    if not common or first.low > first.high:
        raise Refusal("The locked layers and pinned units leave no common width; release some of them.")
    wanted = max(common) * budget / sum(layer.dense for layer in problem.layers)
    # Heads → the most channels beside them.
    found: dict[int, int] = {}
    widths = sorted({first.low, *range(first.up(first.low), first.high, first.align), first.high})
    for heads in first.heads:

        def total_cost(channels: int, heads: int = heads) -> int:
            return problem.total([heads] * n, [channels] * n)

        place = bisect.bisect_right(widths, budget, key=total_cost)
        if place:
            found[heads] = widths[place - 1]
    if not found:
        raise Refusal(unreachable_budget(problem, budget))
    # A choice that keeps all channels but not all heads may leave part of the budget unused.
    spent = [h for h in found if found[h] < first.high or h == max(common)]
    heads = min(spent, key=lambda h: (abs(h - wanted), -h)) if spent else max(found)
    return [heads] * n, [found[heads]] * n


def library_versions() -> tuple[tuple[str, str], ...]:
    """Return the versions of the libraries that a plan is made with."""
    return tuple((name, metadata.version(name)) for name in ("torch", "transformers"))


def adjust_plan(
    analysis: Analysis,
    plan: Plan,
    changes: dict[int, tuple[int, int]],
    *,
    hold: bool = False,
    locked: Collection[int] = (),
) -> Plan:
    """Return the plan after `changes` {layer: (heads, channels)}, snapped to feasible widths.

    With `hold`, the channels of the other unlocked layers change so that the total stays within its present
    value. Raise `Refusal` if they cannot change enough.
    """
    problem = problem_of_plan(analysis, plan)
    bounds = problem.bounds
    heads, channels = list(plan.heads), list(plan.channels)
    for index, (h, c) in changes.items():
        heads[index] = bounds[index].snapped_heads(h)
        channels[index] = bounds[index].down(c)
    if hold:
        budget = decoder_parameters(analysis.shape, plan)
        others = [i for i in range(len(heads)) if i not in changes and i not in locked]
        wanted = spread_channels(problem, heads, [float(c) for c in channels], budget, others)
        fixed = {i: channels[i] for i in range(len(heads)) if i not in others}
        channels = [fixed.get(i, bounds[i].down(c)) for i, c in enumerate(wanted)]
        if problem.total(heads, channels) > budget:
            raise Refusal("The other layers cannot give way that far; unlock some, or let the budget move.")
        free = problem.holding({i: (heads[i], channels[i]) for i in fixed})
        channels = round_channels(
            free, heads, [float(fixed.get(i, wanted[i])) for i in range(len(heads))], budget
        )
    return fill_forecast(
        analysis,
        dataclasses.replace(
            plan, heads=tuple(heads), channels=tuple(channels), allocation="hand", same_width=False
        ),
    )


def check_plan(plan: Plan, shape: Shape) -> None:
    """Raise `Refusal` if a plan was made for another model or if its numbers do not fit together."""
    check_lengths(plan)
    if plan.family != shape.family or plan.widths != shape.widths:
        raise Refusal(
            f"This plan was made for another model ('{plan.model}', {plan.family} with "
            f"{len(plan.widths)} layers), not for "
            f"this {shape.family} with {len(shape.layers)} layers; make a plan from an analysis of this "
            "model."
        )
    for index, (width, layer) in enumerate(zip(plan.heads, shape.layers, strict=True)):
        if layer.whole and not UNITS[plan.unit].narrows_heads and 0 < width < layer.heads:
            raise Refusal(
                f"This plan keeps {width} heads in layer {index}, but single heads of {shape.family} models "
                "cannot go; keep them all."
            )
        if width > layer.widest(plan.unit):
            raise Refusal(
                f"This plan keeps {width} value columns in layer {index}, whose heads have {layer.values}; "
                "make a plan from an analysis of this model."
            )
    check_pinned(plan, shape)
    reason = (
        ""
        if plan.allocation == "hand"
        else combination_hindrance(plan.method, plan.recovery, plan.allocation)
    )
    if reason:
        raise Refusal(reason)
