"""The share of attention in what a plan removes, and plans of the same size with another share. Pure."""

from __future__ import annotations

import dataclasses
import heapq
import math
from collections.abc import Collection, Sequence

from slimllm.core.errors import Refusal
from slimllm.core.shapes import Shape
from slimllm.core.types import Analysis, Plan
from slimllm.planning.allocation import probed_prices
from slimllm.planning.budget import Problem, settle_widths
from slimllm.planning.forecast import decoder_parameters, fill_forecast
from slimllm.planning.plan_making import problem_of_plan


def attention_share(shape: Shape, plan: Plan) -> float:
    """Return the share of attention in the removed parameters, or 0 if nothing is removed."""
    layers = list(zip(shape.layers, plan.heads, plan.channels, strict=True))
    attention = sum(layer.dense - layer.at(h, layer.channels, plan.unit) for layer, h, _ in layers)
    both = sum(layer.dense - layer.at(h, c, plan.unit) for layer, h, c in layers)
    return attention / both if both > 0 else 0.0


def rebalance_plan(analysis: Analysis, plan: Plan, share: float, locked: Collection[int] = ()) -> Plan:
    """Return a plan of the same size in which about this share of the removed parameters is attention.

    Heads are removed or restored one step at a time, where that changes the model's output least, or improves
    it most, per parameter; then channels compensate. Locked and dropped layers stay, and so do layers that
    the plan leaves uncut. Raise `Refusal` if the share is not between 0 and 1.
    """
    if not (math.isfinite(share) and 0 <= share <= 1):
        raise Refusal(f"A share of {share} is not possible; give one from 0 to 1.")
    problem = problem_of_plan(analysis, plan)
    present = enumerate(zip(plan.heads, plan.channels, strict=True))
    problem = problem.holding(
        {i: (h, c) for i, (h, c) in present if i in locked or not h or is_uncut(problem, i, h, c)}
    )
    removed = analysis.shape.decoder - decoder_parameters(analysis.shape, plan)
    heads = step_head_counts(problem, plan.heads, share * removed)
    free = [i for i, bounds in enumerate(problem.bounds) if bounds.high > bounds.low]
    heads, channels = settle_widths(problem, heads, plan.channels, analysis.shape.decoder - removed, free)
    return fill_forecast(
        analysis, dataclasses.replace(plan, heads=tuple(heads), channels=tuple(channels), allocation="hand")
    )


def is_uncut(problem: Problem, index: int, heads: int, channels: int) -> bool:
    """Return whether these widths leave a layer whole."""
    layer = problem.layers[index]
    return (heads, channels) == (layer.widest(problem.unit), layer.channels)


def step_head_counts(problem: Problem, present: Sequence[int], target: float) -> list[int]:
    """Return head counts at which attention has lost about `target` parameters.

    They are reached by the cheapest steps.
    """
    unit, layers = problem.unit, problem.layers
    found = problem.analysis.layers
    errors = [layer.attention[unit].error[problem.recovery].tolist() for layer in found]
    counts = [probed_prices(layer, unit)[0] for layer in found]
    steps = [sorted(bounds.heads) for bounds in problem.bounds]
    heads = [bounds.snapped_heads(h) for bounds, h in zip(problem.bounds, present, strict=True)]

    def attention_size(i: int, h: int) -> int:
        """Return the parameters of layer i with h heads and all channels."""
        return layers[i].at(h, layers[i].channels, unit)

    def attention_error(i: int, h: int) -> float:
        """Return the weighted error of layer i with h heads."""
        return counts[i] * errors[i][layers[i].step(h, unit)]

    gone = sum(layer.dense - attention_size(i, heads[i]) for i, layer in enumerate(layers))
    way = -1 if gone < target else 1

    def next_step(i: int) -> tuple[float, int, int] | None:
        """Return (change of the error per parameter, layer, its heads) of a layer's next step, or None."""
        place = steps[i].index(heads[i]) + way
        if not 0 <= place < len(steps[i]):
            return None
        h = steps[i][place]
        price = attention_error(i, h) - attention_error(i, heads[i])
        return price / abs(attention_size(i, h) - attention_size(i, heads[i])), i, h

    ahead = [step for i in range(len(layers)) if (step := next_step(i)) is not None]
    heapq.heapify(ahead)
    while ahead:
        _, i, h = heapq.heappop(ahead)
        left = gone + attention_size(i, heads[i]) - attention_size(i, h)
        if abs(left - target) > abs(gone - target):
            break
        gone, heads[i] = left, h
        if (step := next_step(i)) is not None:
            heapq.heappush(ahead, step)
    return heads
