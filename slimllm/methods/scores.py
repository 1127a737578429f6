"""Importance of heads and channels, from moments and weights alone. Pure: no model, no files, no in-place
changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from slimllm.core.shapes import Grouping
from slimllm.core.types import Moments, Ranking


def output_norms(moments: Moments) -> Tensor:
    """‖x_j‖ of each input over all tokens (d,)."""
    return (moments.gram.diagonal().clamp_min(0) * moments.tokens).sqrt()


def head_covariance(cov: Tensor, weight: Tensor, heads: int) -> Tensor:
    """The covariance of head h's and head h''s contribution to each output: (o, H, H) from cov (d, d),
    weight (o, d)."""
    o, d = weight.shape
    blocks = weight.view(o, heads, d // heads)  # (o, H, e)
    rows = [
        torch.einsum(
            "oge,oge->og",
            (blocks[:, h] @ cov[h * (d // heads) : (h + 1) * (d // heads)]).view_as(blocks),
            blocks,
        )
        for h in range(heads)
    ]
    return torch.stack(rows, dim=1)


def unit_sum(matrix: Tensor, unit_of: Tensor) -> Tensor:
    """Sums the last two dimensions of (…, m, m) within units: (…, n, n)."""
    member = torch.nn.functional.one_hot(unit_of).to(matrix)  # (m, n)
    return member.T @ matrix @ member


def pearson_sum(cross: Tensor, own: Tensor, total: Tensor) -> Tensor:
    """Σ_k |cov / √(var · var)| over outputs, first dimension; a constant output counts 0."""
    product = own.clamp_min(0) * total.clamp_min(0)
    floor = torch.finfo(product.dtype).tiny
    return torch.where(product > floor, cross.abs() / product.clamp_min(floor).sqrt(), 0).sum(0)


def kept_similarity(cov: Tensor, kept: Tensor) -> Tensor:
    """SlimLLM's s(S): how alike the output of the kept units (n,) bool is to the whole, from unit cov (o, n,
    n)."""
    mask = kept.to(cov)
    rows = cov @ mask  # (o, n): each unit with the kept sum
    return pearson_sum(rows.sum(1), rows @ mask, cov.sum((1, 2)))


def rank_by_pearson(
    cov: Tensor, grouping: Grouping, *, pinned: Tensor | None = None, search: bool = True
) -> Ranking:
    """SlimLLM's ranking of heads (methods of section 3.2, arXiv 2505.22689) from head covariances cov (o, H,
    H).

    A unit matters as s(all) − s(all without it), divided by o. At every feasible width the least important
    are cut, then a greedy search swaps cut units, least important first, against the kept one whose exchange
    raises s the most; one pass, evicted units do not return. `pinned` (H,): 1 protected, −1 forced out;
    pinned units never swap.
    """
    alone = torch.ones(cov.shape[1], dtype=torch.bool)
    whole = kept_similarity(cov, alone)
    scores = torch.stack(
        [whole - kept_similarity(cov, flip_mask(alone, [h])) for h in range(len(alone))]
    ) / len(cov)
    unit_of = grouping.unit_of_head()
    units = unit_sum(cov, unit_of)  # (o, n, n)
    everyone = torch.ones(grouping.units, dtype=torch.bool)
    unit_scores = torch.stack(
        [-kept_similarity(units, flip_mask(everyone, [u])) for u in range(grouping.units)]
    )
    pins = unit_pins(pinned, unit_of, grouping.units)
    first = kept_subsets(unit_scores + pins * PIN, grouping)
    order = scores.argsort(descending=True, stable=True)
    if not search:
        return Ranking(scores, order, first[:, unit_of])
    found = torch.stack([greedy_swap(units, row, unit_scores, grouping.pools, pins == 0) for row in first])
    return Ranking(scores, order, found[:, unit_of], first[:, unit_of])


PIN = 1e30  # added to a pinned unit's score so that it sorts first or last


def flip_mask(mask: Tensor, indices: Sequence[int]) -> Tensor:
    mask = mask.clone()
    mask[list(indices)] = ~mask[list(indices)]
    return mask


def unit_pins(pinned: Tensor | None, unit_of: Tensor, units: int) -> Tensor:
    """The pin (n,) of each unit: protected if any member is, else forced out if any member is."""
    if pinned is None:
        return torch.zeros(units)
    pins = torch.zeros(units)
    for value in (-1, 1):
        pins[unit_of[pinned == value]] = value
    return pins


def kept_subsets(scores: Tensor, grouping: Grouping) -> Tensor:
    """The kept units (s+1, n) bool at every step: the best j of every pool."""
    kept = torch.zeros(grouping.steps + 1, grouping.units, dtype=torch.bool)
    pools = grouping.pools
    for pool in range(int(pools.max()) + 1):
        members = (pools == pool).nonzero().flatten()
        best = members[scores[members].argsort(descending=True, stable=True)]
        for j in range(1, grouping.steps + 1):
            kept[j, best[:j]] = True
    return kept


def greedy_swap(cov: Tensor, kept: Tensor, scores: Tensor, pools: Tensor, free: Tensor) -> Tensor:
    """The kept set (n,) after SlimLLM's swap search over unit covariances (o, n, n)."""
    kept = kept.clone()
    cut = (~kept & free).nonzero().flatten()
    total = cov.sum((1, 2))
    for new in cut[scores[cut].argsort(stable=True)].tolist():
        old = (kept & free & (pools == pools[new])).nonzero().flatten()
        if not len(old):
            continue
        mask = kept.to(cov)
        rows = cov @ mask  # (o, n)
        cross, own, whole = rows.sum(1), rows @ mask, cov.sum(2)
        # exchanging old (k,) for new, all at once: every term is (o, k)
        crosses = cross[:, None] - whole[:, old] + whole[:, [new]]
        owns = (
            own[:, None]
            - 2 * rows[:, old]
            + cov[:, old, old]
            + 2 * (rows[:, [new]] - cov[:, old, new])
            + cov[:, new, new][:, None]
        )
        gains = pearson_sum(crosses, owns, total[:, None]) - pearson_sum(cross, own, total)
        best = int(gains.argmax())
        if gains[best] > 1e-9 * len(cov):  # strictly better, beyond rounding
            kept[old[best]] = False
            kept[new] = True
    return kept


