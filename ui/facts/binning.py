"""Bin scores and turn them into shades, for maps on the page and maps kept with a run. Pure."""

from __future__ import annotations

import numpy as np

from slimllm.core.types import SiteAnalysis


def padded_scores(site: SiteAnalysis, size: int) -> np.ndarray:
    """Return the scores (size,) of a site, with zeros for units that a narrower layer lacks."""
    scores = np.zeros(size, dtype=np.float32)
    found = np.nan_to_num(site.ranking.scores.float().numpy())
    scores[: len(found)] = found
    return scores


def of_best(scores: np.ndarray) -> np.ndarray:
    """Return shades (rows, cells) from 0 to 200 for 0 to 100 % of the best score in each row."""
    best = np.maximum(scores.max(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return 200 * np.clip(scores / best, 0, 1)


def of_median(scores: np.ndarray, medians: np.ndarray) -> np.ndarray:
    """Return shades (rows, cells) from 0 to 200 for half to four times each row's median.

    Equal steps stand for equal factors. `scores` have the shape (rows, cells), `medians` the shape (rows, 1).
    """
    tiny = np.finfo(np.float32).tiny
    middle = np.maximum(np.nan_to_num(medians), tiny)
    shades = 200 * np.clip((1 + np.log2(np.maximum(scores, tiny) / middle)) / 3, 0, 1)
    # A dead channel has no shade, not even in a layer whose median is 0.
    return np.where(scores > 0, shades, 0)


def bin_edges(size: int, bins: int) -> np.ndarray:
    """Return the borders (bins + 1,) of at most `bins` bins, as equal as whole units allow."""
    return np.round(np.linspace(0, size, min(size, bins) + 1)).astype(np.int64)


def bin_scores(site: SiteAnalysis, edges: np.ndarray, ordered: bool) -> np.ndarray:
    """Return the mean score (bins,) within each bin, in place or best first (`ordered`).

    The last bins of a layer narrower than the widest are zero.
    """
    scores = padded_scores(site, edges[-1]).astype(np.float64)
    count = len(site.ranking.scores)
    if ordered:
        scores[:count] = scores[site.ranking.order.numpy()]
    sizes = np.maximum(1, np.diff(np.minimum(edges, count)))
    return (np.add.reduceat(scores, edges[:-1]) / sizes).astype(np.float32)
