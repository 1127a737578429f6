"""Allocations: how much of the budget each layer gives up. Pure.

Most give every layer a ratio, the removed share of its parameters, which heads and channels of the layer
share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from slimllm.budget import MAX_RATIO, Problem, Widths, layer_cost, settle
from slimllm.types import Analysis


def fill(weights: Sequence[float], sizes: Sequence[int], target: float, cap: float | None) -> list[float]:
    """Ratios proportional to `weights` that remove `target` parameters of layers with these sizes.

    Ratios above `cap` are clipped and the excess goes to the other layers of positive weight, then to all.
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


def between(ratio: float, at_20: float, at_50: float) -> float:
    """A setting the paper gives at 20 % and 50 %, linear between and constant outside."""
    return at_20 + (at_50 - at_20) * min(1.0, max(0.0, (ratio - 0.2) / 0.3))


def cosine_weights(analysis: Analysis, ratio: float) -> list[float]:
    """SlimLLM's layer weights: softmax(α c) over the m layers of largest cosine, the first and last left
    alone."""
    cosine = analysis.cosine
    n = len(cosine)
    inner = range(1, n - 1) if n > 8 else range(n)
    count = max(1, min(len(inner), round(n * between(ratio, 26 / 32, 30 / 32))))
    chosen = sorted(inner, key=lambda i: -cosine[i])[:count]
    sharpness = between(ratio, 10, 7)
    return [math.exp(sharpness * (cosine[i] - 1)) if i in chosen else 0.0 for i in range(n)]


def logarithmic_weights(analysis: Analysis, ratio: float) -> list[float]:
    """SlimGPT's rising ratios (arXiv 2412.18110): nothing from the first layer, log(i + 1) from layer i."""
    return [math.log(i + 1) for i in range(len(analysis.layers))] if len(analysis.layers) > 1 else [1.0]


def uniform_weights(analysis: Analysis, ratio: float) -> list[float]:
    return [1.0] * len(analysis.layers)


def by_ratios(
    weights: Callable[[Analysis, float], list[float]], cap: float | None = MAX_RATIO
) -> Callable[[Problem, float], Widths]:
    """An allocation that gives heads and channels of a layer the same ratio."""

    def allocate(problem: Problem, budget: float) -> Widths:
        sizes = [layer.dense for layer in problem.layers]
        removed = sum(sizes) - budget
        shares = fill(weights(problem.analysis, removed / sum(sizes)), sizes, removed, cap)
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
        return settle(problem, heads, channels, budget, movable)

    return allocate


def by_error(problem: Problem, budget: float) -> Widths:
    """Spends parameters where the predicted error per parameter is largest: a price per parameter, found by
    bisection."""
    curves = [site_curves(problem, i) for i in range(len(problem.layers))]

    def at(price: float) -> Widths:
        heads, channels = [], []
        for h, c in curves:
            heads.append(h.cheapest(price))
            channels.append(c.cheapest(price))
        return heads, channels

    low, high = 0.0, 1.0
    while problem.total(*at(high)) > budget and high < 1e6:
        high *= 4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if problem.total(*at(middle)) > budget else (low, middle)
    heads, channels = at(high)
    return settle(problem, heads, [float(c) for c in channels], budget, range(len(heads)))


@dataclass(frozen=True, eq=False)
class Curve:
    widths: torch.Tensor  # (s,) feasible kept counts
    error: torch.Tensor  # (s,) predicted error there
    cost: torch.Tensor  # (s,) parameters there, in units of the mean layer

    def cheapest(self, price: float) -> int:
        return int(self.widths[(self.error + price * self.cost).argmin()])


def site_curves(problem: Problem, index: int) -> tuple[Curve, Curve]:
    layer, bounds = problem.layers[index], problem.bounds[index]
    found = problem.analysis.layers[index]
    scale = sum(s.dense for s in problem.layers) / len(problem.layers)
    heads = torch.tensor(bounds.heads)
    steps = heads * layer.steps(problem.unit) // layer.heads
    head_cost = torch.tensor([layer_cost(layer, int(h), 0, problem.unit, "none", 0) for h in heads])
    channels = torch.arange(bounds.low, bounds.high + 1)
    site = found.attention[problem.unit]
    share = site.energy / ((site.energy + found.mlp.energy) or 1.0)
    return (
        Curve(
            heads,
            found.attention[problem.unit].error[problem.recovery][steps].double() * share,
            head_cost / scale,
        ),
        Curve(
            channels,
            found.mlp.error[problem.recovery][channels].double() * (1 - share),
            channels * layer.channel_cost / scale,
        ),
    )


@dataclass(frozen=True)
class Allocation:
    title: str
    words: str
    widths: Callable[[Problem, float], Widths]


ALLOCATIONS: dict[str, Allocation] = {
    "cosine": Allocation(
        "By layer cosine",
        "Cuts most where a layer changes its input least (SlimLLM); the first and last layer stay whole.",
        by_ratios(cosine_weights),
    ),
    "uniform": Allocation("Uniform", "Cuts the same share of every layer.", by_ratios(uniform_weights)),
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
    "cosine-unclipped": Allocation(
        "By layer cosine, unclipped",
        "SlimLLM's ratios as published: they may exceed what a layer has, and then the asked size is missed.",
        by_ratios(cosine_weights, cap=None),
    ),
}
