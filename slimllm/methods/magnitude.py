"""Rankings that need no text: the size of weights, and chance, which every method must beat. Pure.

Block influence drops whole layers by its allocation, so it uses the rankings by magnitude.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimllm.core.types import Ranking
from slimllm.methods.interface import ChannelSite, HeadSite, Options
from slimllm.methods.ranking import rank_heads, rank_inputs, sum_over_heads


def magnitude_scores(weight: Tensor) -> Tensor:
    """Return ‖W_:j‖ of each input (d,) of a reader (o, d)."""
    return weight.norm(dim=0)


def random_scores(n: int, seed: int) -> Tensor:
    """Return seeded uniform scores (n,) in float64; the global random generator is not used."""
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rank_heads_by_magnitude(site: HeadSite, options: Options) -> Ranking:
    """Rank heads by the norms of their columns, summed over their inputs."""
    values = sum_over_heads(magnitude_scores(site.weight), site.grouping)
    return rank_heads(values, site.grouping, pinned=site.pinned)


def rank_channels_by_magnitude(site: ChannelSite, options: Options) -> Ranking:
    """Rank channels by the norms of their columns."""
    return rank_inputs(magnitude_scores(site.weight), pinned=site.pinned)


def rank_heads_at_random(site: HeadSite, options: Options) -> Ranking:
    """Rank heads at random; the same seed gives the same ranking."""
    values = random_scores(site.grouping.heads, site.seed)
    return rank_heads(values, site.grouping, pinned=site.pinned)


def rank_channels_at_random(site: ChannelSite, options: Options) -> Ranking:
    """Rank channels at random; the same seed gives the same ranking."""
    return rank_inputs(random_scores(site.weight.shape[1], site.seed), pinned=site.pinned)
