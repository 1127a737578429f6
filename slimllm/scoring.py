"""One dense layer from its moments: rankings, and the error of every recovery at every feasible width."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from slimllm import recovery
from slimllm.families import part
from slimllm.methods import HeadSite, Method
from slimllm.models import Subject
from slimllm.recovery import RECOVERIES
from slimllm.sites import channel_site, double, inputs_of
from slimllm.types import Grouping, LayerAnalysis, LayerMoments, Moments, Ranking, SiteAnalysis, Unit


def analyse_layer(
    subject: Subject, index: int, found: LayerMoments, row: Method, options: Mapping[str, Any], seed: int
) -> LayerAnalysis:
    """Both sites of one layer: ranking, and the error of every recovery at every feasible width."""
    layer, family, shape = subject.layers[index], subject.family, subject.shape.layers[index]
    seed = seed * 1000 + index
    weight = double(part(layer, family.attention.reader).weight)
    moments = found.attention.double()
    energy = recovery.output_energy(weight, moments)
    attention: dict[Unit, SiteAnalysis] = {}
    for unit in subject.shape.units:
        grouping = Grouping(shape.heads, shape.groups, unit)
        ranking = row.heads(HeadSite(weight, moments, grouping, seed=seed), options)
        attention[unit] = SiteAnalysis(
            compact(ranking), head_errors(weight, moments, ranking, grouping, energy), energy
        )
    down, moments = double(part(layer, family.mlp.reader).weight), found.mlp.double()
    ranking = row.channels(
        channel_site(layer, subject, down, moments, found.mlp_input_sq, None, seed), options
    )
    error = {name: r.curve(down, moments, ranking.order).float() for name, r in RECOVERIES.items()}
    mlp = SiteAnalysis(compact(ranking), error, recovery.output_energy(down, moments))
    return LayerAnalysis(found.cosine, attention, mlp)


def compact(ranking: Ranking) -> Ranking:
    return Ranking(ranking.scores.float(), ranking.order, ranking.subsets)


def head_errors(
    weight: Tensor, moments: Moments, ranking: Ranking, grouping: Grouping, energy: float
) -> dict[str, Tensor]:
    """The error (s+1,) of every recovery at every step; kept sets are not nested, so each step is
    repaired."""
    size = weight.shape[1] // grouping.heads
    errors: dict[str, list[float]] = {name: [] for name in RECOVERIES}
    for step in range(grouping.steps):
        kept = inputs_of(ranking.kept(step * grouping.heads // grouping.steps), size)
        for name, row in RECOVERIES.items():
            repair = row.repair(weight, moments, kept)
            errors[name].append(recovery.squared_error(weight, moments, kept, repair) / (energy or 1.0))
    return {name: torch.tensor([*values, 0.0]) for name, values in errors.items()}
