"""Pruning of one layer on the stream.

The attention is ranked, repaired and sliced first, then the MLP; then the stream passes through the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from slimllm.analysis.layer_sites import channel_site, dense_weight, split_held_out
from slimllm.calibration import moments as streaming
from slimllm.core.arithmetic import Arithmetic
from slimllm.core.held_out import HeldOut, HeldOutReader
from slimllm.core.shapes import Grouping, SiteName
from slimllm.core.types import LayerMoments, LayerReport, Moments, Plan, Repair, UnitScores
from slimllm.methods.interface import HeadSite, Method, layer_seed
from slimllm.methods.recovery import RECOVERIES, Dense
from slimllm.methods.table import find_method
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject
from slimllm.planning.budget import pinned_units
from slimllm.pruning import surgery
from slimllm.pruning.surgery import slice_attention, slice_mlp


@dataclass(frozen=True, eq=False)
class Work:
    """Everything that pruning one layer needs.

    These are the dense model, the shared copy `slim` that is being pruned, the plan, the stream, and the
    scores from gradients or training, if the method uses them.
    """

    dense: Subject
    slim: Subject
    plan: Plan
    stream: streaming.Stream
    learned: Sequence[UnitScores] | None = None
    # The stream of the same tokens through the dense layers.
    guide: streaming.Stream | None = None
    arithmetic: Arithmetic = field(default_factory=Arithmetic)

    @property
    def method(self) -> Method:
        """The row of the plan's method."""
        return find_method(self.plan.method)

    def accumulator(self, goal: streaming.Goal | None) -> streaming.Accumulator:
        """Return an accumulator for the moments of a reader's input."""
        return streaming.Accumulator(weighted=self.method.weighted, goal=goal, held=self.stream.held)

    def goals(self, index: int) -> tuple[streaming.Goal | None, streaming.Goal | None]:
        """Return the dense streams behind the attention and behind the MLP of this layer; advance the guide.

        Each one is None if the recovery does not follow the dense stream or if nothing has been lost before
        it.
        """
        if self.guide is None:
            return None, None
        layer = self.dense.layers[index]
        middle, end = streaming.lead_streams(layer, self.guide, index, self.dense.family.between)
        before = any(self.cut(i) != (False, False) for i in range(index))
        return (middle if before else None), (end if before or self.cut(index)[0] else None)

    def cut(self, index: int) -> tuple[bool, bool]:
        """Return whether the attention and whether the MLP of this layer loses anything."""
        shape, plan = self.dense.shape.layers[index], self.plan
        return plan.heads[index] < shape.widest(plan.unit), plan.channels[index] < shape.channels


def prune_layer(work: Work, index: int) -> LayerReport:
    """Prune one layer of the shared copy, attention first, and advance the stream.

    The stream passes through the pruned layer, or through the dense one if the method uses dense statistics.
    """
    plan, stream = work.plan, work.stream
    layer, family = work.slim.layers[index], work.slim.family
    goals = work.goals(index)
    if not plan.heads[index] and not plan.channels[index]:
        return LayerReport(0, 0, (), (), predicted_error(plan, index), 1.0)
    found = None
    if work.method.statistics == "dense":
        found = streaming.collect_moments(work.dense, stream, index, work.method.weighted)
    heads, head_cut = prune_attention(work, index, found, goals[0])
    channels, channel_cut = prune_mlp(work, index, found, goals[1])
    readers = [family.attention.reader, family.mlp.reader]
    whole = [name for name, cut in zip(readers, (head_cut, channel_cut), strict=True) if cut is None]
    if found is None:
        energies = streaming.advance_measured(layer, stream, index, whole)
    else:
        sites = dict(zip(readers, (found.attention, found.mlp), strict=True))
        energies = {}
        for name in whole:
            weight, place = dense_weight(layer, name, work.arithmetic)
            energies[name] = Dense(weight, sites[name].double(place)).energy
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
        error_predicted=predicted_error(plan, index),
        error_measured=sum(cut.error * cut.energy for cut in cuts) / energy if energy > 0 else 0.0,
    )


def predicted_error(plan: Plan, index: int) -> float:
    """Return the plan's predicted error of a layer, or NaN if it has none."""
    return plan.predicted_error[index] if plan.predicted_error else float("nan")


@dataclass(frozen=True)
class Cut:
    """The relative error of one cut reader, and E‖y‖² of its dense output."""

    error: float
    energy: float


