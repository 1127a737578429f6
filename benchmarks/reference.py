"""Prune by SlimLLM (arXiv 2505.22689) in the straightforward way.

This is an oracle for the tests and a yardstick for speed, not a product. It stores the activations of all
tokens, and computes the outputs of heads and channels from them explicitly. It adds up every trial set of
heads and correlates it anew, uses the general eigen-solver, and fits every output separately. It slices
nothing: cut units become zero columns of the reader, so that a mistake in our slicing cannot hide here. It
shares only two parts with the product: where a family's linears are, and how tokens enter the first layer.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimllm.calibration import moments as streaming
from slimllm.core.shapes import Grouping
from slimllm.core.types import Plan
from slimllm.models.families import Site, linear_of
from slimllm.models.loading import Subject

# A swap must raise the similarity per output by more than rounding does.
STRICTLY = 1e-9


@dataclass(frozen=True, eq=False)
class Found:
    """What the reference found at one site.

    `scores` (n,) are those of all units, `kept` (k,) the kept units. `columns` are the columns of the reader
    that remain, `weight` (o, columns) is its new weight, and `bias` (o,) is added to its output.
    """

    scores: Tensor
    kept: Tensor
    columns: Tensor
    weight: Tensor
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Layer:
    """Both sites of one layer; None where nothing is cut."""

    attention: Found | None
    mlp: Found | None


def prune(
    subject: Subject, plan: Plan, tokens: Tensor, dtype: torch.dtype = torch.float64
) -> tuple[Subject, Iterator[Layer]]:
    """Return a masked copy of the subject, and an iterator that prunes it layer by layer.

    It prunes to the plan's widths on `tokens` (S, T), with all arithmetic in `dtype`.
    """
    masked = dataclasses.replace(subject, model=copy.deepcopy(subject.model))
    return masked, layers(masked, plan, tokens, dtype)


def layers(subject: Subject, plan: Plan, tokens: Tensor, dtype: torch.dtype) -> Iterator[Layer]:
    """Prune every layer on the output of the pruned layers before it, and yield what was found."""
    stream = streaming.embed_tokens(subject, tokens)
    for index, layer in enumerate(subject.layers):
        shape = subject.shape.layers[index]
        attention = mlp = None
        if plan.heads[index] < shape.heads:
            grouping = Grouping(shape.heads, shape.groups, plan.unit)
            attention = cut_heads(subject, stream, index, grouping, plan.heads[index], dtype)
            mask(linear_of(layer, subject.family.attention.reader), attention)
        if plan.channels[index] < shape.channels:
            mlp = cut_channels(subject, stream, index, plan.channels[index], dtype)
            mask(linear_of(layer, subject.family.mlp.reader), mlp)
        advance(layer, stream, index)
        yield Layer(attention, mlp)


@torch.inference_mode()
def advance(layer: nn.Module, stream: streaming.Stream, index: int) -> None:
    """Run the layer on all hidden states of the stream, in place."""
    for i, hidden in enumerate(stream.hidden):
        stream.hidden[i] = streaming.run_layer(layer, hidden, stream.arguments[index])


@torch.inference_mode()
def stored(
    layer: nn.Module, stream: streaming.Stream, index: int, names: Sequence[str], dtype: torch.dtype
) -> list[Tensor]:
    """Return the inputs (t, d) of each of the named linears for all tokens."""
    seen: dict[str, list[Tensor]] = {name: [] for name in names}

    def keep(name: str) -> Any:
        return lambda _, inputs: seen[name].append(inputs[0].flatten(0, -2))

    handles = [linear_of(layer, name).register_forward_pre_hook(keep(name)) for name in names]
    try:
        for hidden in stream.hidden:
            streaming.run_layer(layer, hidden, stream.arguments[index])
    finally:
        for handle in handles:
            handle.remove()
    return [torch.cat(seen[name]).cpu().to(dtype) for name in names]


def mask(reader: nn.Linear, found: Found) -> None:
    """Set the reader's new columns, with zeros in place of the cut ones, and its bias."""
    weight = torch.zeros_like(reader.weight)
    weight[:, found.columns] = found.weight.to(weight)
    old = reader.bias.detach().float() if reader.bias is not None else 0.0
    bias = (found.bias.to(weight.device).float() + old).to(weight.dtype)
    reader.weight = nn.Parameter(weight, requires_grad=False)
    reader.bias = nn.Parameter(bias, requires_grad=False)


# Heads -----------------------------------------------------------------------------------------------------


def cut_heads(
    subject: Subject,
    stream: streaming.Stream,
    index: int,
    grouping: Grouping,
    width: int,
    dtype: torch.dtype,
) -> Found:
    """Return the `width` heads to keep and the reader fitted to them."""
    layer, name, size = subject.layers[index], subject.family.attention.reader, subject.shape.head_size
    (x,) = stored(layer, stream, index, [name], dtype)
    weight = linear_of(layer, name).weight.detach().cpu().to(dtype)
    outputs = [
        weight[:, h * size : (h + 1) * size] @ x[:, h * size : (h + 1) * size].T
        for h in range(grouping.heads)
    ]
    kept = heads_to_keep(outputs, grouping, width)
    columns = torch.cat([torch.arange(h * size, (h + 1) * size) for h in kept])
    fitted, bias = fit(x, weight, columns)
    return Found(head_scores(outputs), torch.tensor(kept), columns, fitted, bias)


def similarity(outputs: Sequence[Tensor], whole: Tensor, chosen: Sequence[int]) -> float:
    """Return Σ_k |Pearson| of the chosen units' summed output (o, t) with the whole output (o, t).

    An output k that is constant counts 0.
    """
    together = torch.stack([outputs[unit] for unit in chosen]).sum(0)
    total = 0.0
    for k in range(len(whole)):
        correlation = float(torch.corrcoef(torch.stack((together[k], whole[k])))[0, 1])
        # The correlation of a constant output is NaN, which counts 0.
        if correlation == correlation:
            total += abs(correlation)
    return total


