"""Describe in words what the greedy search over heads exchanged. Pure."""

from __future__ import annotations

import torch
from torch import Tensor

from slimllm.core.attention_unit import UNITS, UnitName
from slimllm.core.shapes import LayerShape
from slimllm.core.types import Plan, Ranking, SiteAnalysis
from ui.facts.agreement import attention_width


def exchanged_heads(ranking: Ranking, step: int) -> tuple[Tensor, Tensor]:
    """Return the heads (k,) that the search added at this step, and the heads (k,) that it removed."""
    assert ranking.subsets is not None
    assert ranking.unsearched is not None
    after, before = ranking.subsets[step], ranking.unsearched[step]
    return (after & ~before).nonzero().flatten(), (before & ~after).nonzero().flatten()


def name_heads(heads: Tensor, layer: LayerShape, unit: UnitName) -> str:
    """Return the names of heads in words; whole KV groups are named as groups."""
    each = layer.heads // layer.groups
    if UNITS[unit].takes_groups and each > 1:
        groups = torch.unique(heads // each).tolist()
        return join_words([f"KV group {g} (heads {g * each} to {g * each + each - 1})" for g in groups])
    numbers = [str(h) for h in heads.tolist()]
    return f"head {numbers[0]}" if len(numbers) == 1 else f"heads {join_words(numbers)}"


def join_words(words: list[str]) -> str:
    """Return the words joined by commas and “and”."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def describe_swaps(
    site: SiteAnalysis, layer: LayerShape, unit: UnitName, index: int, plan: Plan | None
) -> str:
    """Return what the search did at the plan's width and at all others, in plain sentences."""
    ranking = site.ranking
    if ranking.unsearched is None or ranking.subsets is None:
        return "This method keeps the heads it ranks best; it does not search for better company."
    steps = layer.steps(unit)
    busy = [step for step in range(1, steps) if len(exchanged_heads(ranking, step)[0])]
    said = []
    if plan is not None:
        said.append(at_width(ranking, layer, unit, attention_width(plan, index, layer, unit)))
    if steps > 1:
        often = f"at {len(busy)} of {steps - 1} widths" if busy else "at no width"
        said.append(f"Over the whole range it changes the choice of this layer {often}.")
    return " ".join(said)


def at_width(ranking: Ranking, layer: LayerShape, unit: UnitName, width: int) -> str:
    """Return what the search did at one width, in a sentence."""
    if width >= layer.heads:
        return "The plan keeps all heads of this layer, so the search has nothing to swap."
    if not width:
        return "The plan drops this layer whole, so the search has nothing to swap."
    taken, left = exchanged_heads(ranking, layer.step(width, unit))
    where = f"Where {width} of {layer.heads} heads stay, as in the plan, the search"
    if not len(taken):
        return f"{where} found nothing better than the best by score."
    higher = "scores" if len(left) == 1 or UNITS[unit].takes_groups else "score"
    return (
        f"{where} keeps {name_heads(taken, layer, unit)} in place of {name_heads(left, layer, unit)}, "
        f"which {higher} "
        "higher alone: together, the kept heads then follow the whole more closely."
    )
