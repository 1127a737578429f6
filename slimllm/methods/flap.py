"""FLAP: what varies most from word to word stays (arXiv 2312.11983, AAAI 2024). Pure."""

from __future__ import annotations

from torch import Tensor

from slimllm.core.types import Moments, Ranking
from slimllm.methods.interface import ChannelSite, HeadSite, Options
from slimllm.methods.ranking import rank_heads, rank_inputs


def fluctuation_scores(moments: Moments, weight: Tensor) -> Tensor:
    """Return the weighted variance Var(x_j) · ‖W_:j‖² of each input (d,) of a reader (o, d)."""
    return moments.cov.diagonal().clamp_min(0) * weight.square().sum(0)


def fluctuation_heads(moments: Moments, weight: Tensor, heads: int) -> Tensor:
    """Return the mean over each head's inputs of `fluctuation_scores` squared, as the published code does:
    (H,)."""
    return fluctuation_scores(moments, weight).square().view(heads, -1).mean(1)  # (H, e) → (H,)


def rank_heads_by_fluctuation(site: HeadSite, options: Options) -> Ranking:
    """Rank heads by how much what they hand on varies."""
    values = fluctuation_heads(site.moments, site.weight, site.grouping.heads)
    return rank_heads(values, site.grouping, pinned=site.pinned)


def rank_channels_by_fluctuation(site: ChannelSite, options: Options) -> Ranking:
    """Rank channels by how much what they hand on varies."""
    return rank_inputs(fluctuation_scores(site.moments, site.weight), pinned=site.pinned)
