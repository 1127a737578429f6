"""What the rankings of several methods share: from scores of inputs, heads or channels to a `Ranking`. Pure.

Nothing here changes an argument in place.
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
    """Return ‖x_j‖ of each input over all tokens (d,)."""
    return (moments.gram.diagonal().clamp_min(0) * moments.tokens).sqrt()


def sum_over_heads(values: Tensor, grouping: Grouping) -> Tensor:
    """Sum values of a reader's inputs (d,) over each head: (H,)."""
    return values.view(grouping.heads, -1).sum(1)  # (H, e) → (H,)


def rank_inputs(scores: Tensor, *, keep_lowest: float = 0.0, pinned: Tensor | None = None) -> Ranking:
    """Rank by score alone (n,); ties go by index.

    A share `keep_lowest` of the lowest comes first. `pinned` (n,): 1 comes before all others, −1 after them.
    """
    order = scores.argsort(descending=True, stable=True)
    lowest = int(len(order) * keep_lowest)
    if lowest:
        order = torch.cat((order[-lowest:], order[:-lowest]))
    if pinned is not None:
        order = order[pinned[order].argsort(descending=True, stable=True)]
    return Ranking(scores, order)


def rank_heads(scores: Tensor, grouping: Grouping, *, pinned: Tensor | None = None) -> Ranking:
    """Rank heads by their own scores (H,), summed over each unit of the grouping; `pinned` is (H,)."""
    unit_of = grouping.unit_of_head()  # (H,)
    units = torch.zeros(grouping.units, dtype=scores.dtype).index_add(0, unit_of, scores)  # (n,)
    kept = kept_subsets(units + unit_pins(pinned, unit_of, grouping.units) * PIN, grouping)  # (s+1, n)
    return Ranking(scores, scores.argsort(descending=True, stable=True), kept[:, unit_of])


def rank_learned_heads(site: HeadSite, options: Options) -> Ranking:
    """Rank heads by what gradients or training said of them."""
    assert site.learned is not None
    return rank_heads(site.learned.double(), site.grouping, pinned=site.pinned)


def rank_learned_channels(site: ChannelSite, options: Options) -> Ranking:
    """Rank channels by what gradients or training said of them."""
    assert site.learned is not None
    return rank_inputs(site.learned.double(), pinned=site.pinned)


def unit_pins(pinned: Tensor | None, unit_of: Tensor, units: int) -> Tensor:
    """Return the pin (n,) of each unit: protected if any member is, else forced out if any member is.

    `pinned` (H,) are the pins of heads, `unit_of` (H,) the units that they belong to.
    """
    pins = torch.zeros(units)
    if pinned is not None:
        for value in (-1, 1):
            pins[unit_of[pinned == value]] = value
    return pins


def kept_subsets(scores: Tensor, grouping: Grouping) -> Tensor:
    """Choose the best j units of every pool at each step j, by scores (n,): (s+1, n) bool."""
    kept = torch.zeros(grouping.steps + 1, grouping.units, dtype=torch.bool)  # (s+1, n)
    pools = grouping.pools  # (n,)
    for pool in range(int(pools.max()) + 1):
        members = (pools == pool).nonzero().flatten()
        best = members[scores[members].argsort(descending=True, stable=True)]
        for j in range(1, grouping.steps + 1):
            kept[j, best[:j]] = True
    return kept
