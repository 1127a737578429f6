"""FLAP: units that vary most between tokens are kept (arXiv 2312.11983, AAAI 2024). Pure."""

from __future__ import annotations

from torch import Tensor

from slimllm.core.types import Moments, Ranking
from slimllm.methods.interface import ChannelSite, HeadSite, Options
from slimllm.methods.ranking import rank_heads, rank_inputs


def fluctuation_scores(moments: Moments, weight: Tensor) -> Tensor:
    """Return the weighted variance Var(x_j) · ‖W_:j‖² of each input (d,) of a reader (o, d)."""
    return moments.cov.diagonal().clamp_min(0) * weight.square().sum(0)


def fluctuation_heads(moments: Moments, weight: Tensor, heads: int) -> Tensor:
    """Return the score (H,) of each head: the mean of its inputs' squared `fluctuation_scores`.

    The published code squares them as well.
    """
    return fluctuation_scores(moments, weight).square().view(heads, -1).mean(1)  # (H, e) → (H,)


def rank_heads_by_fluctuation(site: HeadSite, options: Options) -> Ranking:
    """Rank heads by the variance of their outputs, weighted by the reader's columns."""
    values = fluctuation_heads(site.moments, site.weight, site.grouping.heads)
    return rank_heads(values, site.grouping, pinned=site.pinned)


def rank_channels_by_fluctuation(site: ChannelSite, options: Options) -> Ranking:
    """Rank channels by their variance, weighted by the reader's columns."""
    return rank_inputs(fluctuation_scores(site.moments, site.weight), pinned=site.pinned)
