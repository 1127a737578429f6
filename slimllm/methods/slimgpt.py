"""Elimination: the cheapest units go first, the rest compensates, and all scores are computed anew. Pure.

This is Optimal Brain Surgeon on whole columns, as in SlimGPT (arXiv 2412.18110, batched greedy pruning).
Everywhere weight (o, d) is the dense reader, and gram (d, d) is E[x xᵀ] of its inputs, or their covariance if
a bias will be refitted. H = gram + δI with δ = damping · mean of gram's diagonal. The *damped error* of a
kept set K is the least tr((W − W')H(W − W')ᵀ) over all W' that are zero outside K; the ridge least squares
W'_K = W_K + W_P H_PK (H_KK)⁻¹ reach it. With P the lost inputs, it equals tr(W_P [(H⁻¹)_PP]⁻¹ W_Pᵀ). All
computations are in float64, whatever the dtype of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from slimllm.core.shapes import Grouping
from slimllm.core.types import Ranking
from slimllm.methods.interface import ChannelSite, HeadSite, Options
from slimllm.methods.ranking import unit_pins
from slimllm.methods.recovery import DAMPING, cholesky_factor, complement_indices, ridge_damping

# Updates of the inverse lose as many digits as the damping has zeros.
LEAST_DAMPING = 1e-8
# The bounds of the channels removed at once, and the share of the remaining channels that they are.
SMALLEST, MOST_PER_ROUND, ROUND_SHARE = 8, 1024, 16


def rank_heads_by_elimination(site: HeadSite, options: Options) -> Ranking:
    """Rank heads by backward elimination with the costs of the grouped Cholesky, as in SlimGPT."""
    return eliminate_heads(site.weight, site.moments.gram, site.grouping, pinned=site.pinned)


def rank_channels_by_elimination(site: ChannelSite, options: Options) -> Ranking:
    """Rank channels by backward elimination in batches, as in SlimGPT."""
    return eliminate_channels(site.weight, site.moments.gram, pinned=site.pinned)


@dataclass(frozen=True, eq=False)
class Remainder:
    """The rest of a reader: its inputs `alive` (k,), their compensated weight (o, k), and (H_KK)⁻¹ (k, k)."""

    alive: Tensor
    weight: Tensor
    inverse: Tensor


def start_elimination(weight: Tensor, gram: Tensor, damping: float = DAMPING) -> Remainder:
    """Return the dense reader with nothing removed.

    Damping below `LEAST_DAMPING` is raised to it. Raise `Refusal` if the gram is not finite.
    """
    gram = gram.double()
    # Rounding may have left it slightly asymmetric.
    gram = (gram + gram.T) / 2  # (d, d)
    delta = ridge_damping(gram, max(damping, LEAST_DAMPING))
    damped = gram + delta * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    alive = torch.arange(len(gram), device=gram.device)
    return Remainder(alive, weight.double(), torch.cholesky_inverse(cholesky_factor(damped)))


def remove_inputs(left: Remainder, lost: Tensor) -> Remainder:
    """Remove the inputs at the positions `lost` (p,) of `alive`, and let the others compensate.

    W_K ← W_K − W_P [(H⁻¹)_PP]⁻¹ (H⁻¹)_PK, and the inverse likewise; both shrink by p.
    """
    stay = complement_indices(lost, len(left.alive))  # (k,)
    rows = left.inverse[lost]  # (p, k + p)
    root = cholesky_factor(rows[:, lost])  # (p, p)
    half = torch.linalg.solve_triangular(root, rows[:, stay], upper=False)  # (p, k)
    moved = torch.linalg.solve_triangular(root, left.weight[:, lost].T, upper=False)  # (p, o)
    return Remainder(
        left.alive[stay],  # (k,)
        torch.addmm(left.weight[:, stay], moved.T, half, alpha=-1),  # (o, k)
        torch.addmm(left.inverse[stay][:, stay], half.T, half, alpha=-1),  # (k, k)
    )


def damped_error(left: Remainder, lost: Tensor) -> Tensor:
    """Return the exact rise (…) of the damped error if the inputs at positions `lost` (…, p) go together."""
    columns = left.weight[:, lost].movedim(0, -1)  # (o, …, p) → (…, p, o)
    return torch.linalg.solve_triangular(lost_root(left, lost), columns, upper=False).square().sum((-2, -1))


def cholesky_error(left: Remainder, lost: Tensor) -> Tensor:
    """Estimate the same by SlimGPT's grouped Cholesky: Σ_j ‖W_:j‖² / L_jj² over `lost` (…, p).

    It ignores that the lost columns could compensate for each other. For orthogonal columns it is never above
    `damped_error`; for similar ones it can be.
    """
    pivots = lost_root(left, lost).diagonal(dim1=-2, dim2=-1)  # (…, p)
    return (left.weight[:, lost].square().sum(0) / pivots.square()).sum(-1)  # (o, …, p) → (…, p) → (…)


def lost_root(left: Remainder, lost: Tensor) -> Tensor:
    """Return the Cholesky factor L Lᵀ = (H⁻¹)_PP (…, p, p) for the positions `lost` (…, p)."""
    return cholesky_factor(left.inverse[lost[..., :, None], lost[..., None, :]])


def column_errors(left: Remainder) -> Tensor:
    """Return the rise (k,) of the damped error if one input is removed: ‖W_:j‖² / (H⁻¹)_jj."""
    floor = torch.finfo(left.inverse.dtype).tiny
    return left.weight.square().sum(0) / left.inverse.diagonal().clamp_min(floor)  # (k,)


def batch_size(left: int) -> int:
    """Return how many of `left` channels are removed before the scores are computed anew.

    SlimGPT's dynamic groups shrink from 1,024 to 8. Here they are a sixteenth of the remaining channels
    within those bounds, so that narrow layers are not cut in two or three steps.
    """
    return min(left, max(SMALLEST, min(MOST_PER_ROUND, left // ROUND_SHARE)))


def eliminate_channels(
    weight: Tensor, gram: Tensor, *, damping: float = DAMPING, pinned: Tensor | None = None
) -> Ranking:
    """Rank channels (c,) by removing them batch by batch, until nothing is left.

    The order is that of elimination, last one first, so the kept sets of all widths are nested. A score is
    the damped error at the time of elimination, raised to the highest cost so far. With `pinned` (c,),
    channels with −1 are removed before all others, and those with 1 after all others; scores are comparable
    only between channels with the same pin.
    """
    pins = torch.zeros(weight.shape[1]) if pinned is None else pinned  # (c,)
    left, gone, costs = start_elimination(weight, gram, damping), [], []
    own = pins.to(left.alive.device)  # (c,)
    for pin in pins.unique().tolist():
        waiting = int((pins == pin).sum())
        while waiting:
            errors, candidates = column_errors(left), own[left.alive] == pin  # (k,), (k,)
            count = min(batch_size(len(errors)), waiting)
            lost = cheapest_candidates(errors, candidates, count)  # (p,)
            gone.append(left.alive[lost])
            costs.append(errors[lost])
            left, waiting = remove_inputs(left, lost), waiting - count
    out = torch.cat([*gone, left.alive]).cpu()  # (c,), in the order of removal
    scores = torch.zeros(len(out), dtype=torch.float64)
    scores[out] = rising_costs(torch.cat(costs).cpu(), pins[out]) if costs else scores
    return Ranking(scores, out.flip(0))


def eliminate_heads(
    weight: Tensor,
    gram: Tensor,
    grouping: Grouping,
    *,
    damping: float = DAMPING,
    exact: bool = False,
    pinned: Tensor | None = None,
) -> Ranking:
    """Rank heads (H,) by removing them unit by unit, until nothing is left.

    The cost of a unit is `cholesky_error`, or `damped_error` with `exact`. In every step each pool loses one
    unit, the cheapest one of all pools that have not yet lost theirs, and the rest compensates before the
    next, so the kept sets are balanced and nested. A head's score is its share of its unit's cost at removal,
    raised to the highest cost so far in its pool. With `pinned` (H,), heads with −1 are the first of their
    pool to go, and those with 1 the last. Which units are left is known on the CPU, so the device is waited
    for three times for each unit removed.
    """
    unit_of, pools = grouping.unit_of_head(), grouping.pools  # (H,), (n,)
    pins = unit_pins(pinned, unit_of, grouping.units)  # (n,)
    size = weight.shape[1] // grouping.units
    error = damped_error if exact else cholesky_error
    left, units = start_elimination(weight, gram, damping), torch.arange(grouping.units)
    subsets = torch.ones(grouping.steps + 1, grouping.units, dtype=torch.bool)
    costs = torch.zeros(grouping.units, dtype=torch.float64)
    gone: list[int] = []
    for step in reversed(range(grouping.steps)):
        due = torch.ones(int(pools.max()) + 1, dtype=torch.bool)
        while due.any():
            blocks = torch.arange(len(left.alive), device=left.alive.device).view(-1, size)
            errors = error(left, blocks).cpu()  # (units left, inputs of each) → (units left,)
            candidates = due[pools[units]] & next_in_pool(pools[units], pins[units])  # (units left,)
            lost = cheapest_candidates(errors, candidates, 1)  # (1,)
            place, unit = int(lost), int(units[lost])
            gone.append(unit)
            costs[unit] = errors[lost]
            subsets[: step + 1, unit] = False
            due[pools[unit]] = False
            left = remove_inputs(left, blocks[place])
            units = units[complement_indices(lost, len(units))]
    out = torch.tensor(gone)  # (n,), in the order of removal
    costs[out] = rising_costs(costs[out], 3 * pools[out] + pins[out])
    scores = costs[unit_of] * grouping.units / grouping.heads  # (H,)
    # (s+1, n) → (s+1, H)
    return Ranking(scores, scores.argsort(descending=True, stable=True), subsets[:, unit_of])


def next_in_pool(pools: Tensor, pins: Tensor) -> Tensor:
    """Return which units (n,) may be removed next, as (n,) bool.

    These are the forced-out units of every pool; without any, its free units; without any, its protected
    ones.
    """
    # (pools,): the smallest remaining pin of each pool.
    first = torch.full((int(pools.max()) + 1,), 2.0).scatter_reduce(0, pools, pins, "amin")
    return pins == first[pools]


def cheapest_candidates(errors: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Return the positions (count,) of the cheapest candidates, cheapest first.

    Of equally cheap ones, the last comes first.
    """
    errors = torch.where(candidates, errors, torch.inf)
    return len(errors) - 1 - errors.flip(0).argsort(stable=True)[:count]


def rising_costs(costs: Tensor, kinds: Tensor) -> Tensor:
    """Return costs (n,), given in the order of removal, each raised above the earlier ones of its kind."""
    costs = costs.clone()
    for kind in kinds.unique():
        mine = kinds == kind
        # The factor makes equal costs differ in their last digits, so that sorting restores the order.
        rank = torch.arange(int(mine.sum()), dtype=costs.dtype, device=costs.device)
        costs[mine] = costs[mine].cummax(0).values * (1 + rank * torch.finfo(costs.dtype).eps)
    return costs
