"""Allocations: how the budget is divided among layers. Pure.

Most of them give every layer a ratio, the removed share of its parameters, which applies to its heads and
channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from slimllm.core.attention_unit import UNITS, UnitName
from slimllm.core.shapes import LayerShape
from slimllm.core.types import Analysis, LayerAnalysis
from slimllm.planning.budget import MAX_RATIO, Problem, Widths, layer_cost, settle_widths


def fill_ratios(
    weights: Sequence[float], sizes: Sequence[int], target: float, cap: float | None
) -> list[float]:
    """Return ratios proportional to `weights` that remove `target` parameters of layers with these sizes.

    Ratios above `cap` are clipped, and the excess goes to the other layers of positive weight, then to all.
    """
    if cap is None:
        scale = target / sum(w * s for w, s in zip(weights, sizes, strict=True))
        return [scale * w for w in weights]
    ratios = [0.0] * len(sizes)
    for share in (list(weights), [1.0] * len(sizes)):
        while True:
            left = target - sum(r * s for r, s in zip(ratios, sizes, strict=True))
            free = [i for i, w in enumerate(share) if w > 0 and ratios[i] < cap]
            if left <= 1e-9 * max(target, 1) or not free:
                break
            scale = left / sum(share[i] * sizes[i] for i in free)
            for i in free:
                ratios[i] = min(cap, ratios[i] + scale * share[i])
    return ratios


def interpolate_setting(ratio: float, at_20: float, at_50: float) -> float:
    """Return a setting that the paper gives at 20 % and 50 %: linear between them and constant outside."""
    return at_20 + (at_50 - at_20) * min(1.0, max(0.0, (ratio - 0.2) / 0.3))


def cosine_weights(analysis: Analysis, ratio: float) -> list[float]:
    """Return SlimLLM's layer weights: softmax(α c), without its constant factor, over some layers.

    These are the m layers of largest cosine c. In models of more than 8 layers, the first and the last have
    weight 0.
    """
    cosine = analysis.cosine
    n = len(cosine)
    inner = range(1, n - 1) if n > 8 else range(n)
    count = max(1, min(len(inner), round(n * interpolate_setting(ratio, 26 / 32, 30 / 32))))
    chosen = sorted(inner, key=lambda i: -cosine[i])[:count]
    sharpness = interpolate_setting(ratio, 10, 7)
    return [math.exp(sharpness * (cosine[i] - 1)) if i in chosen else 0.0 for i in range(n)]


def implied_ratios(analysis: Analysis, removed: float) -> list[float]:
    """Return each layer's ratio by its cosine alone if `removed` parameters of the decoder are removed."""
    sizes = [layer.dense for layer in analysis.shape.layers]
    return fill_ratios(cosine_weights(analysis, removed / sum(sizes)), sizes, removed, MAX_RATIO)


def logarithmic_weights(analysis: Analysis, ratio: float) -> list[float]:
    """Return SlimGPT's rising weights (arXiv 2412.18110): 0 for the first layer, log(i + 1) for layer i."""
    return [math.log(i + 1) for i in range(len(analysis.layers))] if len(analysis.layers) > 1 else [1.0]


def uniform_weights(analysis: Analysis, ratio: float) -> list[float]:
    """Return equal weights."""
    return [1.0] * len(analysis.layers)


def by_ratios(
    weights: Callable[[Analysis, float], list[float]], cap: float | None = MAX_RATIO
) -> Callable[[Problem, float], Widths]:
    """Return an allocation that gives heads and channels of a layer the same ratio."""

    def allocate_widths(problem: Problem, budget: float) -> Widths:
        sizes = [layer.dense for layer in problem.layers]
        removed = sum(sizes) - budget
        shares = fill_ratios(weights(problem.analysis, removed / sum(sizes)), sizes, removed, cap)
        heads = [
            b.nearest_heads(1 - r) if r > 0 else max(b.heads)
            for b, r in zip(problem.bounds, shares, strict=True)
        ]
        if cap is None:
            wanted = [(1 - r) * layer.channels for r, layer in zip(shares, problem.layers, strict=True)]
            return heads, [b.down(c) for b, c in zip(problem.bounds, wanted, strict=True)]
        channels = []
        for i, (ratio, size) in enumerate(zip(shares, sizes, strict=True)):
            bounds, unit_cost = problem.bounds[i], problem.layers[i].channel_cost
            spare = (1 - ratio) * size - problem.cost(i, heads[i], bounds.low)
            channels.append(float(min(bounds.high, max(bounds.low, bounds.low + spare / unit_cost))))
        movable = [i for i, ratio in enumerate(shares) if ratio > 0]
        return settle_widths(problem, heads, channels, budget, movable)

    return allocate_widths


def by_error(problem: Problem, budget: float) -> Widths:
    """Allocate by the predicted error per parameter; every layer has the same weight."""
    return by_price(problem, budget, energy_shares)


