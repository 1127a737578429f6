"""Shared steps of rankings: from scores of inputs, heads or channels to a `Ranking`. Pure.

Scores may be on any device. They come to the CPU in one copy, and rankings are made there. Nothing here
changes an argument in place.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimllm.core.shapes import Grouping
from slimllm.core.types import Moments, Ranking
from slimllm.methods.interface import ChannelSite, HeadSite, Options

# Added to the score of a pinned unit, so that it sorts first or last.
PIN = 1e30


def input_norms(moments: Moments) -> Tensor:
    """Return ‖x_j‖ (d,) of each input over all tokens."""
    return (moments.gram.diagonal().clamp_min(0) * moments.tokens).sqrt()


def sum_over_heads(values: Tensor, grouping: Grouping) -> Tensor:
    """Return the sum (H,) over each head of values (d,) of a reader's inputs."""
    return values.view(grouping.heads, -1).sum(1)  # (H, e) → (H,)


def rank_inputs(scores: Tensor, *, keep_lowest: float = 0.0, pinned: Tensor | None = None) -> Ranking:
    """Rank units by their scores (n,); units with equal scores keep the order of their indices.

    The share `keep_lowest` of the lowest-scoring units comes first. With `pinned` (n,), units with 1 come
    before all others, and those with −1 after them.
    """
    scores = scores.cpu()
    order = scores.argsort(descending=True, stable=True)  # (n,)
    lowest = int(len(order) * keep_lowest)
    if lowest:
        order = torch.cat((order[-lowest:], order[:-lowest]))
    if pinned is not None:
        order = order[pinned[order].argsort(descending=True, stable=True)]
    return Ranking(scores, order)


def rank_heads(scores: Tensor, grouping: Grouping, *, pinned: Tensor | None = None) -> Ranking:
    """Rank heads by their scores (H,), summed over each unit of the grouping; `pinned` is (H,)."""
    scores, unit_of = scores.cpu(), grouping.unit_of_head()  # (H,) each
    units = torch.zeros(grouping.units, dtype=scores.dtype).index_add(0, unit_of, scores)  # (n,)
    kept = kept_subsets(units + unit_pins(pinned, unit_of, grouping.units) * PIN, grouping)  # (s+1, n)
    # (s+1, n) → (s+1, H)
    return Ranking(scores, scores.argsort(descending=True, stable=True), kept[:, unit_of])


def rank_learned_heads(site: HeadSite, options: Options) -> Ranking:
    """Rank heads by their importance from gradients or training."""
    assert site.learned is not None
    return rank_heads(site.learned.double(), site.grouping, pinned=site.pinned)


def rank_learned_channels(site: ChannelSite, options: Options) -> Ranking:
    """Rank channels by their importance from gradients or training."""
    assert site.learned is not None
    return rank_inputs(site.learned.double(), pinned=site.pinned)


def unit_pins(pinned: Tensor | None, unit_of: Tensor, units: int) -> Tensor:
    """Return the pin (n,) of each unit: 1 if any member is protected, else −1 if any member is forced out.

    `pinned` (H,) holds the pins of heads, and `unit_of` (H,) the unit of each head.
    """
    pins = torch.zeros(units)  # (n,)
    if pinned is not None:
        for value in (-1, 1):
            pins[unit_of[pinned == value]] = value
    return pins


def kept_subsets(scores: Tensor, grouping: Grouping) -> Tensor:
    """Return which units are kept at each step j, (s+1, n) bool: the j best of every pool by scores (n,)."""
    kept = torch.zeros(grouping.steps + 1, grouping.units, dtype=torch.bool)  # (s+1, n)
    pools = grouping.pools  # (n,)
    for pool in range(int(pools.max()) + 1):
        members = (pools == pool).nonzero().flatten()  # (members,)
        best = members[scores[members].argsort(descending=True, stable=True)]  # (members,)
        for j in range(1, grouping.steps + 1):
            kept[j, best[:j]] = True
    return kept
