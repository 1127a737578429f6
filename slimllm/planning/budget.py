"""Budgets: the cost of a width, the feasible widths, and whole widths that meet a number of parameters. Pure.

Heads change in feasible steps, and channels absorb the rest. A result therefore never has more parameters
than the budget, and falls short of it by less than one step of one layer.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from slimllm.core.attention_unit import UNITS, UnitName
from slimllm.core.errors import Refusal
from slimllm.core.shapes import LayerShape, SiteName
from slimllm.core.types import Analysis, Pin
from slimllm.methods.recovery import RECOVERIES

# Kept heads and kept channels of every layer.
Widths = tuple[list[int], list[int]]
# The highest ratio that a layer gets, and the largest share of its channels that it loses.
MAX_RATIO = 0.95


@dataclass(frozen=True)
class Bounds:
    """The feasible widths of one layer: head counts in steps, and channels from `low` to `high` on a grid."""

    heads: tuple[int, ...]
    low: int
    high: int
    align: int
    # Whether the layer may be dropped.
    droppable: bool = True

    def down(self, channels: float) -> int:
        """Return the largest feasible channel count not above `channels`."""
        if channels >= self.high:
            return self.high
        return max(self.low, int(channels) // self.align * self.align)

    def up(self, channels: int) -> int:
        """Return the next larger feasible channel count."""
        return min(self.high, (channels // self.align + 1) * self.align)

    def snapped_heads(self, heads: int) -> int:
        """Return the feasible head count nearest to `heads`."""
        return min(self.heads, key=lambda feasible: abs(feasible - heads))

    def nearest_heads(self, share: float) -> int:
        """Return the feasible head count nearest to this share of the largest; half a step rounds up."""
        wanted = share * max(self.heads)
        return min(self.heads, key=lambda h: (abs(h - wanted), -h))


@dataclass(frozen=True)
class Problem:
    """The input of every allocation: the analysed layers, the unit, the recovery and the feasible widths."""

    analysis: Analysis
    unit: UnitName
    recovery: str
    bounds: tuple[Bounds, ...]

    @property
    def layers(self) -> tuple[LayerShape, ...]:
        """The shapes of the layers."""
        return self.analysis.shape.layers

    def holding(self, widths: Mapping[int, tuple[int, int]]) -> Problem:
        """Return the problem in which these layers have fixed (heads, channels)."""
        bounds = tuple(
            replace(b, heads=(widths[i][0],), low=widths[i][1], high=widths[i][1], droppable=False)
            if i in widths
            else b
            for i, b in enumerate(self.bounds)
        )
        return replace(self, bounds=bounds)

    def cost(self, index: int, heads: int, channels: int) -> int:
        """Return the parameters of one layer at these widths."""
        return layer_cost(
            self.layers[index], heads, channels, self.unit, self.recovery, self.analysis.shape.hidden
        )

    def total(self, heads: Sequence[int], channels: Sequence[int]) -> int:
        """Return the parameters of all layers at these widths."""
        return sum(self.cost(i, h, c) for i, (h, c) in enumerate(zip(heads, channels, strict=True)))


def layer_cost(
    layer: LayerShape, width: int, channels: int, unit: UnitName, recovery: str, hidden: int
) -> int:
    """Return the parameters of a layer at these widths, with the biases that the recovery adds.

    A recovery may add a bias to every reader that loses inputs.
    """
    added = 0
    if RECOVERIES[recovery].bias and (width or channels):
        added += hidden * (width < layer.widest(unit) and not layer.attention_bias)
        added += hidden * (channels < layer.channels and not layer.mlp_bias)
    return layer.at(width, channels, unit) + added


def pinned_units(pins: Collection[Pin], layer: int, site: SiteName) -> set[int]:
    """Return the heads or channels of one layer that the pins name."""
    mine = (pin for pin in pins if pin.layer == layer and pin.site == site)
    return {unit for pin in mine for unit in range(pin.index, pin.index + pin.count)}


def bounds_of(
    layer: LayerShape,
    index: int,
    unit: UnitName,
    align: int,
    protected: Collection[Pin],
    forced: Collection[Pin],
) -> Bounds:
    """Return the feasible widths of one layer.

    The layer keeps at least one step and everything that is protected, and loses everything that is forced
    out. It keeps nothing only if all of it is forced out. A unit that is both protected and forced out is
    protected.
    """
    kept_heads, kept_channels = (pinned_units(protected, index, site) for site in ("attention", "mlp"))
    cut_heads = pinned_units(forced, index, "attention") - kept_heads
    cut_channels = pinned_units(forced, index, "mlp") - kept_channels
    if len(cut_heads) == layer.heads and len(cut_channels) == layer.channels:
        return Bounds((0,), 0, 0, align)
    steps, size = layer.steps(unit), layer.widest(unit) // layer.steps(unit)
    low = max(1, per_pool(layer, unit, kept_heads))
    high = max(low, steps - per_pool(layer, unit, cut_heads))
    if layer.whole and not UNITS[unit].narrows_heads:
        low = high = steps
    floor = max(1, len(kept_channels), math.ceil(layer.channels * (1 - MAX_RATIO)))
    top = max(layer.channels - len(cut_channels), 1)
    if cut_channels:
        top = max(1, top // align * align) if top >= align else top
    floor = min(top, math.ceil(floor / align) * align)
    free = not kept_heads and not kept_channels
    return Bounds(tuple(size * j for j in range(low, high + 1)), floor, top, align, free)


def per_pool(layer: LayerShape, unit: UnitName, heads: Collection[int]) -> int:
    """Return how many steps these heads take: the most units that they make up in any pool.

    If heads are only narrowed, all heads together take all steps, and fewer take none.
    """
    each = layer.heads // layer.groups
    if UNITS[unit].narrows_heads or not heads:
        return layer.values if len(heads) == layer.heads else 0
    groups = [h // each for h in heads]
    return len(set(groups)) if UNITS[unit].takes_groups else max(map(groups.count, set(groups)))


def settle_widths(
    problem: Problem, heads: list[int], channels: Sequence[float], budget: float, movable: Collection[int]
) -> Widths:
    """Return whole, feasible widths near these within `budget` parameters.

    Channels of the movable layers are reduced first, then those of every layer, then heads step down. Raise
    `Refusal` if the smallest feasible widths still exceed the budget.
    """
    heads = list(heads)
    wanted = [float(c) for c in channels]
    everyone = range(len(heads))
    while True:
        for group in (movable, everyone):
            wanted = spread_channels(problem, heads, wanted, budget, group)
            if (
                problem.total(heads, [b.down(c) for b, c in zip(problem.bounds, wanted, strict=True)])
                <= budget
            ):
                # The movable layers may be full while other layers still have room.
                wanted = spread_channels(problem, heads, wanted, budget, everyone)
                return raise_heads(problem, heads, wanted, budget)
        lower = [i for i in everyone if heads[i] > min(problem.bounds[i].heads)]
        if not lower:
            raise Refusal(unreachable_budget(problem, budget))
        victim = max(lower, key=lambda i: heads[i] / max(problem.bounds[i].heads))
        heads[victim] = max(h for h in problem.bounds[victim].heads if h < heads[victim])


def raise_heads(problem: Problem, heads: list[int], wanted: list[float], budget: float) -> Widths:
    """Return the widths after heads step up while all channels are kept and budget remains.

    Channels are reduced to pay for heads.
    """
    channels = round_channels(problem, heads, wanted, budget)
    while all(c == b.high for c, b in zip(channels, problem.bounds, strict=True)):
        lower = [i for i, h in enumerate(heads) if h < max(problem.bounds[i].heads)]
        if not lower:
            break
        lucky = min(lower, key=lambda i: heads[i] / max(problem.bounds[i].heads))
        trial = list(heads)
        trial[lucky] = min(h for h in problem.bounds[lucky].heads if h > heads[lucky])
        wanted = spread_channels(problem, trial, [float(c) for c in channels], budget, range(len(heads)))
        if problem.total(trial, [b.down(c) for b, c in zip(problem.bounds, wanted, strict=True)]) > budget:
            break
        heads, channels = trial, round_channels(problem, trial, wanted, budget)
    return heads, channels


def spread_channels(
    problem: Problem, heads: Sequence[int], channels: list[float], budget: float, group: Collection[int]
) -> list[float]:
    """Return real-valued channels, scaled in the layers of `group` within their bounds to meet the budget."""
    channels = list(channels)
    for _ in range(64):
        excess = exact_total(problem, heads, channels) - budget
        if abs(excess) < 0.5:
            break
        room = {
            i: (channels[i] - problem.bounds[i].low) if excess > 0 else (problem.bounds[i].high - channels[i])
            for i in group
        }
        capacity = sum(r * problem.layers[i].channel_cost for i, r in room.items())
        if capacity <= 0:
            break
        share = min(1.0, abs(excess) / capacity)
        for i, r in room.items():
            channels[i] += -share * r if excess > 0 else share * r
    return channels


def exact_total(problem: Problem, heads: Sequence[int], channels: Sequence[float]) -> float:
    """Return the parameters at real-valued channel counts."""
    return sum(
        problem.cost(i, h, math.floor(c)) + (c - math.floor(c)) * problem.layers[i].channel_cost
        for i, (h, c) in enumerate(zip(heads, channels, strict=True))
    )


def round_channels(
    problem: Problem, heads: Sequence[int], wanted: Sequence[float], budget: float
) -> list[int]:
    """Return channels rounded down to the grid, then raised by largest remainder within the budget."""
    channels = [b.down(c) for b, c in zip(problem.bounds, wanted, strict=True)]
    left = budget - problem.total(heads, channels)
    # The first pass distributes remainders, the second any budget that is still left.
    for _ in range(2):
        for i in sorted(range(len(wanted)), key=lambda i: channels[i] - wanted[i]):
            step = problem.bounds[i].up(channels[i])
            price = problem.cost(i, heads[i], step) - problem.cost(i, heads[i], channels[i])
            if step > channels[i] and price <= left:
                channels[i], left = step, left - price
    return channels


def unreachable_budget(problem: Problem, budget: float) -> str:
    """Return the message for a budget below the smallest feasible widths."""
    floor = problem.total([min(b.heads) for b in problem.bounds], [b.low for b in problem.bounds])
    dense = sum(layer.dense for layer in problem.layers)
    return (
        f"At most {1 - floor / dense:.3f} of the decoder parameters can be removed with these settings, and "
        f"{1 - budget / dense:.3f} was asked for; choose a smaller ratio or a finer alignment."
    )
