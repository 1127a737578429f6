"""Checks that the layers of an analysis from a file fit the shape of its model. Pure."""

from __future__ import annotations

import torch

from slimllm.core.attention_unit import UNITS
from slimllm.core.shapes import Shape
from slimllm.core.types import LayerAnalysis, SiteAnalysis
from slimllm.methods.recovery import RECOVERIES


def check_layers(shape: Shape, layers: tuple[LayerAnalysis, ...]) -> None:
    """Raise `ValueError` if the analyses of the layers do not fit their shapes."""
    if not layers or len(layers) != len(shape.layers):
        raise ValueError("another number of layers")
    sizes = shape.hidden, shape.head_size, shape.vocab, shape.max_length, shape.outside + 1
    if min(sizes) < 1 or len({tuple(layer.attention) for layer in layers}) > 1:
        raise ValueError("no possible size")
    for layer, found in zip(shape.layers, layers, strict=True):
        costs = layer.head_cost, layer.group_cost, layer.channel_cost
        if min(layer.heads, layer.groups, layer.channels, *costs) < 1 or abs(found.cosine) > 1.01:
            raise ValueError("no possible width")
        if layer.heads % layer.groups or not found.attention:
            raise ValueError("no possible units")
        check_site(found.mlp, layer.channels, layer.channels)
        for unit, site in found.attention.items():
            if unit not in UNITS:
                raise ValueError("an unknown unit")
            columns = layer.groups * layer.values
            check_site(site, columns if UNITS[unit].narrows_heads else layer.heads, layer.steps(unit))


def check_site(site: SiteAnalysis, units: int, steps: int) -> None:
    """Raise `ValueError` unless a site has `units` scores, and kept sets and errors of `steps` steps."""
    ranking = site.ranking
    if ranking.scores.shape != (units,) or not torch.equal(ranking.order.sort().values, torch.arange(units)):
        raise ValueError("other units")
    for subsets in (ranking.subsets, ranking.unsearched):
        if subsets is not None and (subsets.shape != (steps + 1, units) or subsets.dtype != torch.bool):
            raise ValueError("other sets")
    if set(site.error) != set(RECOVERIES) or any(e.shape != (steps + 1,) for e in site.error.values()):
        raise ValueError("other errors")
