"""Trials of how a model can shrink and be stored, on a model without memory, before any weight is read."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from slimllm.core.attention_unit import KV_GROUP, UNITS, VALUE_COLUMN, UnitName
from slimllm.core.errors import Refusal
from slimllm.core.shapes import Grouping, LayerShape
from slimllm.core.types import Plan, Repair
from slimllm.export import formats
from slimllm.methods.recovery import RECOVERIES
from slimllm.models import loading, shared_copy
from slimllm.models.families import Family, linear_of, narrows_values, shape_of
from slimllm.models.loading import Pruned, Subject
from slimllm.models.modeling_slim import Placed
from slimllm.models.shared_copy import drop_layers
from slimllm.models.slim_class import build_slim_model
from slimllm.pruning import surgery


@dataclass(frozen=True)
class TriedStep:
    """How attention can shrink in one unit.

    `steps` is the number of steps and `heads` the head count after each. `plain_heads` are those at which all
    layers alike are stored without a code file, if the recovery adds no bias.
    """

    unit: str
    steps: int
    heads: tuple[int, ...]
    plain_heads: tuple[int, ...]


@dataclass(frozen=True)
class Way:
    """How one kind of plan is stored.

    These are the tier that auto takes, the class that reads it, and the reason; then whether the model can be
    padded with zeros instead, and whether it can be stored for llama.cpp.
    """

    plan: str
    tier: str
    stored_as: str
    padded: bool
    words: str
    gguf: bool = False


def sketch_subject(config: Any, source: str) -> Subject:
    """Return a subject for a model of this config on the meta device, without memory."""
    config = copy.deepcopy(config)
    with loading.refuse_load_failures(source, True), torch.device("meta"):
        return loading.make_subject(source, build_slim_model(config, source), None)


def shorten_subject(subject: Subject) -> Subject:
    """Return the subject with only its first two layers."""
    model = shared_copy.share_model(subject.model)
    drop_layers(model, subject.family, range(2, len(subject.layers)))
    return dataclasses.replace(subject, model=model, shape=shape_of(model, subject.family))


def try_widths(subject: Subject, heads: list[int], channels: list[int], unit: UnitName, bias: bool) -> Pruned:
    """Return the subject pruned to these widths, with biases if a recovery would add them."""
    slim = dataclasses.replace(subject, model=shared_copy.share_model(subject.model))
    family, size = subject.family, subject.shape.head_size
    for layer, shape, width, count in zip(slim.layers, subject.shape.layers, heads, channels, strict=True):

        def empty_repair(name: str, inputs: torch.Tensor, layer: Any = layer) -> Repair:
            weight = linear_of(layer, name).weight[:, inputs]
            return Repair(weight, weight.new_zeros(len(weight)) if bias else None)

        if width < shape.widest(unit):
            cut_attention(layer, family, shape, size, width, unit, empty_repair)
        if count < shape.channels:
            kept = torch.arange(count)
            surgery.slice_mlp(layer, family, shape, kept, empty_repair(family.mlp.reader, kept))
    return as_pruned(dataclasses.replace(slim, shape=shape_of(slim.model, family)))


def as_pruned(subject: Subject) -> Pruned:
    """Return the subject as the result of a plan, so that forms can be tried on it."""
    for module in subject.model.modules():
        # Any places will do, but they must not be on the meta device.
        if isinstance(module, Placed):
            module.places = torch.arange(len(module.places))
    widths = subject.shape.widths
    heads, channels = (tuple(row[place] for row in widths) for place in (0, 2))
    return Pruned(subject, Plan(subject.source, subject.shape.family, widths, heads, channels), (), 0.0, 0.0)


def cut_attention(
    layer: Any, family: Family, shape: LayerShape, size: int, width: int, unit: UnitName, repair: Any
) -> None:
    """Keep the first units of an attention site."""
    name = family.attention.reader
    if UNITS[unit].narrows_heads:
        columns = torch.arange(width).repeat(shape.groups, 1)
        inputs = torch.arange(shape.heads * width)
        surgery.slice_values(layer, family, shape, size, columns, repair(name, inputs))
        return
    each = shape.heads // shape.groups
    left = torch.arange(shape.heads)
    kept = left[:width] if UNITS[unit].takes_groups else left[left % each < width // shape.groups]
    inputs = Grouping(shape.heads, shape.groups, unit).inputs_of(kept, size)
    surgery.slice_attention(layer, family, shape, size, kept, repair(name, inputs))


def can_be_cut(subject: Subject) -> bool:
    """Return whether the layers can be tried at other widths: they must be whole and alike."""
    size = subject.shape.head_size
    return not subject.shape.uneven and all(a.values == size for a in subject.shape.layers)


def width_steps(subject: Subject) -> Iterator[TriedStep]:
    """Yield the ways in which attention can shrink."""
    shape = max(subject.shape.layers, key=lambda layer: layer.heads)
    short = shorten_subject(subject)
    for unit in subject.shape.units if not shape.whole else ():
        steps = shape.steps(unit)
        heads = tuple(shape.heads * step // steps for step in range(1, steps + 1))
        plain = tuple(h for h in heads if can_be_cut(subject) and stays_plain(short, h, unit))
        yield TriedStep(unit, steps, heads, plain)
    if narrows_values(subject.family):
        yield TriedStep(VALUE_COLUMN.name, shape.values, (shape.heads,), ())


def stays_plain(short: Subject, heads: int, unit: UnitName) -> bool:
    """Return whether a stock class can hold layers that all have this many heads."""
    count, channels = len(short.layers), short.shape.channels
    return (
        storage_way("", try_widths(short, [heads] * count, [max(1, channels // 2)] * count, unit, False)).tier
        != "shim"
    )


def list_ways(subject: Subject) -> Iterator[Way]:
    """Yield how each kind of plan is stored, found by trying it."""
    if not can_be_cut(subject):
        yield storage_way("As it is", as_pruned(subject))
        return
    short = shorten_subject(subject)
    shape = short.shape.layers[0]
    most, some, count = shape.heads, max(1, shape.channels // 2), len(short.layers)
    alike, uneven = [some] * count, [some, *[shape.channels] * (count - 1)]
    for words, bias in (("recovery none", False), ("any other recovery", True)):
        for plan, channels in (
            ("Fewer channels, all layers alike", alike),
            ("Layers of different width", uneven),
        ):
            yield storage_way(
                f"{plan}, {words}", try_widths(short, [most] * count, channels, KV_GROUP.name, bias)
            )
    if narrows_values(subject.family):
        narrow = [max(1, subject.shape.head_size // 2)] * count
        yield storage_way(
            "Value columns (method fasp)", try_widths(short, narrow, alike, VALUE_COLUMN.name, True)
        )


def check_storable(subject: Subject, plan: Plan, wanted: str) -> None:
    """Raise `Refusal` if the result of a plan cannot be stored as `wanted`.

    This is checked before pruning, as far as the result is known by then.
    """
    if any(a.values < subject.shape.head_size for a in subject.shape.layers):
        return
    empty = dataclasses.replace(
        sketch_subject(subject.model.config, subject.source), tokenizer=subject.tokenizer
    )
    left = [index for index, widths in enumerate(zip(plan.heads, plan.channels, strict=True)) if any(widths)]
    drop_layers(empty.model, empty.family, [i for i in range(len(plan.heads)) if i not in left])
    short = dataclasses.replace(empty, shape=shape_of(empty.model, empty.family))
    heads, channels = ([row[i] for i in left] for row in (plan.heads, plan.channels))
    formats.choose_format(
        try_widths(short, heads, channels, plan.unit, RECOVERIES[plan.recovery].bias), wanted
    )


def is_storable(subject: Subject, plan: Plan, wanted: str) -> bool:
    """Return whether the result of a plan can be stored as `wanted`, as far as known before pruning."""
    try:
        check_storable(subject, plan, wanted)
    except Refusal:
        return False
    return True


def storage_way(plan: str, pruned: Pruned) -> Way:
    """Return how auto stores this model, and whether it could be padded with zeros instead."""
    form = formats.choose_format(pruned)
    padded = form.tier == "shim" and fits_format(pruned, "padded")
    return Way(plan, form.tier, formats.name_of(form.model), padded, form.words, fits_format(pruned, "gguf"))


def fits_format(pruned: Pruned, tier: str) -> bool:
    """Return whether this tier can hold the model."""
    try:
        formats.choose_format(pruned, tier)
    except Refusal:
        return False
    return True
