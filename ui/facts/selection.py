"""Describe which heads, channels or layers are selected on the maps, and what they are called. No Gradio."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from slimllm.core.shapes import SITES, Shape
from slimllm.core.types import LayerAnalysis, Pin, Plan
from slimllm.planning.budget import pinned_units
from slimllm.planning.pins import merge_pins, whole_layer
from ui.facts.pin_effects import find_effects
from ui.look.formatting import format_figure

Span = tuple[int, int]  # first and last


@dataclass(frozen=True)
class Picked:
    """A stretch of layers, and within each a stretch of heads or channels, or the whole layers.

    Channels count by rank (`by_rank`) or in place. Both ends of a stretch belong to it.
    """

    what: Literal["heads", "channels", "layers"]
    layers: Span
    units: Span = (0, 0)
    by_rank: bool = False

    @property
    def one(self) -> bool:
        """Whether this is a single head or channel."""
        return self.what != "layers" and self.layers[0] == self.layers[1] and self.units[0] == self.units[1]

    def whole(self) -> Picked:
        """Return the same layers as a whole."""
        return Picked("layers", self.layers)


def span_of(ends: Any, most: int) -> Span | None:
    """Return the first and the last whole number between two borders, clamped to 0 … most - 1, or None.

    `ends` comes from the browser. The result is None where it is no pair of numbers, or where no whole number
    lies between them.
    """
    try:
        low, high = math.ceil(float(ends[0]) - 1e-6 + 0.25), math.floor(float(ends[1]) + 1e-6 - 0.25)
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        return None
    low, high = max(0, low), min(most - 1, max(low, high))
    return (low, high) if low <= high else None


def pick_units(
    shape: Shape,
    what: Literal["heads", "channels"],
    event: Mapping[str, Any],
    by_rank: bool,
    layer: int | None,
) -> Picked | None:
    """Return what an event selected on a map, or None where it selected nothing.

    `layer` is the layer that a chart of a single layer shows, or None.
    """
    rows = (layer, layer) if layer is not None else span_of(event.get("y"), len(shape.layers))
    units = span_of(event.get("x"), shape.heads if what == "heads" else shape.channels)
    return None if rows is None or units is None else Picked(what, rows, units, by_rank)


def picked_pins(chosen: Picked, shape: Shape, layers: Sequence[LayerAnalysis | None]) -> list[Pin]:
    """Return the selected heads and channels as pins; a narrower layer gives those that it has."""
    found: list[Pin] = []
    for index in range(chosen.layers[0], chosen.layers[1] + 1):
        scored = layers[index]
        if chosen.what == "layers":
            found += whole_layer(shape, index)
        elif chosen.what == "heads":
            wide = shape.layers[index].heads
            found += merge_pins(index, "attention", range(chosen.units[0], min(chosen.units[1] + 1, wide)))
        elif not chosen.by_rank:
            wide = shape.layers[index].channels
            found += merge_pins(index, "mlp", range(chosen.units[0], min(chosen.units[1] + 1, wide)))
        elif scored is not None:
            order = scored.mlp.ranking.order[chosen.units[0] : chosen.units[1] + 1]
            found += merge_pins(index, "mlp", order.tolist())
    return found


def describe_pick(
    chosen: Picked, shape: Shape, layers: Sequence[LayerAnalysis | None], plan: Plan | None
) -> str:
    """Return what is selected and what the plan does with it, in plain words."""
    pins = picked_pins(chosen, shape, layers)
    where = (
        f"Layer {chosen.layers[0]}"
        if chosen.layers[0] == chosen.layers[1]
        else (f"Layers {chosen.layers[0]} to {chosen.layers[1]}")
    )
    said = f"{where}, {name_pick(chosen, shape, layers, pins)}."
    return said if plan is None else f"{said} {describe_standing(plan, pins, shape)}"


def name_pick(
    chosen: Picked, shape: Shape, layers: Sequence[LayerAnalysis | None], pins: Sequence[Pin]
) -> str:
    """Return what is selected within the layers, in words."""
    counts = {site: sum(pin.count for pin in pins if pin.site == site) for site in SITES}
    if chosen.what == "layers":
        return f"all of it: {counts['attention']:,} heads and {counts['mlp']:,} channels"
    first, last = chosen.units
    if chosen.one and pins:
        return describe_unit(chosen, shape, layers[chosen.layers[0]], pins[0].index)
    if chosen.by_rank:
        words = f"the channels ranked {first + 1:,} to {last + 1:,}"
    else:
        words = f"{chosen.what} {first:,} to {last:,}" if first != last else f"{chosen.what[:-1]} {first:,}"
    total = counts["attention"] + counts["mlp"]
    return f"{words} ({total:,} in all)"


def describe_unit(chosen: Picked, shape: Shape, scored: LayerAnalysis | None, unit: int) -> str:
    """Return one head or channel with its exact score and its rank, in words."""
    words = f"{chosen.what[:-1]} {unit:,}"
    if chosen.what == "heads":
        layer = shape.layers[chosen.layers[0]]
        words += f" of KV group {unit // (layer.heads // layer.groups)}"
    if scored is None:
        return words
    site = scored.mlp if chosen.what == "channels" else scored.attention[next(iter(scored.attention))]
    if len(site.ranking.scores) <= unit:
        return words
    rank = int((site.ranking.order == unit).nonzero()) + 1
    score = float(site.ranking.scores[unit])
    exact = f"{score:.4g}" if math.isfinite(score) else format_figure(score)
    return f"{words}: score {exact}, rank {rank:,} of {len(site.ranking.scores):,}"


def describe_standing(plan: Plan, pins: Sequence[Pin], shape: Shape) -> str:
    """Return how many of these units the plan protects, forces out or moves with their KV group."""
    total = sum(pin.count for pin in pins)
    parts = []
    for words, mine in (("protected", plan.protected), ("forced out", plan.forced)):
        held = sum(len(pinned_units(pins, *at) & pinned_units(mine, *at)) for at in pin_places(pins))
        if held:
            parts.append(words if held == total else f"{held:,} {words}")
    for words, many in with_groups(plan, pins, shape):
        if many:
            parts.append(words if many == total else f"{many:,} {words}")
    said = " and ".join(parts) or "free: the plan decides"
    return f"{said[0].upper()}{said[1:]}."


def with_groups(plan: Plan, pins: Sequence[Pin], shape: Shape) -> Iterator[tuple[str, int]]:
    """Yield how many of these heads go, and how many stay, because others of their KV group are pinned.

    Each item is (words, count).
    """
    layers = sorted({pin.layer for pin in pins if pin.site == "attention"})
    units = {layer: pinned_units(pins, layer, "attention") for layer in layers}
    its = "its" if sum(pin.count for pin in pins) == 1 else "their"
    effects = {layer: find_effects(plan, shape.layers[layer], layer) for layer in layers}
    yield f"going with {its} KV group", sum(len(units[i] & set(effects[i].going)) for i in layers)
    yield f"staying with {its} KV group", sum(len(units[i] & set(effects[i].staying)) for i in layers)


def pin_places(pins: Sequence[Pin]) -> list[tuple[int, Any]]:
    """Return the (layer, site) pairs of the pins, each once, in order."""
    return sorted({(pin.layer, pin.site) for pin in pins})


def summarise_pins(plan: Plan) -> str:
    """Return all pins of the plan in one sentence, or an empty string where there are none."""
    said = []
    for words, mine in (("protected", plan.protected), ("forced out", plan.forced)):
        heads, channels = (sum(pin.count for pin in mine if pin.site == site) for site in SITES)
        counts = [
            f"{n:,} {what if n > 1 else what[:-1]}"
            for n, what in ((heads, "heads"), (channels, "channels"))
            if n
        ]
        if counts:
            said.append(f"{' and '.join(counts)} {words}")
    if not said:
        return ""
    return f"In the plan: {'; '.join(said)}. Predicted errors are those of the method's own choice."
