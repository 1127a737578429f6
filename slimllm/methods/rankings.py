"""What each method of the table looks at, and how it ranks heads and channels by it. Pure."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from slimllm.core.shapes import Grouping
from slimllm.core.types import Moments, Ranking
from slimllm.methods import elimination, scores


@dataclass(frozen=True, eq=False)
class HeadSite:
    """All that a ranking of heads may look at: o_proj's weight (o, d), its moments, the grouping, pins (H,),
    what the heads are worth by gradients or training (H,)."""

    weight: Tensor
    moments: Moments
    grouping: Grouping
    pinned: Tensor | None = None
    seed: int = 0
    learned: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ChannelSite:
    """All that a ranking of channels may look at: down_proj's weight (o, c), its moments, the writers (c,
    o), the mean square of the MLP's input (o,), pins (c,), what they are worth by gradients or training
    (c,)."""

    weight: Tensor
    moments: Moments
    writers: Sequence[Tensor]
    input_sq: Tensor
    pinned: Tensor | None = None
    seed: int = 0
    learned: Tensor | None = None

    @functools.cached_property
    def principal(self) -> tuple[Tensor, Tensor]:
        """Variances and principal directions of the MLP's output (`scores.principal`)."""
        return scores.principal_variances(self.moments, self.weight)


def pearson_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    cov = scores.head_covariance(site.moments.cov, site.weight, site.grouping.heads)
    return scores.rank_by_pearson(cov, site.grouping, pinned=site.pinned, search=options["greedy"])


def pca_channels(site: ChannelSite, options: Mapping[str, Any]) -> Ranking:
    return scores.rank_by_pca(
        site.moments,
        site.weight,
        site.principal,
        site.writers,
        site.input_sq,
        keep_lowest=options.get("keep_lowest", False),
        pinned=site.pinned,
    )


def per_head(values: Tensor, grouping: Grouping) -> Tensor:
    """Sums input scores (d,) over each head: (H,)."""
    return values.view(grouping.heads, -1).sum(1)


def wanda_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    values = per_head(scores.wanda_scores(site.moments, site.weight), site.grouping)
    return scores.rank_heads(values, site.grouping, pinned=site.pinned)


def wanda_channels(site: ChannelSite, options: Mapping[str, Any]) -> Ranking:
    return scores.rank_inputs(scores.wanda_scores(site.moments, site.weight), pinned=site.pinned)


def magnitude_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    values = per_head(scores.magnitude_scores(site.weight), site.grouping)
    return scores.rank_heads(values, site.grouping, pinned=site.pinned)


def magnitude_channels(site: ChannelSite, options: Mapping[str, Any]) -> Ranking:
    return scores.rank_inputs(scores.magnitude_scores(site.weight), pinned=site.pinned)


def random_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    return scores.rank_heads(
        scores.random_scores(site.grouping.heads, site.seed), site.grouping, pinned=site.pinned
    )


def random_channels(site: ChannelSite, options: Mapping[str, Any]) -> Ranking:
    return scores.rank_inputs(scores.random_scores(site.weight.shape[1], site.seed), pinned=site.pinned)


def value_columns(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    """FASP's ranking of value columns (G·e): Wanda's metric of the reader's inputs, summed over the heads
    that read a column."""
    grouping = site.grouping
    values = (
        scores.wanda_scores(site.moments, site.weight)
        .view(grouping.groups, -1, grouping.size)
        .sum(1)
        .flatten()
    )
    order = values.argsort(descending=True, stable=True)
    return Ranking(values, order, scores.kept_subsets(values, grouping))


def fluctuation_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    """FLAP's ranking of heads."""
    values = scores.fluctuation_heads(site.moments, site.weight, site.grouping.heads)
    return scores.rank_heads(values, site.grouping, pinned=site.pinned)


def fluctuation_channels(site: ChannelSite, options: Mapping[str, Any]) -> Ranking:
    """FLAP's ranking of channels."""
    return scores.rank_inputs(scores.fluctuation_scores(site.moments, site.weight), pinned=site.pinned)


def eliminated_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    """SlimGPT's backward elimination of heads."""
    return elimination.eliminate_heads(site.weight, site.moments.gram, site.grouping, pinned=site.pinned)


def eliminated_channels(site: ChannelSite, options: Mapping[str, Any]) -> Ranking:
    """SlimGPT's backward elimination of channels."""
    return elimination.eliminate_channels(site.weight, site.moments.gram, pinned=site.pinned)


def best_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    """Backward elimination of heads by the exact error of the refit, on the covariance, for a bias is
    refitted, too."""
    return elimination.eliminate_heads(
        site.weight, site.moments.cov, site.grouping, exact=True, pinned=site.pinned
    )


def learned_heads(site: HeadSite, options: Mapping[str, Any]) -> Ranking:
    """Heads by what gradients or training said of them."""
    assert site.learned is not None
    return scores.rank_heads(site.learned.double(), site.grouping, pinned=site.pinned)


def learned_channels(site: ChannelSite, options: Mapping[str, Any]) -> Ranking:
    """Channels by what gradients or training said of them."""
    assert site.learned is not None
    return scores.rank_inputs(site.learned.double(), pinned=site.pinned)
