"""SlimLLM (arXiv 2505.22689): heads by output similarity, channels by principal directions. Pure.

Heads (section 3.2): s(S) is the similarity between the summed output of the kept heads S and that of all
heads, measured by the Pearson correlation of every output. The score of a head is s(all) − s(all without it),
and a greedy search then exchanges heads. Channels (section 3.3): the score of a channel depends on what it
writes along the principal directions of the output. Everything is computed from moments: C (o, n, n) below is
the covariance of what n heads or units of attention add to each of o outputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from slimllm.core.shapes import Grouping
from slimllm.core.types import Ranking
from slimllm.methods.interface import ChannelSite, HeadSite, Option, Options
from slimllm.methods.ranking import PIN, input_norms, kept_subsets, rank_inputs, unit_pins

GREEDY = Option("greedy", True, "Try swapping removed heads against kept ones, as long as it helps.")
KEEP_LOWEST = Option(
    "keep_lowest", False, "Keep the 1 % lowest-scoring channels, as the published code does."
)
# The share of channels that the published code keeps although they score lowest.
LOWEST_SHARE = 0.01
# An exchange must raise the similarity per output by more than this, so that rounding exchanges nothing.
LEAST_GAIN = 1e-9


def rank_heads_by_pearson(site: HeadSite, options: Options) -> Ranking:
    """Rank heads by how much the output's similarity to the dense output drops without them.

    With the option `greedy`, a search then exchanges heads.
    """
    cov = head_covariance(site.moments.cov, site.weight, site.grouping.heads)  # (o, H, H)
    return rank_by_covariance(cov, site.grouping, pinned=site.pinned, search=options["greedy"])


def rank_channels_by_pca(site: ChannelSite, options: Options) -> Ranking:
    """Rank channels by what they write along the principal directions of the output, and by their writers.

    I_j = ‖x_j‖ · ‖(W_downᵀ V)_j ⊙ c‖ + Σ_writers ‖W_j ⊙ n‖ with V, λ of the output covariance W_down cov
    W_downᵀ (`site.principal`), c = sigmoid(|λ| / mean|λ|), and n the norm of each feature of the MLP's input.
    """
    values, vectors = site.principal  # (o,), (o, o)
    size = values.abs()
    directions = torch.sigmoid(size / size.mean().clamp_min(torch.finfo(size.dtype).tiny))  # (o,)
    written = ((site.weight.T @ vectors) * directions).norm(dim=1)  # (c, o) → (c,)
    scores = input_norms(site.moments) * written  # (c,)
    energy = site.input_sq * site.moments.tokens  # (o,)
    for writer in site.writers:
        scores = scores + (writer.square() @ energy).sqrt()  # (c, o) @ (o,) → (c,)
    lowest = LOWEST_SHARE if options.get("keep_lowest", False) else 0.0
    return rank_inputs(scores, keep_lowest=lowest, pinned=site.pinned)


def rank_by_covariance(
    cov: Tensor, grouping: Grouping, *, pinned: Tensor | None = None, search: bool = True
) -> Ranking:
    """Rank heads from their covariances (o, H, H).

    A score is s(all) − s(all without the head), divided by o. At every feasible width the least important
    units are cut; with `search`, units are then exchanged greedily (`swap_greedily`). `pinned` (H,) is 1 for
    a protected head and −1 for one that is forced out; pinned units are never exchanged.
    """
    whole = kept_similarity(cov, torch.ones_like(cov[0, 0]))
    # (H,)
    scores = (torch.stack([whole - part for part in similarities_without(cov)]) / len(cov)).cpu()
    order = scores.argsort(descending=True, stable=True)
    unit_of = grouping.unit_of_head()  # (H,)
    units = sum_over_units(cov, unit_of)  # (o, H, H) → (o, n, n)
    unit_scores = -torch.stack(similarities_without(units)).cpu()  # (n,)
    pins = unit_pins(pinned, unit_of, grouping.units)  # (n,)
    first = kept_subsets(unit_scores + pins * PIN, grouping)  # (s+1, n)
    if not search:
        return Ranking(scores, order, first[:, unit_of])  # (s+1, n) → (s+1, H)
    # (s+1, n)
    found = torch.stack([swap_greedily(units, row, unit_scores, grouping.pools, pins == 0) for row in first])
    return Ranking(scores, order, found.cpu()[:, unit_of], first[:, unit_of])  # (s+1, H) each


def similarities_without(cov: Tensor) -> list[Tensor]:
    """Return s(S) of all units but one, a scalar for each of the n units left out, from (o, n, n)."""
    others = ~torch.eye(cov.shape[1], dtype=torch.bool, device=cov.device)  # (n, n)
    return [kept_similarity(cov, mask) for mask in others]


def head_covariance(cov: Tensor, weight: Tensor, heads: int) -> Tensor:
    """Return the covariance (o, H, H) of what two heads add to each output.

    `cov` (d, d) is that of the reader's inputs, and `weight` (o, d) is the reader's.
    """
    o, d = weight.shape
    size = d // heads
    blocks = weight.view(o, heads, size)  # (o, H, e)
    found = weight.new_empty(o, heads, heads)
    for h in range(heads):
        # The covariance is symmetric, so each head needs only those after it and itself.
        seen = blocks[:, h] @ cov[h * size : (h + 1) * size, h * size :]  # (o, e) @ (e, l·e) → (o, l·e)
        # (o, l, e) → (o, l)
        pairs = torch.einsum("oge,oge->og", seen.view(o, heads - h, size), blocks[:, h:])
        found[:, h, h:] = found[:, h:, h] = pairs
    return found  # (o, H, H)


def sum_over_units(matrix: Tensor, unit_of: Tensor) -> Tensor:
    """Return the sums (…, n, n) within units of the last two dimensions of a matrix (…, m, m).

    `unit_of` (m,) holds the unit of each index.
    """
    member = torch.nn.functional.one_hot(unit_of).to(matrix)  # (m, n)
    return member.T @ matrix @ member  # (n, m) @ (…, m, m) @ (m, n) → (…, n, n)


def pearson_sum(cross: Tensor, own: Tensor, total: Tensor) -> Tensor:
    """Return the sum of |cov / √(var · var)| over outputs, the first dimension; a constant output counts 0.

    `cross` (o, …) holds the covariances of the part with the whole, `own` and `total` the variances of both.
    """
    product = own.clamp_min(0) * total.clamp_min(0)
    floor = torch.finfo(product.dtype).tiny
    return torch.where(product > floor, cross.abs() / product.clamp_min(floor).sqrt(), 0).sum(0)


def kept_similarity(cov: Tensor, kept: Tensor) -> Tensor:
    """Return s(S), a scalar, of the kept units (n,) bool from unit covariances (o, n, n)."""
    mask = kept.to(cov)  # (n,)
    rows = cov @ mask  # (o, n): each unit with the kept sum
    return pearson_sum(rows.sum(1), rows @ mask, cov.sum((1, 2)))  # (o,) each → ()


def swap_greedily(cov: Tensor, kept: Tensor, scores: Tensor, pools: Tensor, free: Tensor) -> Tensor:
    """Return the kept units (n,) after exchanges of cut units against kept ones that raise s(S).

    Cut units come in turn, the least important by `scores` (n,) first. Each one takes the place of the kept
    unit of its pool whose exchange raises s the most. There is one pass, and removed units do not return.
    Only units that are `free` (n,) move. `cov` (o, n, n) holds the covariances, and `pools` (n,) the pool of
    each unit. All but `cov` are on the CPU. The result is where `cov` is, and no exchange waits for that
    device, because exchanges do not change which cut units come, nor how many kept ones a pool has.
    """
    mask, total = kept.to(cov), cov.sum((1, 2))  # (n,), (o,)
    whole = cov.sum(2)  # (o, n)
    old = (kept & free).nonzero().flatten()
    old = old[pools[old].argsort(stable=True)]
    counts = pools[old].bincount(minlength=int(pools.max()) + 1).tolist()
    # The kept and free units of each pool, in ascending order.
    members = list(old.to(cov.device).split(counts))
    cut = (~kept & free).nonzero().flatten()
    for new in cut[scores[cut].argsort(stable=True)].tolist():
        pool = int(pools[new])
        old = members[pool]  # (k,)
        if not len(old):
            continue
        rows = cov @ mask  # (o, n)
        cross, own = rows.sum(1), rows @ mask  # (o,), (o,)
        # All k exchanges are evaluated at once.
        crosses = cross[:, None] - whole[:, old] + whole[:, new : new + 1]  # (o, k)
        owns = (
            own[:, None]
            - 2 * rows[:, old]
            + cov[:, old, old]
            + 2 * (rows[:, new : new + 1] - cov[:, old, new])
            + cov[:, new, new][:, None]
        )  # (o, k)
        gains = pearson_sum(crosses, owns, total[:, None]) - pearson_sum(cross, own, total)  # (k,)
        best = gains.argmax(keepdim=True)  # (1,)
        better = gains[best] > LEAST_GAIN * len(cov)  # (1,)
        gone = old[best]  # (1,)
        came = torch.where(better, new, gone)  # (1,): the unit in that place from now on
        mask = mask.index_fill(0, gone, 0).index_fill(0, came, 1)
        members[pool] = old.scatter(0, best, came).sort().values
    return mask > 0
