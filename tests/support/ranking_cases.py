"""Make sites with made-up activations for tests of rankings, and rank them naively in plain loops."""

from __future__ import annotations

import torch
from torch import Tensor

from slimllm.core.shapes import Grouping
from slimllm.core.types import Moments, Ranking
from slimllm.methods.interface import ChannelSite, HeadSite
from slimllm.methods.table import METHODS, fill_options

KV = [Grouping(6, 6, "kv-group"), Grouping(8, 4, "kv-group"), Grouping(12, 6, "kv-group")]
BALANCED = [Grouping(6, 2, "query-head"), Grouping(8, 2, "query-head"), Grouping(9, 3, "query-head")]
GROUPINGS = [*KV, *BALANCED]
SIZE, OUTPUTS, TOKENS = 3, 5, 60


def named(grouping: Grouping) -> str:
    """Return a short name of a grouping for the id of a test."""
    return f"{grouping.heads}q{grouping.groups}kv-{grouping.unit}"


def normal(*shape: int, seed: int) -> Tensor:
    """Return normally distributed float64 numbers of this shape."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def activations(t: int, d: int, seed: int) -> Tensor:
    """Return correlated features (t, d) with a mean that is not zero."""
    return normal(t, d, seed=seed) @ normal(d, d, seed=seed + 1) / d**0.5 + normal(d, seed=seed + 2)


def moments_of(x: Tensor) -> Moments:
    """Return the mean (d,) and the second moment (d, d) of activations (t, d)."""
    return Moments(x.mean(0), x.T @ x / len(x), len(x))


def head_case(grouping: Grouping, seed: int) -> tuple[Tensor, Tensor]:
    """Return activations (t, d) and o_proj (o, d) for a grouping."""
    d = grouping.heads * SIZE
    return activations(TOKENS, d, seed), normal(OUTPUTS, d, seed=seed + 3)


def channel_case(seed: int) -> tuple[Tensor, Tensor, list[Tensor], Tensor]:
    """Return the tensors of a gated MLP: input (t, o), down_proj (o, c), writers, activations (t, c).

    The writers are gate_proj and up_proj, each (c, o).
    """
    x, gate, up = activations(TOKENS, 6, seed), normal(16, 6, seed=seed + 5), normal(16, 6, seed=seed + 6)
    return x, normal(6, 16, seed=seed + 7), [gate, up], torch.nn.functional.silu(x @ gate.T) * (x @ up.T)


def head_ranking(name: str, x: Tensor, weight: Tensor, grouping: Grouping, **options: bool) -> Ranking:
    """Rank the heads of a made-up site by a method with these options."""
    site = HeadSite(weight, moments_of(x), grouping, learned=normal(grouping.heads, seed=21).abs())
    return METHODS[name].heads(site, fill_options(name, options))


def channel_ranking(name: str, seed: int, pinned: Tensor | None = None, **options: bool) -> Ranking:
    """Rank the 16 channels of a made-up MLP by a method with these options."""
    x, down, writers, inner = channel_case(seed)
    learned = normal(16, seed=22).abs()
    site = ChannelSite(down, moments_of(inner), writers, x.square().mean(0), pinned, learned=learned)
    return METHODS[name].channels(site, fill_options(name, options))


def naive_start(values: list[float], step: int, grouping: Grouping) -> list[int]:
    """Return the indices of the `step` best units of every pool."""
    pools = grouping.pools.tolist()
    kept = []
    for pool in sorted(set(pools)):
        members = [u for u in range(len(pools)) if pools[u] == pool]
        kept += sorted(members, key=lambda u: -values[u])[:step]
    return kept


def kept_at_every_step(ranking: Ranking, grouping: Grouping) -> list[list[int]]:
    """Return the indices of the kept heads for every number of steps, from none to all."""
    return [ranking.kept(j * grouping.heads // grouping.steps).tolist() for j in range(grouping.steps + 1)]


def check_summed_heads(found: Ranking, inputs: list[float], grouping: Grouping) -> None:
    """Check that heads score the sum of their inputs' scores, and that every step keeps the best units."""
    values = [sum(inputs[h * SIZE : (h + 1) * SIZE]) for h in range(grouping.heads)]
    torch.testing.assert_close(found.scores, torch.tensor(values, dtype=torch.float64))
    units = [0.0] * grouping.units
    for head, unit in enumerate(grouping.unit_of_head().tolist()):
        units[unit] += values[head]
    for step, kept in enumerate(kept_at_every_step(found, grouping)):
        best = naive_start(units, step, grouping)
        assert kept == [h for h, u in enumerate(grouping.unit_of_head().tolist()) if u in best]
