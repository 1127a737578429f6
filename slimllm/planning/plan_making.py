"""Plans: widths for a target, hand changes, forecast. Pure.

Ratios are removed shares of parameters, counts are kept units.
"""

from __future__ import annotations

import bisect
import dataclasses
import math
from collections.abc import Collection
from importlib import metadata
from typing import Literal, get_args

from slimllm.core.errors import Refusal
from slimllm.core.shapes import Shape, Unit
from slimllm.core.types import Analysis, Forecast, LayerAnalysis, Pin, Plan, SiteAnalysis
from slimllm.methods.method_table import method, settings
from slimllm.methods.recovery import RECOVERIES
from slimllm.planning.allocation import ALLOCATIONS
from slimllm.planning.budget import Problem, Widths, bounds_of, layer_cost, rounded, spread, unreachable
from slimllm.planning.locks import Locks, hold_locked
from slimllm.planning.plan_check import check_lengths, check_pinned

TOKENS_PER_CHANNEL = 8  # below that, least squares fits its text so closely that it errs more on others
COUNTS = ("decoder", "all")  # what a ratio is a share of


def resolve_unit(analysis: Analysis, unit: str, offered: tuple[Unit, ...] = ()) -> Unit:
    """The attention unit asked for, among those `offered` (by default those analysed); auto takes the
    method's first, which has the most steps."""
    known = offered or tuple(analysis.layers[0].attention)
    if unit == "auto":
        return known[0]
    if unit not in get_args(Unit):
        raise Refusal(f"Unit '{unit}' is not known; use {', '.join(get_args(Unit))} or auto.")
    if unit not in known:
        raise Refusal(
            f"Unit '{unit}' offers no choice in this model with method '{analysis.method}'; use {known[0]}."
        )
    return unit


def hindrance(name: str, recovery: str, allocation: str) -> str:
    """Why this method does not combine with this recovery and allocation, in one sentence; empty where it
    does."""
    row = method(name)
    if row.recoveries and recovery not in row.recoveries:
        return f"{row.title} does not combine with recovery '{recovery}': {row.alone}."
    if row.allocations and allocation not in row.allocations:
        return f"{row.title} has an allocation of its own: {', '.join(row.allocations)}."
    only = ALLOCATIONS[allocation].methods
    if only and name not in only:
        return f"Allocation '{allocation}' belongs to {', '.join(only)}; choose another for {row.title}."
    return ""


def combination(name: str, allocation: str | None, recovery: str | None) -> tuple[str, str]:
    """The allocation and the recovery, the method's own where none is wanted; a `Refusal` for what is not
    known or does not combine."""
    row = method(name)
    allocation, recovery = allocation or row.allocation, recovery or row.recovery
    check_known(allocation, ALLOCATIONS)
    check_known(recovery, RECOVERIES)
    if reason := hindrance(name, recovery, allocation):
        raise Refusal(reason)
    return allocation, recovery


def check_known(name: str, table: Collection[str]) -> None:
    if name not in table:
        raise Refusal(f"'{name}' is not known; use one of: {', '.join(table)}.")


def doubt(shape: Shape, recovery: str, tokens: int) -> str:
    """A warning where a recovery has too little text to learn from, in one sentence; empty where it has
    enough."""
    row, inputs = RECOVERIES[recovery], max(layer.channels for layer in shape.layers)
    if not row.fits or tokens >= TOKENS_PER_CHANNEL * inputs:
        return ""
    return (
        f"{row.title} fits a number to each of {inputs:,} channels and has only {tokens:,} tokens to learn "
        f"from, {tokens / inputs:.1f} per channel where about {TOKENS_PER_CHANNEL} are needed, so it learns "
        "much of that text by heart; read more text, or choose recovery regression."
    )


def check_ratio(ratio: float) -> float:
    if not (isinstance(ratio, int | float) and math.isfinite(ratio) and 0 <= ratio < 1):
        raise Refusal(
            f"Ratio {ratio} is not possible; give a share from 0 up to, but not including, 1, such as 0.2."
        )
    return float(ratio)


def check_pins(shape: Shape, pins: Collection[Pin]) -> None:
    """Refuses a pin on a layer, head or channel that the model does not have."""
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
    if not (isinstance(align, int) and 1 <= align <= 4096):
        raise Refusal(f"Alignment {align} is not possible; use 1, 8, 16, 32, 64 or 128.")
    return align


