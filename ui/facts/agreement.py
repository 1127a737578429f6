"""Measure how far two methods agree: the rank correlation of their scores, the units both keep. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slimllm.core.attention_unit import UnitName
from slimllm.core.shapes import LayerShape
from slimllm.core.types import Analysis, Plan, SiteAnalysis

BOTH, ONLY_FIRST, ONLY_SECOND, NEITHER = range(4)


@dataclass(frozen=True)
class Shared:
    """What two choices of equally many units have in common: `both` of the `kept` units, out of `all`."""

    both: int
    kept: int
    all: int

    @property
    def share(self) -> float:
        return self.both / self.kept

    @property
    def chance(self) -> float:
        """The share that two random choices would have in common on average."""
        return self.kept / self.all


@dataclass(frozen=True)
class LayerAgreement:
    """The agreement of two methods in one layer.

    A rank correlation is None where there is nothing to rank. A `Shared` is None where everything or nothing
    is kept.
    """

    heads: float | None
    channels: float | None
    shared_heads: Shared | None
    shared_channels: Shared | None


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Return the ranks (n,) of values (n,), from 0; equal values share the mean of their places."""
    order = np.argsort(values, kind="stable")
    sorted_values = values[order]
    starts = np.flatnonzero(np.r_[True, sorted_values[1:] != sorted_values[:-1]])
    ends = np.r_[starts[1:], len(values)]
    found = np.empty(len(values))
    found[order] = np.repeat((starts + ends - 1) / 2, ends - starts)
    return found


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Return Spearman's rank correlation of two score vectors (n,), from −1 to 1.

    Return None where the vectors differ in length, have fewer than two entries, or where all entries of one
    are equal.
    """
    if len(one) != len(other) or len(one) < 2:
        return None
    a, b = (mean_ranks(np.nan_to_num(np.asarray(x, dtype=np.float64))) for x in (one, other))
    a, b = a - a.mean(), b - b.mean()
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else None


def common_unit(first: Analysis, second: Analysis, plan: Plan) -> UnitName | None:
    """Return an attention unit in which both methods can be compared, the plan's if possible, or None."""
    one, other = first.layers[0].attention, second.layers[0].attention
    if plan.unit in one and plan.unit in other:
        return plan.unit
    return next((unit for unit in one if unit in other), None)


def attention_width(plan: Plan, index: int, layer: LayerShape, unit: UnitName) -> int:
    """Return the attention width that the plan leaves in a layer, rounded to what `unit` allows."""
    if plan.unit == unit:
        return plan.heads[index]
    steps = layer.steps(unit)
    share = plan.heads[index] / layer.widest(plan.unit)
    return layer.widest(unit) // steps * round(share * steps)


def kept_units(site: SiteAnalysis, width: int, widest: int | None = None) -> np.ndarray:
    """Return a mask (n,) of the units that the site keeps at this width."""
    mask = np.zeros(len(site.ranking.scores), dtype=bool)
    if width:
        mask[site.ranking.kept(width, widest).numpy()] = True
    return mask


def compare_choices(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return BOTH, ONLY_FIRST, ONLY_SECOND or NEITHER for every unit (n,) of two masks (n,)."""
    return (NEITHER - 2 * one - other).astype(np.uint8)


def sides_of_channels(first: Analysis, second: Analysis, plan: Plan, index: int) -> np.ndarray:
    """Return which methods keep each channel (c,) of a layer at the plan's width.

    The codes are those of `compare_choices`.
    """
    width = plan.channels[index]
    return compare_choices(
        kept_units(first.layers[index].mlp, width), kept_units(second.layers[index].mlp, width)
    )


def sides_of_heads(first: Analysis, second: Analysis, plan: Plan, index: int, unit: UnitName) -> np.ndarray:
    """Return which methods keep each head (H,) or value column (G·e,) of a layer at the plan's width.

    The codes are those of `compare_choices`.
    """
    layer = first.shape.layers[index]
    width, widest = attention_width(plan, index, layer, unit), layer.widest(unit)
    one, other = (found.layers[index].attention[unit] for found in (first, second))
    return compare_choices(kept_units(one, width, widest), kept_units(other, width, widest))


def shared_share(found: np.ndarray) -> Shared | None:
    """Return what two choices have in common, or None where all or nothing is kept.

    `found` (n,) holds the codes of `compare_choices`.
    """
    both = int((found == BOTH).sum())
    kept = both + int((found == ONLY_FIRST).sum())
    return Shared(both, kept, len(found)) if 0 < kept < len(found) else None


def compare_analyses(first: Analysis, second: Analysis, plan: Plan) -> list[LayerAgreement]:
    """Return how far two analyses of one model agree in each layer, at the widths of the plan."""
    unit = common_unit(first, second, plan)
    found = []
    for index, (one, other) in enumerate(zip(first.layers, second.layers, strict=True)):
        heads, shared_heads = None, None
        if unit is not None:
            heads = rank_correlation(
                one.attention[unit].ranking.scores.numpy(), other.attention[unit].ranking.scores.numpy()
            )
            shared_heads = shared_share(sides_of_heads(first, second, plan, index, unit))
        channels = rank_correlation(one.mlp.ranking.scores.numpy(), other.mlp.ranking.scores.numpy())
        found.append(
            LayerAgreement(
                heads, channels, shared_heads, shared_share(sides_of_channels(first, second, plan, index))
            )
        )
    return found


def agreement_sentence(names: tuple[str, str], layers: Sequence[LayerAgreement], units: str | None) -> str:
    """Return what the agreement means, in plain words.

    `units` names what the methods cut from attention; it is None where that cannot be compared.
    """
    who = f"{names[0]} and {names[1]}"
    said = []
    for what, of in (
        ("channels", [x.shared_channels for x in layers]),
        (units, [x.shared_heads for x in layers]),
    ):
        if what is None:
            said.append(f"What they take from attention cannot be compared: {who} cut different units of it.")
            continue
        known = [(i, x) for i, x in enumerate(of) if x is not None]
        if not known:
            said.append(f"This plan leaves nothing to choose among the {what}.")
            continue
        both, kept = (sum(getattr(x, name) for _, x in known) for name in ("both", "kept"))
        blind = sum(x.kept * x.chance for _, x in known) / kept
        least, worst = min(known, key=lambda pair: pair[1].share)
        lowest = f"; least in layer {least}, on {worst.share:.0%}" if worst.share < 1 else ""
        said.append(
            f"{who if not said else 'They'} agree on {both / kept:.0%} of the {what} they keep "
            f"(blind choices would share {blind:.0%}){lowest}."
        )
    return " ".join(said).replace("%", "\u00a0%")
