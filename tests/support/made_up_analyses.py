"""Make up analyses with the structure of real ones, for tests of the interface.

No model is loaded.
"""

from __future__ import annotations

import math

import torch

from slimllm.core.attention_unit import UnitName
from slimllm.core.shapes import Grouping, LayerShape, Shape
from slimllm.core.types import Analysis, Calibration, LayerAnalysis, Ranking, SiteAnalysis
from slimllm.methods.recovery import RECOVERIES

GAINS = {"none": 1.0, "bias": 0.93, "regression": 0.8, "least-squares": 0.45, "guided": 0.5}  # error left


def synthetic_shape(layers: int, heads: int, groups: int, head_size: int, channels: int) -> Shape:
    """Return the shape of a model like Llama."""
    hidden = heads * head_size
    layer = LayerShape(
        heads=heads,
        groups=groups,
        channels=channels,
        head_cost=2 * hidden * head_size,
        group_cost=2 * hidden * head_size,
        channel_cost=3 * hidden,
        fixed=2 * hidden,
        attention_bias=False,
        mlp_bias=False,
        values=head_size,
    )
    vocab = 49_152
    return Shape("llama", hidden, head_size, vocab, 2048, vocab * hidden + hidden, (layer,) * layers)


def synthetic_analysis(
    layers: int = 30,
    heads: int = 9,
    groups: int = 3,
    head_size: int = 64,
    channels: int = 1536,
    seed: int = 0,
) -> Analysis:
    """Return an analysis with falling curves and heavy-tailed scores.

    The first and the last layers matter most.
    """
    shape = synthetic_shape(layers, heads, groups, head_size, channels)
    random = torch.Generator().manual_seed(seed)
    return Analysis(
        model="synthetic",
        shape=shape,
        calibration=Calibration(),
        method="slimllm",
        options={},
        layers=tuple(synthetic_layer(shape, i, random) for i in range(layers)),
        tokens=16_384,
    )


def synthetic_layer(shape: Shape, index: int, random: torch.Generator) -> LayerAnalysis:
    """Return the analysis of one layer; the layers in the middle have the largest cosines."""
    depth = index / max(1, len(shape.layers) - 1)
    cosine = 0.05 if index == 0 else 0.86 + 0.12 * math.sin(math.pi * depth) ** 0.7
    if index == len(shape.layers) - 1:
        cosine = 0.74
    layer = shape.layers[index]
    power = 1.2 + 1.6 * math.sin(math.pi * depth) + 0.3 * float(torch.rand(1, generator=random))
    return LayerAnalysis(
        cosine=cosine,
        attention={unit: attention_site(layer, unit, power, random) for unit in shape.units},
        mlp=mlp_site(layer, power, random),
    )


def attention_site(layer: LayerShape, unit: UnitName, power: float, random: torch.Generator) -> SiteAnalysis:
    """Return the analysis of an attention site with `heads` random scores."""
    scores = torch.rand(layer.heads, generator=random).pow(2) + 0.02
    grouping = Grouping(layer.heads, layer.groups, unit)
    unit_of, steps = grouping.unit_of_head(), layer.steps(unit)
    sums = torch.zeros(grouping.units).index_add(0, unit_of, scores)
    kept = torch.zeros(steps + 1, grouping.units, dtype=torch.bool)
    for pool in grouping.pools.unique():
        members = (grouping.pools == pool).nonzero().flatten()
        best = members[sums[members].argsort(descending=True)]
        for j in range(1, steps + 1):
            kept[j, best[:j]] = True
    ranking = Ranking(scores, scores.argsort(descending=True, stable=True), kept[:, unit_of])
    return SiteAnalysis(ranking, curves(steps, power * 0.7), 3.0 + float(torch.rand(1, generator=random)))


def mlp_site(layer: LayerShape, power: float, random: torch.Generator) -> SiteAnalysis:
    """Return the analysis of an MLP site with `channels` random scores."""
    scores = torch.randn(layer.channels, generator=random).mul(0.8).exp()
    ranking = Ranking(scores, scores.argsort(descending=True, stable=True))
    energy = 9.0 + 4 * float(torch.rand(1, generator=random))
    spectrum = torch.arange(1, layer.channels // 3 + 1).pow(-1.2)
    return SiteAnalysis(ranking, curves(layer.channels, power), energy, spectrum)


def curves(steps: int, power: float) -> dict[str, torch.Tensor]:
    """Return a falling error curve (steps + 1,) for each recovery by name."""
    removed = 1 - torch.arange(steps + 1) / steps
    return {
        name: GAINS.get(name, 0.6) * removed.pow(power * (1.3 if name == "least-squares" else 1))
        for name in RECOVERIES
    }