def make_plan(
    analysis: Analysis,
    ratio: float,
    *,
    allocation: str | None = None,
    recovery: str | None = None,
    unit: str = "auto",
    align: int = 8,
    count: Literal["decoder", "all"] = "decoder",
    same_width: bool = False,
    protected: tuple[Pin, ...] = (),
    forced: tuple[Pin, ...] = (),
    locks: Locks | None = None,
) -> Plan:
    """Widths that remove `ratio` of the decoder's parameters (or of all, by `count`).

    `same_width` keeps every layer equally wide, which plain checkpoints need; locked layers keep their
    widths. Raises `Refusal` for what cannot be met.
    """
    shape = analysis.shape
    check_ratio(ratio)
    check_align(align)
    check_pins(shape, (*protected, *forced))
    check_known(count, COUNTS)
    allocation, recovery = combination(analysis.method, allocation, recovery)
    chosen = resolve_unit(analysis, unit)
    problem = hold_locked(problem_of(analysis, chosen, recovery, align, protected, forced), locks)
    budget = shape.decoder - ratio * (shape.parameters if count == "all" else shape.decoder)
    if same_width:
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
        options=tuple(sorted(settings(analysis.method, analysis.options).items())),
        recovery=recovery,
        allocation=allocation,
        unit=chosen,
        ratio_requested=float(ratio),
        count=count,
        align=align,
        protected=protected,
        forced=forced,
        seed=analysis.calibration.seed,
        versions=versions(),
        fingerprints=tuple(sorted(analysis.fingerprints.items())),
    )
    return told(analysis, plan)


def problem_of(
    analysis: Analysis,
    unit: Unit,
    recovery: str,
    align: int,
    protected: Collection[Pin],
    forced: Collection[Pin],
) -> Problem:
    """The problem with the bounds of every layer."""
    layers = enumerate(analysis.shape.layers)
    bounds = tuple(bounds_of(layer, i, unit, align, protected, forced) for i, layer in layers)
    if not any(b.high for b in bounds):
        raise Refusal("Every layer is forced out, so nothing would be left; release at least one.")
    return Problem(analysis, unit, recovery, bounds)


def equal_widths(problem: Problem, budget: float) -> Widths:
    """One head count and one channel count for all layers: the largest within the budget."""
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
    found: dict[int, int] = {}  # heads → the most channels beside them
    widths = sorted({first.low, *range(first.up(first.low), first.high, first.align), first.high})
    for heads in first.heads:

        def cost(channels: int, heads: int = heads) -> int:
            return problem.total([heads] * n, [channels] * n)

        place = bisect.bisect_right(widths, budget, key=cost)
        if place:
            found[heads] = widths[place - 1]
    if not found:
        raise Refusal(unreachable(problem, budget))
    # with all channels kept budget may be left over, unless all heads are kept too
    spent = [h for h in found if found[h] < first.high or h == max(common)]
    heads = min(spent, key=lambda h: (abs(h - wanted), -h)) if spent else max(found)
    return [heads] * n, [found[heads]] * n


def versions() -> tuple[tuple[str, str], ...]:
    """The library versions a plan was made with."""
    return tuple((name, metadata.version(name)) for name in ("torch", "transformers"))


def told(analysis: Analysis, plan: Plan) -> Plan:
    """The plan with its achieved ratio and predicted errors filled in."""
    view = forecast(analysis, plan)
    return dataclasses.replace(plan, ratio_achieved=view.ratio, predicted_error=view.error)


def refigured(plan: Plan, shape: Shape) -> Plan:
    """The plan with the ratio that its widths achieve in a model of this shape. Errors that were predicted
    for other widths are left out."""
    share = shape.parameters if plan.count == "all" else shape.decoder
    ratio = (shape.decoder - decoder_parameters(shape, plan)) / share
    same = math.isclose(ratio, plan.ratio_achieved, rel_tol=0, abs_tol=1e-12)
    known = same and len(plan.predicted_error) == len(plan.widths)
    return dataclasses.replace(
        plan, ratio_achieved=ratio, predicted_error=plan.predicted_error if known else ()
    )


