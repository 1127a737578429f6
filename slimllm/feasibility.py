"""Whether what is asked of a model can be met at all, by its shape alone, before it is analysed."""

from __future__ import annotations

import argparse

from slimllm import foresight, planning
from slimllm.budget import unreachable
from slimllm.methods import method, settings
from slimllm.models import Subject
from slimllm.options import method_options
from slimllm.scoring import units_of
from slimllm.shapes import Unit
from slimllm.types import Analysis, Calibration, Plan, Refusal

FREE = ("whole-layers", "cosine-unclipped")  # allocations that may miss the size that was asked for


def check(subject: Subject, given: argparse.Namespace, allocation: str, recovery: str) -> None:
    """Refuses a unit, a length, a size and an export that no analysis of this model could lead to."""
    shape = subject.shape
    if given.length > shape.max_length:
        raise Refusal(
            f"A length of {given.length} tokens is more than this model's {shape.max_length}; use a smaller "
            "--length."
        )
    units = units_of(method(given.method), shape)
    empty = Analysis(
        subject.source,
        shape,
        Calibration(given.text, given.samples, given.length, given.seed),
        given.method,
        settings(given.method, method_options(given)),
        (),
        0,
    )
    unit = planning.resolve_unit(empty, given.unit, units)
    problem = planning.problem_of(empty, unit, recovery, given.align, (), ())
    budget = shape.decoder - given.ratio * (shape.parameters if given.count == "all" else shape.decoder)
    alike = given.same_width or given.export in ("native", "twin")
    if alike:
        planning.equal_widths(problem, budget)
    elif allocation not in FREE:
        floor = problem.total([min(b.heads) for b in problem.bounds], [b.low for b in problem.bounds])
        if floor > budget:
            raise Refusal(unreachable(problem, budget))
    if given.export != "auto" and given.ratio and allocation not in FREE:
        foresight.check(subject, halved(empty, unit, recovery), given.export)


def halved(analysis: Analysis, unit: Unit, recovery: str) -> Plan:
    """A plan under which every layer loses half of its channels: whatever is pruned is not stored more
    easily."""
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