def by_sensitivity(problem: Problem, budget: float) -> Widths:
    """Allocate by the change of the model's output per parameter, as estimated by probing."""
    return by_price(problem, budget, probed_prices)


def energy_shares(found: LayerAnalysis, unit: UnitName) -> tuple[float, float]:
    """Return the weight of an error in each site: its share of the energy of both."""
    energies = found.attention[unit].energy, found.mlp.energy
    total = sum(energies) or 1.0
    return energies[0] / total, energies[1] / total


def probed_prices(found: LayerAnalysis, unit: UnitName) -> tuple[float, float]:
    """Return the weight of an error in each site: the nats by which it changes the model's output."""
    attention, mlp = found.attention[unit].energy, found.mlp.energy
    return attention * found.sensitivity.get("attention", 1.0), mlp * found.sensitivity.get("mlp", 1.0)


def by_price(
    problem: Problem, budget: float, counts: Callable[[LayerAnalysis, UnitName], tuple[float, float]]
) -> Widths:
    """Return the widths at one price per parameter for all sites, found by bisection.

    Each site takes the width at which the sum of its weighted error and its cost is smallest. `counts`
    returns the weights of errors in attention and MLP.
    """
    curves = [
        site_curves(problem, i, *counts(problem.analysis.layers[i], problem.unit))
        for i in range(len(problem.layers))
    ]

    def widths_at(price: float) -> Widths:
        """Return the widths at this price per parameter."""
        heads, channels = [], []
        for h, c in curves:
            heads.append(h.cheapest(price))
            channels.append(c.cheapest(price))
        return heads, channels

    low, high = 0.0, 1.0
    while problem.total(*widths_at(high)) > budget and high < 1e6:
        high *= 4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if problem.total(*widths_at(middle)) > budget else (low, middle)
    heads, channels = widths_at(high)
    return settle_widths(problem, heads, [float(c) for c in channels], budget, range(len(heads)))


def inner_weights(analysis: Analysis, ratio: float) -> list[float]:
    """Return LLM-Pruner's weights: 0 for the first four and the last two layers of a deep model, else 1."""
    count = len(analysis.layers)
    if count <= 8:
        return uniform_weights(analysis, ratio)
    return [float(4 <= index < count - 2) for index in range(count)]


@dataclass(frozen=True, eq=False)
class Curve:
    """The error and cost of one site at its s feasible widths."""

    # Feasible kept counts (s,).
    widths: torch.Tensor
    # The predicted error (s,) at each width.
    error: torch.Tensor
    # The parameters (s,) at each width, in units of the mean layer.
    cost: torch.Tensor

    def cheapest(self, price: float) -> int:
        """Return the width with the smallest sum of error and price · cost."""
        return int(self.widths[(self.error + price * self.cost).argmin()])


def site_curves(problem: Problem, index: int, attention: float, mlp: float) -> tuple[Curve, Curve]:
    """Return the curves of attention and MLP of one layer, with errors multiplied by these weights."""
    layer, bounds = problem.layers[index], problem.bounds[index]
    found = problem.analysis.layers[index]
    scale = sum(s.dense for s in problem.layers) / len(problem.layers)
    heads = torch.tensor(bounds.heads)  # (s,)
    steps = torch.tensor([layer.step(h, problem.unit) for h in bounds.heads])  # (s,)
    head_cost = torch.tensor([layer_cost(layer, h, 0, problem.unit, "none", 0) for h in bounds.heads])  # (s,)
    channels = torch.arange(bounds.low, bounds.high + 1)  # (widths of the MLP,)
    return (
        Curve(
            heads,
            found.attention[problem.unit].error[problem.recovery][steps].double() * attention,
            head_cost / scale,
        ),
        Curve(
            channels,
            found.mlp.error[problem.recovery][channels].double() * mlp,
            channels * layer.channel_cost / scale,
        ),
    )


def by_standing(problem: Problem, budget: float) -> Widths:
    """Allocate by FLAP's single ranking of all units (arXiv 2312.11983).

    Scores are standardised within each site, and units are removed from the lowest score up until the budget
    is met, each at its true cost.
    """
    return by_rank(problem, budget, standardise_scores)


def by_gates(problem: Problem, budget: float) -> Widths:
    """Allocate by DDP's single ranking of all units; trained gates are comparable as they are."""
    return by_rank(problem, budget, lambda scores: scores)


def standardise_scores(scores: torch.Tensor) -> torch.Tensor:
    """Return scores (n,) with mean 0 and variance 1, or zeros if all are equal."""
    return (scores - scores.mean()) / scores.std(unbiased=False).clamp_min(torch.finfo(scores.dtype).tiny)


