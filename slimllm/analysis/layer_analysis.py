"""One dense layer from its moments: rankings, and the error of recoveries at every feasible width."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from slimllm.analysis.layer_sites import channel_site, split_held_out, to_float64
from slimllm.core.attention_unit import UnitName
from slimllm.core.held_out import HeldOutReader
from slimllm.core.shapes import Grouping, Shape
from slimllm.core.types import LayerAnalysis, LayerMoments, Moments, Ranking, SiteAnalysis, UnitScores
from slimllm.methods.interface import HeadSite, Method
from slimllm.methods.recovery import RECOVERIES, Dense
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject


def analyse_layer(
    subject: Subject,
    index: int,
    found: LayerMoments,
    row: Method,
    options: Mapping[str, Any],
    seed: int,
    learned: UnitScores | None = None,
    recoveries: Collection[str] = tuple(RECOVERIES),
) -> LayerAnalysis:
    """Both sites of one layer: ranking, and the error of the recoveries at every feasible width."""
    layer, family, shape = subject.layers[index], subject.family, subject.shape.layers[index]
    seed = seed * 1000 + index
    weight = to_float64(linear_of(layer, family.attention.reader).weight)
    moments = found.attention.double()
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
    down, moments = to_float64(linear_of(layer, family.mlp.reader).weight), found.mlp.double()
    known = learned.channels if learned else None
    site = channel_site(layer, subject, down, moments, found.mlp_input_sq, None, seed, known)
    ranking = row.channels(site, options)
    spectrum = site.principal[0].clamp_min(0).flip(0).float()
    del site  # the float64 copies of the writers go before the curves need as much
    energy = Dense(down, moments).energy * moments.weight
    fitted, held = split_held_out(moments)
    del moments
    reader = HeldOutReader(down, held)
    error = {name: RECOVERIES[name].curve(reader, fitted, ranking.order).float() for name in recoveries}
    mlp = SiteAnalysis(compact_ranking(ranking), error, energy, spectrum)
    return LayerAnalysis(found.cosine, attention, mlp)


def units_of(row: Method, shape: Shape) -> tuple[UnitName, ...]:
    """The attention units that a method offers on this model, the preferred one first."""
    if row.narrows_heads:
        return row.units
    units = tuple(unit for unit in row.units if unit in shape.units) or shape.units
    return units[:1] if row.learns == "gates" else units  # gates are trained for one unit


def compact_ranking(ranking: Ranking) -> Ranking:
    return dataclasses.replace(ranking, scores=ranking.scores.float())


def head_errors(
    reader: HeldOutReader,
    fitted: Moments,
    ranking: Ranking,
    grouping: Grouping,
    recoveries: Collection[str],
) -> dict[str, Tensor]:
    """The error (s+1,) of the recoveries at every step; kept sets are not nested, so each step is
    repaired."""
    size = reader.weight.shape[1] // grouping.heads
    if grouping.row.narrows_heads:
        return column_errors(reader, fitted, ranking, grouping, recoveries)
    errors: dict[str, list[float]] = {name: [] for name in recoveries}
    for step in range(grouping.steps):
        kept = grouping.inputs_of(ranking.kept(step * grouping.heads // grouping.steps), size)
        for name in recoveries:
            repair = RECOVERIES[name].repair(reader.weight, fitted, kept)
            errors[name].append(reader.error(kept, repair.weight, repair.bias))
    return {name: torch.tensor([*values, 0.0]) for name, values in errors.items()}


def column_errors(
    reader: HeldOutReader,
    fitted: Moments,
    ranking: Ranking,
    grouping: Grouping,
    recoveries: Collection[str],
) -> dict[str, Tensor]:
    """The error (e+1,) of the recoveries at every number of value columns; kept sets are nested, so one curve
    over the reader's inputs tells all."""
    assert ranking.subsets is not None
    joins = ranking.subsets.sum(0)  # (G·e,): at how many steps a column is kept
    width = ranking.subsets.shape[1] // grouping.groups
    heads = torch.arange(grouping.heads) // (grouping.heads // grouping.groups)
    column = heads[:, None] * width + torch.arange(width)  # (H, e): the value column behind each input
    order = joins[column.flatten()].argsort(descending=True, stable=True)
    return {
        name: RECOVERIES[name].curve(reader, fitted, order)[:: grouping.heads].float() for name in recoveries
    }
