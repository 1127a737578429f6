"""One layer pruned on the stream: rank, repair, slice its attention, then its MLP, then move on through what
is left."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from slimllm import moments as streaming
from slimllm import recovery
from slimllm.families import part
from slimllm.methods import HeadSite, method
from slimllm.models import Subject
from slimllm.recovery import RECOVERIES
from slimllm.sites import channel_site, double, inputs_of
from slimllm.surgery import slice_attention, slice_mlp
from slimllm.types import Grouping, LayerReport, Moments, Plan, Repair, SiteName


def prune_layer(subject: Subject, plan: Plan, stream: streaming.Stream, index: int) -> LayerReport:
    """Prunes one layer of a skeleton, attention first, and moves the stream through it."""
    layer = subject.layers[index]
    heads, head_cut = prune_attention(subject, plan, stream, index)
    channels, channel_cut = prune_mlp(subject, plan, stream, index)
    readers = [subject.family.attention.reader, subject.family.mlp.reader]
    whole = [name for name, cut in zip(readers, (head_cut, channel_cut), strict=True) if cut is None]
    energies = streaming.advance_measured(layer, stream, index, whole)
    cuts = [
        head_cut or Cut(0.0, energies.get(readers[0], 0.0)),
        channel_cut or Cut(0.0, energies.get(readers[1], 0.0)),
    ]
    energy = sum(cut.energy for cut in cuts)
    return LayerReport(
        heads=len(heads),
        channels=len(channels),
        kept_heads=tuple(heads.tolist()),
        kept_channels=tuple(channels.tolist()),
        error_predicted=plan.predicted_error[index] if plan.predicted_error else float("nan"),
        error_measured=sum(cut.error * cut.energy for cut in cuts) / energy if energy > 0 else 0.0,
    )


@dataclass(frozen=True)
class Cut:
    """The relative error of one cut reader, and E‖y‖² of its dense output."""

    error: float
    energy: float


def prune_attention(
    subject: Subject, plan: Plan, stream: streaming.Stream, index: int
) -> tuple[Tensor, Cut | None]:
    """Ranks, repairs and slices the heads of one layer: (kept heads, what it cost), or all and None if none
    goes."""
    layer, family, shape = subject.layers[index], subject.family, subject.shape.layers[index]
    if plan.heads[index] == shape.heads:
        return torch.arange(shape.heads), None
    name = family.attention.reader
    weight = double(part(layer, name).weight)
    moments = streaming.watch(layer, stream, index, {name: streaming.Accumulator()})[name].moments.double()
    grouping = Grouping(shape.heads, shape.groups, plan.unit)
    site = HeadSite(
        weight, moments, grouping, pinned(plan, index, "attention", shape.heads), plan.seed * 1000 + index
    )
    kept = method(plan.method).heads(site, dict(plan.options)).kept(plan.heads[index])
    inputs = inputs_of(kept, subject.shape.head_size)
    repair = RECOVERIES[plan.recovery].repair(weight, moments, inputs)
    slice_attention(layer, family, shape, subject.shape.head_size, kept, repair)
    return kept, cost_of(layer, name, weight, moments, inputs, repair)


def prune_mlp(
    subject: Subject, plan: Plan, stream: streaming.Stream, index: int
) -> tuple[Tensor, Cut | None]:
    """Ranks, repairs and slices the channels of one layer: (kept channels, what it cost), or all and None."""
    layer, family, shape = subject.layers[index], subject.family, subject.shape.layers[index]
    if plan.channels[index] == shape.channels:
        return torch.arange(shape.channels), None
    name, writer = family.mlp.reader, next(iter(family.mlp.writers))
    weight = double(part(layer, name).weight)
    wanted = {name: streaming.Accumulator(), writer: streaming.Accumulator(second=False)}
    found = streaming.watch(layer, stream, index, wanted)
    moments = found[name].moments.double()
    pins = pinned(plan, index, "mlp", shape.channels)
    site = channel_site(layer, subject, weight, moments, found[writer].mean, pins, plan.seed * 1000 + index)
    kept = method(plan.method).channels(site, dict(plan.options)).kept(plan.channels[index])
    repair = RECOVERIES[plan.recovery].repair(weight, moments, kept)
    slice_mlp(layer, family, shape, kept, repair)
    return kept, cost_of(layer, name, weight, moments, kept, repair)


def cost_of(
    layer: nn.Module, name: str, weight: Tensor, moments: Moments, kept: Tensor, repair: Repair
) -> Cut:
    """What the cut cost on the stream, with the weights as they were stored."""
    stored = Repair(double(part(layer, name).weight), repair.bias)
    return Cut(recovery.error_of(weight, moments, kept, stored), recovery.output_energy(weight, moments))


def pinned(plan: Plan, index: int, site: SiteName, n: int) -> Tensor | None:
    """The pins (n,) of one site: 1 protected, −1 forced out; None where there are none."""
    pins = torch.zeros(n)
    for value, group in ((-1, plan.forced), (1, plan.protected)):
        for pin in group:
            if pin.layer == index and pin.site == site:
                pins[pin.index] = value
    return pins if pins.any() else None
