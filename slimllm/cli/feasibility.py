"""Checks that a model's shape alone permits what is requested, before it is analysed."""

from __future__ import annotations

import argparse

from slimllm.analysis.layer_analysis import units_of
from slimllm.cli.option_checks import method_options
from slimllm.core.attention_unit import UnitName
from slimllm.core.errors import Refusal
from slimllm.core.types import Analysis, Calibration, Plan
from slimllm.export import dry_run
from slimllm.methods.table import fill_options, find_method
from slimllm.models.loading import Subject
from slimllm.planning import plan_making, rules
from slimllm.planning.budget import unreachable_budget

# The allocations that may miss the requested size.
FREE = ("whole-layers", "cosine-unclipped")


def check_feasibility(subject: Subject, given: argparse.Namespace, allocation: str, recovery: str) -> None:
    """Raise `Refusal` for a unit, length, size or export that no analysis of this model can lead to."""
    shape = subject.shape
    if given.length > shape.max_length:
        raise Refusal(
            f"A length of {given.length} tokens is more than this model's {shape.max_length}; use a smaller "
            "--length."
        )
    units = units_of(find_method(given.method), shape)
    empty = Analysis(
        subject.source,
        shape,
        Calibration(given.text, given.samples, given.length, given.seed),
        given.method,
        fill_options(given.method, method_options(given)),
        (),
        0,
    )
    unit = rules.resolve_unit(empty, given.unit, units)
    problem = plan_making.problem_of(empty, unit, recovery, given.align, (), ())
    budget = shape.decoder - given.ratio * (shape.parameters if given.count == "all" else shape.decoder)
    alike = given.same_width or given.export in ("native", "twin")
    if alike:
        plan_making.equal_widths(problem, budget)
    elif allocation not in FREE:
        floor = problem.total([min(b.heads) for b in problem.bounds], [b.low for b in problem.bounds])
        if floor > budget:
            raise Refusal(unreachable_budget(problem, budget))
    if given.export != "auto" and given.ratio and allocation not in FREE:
        dry_run.check_storable(subject, halve_channels(empty, unit, recovery), given.export)


def halve_channels(analysis: Analysis, unit: UnitName, recovery: str) -> Plan:
    """Return a plan that removes half of the channels of every layer.

    If its result cannot be stored in a form, no other pruned model can be.
    """
    shape = analysis.shape
    return Plan(
        model=analysis.model,
        family=shape.family,
        widths=shape.widths,
        heads=tuple(layer.widest(unit) for layer in shape.layers),
        channels=tuple(max(1, layer.channels // 2) for layer in shape.layers),
        method=analysis.method,
        recovery=recovery,
        unit=unit,
    )
