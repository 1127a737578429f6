"""The best combination measured here: elimination for heads, principal directions for channels. Pure.

Its channels are ranked as SlimLLM's (`slimllm.rank_channels_by_pca`). docs/log.md holds the measurements.
"""

from __future__ import annotations

from slimllm.core.types import Ranking
from slimllm.methods.interface import HeadSite, Options
from slimllm.methods.slimgpt import eliminate_heads


def rank_heads_by_exact_error(site: HeadSite, options: Options) -> Ranking:
    """Rank heads by backward elimination with the exact error of the refit.

    The error is computed on the covariance, because the refit has a bias of its own.
    """
    return eliminate_heads(site.weight, site.moments.cov, site.grouping, exact=True, pinned=site.pinned)