def prune_attention(
    work: Work, index: int, found: LayerMoments | None, goal: streaming.Goal | None
) -> tuple[Tensor, Cut | None]:
    """Rank, repair and slice the attention of one layer.

    Return (kept heads or value columns (k,), its cut), or (all of them, None) if none is removed.
    """
    subject, plan = work.slim, work.plan
    layer, family, shape = subject.layers[index], subject.family, subject.shape.layers[index]
    # The head size, and the inputs of the reader for each head.
    size, values = subject.shape.head_size, shape.values
    grouping = Grouping(shape.heads, shape.groups, plan.unit, values)
    name = family.attention.reader
    if not work.cut(index)[0]:
        refit_reader(work, index, name, goal)
        return torch.arange(grouping.units if grouping.row.narrows_heads else shape.heads), None
    weight, place = dense_weight(layer, name, work.arithmetic)
    if found is None:
        wanted = {name: work.accumulator(goal)}
        watched = streaming.watch_linears(layer, work.stream, index, wanted)
        moments = watched.pop(name).moments.double(place)
    else:
        moments = found.attention.double(place)
    learned = None if work.learned is None else work.learned[index].heads
    pins = site_pins(plan, index, "attention", shape.heads)
    site = HeadSite(weight, moments, grouping, pins, layer_seed(plan.seed, index), learned)
    ranking = work.method.heads(site, dict(plan.options))
    kept = ranking.kept(plan.heads[index], shape.widest(plan.unit))  # (k,)
    inputs = grouping.inputs_of(kept, values)  # (m,)
    gain = None if learned is None else learned.repeat_interleave(values)[inputs].to(place)  # (H·v,) → (m,)
    inputs = inputs.to(place)
    repair = repair_reader(work, weight, moments, inputs, gain)
    if grouping.row.narrows_heads:
        # (k,) → (G, v)
        surgery.slice_values(layer, family, shape, size, kept.view(shape.groups, -1) % values, repair)
    else:
        slice_attention(layer, family, shape, size, kept, repair)
    energy, parts = Dense(weight, moments).energy, split_held_out(moments)
    # In float64 the moments of 8,192 inputs take half a gigabyte.
    del moments, repair
    return kept, Cut(held_out_error(work, layer, name, weight, parts, inputs, gain), energy)


def refit_reader(work: Work, index: int, name: str, goal: streaming.Goal | None) -> None:
    """Refit a reader that loses no inputs, if the recovery compensates for earlier losses."""
    if goal is None:
        return
    layer = work.slim.layers[index]
    weight, place = dense_weight(layer, name, work.arithmetic)
    wanted = {name: work.accumulator(goal)}
    moments = streaming.watch_linears(layer, work.stream, index, wanted).pop(name).moments.double(place)
    kept = torch.arange(weight.shape[1], device=place)  # (d,)
    surgery.set_reader(layer, name, RECOVERIES[work.plan.recovery].repair(weight, moments, kept))


def prune_mlp(
    work: Work, index: int, found: LayerMoments | None, goal: streaming.Goal | None
) -> tuple[Tensor, Cut | None]:
    """Rank, repair and slice the channels of one layer.

    Return (kept channels (k,), its cut), or (all of them, None) if none is removed.
    """
    subject, plan = work.slim, work.plan
    layer, family, shape = subject.layers[index], subject.family, subject.shape.layers[index]
    name, writer = family.mlp.reader, next(iter(family.mlp.writers))
    if not work.cut(index)[1]:
        refit_reader(work, index, name, goal)
        return torch.arange(shape.channels), None
    weight, place = dense_weight(layer, name, work.arithmetic)
    if found is None:
        wanted = {
            name: work.accumulator(goal),
            writer: streaming.Accumulator(second=False, weighted=work.method.weighted),
        }
        watched = streaming.watch_linears(layer, work.stream, index, wanted)
        # `pop` frees the float32 sums early; those of 8,192 channels take a quarter of a gigabyte.
        moments, input_sq = watched.pop(name).moments.double(place), watched[writer].mean
    else:
        moments, input_sq = found.mlp.double(place), found.mlp_input_sq
    learned = None if work.learned is None else work.learned[index].channels
    pins = site_pins(plan, index, "mlp", shape.channels)
    seed = layer_seed(plan.seed, index)
    # The site has no name, so that the float64 copies of the writers are freed before the repair starts.
    kept = work.method.channels(
        channel_site(layer, subject, weight, moments, input_sq, pins, seed, learned), dict(plan.options)
    ).kept(plan.channels[index])
    gain = None if learned is None else learned[kept].to(place)  # (c,) → (k,)
    inputs = kept.to(place)
    repair = repair_reader(work, weight, moments, inputs, gain)
    slice_mlp(layer, family, shape, kept, repair)
    energy, parts = Dense(weight, moments).energy, split_held_out(moments)
    # In float64 the moments of 8,192 channels take half a gigabyte.
    del moments, repair
    return kept, Cut(held_out_error(work, layer, name, weight, parts, inputs, gain), energy)


def repair_reader(work: Work, weight: Tensor, moments: Moments, kept: Tensor, gain: Tensor | None) -> Repair:
    """Return the repair of a reader (o, d) with the inputs `kept` (k,).

    Trained gates `gain` (k,) multiply its columns.
    """
    repair = RECOVERIES[work.plan.recovery].repair(weight, moments, kept)
    if gain is None or work.method.learns != "gates":
        return repair
    return Repair(repair.weight * gain, repair.bias)  # (o, k) · (k,) → (o, k)


def held_out_error(
    work: Work,
    layer: nn.Module,
    name: str,
    weight: Tensor,
    parts: tuple[Moments, HeldOut],
    kept: Tensor,
    gain: Tensor | None,
) -> float:
    """Return the error of a cut on the stream's held-out tokens, with the weights in their stored precision.

    The stored weights are fitted to these tokens too, so the same repair is fitted to the others for this
    error.
    """
    fitted, held = parts
    repair = repair_reader(work, weight, fitted, kept, gain)
    stored = repair.weight.to(linear_of(layer, name).weight.dtype).double()
    return HeldOutReader(weight, held).error(kept, stored, repair.bias)


def site_pins(plan: Plan, index: int, site: SiteName, n: int) -> Tensor | None:
    """Return the pins (n,) of one site, 1 protected and −1 forced out, or None if there are none."""
    pins = torch.zeros(n)
    for value, group in ((-1, plan.forced), (1, plan.protected)):
        pins[list(pinned_units(group, index, site))] = value
    return pins if pins.any() else None
