"""Wanda's metric, weight times activation, summed over outputs (arXiv 2306.11695). Pure.

Wanda-sp applies it to whole heads and channels, FASP (arXiv 2501.09412) to single value columns.
"""

from __future__ import annotations

from torch import Tensor

from slimllm.core.types import Moments, Ranking
from slimllm.methods.interface import ChannelSite, HeadSite, Options
from slimllm.methods.ranking import input_norms, kept_subsets, rank_heads, rank_inputs, sum_over_heads


def wanda_scores(moments: Moments, weight: Tensor) -> Tensor:
    """Return Σ_i |W_ij| · ‖x_j‖ of each input (d,) of a reader (o, d)."""
    return weight.abs().sum(0) * input_norms(moments)


def rank_heads_by_wanda(site: HeadSite, options: Options) -> Ranking:
    """Rank heads by Wanda's metric, summed over their inputs."""
    values = sum_over_heads(wanda_scores(site.moments, site.weight), site.grouping)
    return rank_heads(values, site.grouping, pinned=site.pinned)


def rank_channels_by_wanda(site: ChannelSite, options: Options) -> Ranking:
    """Rank channels by Wanda's metric."""
    return rank_inputs(wanda_scores(site.moments, site.weight), pinned=site.pinned)


def rank_value_columns(site: HeadSite, options: Options) -> Ranking:
    """Rank value columns (G·e) by Wanda's metric, summed over the heads that read a column (FASP)."""
    grouping = site.grouping
    inputs = wanda_scores(site.moments, site.weight)  # (d,), of every group its heads one after the other
    values = inputs.view(grouping.groups, -1, grouping.size).sum(1).flatten().cpu()  # (G, H/G, e) → (G·e,)
    order = values.argsort(descending=True, stable=True)
    return Ranking(values, order, kept_subsets(values, grouping))