def without(everyone: Sequence[int], one: int) -> list[int]:
    """Return all units but one."""
    return [unit for unit in everyone if unit != one]


def head_scores(outputs: Sequence[Tensor]) -> Tensor:
    """Return the importance (H,) of each head: the similarity that is lost without it, per output."""
    whole, everyone = torch.stack(list(outputs)).sum(0), range(len(outputs))
    all_of_it = similarity(outputs, whole, everyone)
    lost = [all_of_it - similarity(outputs, whole, without(everyone, head)) for head in everyone]
    return torch.tensor(lost, dtype=torch.float64) / len(whole)


def heads_to_keep(outputs: Sequence[Tensor], grouping: Grouping, width: int) -> list[int]:
    """Return the kept heads, ascending.

    These are the most important units of every pool, changed by the paper's greedy swaps.
    """
    unit_of = grouping.unit_of_head().tolist()
    units = [
        torch.stack([outputs[h] for h, u in enumerate(unit_of) if u == unit]).sum(0)
        for unit in range(grouping.units)
    ]
    whole, pools = torch.stack(units).sum(0), grouping.pools.tolist()
    everyone = range(len(units))
    # A unit is unimportant where the output stays similar without it.
    likeness = [similarity(units, whole, without(everyone, unit)) for unit in everyone]
    per_pool = width * grouping.steps // grouping.heads
    kept: list[int] = []
    for pool in sorted(set(pools)):
        members = [unit for unit in everyone if pools[unit] == pool]
        kept += sorted(members, key=lambda unit: likeness[unit])[:per_pool]
    kept = swapped(units, whole, kept, likeness, pools)
    return [h for h, unit in enumerate(unit_of) if unit in kept]


def swapped(
    units: Sequence[Tensor], whole: Tensor, kept: list[int], likeness: Sequence[float], pools: Sequence[int]
) -> list[int]:
    """Return the kept units after one pass over the cut ones, least important first.

    Each cut unit is tried in the place of every kept unit of its pool.
    """
    cut = [unit for unit in range(len(units)) if unit not in kept]
    for new in sorted(cut, key=lambda unit: -likeness[unit]):
        best, choice = similarity(units, whole, kept) + STRICTLY * len(whole), kept
        for old in kept:
            if pools[old] != pools[new]:
                continue
            trial = [*without(kept, old), new]
            value = similarity(units, whole, trial)
            if value > best:
                best, choice = value, trial
        kept = choice
    return kept


# Channels --------------------------------------------------------------------------------------------------


def cut_channels(
    subject: Subject, stream: streaming.Stream, index: int, width: int, dtype: torch.dtype
) -> Found:
    """Return the `width` channels to keep and the reader fitted to them."""
    layer, site = subject.layers[index], subject.family.mlp
    x, inner = stored(layer, stream, index, [site.reader, next(iter(site.writers))], dtype)
    weight = linear_of(layer, site.reader).weight.detach().cpu().to(dtype)
    scores = channel_scores(x, inner, weight, writers(layer, site, dtype))
    kept = scores.argsort(descending=True, stable=True)[:width].sort().values
    fitted, bias = fit(x, weight, kept)
    return Found(scores, kept, kept, fitted, bias)


def writers(layer: nn.Module, site: Site, dtype: torch.dtype) -> list[Tensor]:
    """Return the weights (c, o) that write the channels; some families stack two of them in one linear."""
    found: list[Tensor] = []
    for name, letters in site.writers.items():
        found += linear_of(layer, name).weight.detach().cpu().to(dtype).chunk(len(letters))
    return found


def channel_scores(x: Tensor, inner: Tensor, down: Tensor, written_by: Sequence[Tensor]) -> Tensor:
    """Return I_j = ‖x_j‖ · ‖(W_downᵀ V)_j ⊙ c‖ + Σ_writers ‖W_j ⊙ n‖ (c,), the paper's channel scores.

    The arguments are the channels' activations `x` (t, c) and the MLP's input `inner` (t, o). The result
    holds where the output has full rank: among equal eigenvalues, such as several zeros, the general solver's
    vectors are not orthogonal. That is why the product uses the symmetric solver.
    """
    y = x @ down.T
    y = y - y.mean(0)
    values, vectors = torch.linalg.eig(y.T @ y / len(y))
    size = values.real.abs()
    directions = torch.sigmoid(size / size.mean())
    scores = x.norm(dim=0) * ((down.T @ vectors.real) * directions).norm(dim=1)
    norms = inner.norm(dim=0)
    for weight in written_by:
        scores = scores + (weight * norms).norm(dim=1)
    return scores


# Recovery --------------------------------------------------------------------------------------------------


def fit(x: Tensor, weight: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Return the fitted weight (o, columns) and bias (o,) of the paper's regression.

    Every dense output is fitted as a · pruned output + b, one after another.
    """
    dense, pruned = (x @ weight.T).T.contiguous(), (x[:, columns] @ weight[:, columns].T).T.contiguous()
    fitted, bias = weight[:, columns].clone(), torch.zeros(len(weight), dtype=weight.dtype)
    ones = torch.ones_like(pruned[0])
    for k in range(len(weight)):
        # A constant output determines no slope.
        if bool((pruned[k] == pruned[k, 0]).all()):
            bias[k] = (dense[k] - pruned[k]).mean()
            continue
        design = torch.stack((pruned[k], ones), dim=1)
        slope, offset = torch.linalg.lstsq(design, dense[k][:, None]).solution.flatten()
        fitted[k] *= slope
        bias[k] = offset
    return fitted, bias
