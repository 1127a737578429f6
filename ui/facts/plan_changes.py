"""Describe in words how one plan differs from another. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from slimllm.core.attention_unit import QUERY_HEAD, UNITS
from slimllm.core.types import Plan
from slimllm.methods.recovery import RECOVERIES
from slimllm.planning.allocation import ALLOCATIONS
from ui.look.formatting import format_share, method_title

# Up to this number, changed layers are named one by one.
FEW = 2


@dataclass(frozen=True)
class Move:
    """One layer of two plans: (before, after) of the units and the channels kept, and the dense widths."""

    layer: int
    heads: tuple[int, int]
    channels: tuple[int, int]
    dense: tuple[int, int]

    @property
    def size(self) -> float:
        """How far the layer moved, as a share of its units."""
        pairs = zip((self.heads, self.channels), self.dense, strict=True)
        return sum(abs(after - before) / max(1, most) for (before, after), most in pairs)


def uncut_plan(plan: Plan) -> Plan:
    """Return the plan that removes nothing from the same model, in query heads."""
    heads, channels = (tuple(width[i] for width in plan.widths) for i in (0, 2))
    return dataclasses.replace(plan, heads=heads, channels=channels, unit=QUERY_HEAD.name)


def same_units(before: Plan, after: Plan) -> bool:
    """Return whether the plans count the same units of equally wide models."""
    columns = [UNITS[plan.unit].narrows_heads for plan in (before, after)]
    return before.widths == after.widths and columns[0] == columns[1]


def list_moves(before: Plan, after: Plan) -> list[Move]:
    """Return the layers whose widths differ, in order."""
    heads = zip(before.heads, after.heads, strict=True)
    channels = zip(before.channels, after.channels, strict=True)
    found = [
        Move(i, h, c, (dense[0], dense[2]))
        for i, (h, c, dense) in enumerate(zip(heads, channels, after.widths, strict=True))
    ]
    return [move for move in found if move.heads[0] != move.heads[1] or move.channels[0] != move.channels[1]]


def told_change(before: Plan, after: Plan) -> str:
    """Return in a few words how the second plan differs from the first.

    An example is 'layer 12 keeps 5.0 % more channels'.
    """
    if before.widths != after.widths:
        return "another model"
    said = [*changed_rules(before, after)]
    by_hand = after.allocation == "hand"
    if same_units(before, after) and (by_hand or not said):
        said += changed_layers(before, after)
    return "; ".join(said) or "the same plan"


def changed_rules(before: Plan, after: Plan) -> list[str]:
    """Return what differs in the rules of two plans, except for widths set by hand."""
    said = []
    if before.calibration.text != after.calibration.text:
        said.append(f"reads {after.calibration.text}")
    elif before.calibration != after.calibration:
        said.append(f"reads {after.calibration.samples} samples of {after.calibration.length} tokens")
    if before.method != after.method:
        said.append(f"by {method_title(after.method)}")
    elif before.options != after.options:
        said.append("other options of the method")
    if before.recovery != after.recovery:
        said.append(f"recovery {RECOVERIES[after.recovery].title}")
    if before.unit != after.unit:
        said.append(f"cuts {UNITS[after.unit].plural}")
    if after.allocation in ALLOCATIONS:
        if before.allocation != after.allocation:
            said.append(f"cut {ALLOCATIONS[after.allocation].title.lower()}")
        if (before.ratio_requested, before.count) != (after.ratio_requested, after.count):
            said.append(f"{format_share(before.ratio_requested)} → {format_share(after.ratio_requested)}")
        if before.align != after.align:
            said.append(f"channels in multiples of {after.align}")
    for name, old, new in (
        ("protected", before.protected, after.protected),
        ("forced out", before.forced, after.forced),
    ):
        if set(old) != set(new):
            units = sum(pin.count for pin in new)
            said.append(f"{units:,} {'unit' if units == 1 else 'units'} {name}")
    return said


def changed_layers(before: Plan, after: Plan) -> list[str]:
    """Return the layers whose widths differ: one by one where they are few, else their number."""
    found = list_moves(before, after)
    if len(found) > FEW:
        most = max(found, key=lambda move: move.size)
        return [f"{len(found)} layers changed, most layer {most.layer}"]
    return [layer_words(move, after.unit) for move in found]


def layer_words(move: Move, unit: str) -> str:
    """Return the change of one layer in words: 'layer 12 keeps 5.0 % more channels'."""
    if not any((move.heads[1], move.channels[1])):
        return f"layer {move.layer} dropped whole"
    said = []
    if move.heads[0] != move.heads[1]:
        each = " per head" if UNITS[unit].narrows_heads else ""
        said.append(f"{describe_amount(move.heads)} {UNITS[unit].plural}{each}")
    if move.channels[0] != move.channels[1]:
        before, after = move.channels
        part = format_share(abs(after - before) / max(1, move.dense[1]))
        said.append(f"{part} {'more' if after > before else 'fewer'} channels")
    return f"layer {move.layer} keeps {' and '.join(said)}"


def describe_amount(pair: Sequence[int]) -> str:
    """Return how many more or fewer the second number of a pair is."""
    before, after = pair
    return f"{abs(after - before):,} {'more' if after > before else 'fewer'}"


def summarise_changes(before: Plan, after: Plan, names: tuple[str, str]) -> str:
    """Return the difference of two plans as a sentence."""
    if before.widths != after.widths:
        return f"{names[0]} and {names[1]} are plans for different models, so their layers do not compare."
    if not same_units(before, after):
        cut = f"{UNITS[before.unit].plural} and {UNITS[after.unit].plural}"
        return f"The two plans cut different units ({cut}), so only their channels compare."
    found = list_moves(before, after)
    if not found:
        return f"{names[0]} and {names[1]} keep the same number of heads and channels in every layer."
    totals = [
        (
            describe_amount((sum(m.heads[0] for m in found), sum(m.heads[1] for m in found))),
            UNITS[after.unit].plural,
        ),
        (describe_amount((sum(m.channels[0] for m in found), sum(m.channels[1] for m in found))), "channels"),
    ]
    net = " and ".join(f"{said} {what}" for said, what in totals if not said.startswith("0 "))
    most = max(found, key=lambda move: move.size)
    layers = "1 layer differs" if len(found) == 1 else f"{len(found)} layers differ"
    whole = f"{names[1]} keeps {net} than {names[0]}" if net else f"{names[1]} keeps as many as {names[0]}"
    return f"{whole}; {layers}{f', most of all layer {most.layer}' if len(found) > 1 else ''}."