def forecast(analysis: Analysis, plan: Plan) -> Forecast:
    """What the plan will give: sizes exactly, errors as predicted from the dense model's moments."""
    shape = analysis.shape
    decoder = decoder_parameters(shape, plan)
    attention, mlp, both = [], [], []
    for layer, found, heads, channels in zip(
        shape.layers, analysis.layers, plan.heads, plan.channels, strict=True
    ):
        site = found.attention[plan.unit]
        a = float(site.error[plan.recovery][layer.step(heads, plan.unit)])
        m = float(found.mlp.error[plan.recovery][channels])
        attention.append(a)
        mlp.append(m)
        both.append(joint_error(found, site, a, m))
    removed = shape.decoder - decoder
    parameters = shape.parameters - removed
    groups = [layer.groups_kept(h, plan.unit) for layer, h in zip(shape.layers, plan.heads, strict=True)]
    return Forecast(
        parameters=parameters,
        decoder_parameters=decoder,
        ratio=removed / (shape.parameters if plan.count == "all" else shape.decoder),
        bytes=round(parameters * analysis.bytes_per_parameter),
        kv_bytes_per_token=round(2 * sum(groups) * shape.head_size * analysis.bytes_per_parameter),
        flops_per_token=2 * (decoder + shape.hidden * shape.vocab),
        attention_error=tuple(attention),
        mlp_error=tuple(mlp),
        error=tuple(both),
    )


def joint_error(found: LayerAnalysis, site: SiteAnalysis, attention: float, mlp: float) -> float:
    """The relative error of a layer's two outputs together, weighted by their energies."""
    total = site.energy + found.mlp.energy
    return (site.energy * attention + found.mlp.energy * mlp) / total if total > 0 else 0.0


def decoder_parameters(shape: Shape, plan: Plan) -> int:
    """Parameters of the decoder layers that the plan leaves."""
    return sum(
        layer_cost(layer, h, c, plan.unit, plan.recovery, shape.hidden)
        for layer, h, c in zip(shape.layers, plan.heads, plan.channels, strict=True)
    )


def adjust(
    analysis: Analysis,
    plan: Plan,
    changes: dict[int, tuple[int, int]],
    *,
    hold: bool = False,
    locked: Collection[int] = (),
) -> Plan:
    """The plan after `changes` {layer: (heads, channels)}, snapped to feasible widths.

    With `hold` the channels of the other, unlocked layers give way so that the total stays within what it
    was.
    """
    problem = problem_of(analysis, plan.unit, plan.recovery, plan.align, plan.protected, plan.forced)
    bounds = problem.bounds
    heads, channels = list(plan.heads), list(plan.channels)
    for index, (h, c) in changes.items():
        heads[index] = bounds[index].snapped_heads(h)
        channels[index] = bounds[index].down(c)
    if hold:
        budget = decoder_parameters(analysis.shape, plan)
        others = [i for i in range(len(heads)) if i not in changes and i not in locked]
        wanted = spread(problem, heads, [float(c) for c in channels], budget, others)
        fixed = {i: channels[i] for i in range(len(heads)) if i not in others}
        channels = [fixed.get(i, bounds[i].down(c)) for i, c in enumerate(wanted)]
        if problem.total(heads, channels) > budget:
            raise Refusal("The other layers cannot give way that far; unlock some, or let the budget move.")
        free = problem.holding({i: (heads[i], channels[i]) for i in fixed})
        channels = rounded(free, heads, [float(fixed.get(i, wanted[i])) for i in range(len(heads))], budget)
    return told(
        analysis, dataclasses.replace(plan, heads=tuple(heads), channels=tuple(channels), allocation="hand")
    )


def check_plan(plan: Plan, shape: Shape) -> None:
    """Refuses a plan that was made for other widths than this model has, or whose numbers do not fit
    together."""
    check_lengths(plan)
    if plan.family != shape.family or plan.widths != shape.widths:
        raise Refusal(
            f"This plan was made for another model ('{plan.model}', {plan.family} with "
            f"{len(plan.widths)} layers), not for "
            f"this {shape.family} with {len(shape.layers)} layers; make a plan from an analysis of this "
            "model."
        )
    for index, (width, layer) in enumerate(zip(plan.heads, shape.layers, strict=True)):
        if layer.whole and plan.unit != "value-column" and 0 < width < layer.heads:
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
    reason = "" if plan.allocation == "hand" else hindrance(plan.method, plan.recovery, plan.allocation)
    if reason:
        raise Refusal(reason)
