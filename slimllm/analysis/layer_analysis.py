"""The analysis of one dense layer from its moments: rankings, and recovery errors at every feasible width."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from slimllm.analysis.layer_sites import channel_site, dense_weight, split_held_out
from slimllm.core.arithmetic import Arithmetic
from slimllm.core.attention_unit import UnitName
from slimllm.core.held_out import HeldOutReader
from slimllm.core.shapes import Grouping, Shape
from slimllm.core.types import LayerAnalysis, LayerMoments, Moments, Ranking, SiteAnalysis, UnitScores
from slimllm.methods.interface import HeadSite, Method, layer_seed
from slimllm.methods.ordered_reader import OrderedReader
from slimllm.methods.recovery import RECOVERIES, Dense
from slimllm.models.loading import Subject


def analyse_layer(
    subject: Subject,
    index: int,
    found: LayerMoments,
    row: Method,
    options: Mapping[str, Any],
    seed: int,
    learned: UnitScores | None,
    recoveries: Collection[str],
    arithmetic: Arithmetic,
) -> LayerAnalysis:
    """Return the analysis of both sites of one layer: rankings, and errors at every feasible width.

    Errors are computed for these recoveries. A method that learns needs its `learned` scores. The tensors of
    the result are on the CPU.
    """
    layer, family, shape = subject.layers[index], subject.family, subject.shape.layers[index]
    seed = layer_seed(seed, index)
    weight, place = dense_weight(layer, family.attention.reader, arithmetic)
    moments = found.attention.double(place)
    energy = Dense(weight, moments).energy * moments.weight
    fitted, held = split_held_out(moments)
    reader = HeldOutReader(weight, held)
    attention: dict[UnitName, SiteAnalysis] = {}
    for unit in units_of(row, subject.shape):
        grouping = Grouping(shape.heads, shape.groups, unit, shape.values)
        known = learned.heads if learned else None
        ranking = row.heads(HeadSite(weight, moments, grouping, seed=seed, learned=known), options)
        error = head_errors(reader, fitted, ranking, grouping, recoveries)
        attention[unit] = SiteAnalysis(compact_ranking(ranking), error, energy)
    down, place = dense_weight(layer, family.mlp.reader, arithmetic)
    moments = found.mlp.double(place)
    known = learned.channels if learned else None
    site = channel_site(layer, subject, down, moments, found.mlp_input_sq, None, seed, known)
    ranking = row.channels(site, options)
    spectrum = site.principal[0].clamp_min(0).flip(0).cpu().float()  # (o,), largest first
    # Frees the float64 copies of the writers before the curves need as much memory.
    del site
    energy = Dense(down, moments).energy * moments.weight
    fitted, held = split_held_out(moments)
    del moments
    ordered = OrderedReader(HeldOutReader(down, held), fitted, ranking.order.to(place))
    error = {name: RECOVERIES[name].curve(ordered).cpu().float() for name in recoveries}
    mlp = SiteAnalysis(compact_ranking(ranking), error, energy, spectrum)
    return LayerAnalysis(found.cosine, attention, mlp)


def units_of(row: Method, shape: Shape) -> tuple[UnitName, ...]:
    """Return the attention units that a method offers for this model, the preferred one first."""
    if row.narrows_heads:
        return row.units
    units = tuple(unit for unit in row.units if unit in shape.units) or shape.units
    # Gates are trained for one unit only.
    return units[:1] if row.learns == "gates" else units


def compact_ranking(ranking: Ranking) -> Ranking:
    """Return the ranking with its scores in float32."""
    return dataclasses.replace(ranking, scores=ranking.scores.float())


def head_errors(
    reader: HeldOutReader,
    fitted: Moments,
    ranking: Ranking,
    grouping: Grouping,
    recoveries: Collection[str],
) -> dict[str, Tensor]:
    """Return the error (s+1,) of each recovery at every step.

    Kept sets are not nested, so each step is repaired separately.
    """
    size = reader.weight.shape[1] // grouping.heads
    if grouping.row.narrows_heads:
        return column_errors(reader, fitted, ranking, grouping, recoveries)
    steps = range(grouping.steps)
    kept = [grouping.inputs_of(ranking.kept(step * grouping.heads // len(steps)), size) for step in steps]
    moved = torch.cat(kept).to(reader.weight.device).split([len(inputs) for inputs in kept])  # (k,) each
    errors: dict[str, Tensor] = {}
    for name in recoveries:
        lost = []
        for inputs in moved:
            repair = RECOVERIES[name].repair(reader.weight, fitted, inputs)
            lost.append(reader.lost_energy(inputs, repair.weight, repair.bias))
        errors[name] = torch.tensor([*reader.errors(lost), 0.0])
    return errors


def column_errors(
    reader: HeldOutReader,
    fitted: Moments,
    ranking: Ranking,
    grouping: Grouping,
    recoveries: Collection[str],
) -> dict[str, Tensor]:
    """Return the error (e+1,) of each recovery at every number of value columns.

    Kept sets are nested, so one curve over the reader's inputs gives all errors.
    """
    assert ranking.subsets is not None
    # At how many steps each column is kept.
    joins = ranking.subsets.sum(0)  # (e+1, G·e) → (G·e,)
    width = ranking.subsets.shape[1] // grouping.groups
    heads = torch.arange(grouping.heads) // (grouping.heads // grouping.groups)  # (H,): the group of each
    # The value column that each input of the reader comes from.
    column = heads[:, None] * width + torch.arange(width)  # (H, e)
    order = joins[column.flatten()].argsort(descending=True, stable=True)  # (H·e,)
    ordered = OrderedReader(reader, fitted, order.to(reader.weight.device))
    return {name: RECOVERIES[name].curve(ordered)[:: grouping.heads].cpu().float() for name in recoveries}
