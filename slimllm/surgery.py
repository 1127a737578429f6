"""Cut rows and columns: a pruned model that shares every untouched tensor with the dense one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from slimllm.families import Family, Site, part
from slimllm.modeling_slim import set_heads
from slimllm.types import LayerShape, Repair


def skeleton(model: Any) -> Any:
    """A copy of the model's modules and config around the very same parameters.

    Slicing replaces parameters, never writes into them, so the original stays as it is and memory holds each
    weight once.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo=shared)


def slice_attention(
    layer: nn.Module, family: Family, shape: LayerShape, size: int, kept: Tensor, repair: Repair
) -> None:
    """Keeps the query heads `kept` (k,), and the KV groups they read, and gives the reader its repaired
    weight."""
    per_group = shape.heads // shape.groups
    groups = (kept // per_group).unique()
    cut_writers(
        layer,
        family.attention,
        {"q": shape.heads, "k": shape.groups, "v": shape.groups},
        {"q": kept, "k": groups, "v": groups},
        size,
    )
    set_reader(layer, family.attention.reader, repair)
    set_heads(layer.get_submodule(family.attention_module), len(kept), len(groups))


def slice_mlp(layer: nn.Module, family: Family, shape: LayerShape, kept: Tensor, repair: Repair) -> None:
    """Keeps the channels `kept` (k,) and gives the reader its repaired weight."""
    cut_writers(layer, family.mlp, {"c": shape.channels}, {"c": kept}, 1)
    set_reader(layer, family.mlp.reader, repair)


def cut_writers(
    layer: nn.Module, site: Site, units: dict[str, int], kept: dict[str, Tensor], size: int
) -> None:
    """Keeps in every writer the rows of the kept units; blocks are stacked, units are `size` rows tall."""
    for name, letters in site.writers.items():
        start, rows = 0, []
        for letter in letters:
            inside = torch.arange(size)
            rows.append((start + kept[letter][:, None] * size + inside).flatten())
            start += units[letter] * size
        set_rows(part(layer, name), torch.cat(rows))


def set_rows(linear: nn.Linear, rows: Tensor) -> None:
    rows = rows.to(linear.weight.device)
    linear.weight = frozen(linear.weight[rows])
    if linear.bias is not None:
        linear.bias = frozen(linear.bias[rows])
    linear.out_features = len(rows)


def set_reader(layer: nn.Module, name: str, repair: Repair) -> None:
    """The reader with the repair's weight, its bias added to the one it had."""
    reader = part(layer, name)
    like = reader.weight
    if repair.bias is not None:
        old = reader.bias.detach().float() if reader.bias is not None else 0.0
        reader.bias = frozen((repair.bias.to(like.device).float() + old).to(like.dtype))
    reader.weight = frozen(repair.weight.to(like))
    reader.in_features = repair.weight.shape[1]


def frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().contiguous(), requires_grad=False)