def by_rank(problem: Problem, budget: float, comparable: Callable[[torch.Tensor], torch.Tensor]) -> Widths:
    """Return the widths after the lowest steps of all layers and sites are removed in ascending order."""
    # (score, layer, whether it belongs to attention).
    steps: list[tuple[float, int, bool]] = []
    for index, (bounds, layer) in enumerate(zip(problem.bounds, problem.layers, strict=True)):
        found = problem.analysis.layers[index]
        of_heads = step_scores(comparable(found.attention[problem.unit].ranking.scores), layer, problem.unit)
        of_channels = comparable(found.mlp.ranking.scores).sort().values
        steps += [(score, index, True) for score in of_heads.tolist()[: len(bounds.heads) - 1]]
        steps += [(score, index, False) for score in of_channels.tolist()[: bounds.high - bounds.low]]
    heads = [max(b.heads) for b in problem.bounds]
    channels = [b.high for b in problem.bounds]
    left = problem.total(heads, channels)
    for _, index, of_attention in sorted(steps):
        if left <= budget:
            break
        before = problem.cost(index, heads[index], channels[index])
        if of_attention:
            heads[index] = max(h for h in problem.bounds[index].heads if h < heads[index])
        else:
            channels[index] -= 1
        left -= before - problem.cost(index, heads[index], channels[index])
    return settle_widths(problem, heads, [float(c) for c in channels], budget, range(len(heads)))


def step_scores(scores: torch.Tensor, layer: LayerShape, unit: UnitName) -> torch.Tensor:
    """Return the score (s,) of each step of an attention site, ascending.

    `scores` (n,) are those of its heads or value columns. A step's score is the mean over everything that the
    step removes.
    """
    if UNITS[unit].takes_groups:
        return scores.view(layer.groups, -1).mean(1).sort().values  # (H,) → (G, H/G) → (G,)
    return scores.view(layer.groups, -1).sort(1).values.mean(0)  # (n,) → (G, s) → (s,)


def whole_layers(problem: Problem, budget: float) -> Widths:
    """Drop the layers that change their input least (block influence, ShortGPT, arXiv 2403.03853).

    Layers are dropped until the budget is met, to within half a layer. Locked layers and those with protected
    units stay.
    """
    heads = [max(b.heads) for b in problem.bounds]
    channels = [b.high for b in problem.bounds]
    cosine = problem.analysis.cosine
    left = problem.total(heads, channels)
    order = sorted(range(len(heads)), key=lambda i: -cosine[i])[:-1]
    for index in [i for i in order if problem.bounds[i].droppable]:
        cost = problem.cost(index, heads[index], channels[index])
        # The present size is nearer to the budget than the size without this layer.
        if left - cost / 2 <= budget:
            break
        heads[index] = channels[index] = 0
        left -= cost
    return heads, channels


@dataclass(frozen=True)
class Allocation:
    """A row of the table: an allocation's title, description and function."""

    title: str
    words: str
    widths: Callable[[Problem, float], Widths]
    # The methods that it is limited to; empty means all.
    methods: tuple[str, ...] = ()


ALLOCATIONS: dict[str, Allocation] = {
    "cosine": Allocation(
        "By layer cosine",
        "Cuts most where a layer changes its input least (SlimLLM); the first and last layer stay whole.",
        by_ratios(cosine_weights),
    ),
    "uniform": Allocation("Uniform", "Cuts the same share of every layer.", by_ratios(uniform_weights)),
    "inner": Allocation(
        "Inner layers alike",
        "Spares the first four and the last two layers and cuts the same share of all others (LLM-Pruner).",
        by_ratios(inner_weights),
    ),
    "logarithmic": Allocation(
        "Rising", "Spares early layers and cuts more of later ones (SlimGPT).", by_ratios(logarithmic_weights)
    ),
    "error": Allocation(
        "By predicted error",
        "Cuts where the predicted error grows least per parameter saved; misjudges layers in which a "
        "few tokens carry "
        "most of the energy, so compare before you trust it.",
        by_error,
    ),
    "sensitivity": Allocation(
        "By measured sensitivity",
        "Cuts where the answers move least per parameter saved, as measured layer by layer; so it finds the "
        "split between attention and MLP, too.",
        by_sensitivity,
        ("best",),
    ),
    "standing": Allocation(
        "By standing in the whole model",
        "Ranks the units of all layers in one list, by how far their score stands above or below others of "
        "their layer (FLAP).",
        by_standing,
    ),
    "gates": Allocation(
        "By trained gates",
        "Ranks the units of all layers by the gates that training left.",
        by_gates,
        ("ddp",),
    ),
    "whole-layers": Allocation(
        "Whole layers",
        "Drops the layers that change their input least, each as a whole.",
        whole_layers,
        ("block-influence",),
    ),
    "cosine-unclipped": Allocation(
        "By layer cosine, unclipped",
        "SlimLLM's ratios as published: they may exceed what a layer has, and then the asked size is missed.",
        by_ratios(cosine_weights, cap=None),
    ),
}
