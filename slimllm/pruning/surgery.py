"""Slicing of rows and columns in a model that shares every untouched tensor with the dense one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from slimllm.core.shapes import LayerShape
from slimllm.core.types import Repair
from slimllm.models.families import Family, Site, head_norms, linear_of, value_writer
from slimllm.models.modeling_slim import Placed, Selected, Widened, keep_heads, set_heads
from slimllm.models.shared_copy import Origin, freeze_tensor


def note_cut(module: nn.Module, *, rows: Tensor | None = None, columns: Tensor | None = None) -> None:
    """Record that a module keeps only these rows or columns, if its origin is known."""
    origin: Origin | None = getattr(module, "origin", None)
    if origin is None:
        return
    if rows is not None:
        rows = rows.cpu() if origin.rows is None else origin.rows[rows.cpu()]  # (kept rows,)
        module.origin = origin = replace(origin, rows=rows)  # type: ignore[assignment]
    if columns is not None:
        # (kept columns,)
        columns = columns.cpu() if origin.columns is None else origin.columns[columns.cpu()]
        module.origin = replace(origin, columns=columns)  # type: ignore[assignment]


def slice_attention(
    layer: nn.Module, family: Family, shape: LayerShape, size: int, kept: Tensor, repair: Repair
) -> None:
    """Keep the query heads `kept` (k,) and the KV groups that they read, and set the reader to its repair.

    `size` is the head size.
    """
    per_group = shape.heads // shape.groups
    groups = (kept // per_group).unique()  # (kept groups,)
    cut_writers(
        layer,
        family.attention,
        {"q": shape.heads, "k": shape.groups, "v": shape.groups},
        {"q": kept, "k": groups, "v": groups},
        size,
    )
    values = torch.arange(shape.values or size)  # (v,)
    # (k, v) → (k·v,)
    set_reader(layer, family.attention.reader, repair, (kept[:, None] * len(values) + values).flatten())
    reader = linear_of(layer, family.attention.reader)
    if isinstance(reader, Placed):
        reader.in_features = len(kept) * size
        # (k, e) → (k·e,)
        keep_places(reader, (kept[:, None] * size + torch.arange(size)).flatten())
    for _, norm, letter in head_norms(layer, family):
        remaining = kept if letter == "q" else groups
        keep_heads(norm, remaining.tolist())
        note_cut(norm, rows=remaining)
    set_heads(layer.get_submodule(family.attention_module), len(kept), len(groups))


def slice_values(
    layer: nn.Module, family: Family, shape: LayerShape, size: int, kept: Tensor, repair: Repair
) -> None:
    """Keep the value columns `kept[g]` of every KV group g, and set the reader to its repair.

    `kept` (G, v) holds indices below the `shape.values` that each head of the layer has; in a dense layer
    these are all `size`. Every head of a group keeps the same columns. The repair's weight (o, H·v) is
    ordered by head, then by value column. Attention still works with whole heads, with zeros in place of
    removed columns.
    """
    values, each = shape.values or size, shape.heads // shape.groups
    columns = None
    if kept.shape[1] < values:
        heads, groups = torch.arange(shape.heads), torch.arange(shape.groups)
        sizes = {"q": shape.heads * size, "k": shape.groups * size, "v": shape.groups * values}
        inside = {letter: torch.arange(rows) for letter, rows in sizes.items()}
        inside["v"] = (groups[:, None] * values + kept).flatten()  # (G, v) → (G·v,)
        writer, start, blocks = value_writer(family), 0, []
        for letter in family.attention.writers[writer]:
            blocks.append(start + inside[letter])
            start += sizes[letter]
        # The writer's kept rows (r,), and the reader's kept columns: (H, v) → (H·v,).
        rows, columns = torch.cat(blocks), (heads[:, None] * values + kept[heads // each]).flatten()
        take_rows(put_places(layer, writer, Widened, rows), rows)
        put_places(layer, family.attention.reader, Selected, columns)
    set_reader(layer, family.attention.reader, repair, columns)


def slice_mlp(layer: nn.Module, family: Family, shape: LayerShape, kept: Tensor, repair: Repair) -> None:
    """Keep the channels `kept` (k,), and set the reader to its repair."""
    cut_writers(layer, family.mlp, {"c": shape.channels}, {"c": kept}, 1)
    set_reader(layer, family.mlp.reader, repair, kept)


def cut_writers(
    layer: nn.Module, site: Site, units: dict[str, int], kept: dict[str, Tensor], size: int
) -> None:
    """Keep in every writer the rows of the kept units; blocks are stacked, and a unit has `size` rows.

    `units` is the number of units of each letter, and `kept` their indices (k,).
    """
    for name, letters in site.writers.items():
        start, rows = 0, []
        for letter in letters:
            inside = torch.arange(size)
            rows.append((start + kept[letter][:, None] * size + inside).flatten())  # (k, size) → (k·size,)
            start += units[letter] * size
        set_rows(linear_of(layer, name), torch.cat(rows))  # (kept rows of all blocks,)


def set_rows(linear: nn.Linear, rows: Tensor) -> None:
    """Keep these outputs (n,) of a linear layer, with the rows that the weight has for them."""
    linear.out_features = len(rows)
    take_rows(linear, keep_places(linear, rows) if isinstance(linear, Placed) else rows)


def take_rows(linear: nn.Linear, rows: Tensor) -> None:
    """Keep these rows (n,) of a linear layer's weight and bias."""
    note_cut(linear, rows=rows)
    rows = rows.to(linear.weight.device)
    linear.weight = freeze_tensor(linear.weight[rows])  # (all rows, d) → (n, d)
    if linear.bias is not None:
        linear.bias = freeze_tensor(linear.bias[rows])  # (all rows,) → (n,)