def rank_by_pca(
    moments: Moments,
    down: Tensor,
    principal: tuple[Tensor, Tensor],
    writers: Sequence[Tensor],
    input_sq: Tensor,
    *,
    keep_lowest: bool = False,
    pinned: Tensor | None = None,
) -> Ranking:
    """SlimLLM's ranking of channels (section 3.3, arXiv 2505.22689).

    I_j = ‖x_j‖ · ‖(W_downᵀ V)_j ⊙ c‖ + Σ_writers ‖W_j ⊙ n‖ with V, λ of the output covariance W_down cov
    W_downᵀ, as `principal` gives them, and c = sigmoid(|λ| / mean|λ|); n the norm of each feature of the
    MLP's input. down (o, c), writers (c, o).
    `keep_lowest` keeps the lowest 1 % as the published code does.
    """
    values, vectors = principal
    size = values.abs()
    directions = torch.sigmoid(size / size.mean().clamp_min(torch.finfo(size.dtype).tiny))
    scores = output_norms(moments) * ((down.T @ vectors) * directions).norm(dim=1)
    energy = input_sq * moments.tokens
    for writer in writers:
        scores = scores + (writer.square() @ energy).sqrt()
    return rank_inputs(scores, keep_lowest=0.01 if keep_lowest else 0.0, pinned=pinned)


def principal_variances(moments: Moments, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The variances (o,) of a reader's output along its principal directions, smallest first, and these
    directions as columns (o, o)."""
    output = weight @ moments.cov @ weight.T
    values, vectors = torch.linalg.eigh((output + output.T) / 2)
    return values, vectors


def rank_inputs(scores: Tensor, *, keep_lowest: float = 0.0, pinned: Tensor | None = None) -> Ranking:
    """A ranking by score alone (n,); a share `keep_lowest` of the lowest goes first; ties go by index."""
    order = scores.argsort(descending=True, stable=True)
    lowest = int(len(order) * keep_lowest)
    if lowest:
        order = torch.cat((order[-lowest:], order[:-lowest]))
    if pinned is not None:
        order = order[pinned[order].argsort(descending=True, stable=True)]
    return Ranking(scores, order)


def rank_heads(scores: Tensor, grouping: Grouping, *, pinned: Tensor | None = None) -> Ranking:
    """A ranking of heads by their own scores (H,), summed over each unit of the grouping."""
    unit_of = grouping.unit_of_head()
    units = torch.zeros(grouping.units, dtype=scores.dtype).index_add(0, unit_of, scores)
    kept = kept_subsets(units + unit_pins(pinned, unit_of, grouping.units) * PIN, grouping)
    return Ranking(scores, scores.argsort(descending=True, stable=True), kept[:, unit_of])


def wanda_scores(moments: Moments, weight: Tensor) -> Tensor:
    """Σ_i |W_ij| · ‖x_j‖ per input (d,): Wanda's metric summed over outputs (arXiv 2306.11695)."""
    return weight.abs().sum(0) * output_norms(moments)


def fluctuation_scores(moments: Moments, weight: Tensor) -> Tensor:
    """Var(x_j) · ‖W_:j‖² per input (d,): FLAP's weighted input feature variance (arXiv 2312.11983, AAAI
    2024)."""
    return moments.cov.diagonal().clamp_min(0) * weight.square().sum(0)


def fluctuation_heads(moments: Moments, weight: Tensor, heads: int) -> Tensor:
    """FLAP's score of heads (H,): the mean over a head's inputs of `fluctuation` squared, as the published
    code does."""
    return fluctuation_scores(moments, weight).square().view(heads, -1).mean(1)


def magnitude_scores(weight: Tensor) -> Tensor:
    """‖W_:j‖ per input (d,)."""
    return weight.norm(dim=0)


def random_scores(n: int, seed: int) -> Tensor:
    """Seeded uniform scores (n,): the floor that every method must beat."""
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
