"""Scores in stretches and shades, for maps that are drawn and for those that are kept. Pure."""

from __future__ import annotations

import numpy as np

from slimllm.core.types import SiteAnalysis


def padded_scores(site: SiteAnalysis, size: int) -> np.ndarray:
    """The scores (size,) of a site; layers may differ in width, and what a layer lacks counts nothing."""
    scores = np.zeros(size, dtype=np.float32)
    found = np.nan_to_num(site.ranking.scores.float().numpy())
    scores[: len(found)] = found
    return scores


def of_best(scores: np.ndarray) -> np.ndarray:
    """0 to 200 for 0 to 100 % of each row's best."""
    best = np.maximum(scores.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return 200 * np.clip(scores / best, 0, 1)


def of_median(scores: np.ndarray, medians: np.ndarray) -> np.ndarray:
    """0 to 200 for half to four times each row's median, equal steps for equal factors."""
    tiny = np.finfo(np.float32).tiny
    middle = np.maximum(np.nan_to_num(medians), tiny)
    shades = 200 * np.clip((1 + np.log2(np.maximum(scores, tiny) / middle)) / 3, 0, 1)
    return np.where(scores > 0, shades, 0)  # a dead channel is nothing, also in a dead layer


def bin_edges(size: int, bins: int) -> np.ndarray:
    """Borders of at most `bins` stretches, as equal as whole channels allow."""
    return np.round(np.linspace(0, size, min(size, bins) + 1)).astype(np.int64)


def bin_scores(site: SiteAnalysis, edges: np.ndarray, ordered: bool) -> np.ndarray:
    """The mean score within each stretch; layers narrower than the widest leave the last ones at zero."""
    scores = padded_scores(site, edges[-1]).astype(np.float64)
    count = len(site.ranking.scores)
    if ordered:
        scores[:count] = scores[site.ranking.order.numpy()]
    sizes = np.maximum(1, np.diff(np.minimum(edges, count)))
    return (np.add.reduceat(scores, edges[:-1]) / sizes).astype(np.float32)