def keep_places(linear: Placed, kept: Tensor) -> Tensor:
    """Keep the places that are among `kept` (k,), and renumber them.

    Return the indices (m,) of the weight's rows or columns at these places.
    """
    kept = kept.to(linear.places.device)
    held = torch.isin(linear.places, kept)  # (places,) bool
    linear.places = torch.searchsorted(kept, linear.places[held])  # (m,)
    return held.nonzero().flatten()  # (m,)


def put_places(layer: nn.Module, name: str, kind: type[Widened | Selected], kept: Tensor) -> Placed:
    """Replace the linear layer called `name` by one with the places of the rows or columns `kept` (n,).

    Return the new layer. It still has the same tensors, which must then be cut to these rows or columns.
    """
    old = linear_of(layer, name)
    new = kind(old.in_features, old.out_features, len(kept), device="meta").train(old.training)
    new.weight, new.bias = old.weight, old.bias
    if hasattr(old, "origin"):
        new.origin = old.origin
    kept = kept.to(old.weight.device)
    new.places = old.places[kept] if isinstance(old, Placed) else kept  # (n,)
    parent, _, leaf = name.rpartition(".")
    setattr(layer.get_submodule(parent), leaf, new)
    return new


def set_reader(layer: nn.Module, name: str, repair: Repair, columns: Tensor | None = None) -> None:
    """Set a reader to a repair: its weight (o, k) replaces the old one, its bias (o,) adds to the old one.

    The columns of the weight stand for these `columns` (k,) of the old weight, by default for all of them.
    """
    reader = linear_of(layer, name)
    note_cut(reader, columns=columns)
    like = reader.weight
    if repair.bias is not None:
        old = reader.bias.detach().float() if reader.bias is not None else 0.0
        reader.bias = freeze_tensor((repair.bias.float().to(like.device) + old).to(like.dtype))
    # A device without float64 cannot change the dtype itself.
    reader.weight = freeze_tensor(repair.weight.to(like.dtype).to(like.device))
    if not isinstance(reader, Placed):
        reader.in_features = repair.weight.shape[1]
