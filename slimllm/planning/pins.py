"""Changes of a plan by hand: units and layers that are protected, forced out, released or locked. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable
from typing import Literal

from slimllm.core.attention_unit import UNITS
from slimllm.core.errors import Refusal
from slimllm.core.shapes import Shape, SiteName
from slimllm.core.types import Analysis, Pin, Plan
from slimllm.planning.allocation import ALLOCATIONS
from slimllm.planning.budget import bounds_of, pinned_units
from slimllm.planning.forecast import fill_forecast
from slimllm.planning.locks import Locks, hold_locked
from slimllm.planning.plan_making import adjust_plan, make_plan, problem_of_plan
from slimllm.planning.rules import check_pins, rules_of_plan

Mark = Literal["protect", "force", "clear"]


def merge_pins(layer: int, site: SiteName, units: Iterable[int]) -> list[Pin]:
    """Return pins for these units, with neighbours merged."""
    found: list[Pin] = []
    for unit in sorted(set(units)):
        last = found[-1] if found else None
        if last is not None and unit == last.index + last.count:
            found[-1] = dataclasses.replace(last, count=last.count + 1)
        else:
            found.append(Pin(layer, site, unit))
    return found


def whole_layer(shape: Shape, layer: int) -> list[Pin]:
    """Return pins for all units of a layer."""
    heads, _, channels = shape.widths[layer]
    return [Pin(layer, "attention", 0, heads), Pin(layer, "mlp", 0, channels)]


def mark_spots(plan: Plan, mark: Mark, spots: Collection[Pin]) -> tuple[tuple[Pin, ...], tuple[Pin, ...]]:
    """Return (protected, forced) after these spots are protected, forced out or released.

    No unit is in both.
    """
    protected, forced = list(plan.protected), list(plan.forced)
    for layer, site in sorted({(spot.layer, spot.site) for spot in spots}):
        units = pinned_units(spots, layer, site)
        for pins, now in ((protected, mark == "protect"), (forced, mark == "force")):
            left = pinned_units(pins, layer, site) - units
            pins[:] = [pin for pin in pins if (pin.layer, pin.site) != (layer, site)]
            pins += merge_pins(layer, site, left | units if now else left)
    return tuple(sorted(protected, key=pin_order)), tuple(sorted(forced, key=pin_order))


def pin_order(pin: Pin) -> tuple[int, str, int]:
    """Return the sort key of a pin."""
    return pin.layer, pin.site, pin.index


def pin_units(
    analysis: Analysis, plan: Plan, mark: Mark, spots: Collection[Pin], locks: Locks | None = None
) -> Plan:
    """Return the plan after these spots are protected, forced out or released.

    A plan made by rules is made again by the same rules, so its size stays. A plan made by hand changes only
    where it must. Locked layers keep their widths. Raise `Refusal` if that is impossible.
    """
    check_pins(analysis.shape, spots)
    protected, forced = mark_spots(plan, mark, spots)
    if UNITS[plan.unit].narrows_heads and any(
        heads_alone(analysis.shape, forced, protected, spot) for spot in spots
    ):
        raise Refusal(
            "This plan narrows every head alike, so single heads cannot be pinned; choose whole layers or "
            "channels."
        )
    changed = dataclasses.replace(plan, protected=protected, forced=forced)
    if plan.allocation in ALLOCATIONS and plan.method == analysis.method:
        rules = rules_of_plan(changed)
        return make_plan(analysis, dataclasses.replace(rules, locks=locks))
    return keep_locked(
        analysis, adjust_plan(analysis, changed, snap_widths(analysis.shape, plan, changed)), locks
    )


def keep_locked(analysis: Analysis, plan: Plan, locks: Locks | None) -> Plan:
    """Return the plan with the widths of the locked layers in place of its own.

    Raise `Refusal` if its pins or its attention unit do not permit them.
    """
    if locks is None:
        return plan
    problem = problem_of_plan(analysis, plan)
    hold_locked(problem, locks)
    heads, channels = list(plan.heads), list(plan.channels)
    for index, kept in locks.widths(analysis.shape, plan.unit).items():
        heads[index], channels[index] = kept
    if (tuple(heads), tuple(channels)) == (plan.heads, plan.channels):
        return plan
    changed = dataclasses.replace(
        plan, heads=tuple(heads), channels=tuple(channels), allocation="hand", same_width=False
    )
    return fill_forecast(analysis, changed)


def heads_alone(shape: Shape, forced: Collection[Pin], protected: Collection[Pin], spot: Pin) -> bool:
    """Return whether heads of a layer are pinned without the rest of the layer."""
    if spot.site != "attention":
        return False
    heads, _, channels = shape.widths[spot.layer]
    return any(
        0 < len(pinned_units(pins, spot.layer, "attention")) < heads
        or (
            len(pinned_units(pins, spot.layer, "attention")) == heads
            and len(pinned_units(pins, spot.layer, "mlp")) < channels
        )
        for pins in (forced, protected)
    )


def snap_widths(shape: Shape, before: Plan, after: Plan) -> dict[int, tuple[int, int]]:
    """Return the widths of the layers that must change for new pins.

    A layer that is no longer forced out becomes whole again.
    """
    found = {}
    for index, layer in enumerate(shape.layers):
        old, new = (bounds_of(layer, index, p.unit, p.align, p.protected, p.forced) for p in (before, after))
        width, channels = before.heads[index], before.channels[index]
        if new.high and not old.high:
            found[index] = (max(new.heads), new.high)
        elif (width, channels) != (0, 0) or not new.high:
            found[index] = (width, min(max(channels, new.low), new.high))
    return found
