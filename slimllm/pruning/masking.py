"""A preview of pruning: the dense model with its units masked, neither sliced nor repaired.

The readers of a copy of the modules, which shares all weights, read zeros in place of removed units. The
dense model gets no hooks, so nothing needs to be undone, and other threads may use it meanwhile.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from slimllm.core.attention_unit import UNITS
from slimllm.core.shapes import SITES, Grouping
from slimllm.core.types import Analysis, Plan, Ranking
from slimllm.methods.ddp import gate_hook
from slimllm.methods.learned_scores import learned_in
from slimllm.methods.ranking import rank_heads
from slimllm.methods.table import find_method
from slimllm.models.families import linear_of
from slimllm.models.loading import Subject
from slimllm.models.modeling_slim import Selected
from slimllm.models.shared_copy import share_model
from slimllm.pruning.layer_pruning import site_pins


@dataclass(frozen=True, eq=False)
class Mask:
    """The factors on the inputs of one layer's readers, attention (d,) and MLP (c,); None changes nothing.

    Of a layer that is `dropped`, nothing reaches the residual stream.
    """

    attention: Tensor | None = None
    mlp: Tensor | None = None
    dropped: bool = False


def mask_units(subject: Subject, masks: Sequence[Mask]) -> Subject:
    """Return the subject with its units masked by one mask per layer.

    It shares every weight with the dense model, which stays as it is.
    """
    slim = dataclasses.replace(subject, model=share_model(subject.model))
    family = subject.family
    for layer, mask in zip(slim.layers, masks, strict=True):
        for name, inputs in ((family.attention.reader, mask.attention), (family.mlp.reader, mask.mlp)):
            reader = linear_of(layer, name)
            if mask.dropped:
                reader.register_forward_hook(silence_output)
            elif inputs is not None:
                whole = spread_mask(inputs.to(subject.device), reader)
                reader.register_forward_pre_hook(gate_hook(whole))
    return slim


def spread_mask(mask: Tensor, reader: nn.Linear) -> Tensor:
    """Return the mask (n,) for all n inputs of a reader, from that of the inputs (d,) with weights."""
    if not isinstance(reader, Selected):
        return mask
    return mask.new_zeros(reader.in_features).index_copy(0, reader.places, mask)  # (d,) → (n,)


def silence_output(_: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """Replace a module's output, including its bias, by zeros."""
    return torch.zeros_like(output)


def masks_of(analysis: Analysis, plan: Plan, sites: Collection[str] = SITES) -> tuple[Mask, ...]:
    """Return the mask of every layer for a plan, with the units that the analysis would keep.

    Only these sites lose units.
    """
    known = (
        learned_in(analysis, find_method(analysis.method))
        if find_method(plan.method).learns == "gates"
        else None
    )
    masks = []
    for index, layer in enumerate(analysis.shape.layers):
        if not plan.heads[index] and not plan.channels[index]:
            masks.append(Mask(dropped=True))
            continue
        found: dict[str, Any] = {}
        if "attention" in sites and plan.heads[index] < layer.widest(plan.unit):
            kept = kept_inputs(analysis, plan, index)
            # (H,) → (H·v,)
            gain = known[index].heads.repeat_interleave(layer.values) if known else None
            found["attention"] = inputs_mask(layer.heads * layer.values, kept, gain)
        if "mlp" in sites and plan.channels[index] < layer.channels:
            kept = kept_channels(analysis, plan, index)
            found["mlp"] = inputs_mask(layer.channels, kept, known[index].channels if known else None)
        masks.append(Mask(**found))
    return tuple(masks)


def inputs_mask(size: int, kept: Tensor, gain: Tensor | None) -> Tensor:
    """Return the mask (size,) in float32: 1 or the trained gate at the kept inputs (k,), else 0."""
    mask = torch.zeros(size)
    mask[kept] = 1.0 if gain is None else gain[kept].float()
    return mask


def kept_inputs(analysis: Analysis, plan: Plan, index: int) -> Tensor:
    """Return the inputs (k,) of the attention reader that the plan keeps in one layer."""
    layer = analysis.shape.layers[index]
    grouping = Grouping(layer.heads, layer.groups, plan.unit, layer.values)
    ranking: Ranking = analysis.layers[index].attention[plan.unit].ranking
    pins = site_pins(plan, index, "attention", layer.heads)
    if pins is not None and not UNITS[plan.unit].narrows_heads:
        ranking = rank_heads(ranking.scores, grouping, pinned=pins)
    return grouping.inputs_of(ranking.kept(plan.heads[index], layer.widest(plan.unit)), layer.values)


def kept_channels(analysis: Analysis, plan: Plan, index: int) -> Tensor:
    """Return the channels (k,) that the plan keeps in one layer.

    Protected channels come first and forced-out ones last.
    """
    order = analysis.layers[index].mlp.ranking.order
    pins = site_pins(plan, index, "mlp", analysis.shape.layers[index].channels)
    if pins is not None:
        order = order[pins[order].argsort(descending=True, stable=True)]
    return order[: plan.channels[index]]
