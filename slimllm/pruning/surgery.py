"""Cut rows and columns: a pruned model that shares every untouched tensor with the dense one."""

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
    """Notes that a module goes on with only these of its rows or columns, if it is known where it comes
    from."""
    origin: Origin | None = getattr(module, "origin", None)
    if origin is None:
        return
    if rows is not None:
        rows = rows.cpu() if origin.rows is None else origin.rows[rows.cpu()]
        module.origin = origin = replace(origin, rows=rows)  # type: ignore[assignment]
    if columns is not None:
        columns = columns.cpu() if origin.columns is None else origin.columns[columns.cpu()]
        module.origin = replace(origin, columns=columns)  # type: ignore[assignment]


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
    values = torch.arange(shape.values or size)
    set_reader(layer, family.attention.reader, repair, (kept[:, None] * len(values) + values).flatten())
    reader = linear_of(layer, family.attention.reader)
    if isinstance(reader, Placed):
        reader.in_features = len(kept) * size
        keep_places(reader, (kept[:, None] * size + torch.arange(size)).flatten())
    for _, norm, letter in head_norms(layer, family):
        remaining = kept if letter == "q" else groups
        keep_heads(norm, remaining.tolist())
        note_cut(norm, rows=remaining)
    set_heads(layer.get_submodule(family.attention_module), len(kept), len(groups))


def slice_values(
    layer: nn.Module, family: Family, shape: LayerShape, size: int, kept: Tensor, repair: Repair
) -> None:
    """Keeps in every KV group g the value columns `kept[g]` (G, v), for all heads that read it, and gives
    the reader its repaired weight, whose columns (H·v) are ordered by head, then by value.

    Columns are counted among the `shape.values` that the layer has; in a dense layer these are all `size`.
    Attention goes on seeing whole heads, with zeros where values are gone.
    """
    values, each = shape.values or size, shape.heads // shape.groups
    columns = None
    if kept.shape[1] < values:
        heads, groups = torch.arange(shape.heads), torch.arange(shape.groups)
        sizes = {"q": shape.heads * size, "k": shape.groups * size, "v": shape.groups * values}
        inside = {letter: torch.arange(rows) for letter, rows in sizes.items()}
        inside["v"] = (groups[:, None] * values + kept).flatten()
        writer, start, blocks = value_writer(family), 0, []
        for letter in family.attention.writers[writer]:
            blocks.append(start + inside[letter])
            start += sizes[letter]
        rows, columns = torch.cat(blocks), (heads[:, None] * values + kept[heads // each]).flatten()
        take_rows(put_places(layer, writer, Widened, rows), rows)
        put_places(layer, family.attention.reader, Selected, columns)
    set_reader(layer, family.attention.reader, repair, columns)


def slice_mlp(layer: nn.Module, family: Family, shape: LayerShape, kept: Tensor, repair: Repair) -> None:
    """Keeps the channels `kept` (k,) and gives the reader its repaired weight."""
    cut_writers(layer, family.mlp, {"c": shape.channels}, {"c": kept}, 1)
    set_reader(layer, family.mlp.reader, repair, kept)


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
        set_rows(linear_of(layer, name), torch.cat(rows))


def set_rows(linear: nn.Linear, rows: Tensor) -> None:
    """Keeps these outputs, with the rows that the weight has for them."""
    linear.out_features = len(rows)
    take_rows(linear, keep_places(linear, rows) if isinstance(linear, Placed) else rows)


def take_rows(linear: nn.Linear, rows: Tensor) -> None:
    note_cut(linear, rows=rows)
    rows = rows.to(linear.weight.device)
    linear.weight = freeze_tensor(linear.weight[rows])
    if linear.bias is not None:
        linear.bias = freeze_tensor(linear.bias[rows])


def keep_places(linear: Placed, kept: Tensor) -> Tensor:
    """Numbers the places that are among `kept` anew, and returns which of the weight's rows or columns have
    them."""
    kept = kept.to(linear.places.device)
    held = torch.isin(linear.places, kept)
    linear.places = torch.searchsorted(kept, linear.places[held])
    return held.nonzero().flatten()


def put_places(layer: nn.Module, name: str, kind: type[Widened | Selected], kept: Tensor) -> Placed:
    """The linear that replaces the one called `name`: around the same tensors, which are still to be cut to
    the rows or columns `kept`, at the places that these have."""
    old = linear_of(layer, name)
    new = kind(old.in_features, old.out_features, len(kept), device="meta").train(old.training)
    new.weight, new.bias = old.weight, old.bias
    if hasattr(old, "origin"):
        new.origin = old.origin
    kept = kept.to(old.weight.device)
    new.places = old.places[kept] if isinstance(old, Placed) else kept
    parent, _, leaf = name.rpartition(".")
    setattr(layer.get_submodule(parent), leaf, new)
    return new


def set_reader(layer: nn.Module, name: str, repair: Repair, columns: Tensor | None = None) -> None:
    """The reader with the repair's weight, which stands for these columns of the one it had (all by default),
    its bias added to the one it had."""
    reader = linear_of(layer, name)
    note_cut(reader, columns=columns)
    like = reader.weight
    if repair.bias is not None:
        old = reader.bias.detach().float() if reader.bias is not None else 0.0
        reader.bias = freeze_tensor((repair.bias.to(like.device).float() + old).to(like.dtype))
    reader.weight = freeze_tensor(repair.weight.to(like))
    if not isinstance(reader, Placed):
        reader.in_features = repair.weight.shape[1]
