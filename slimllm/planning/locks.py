"""Locked layers, which keep the widths of a plan whatever is planned next. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from slimllm.core.attention_unit import UNITS, UnitName
from slimllm.core.errors import Refusal
from slimllm.core.shapes import Shape
from slimllm.core.types import Plan
from slimllm.planning.budget import Problem


@dataclass(frozen=True)
class Locks:
    """The locked layers, and the plan whose widths they keep."""

    plan: Plan
    layers: frozenset[int]

    def widths(self, shape: Shape, unit: UnitName) -> dict[int, tuple[int, int]]:
        """Return {layer: (heads, channels)} of the locked layers, counted in this attention unit.

        Raise `Refusal` if a locked width cannot be counted in it, because value columns are not heads.
        """
        found = {}
        for index in sorted(self.layers):
            layer, heads = shape.layers[index], self.plan.heads[index]
            narrowed = UNITS[unit].narrows_heads or UNITS[self.plan.unit].narrows_heads
            if unit != self.plan.unit and heads == layer.widest(self.plan.unit):
                heads = layer.widest(unit)
            elif unit != self.plan.unit and heads and narrowed:
                raise Refusal(
                    f"Layer {index} is locked and its attention is cut in other units; unlock it to change "
                    "what attention loses."
                )
            found[index] = (heads, self.plan.channels[index])
        return found


def hold_locked(problem: Problem, locks: Locks | None) -> Problem:
    """Return the problem in which locked layers have fixed widths.

    Raise `Refusal` if pins or the attention unit do not permit these widths.
    """
    if locks is None:
        return problem
    widths = locks.widths(problem.analysis.shape, problem.unit)
    for index, (heads, channels) in widths.items():
        bounds = problem.bounds[index]
        if (heads, channels) == (0, 0):
            continue
        if heads not in bounds.heads or not bounds.low <= channels <= bounds.high:
            raise Refusal(
                f"Layer {index} is locked at {heads:,} heads and {channels:,} channels, which this would "
                "change; unlock it first."
            )
    return problem.holding(widths)


def name_layers(layers: Iterable[int]) -> str:
    """Return the layers in words, such as "Layer 3" or "Layers 3, 5 and 8"."""
    numbers = [str(index) for index in sorted(layers)]
    if len(numbers) == 1:
        return f"Layer {numbers[0]}"
    return f"Layers {', '.join(numbers[:-1])} and {numbers[-1]}"
