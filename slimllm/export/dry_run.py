"""How a model could shrink and be stored, tried on an empty one without memory, before any weight is read."""

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
    """How attention can shrink: the unit that goes, how often, and the head counts at which all layers alike
    are stored without a code file (where the recovery adds no bias)."""

    unit: str
    steps: int
    heads: tuple[int, ...]
    plain_heads: tuple[int, ...]


@dataclass(frozen=True)
class Way:
    """How one kind of plan is stored: the tier that auto takes, the class that reads it, and why; whether it
    can be filled up with zeros instead, and stored for llama.cpp."""

    plan: str
    tier: str
    stored_as: str
    padded: bool
    words: str
    gguf: bool = False


def sketch_subject(config: Any, source: str) -> Subject:
    """A subject around a model of this config without memory."""
    config = copy.deepcopy(config)
    with loading.refuse_load_failures(source, True), torch.device("meta"):
        return loading.make_subject(source, build_slim_model(config, source), None)


def shorten_subject(subject: Subject) -> Subject:
    """The subject with its first two layers."""
    model = shared_copy.share_model(subject.model)
    drop_layers(model, subject.family, range(2, len(subject.layers)))
    return dataclasses.replace(subject, model=model, shape=shape_of(model, subject.family))


def try_widths(subject: Subject, heads: list[int], channels: list[int], unit: UnitName, bias: bool) -> Pruned:
    """The subject with these widths, and biases as a recovery would add them."""
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
    """The subject as what a plan left, for the forms to be tried on."""
    for module in subject.model.modules():
        if isinstance(module, Placed):  # which places does not matter, but they have to be known
            module.places = torch.arange(len(module.places))
    widths = subject.shape.widths
    heads, channels = (tuple(row[place] for row in widths) for place in (0, 2))
    return Pruned(subject, Plan(subject.source, subject.shape.family, widths, heads, channels), (), 0.0, 0.0)


def cut_attention(
    layer: Any, family: Family, shape: LayerShape, size: int, width: int, unit: UnitName, repair: Any
) -> None:
    """Keeps the first units."""
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
    """Whether the layers can be tried further: all whole and alike."""
    size = subject.shape.head_size
    return not subject.shape.uneven and all(a.values == size for a in subject.shape.layers)


def width_steps(subject: Subject) -> Iterator[TriedStep]:
    """How attention can shrink."""
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
    """Whether a stock class holds layers that all have this many heads."""
    count, channels = len(short.layers), short.shape.channels
    return (
        storage_way("", try_widths(short, [heads] * count, [max(1, channels // 2)] * count, unit, False)).tier
        != "shim"
    )


def list_ways(subject: Subject) -> Iterator[Way]:
    """How the kinds of plans are stored, each tried."""
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
    """Refuses a plan whose outcome cannot be stored as `wanted`, before anything is pruned, as far as that
    can be told."""
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
    """Whether the outcome of a plan can be stored as `wanted`, as far as that can be told."""
    try:
        check_storable(subject, plan, wanted)
    except Refusal:
        return False
    return True


def storage_way(plan: str, pruned: Pruned) -> Way:
    """What auto stores this model as, and whether it could be filled up with zeros instead."""
    form = formats.choose_format(pruned)
    padded = form.tier == "shim" and fits_format(pruned, "padded")
    return Way(plan, form.tier, formats.name_of(form.model), padded, form.words, fits_format(pruned, "gguf"))


def fits_format(pruned: Pruned, tier: str) -> bool:
    """Whether this tier can hold the model."""
    try:
        formats.choose_format(pruned, tier)
    except Refusal:
        return False
    return True
