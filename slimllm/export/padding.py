"""Zero padding of a pruned model to widths that all of its layers share."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from slimllm.models.families import head_norms, linear_of
from slimllm.models.loading import Subject
from slimllm.models.modeling_slim import Placed

State = Mapping[str, Tensor]
Widths = tuple[int, int, int]


def padded_widths(subject: Subject) -> Iterator[Widths]:
    """Yield (heads, groups, channels) that hold every layer, the smallest first, up to the dense config's."""
    config, widths = subject.model.config, subject.shape.widths
    groups, each = max(row[1] for row in widths), max(row[0] // row[1] for row in widths)
    most_groups = max(groups, config.num_key_value_heads or config.num_attention_heads)
    most_each = max(each, config.num_attention_heads // most_groups)
    choices = itertools.product(range(groups, most_groups + 1), range(each, most_each + 1))
    for g, p in sorted(choices, key=math.prod):
        yield g * p, g, max(row[2] for row in widths)


def pad_state(subject: Subject, state: State, target: Widths) -> dict[str, Tensor]:
    """Return the state with zero heads in each group, zeros for missing values, and zero groups and channels.

    Zero heads come after the heads of their group; zero groups and zero channels come last.
    """
    family, size, filled = subject.family, subject.shape.head_size, dict(state)
    total = {"q": target[0], "k": target[1], "v": target[1], "c": target[2]}
    for index, (heads, groups, channels) in enumerate(subject.shape.widths):
        head, each = torch.arange(heads), heads // groups
        # The new index of every head (H,), group (G,) and channel (c,).
        units = {"q": head // each * (target[0] // target[1]) + head % each, "c": torch.arange(channels)}
        units["k"] = units["v"] = torch.arange(groups)
        for site, unit, tall in ((family.attention, "q", size), (family.mlp, "c", 1)):
            for name, letters in {**site.writers, site.reader: unit}.items():
                rows, start = [], 0
                for letter in letters:
                    # (units, tall) → (units · tall,)
                    rows.append(((start + units[letter])[:, None] * tall + torch.arange(tall)).flatten())
                    start += total[letter]
                dim, stem = int(name == site.reader), f"{family.layers}.{index}.{name}"
                # (rows or columns of all blocks,)
                places, linear = torch.cat(rows), linear_of(subject.layers[index], name)
                if isinstance(linear, Placed):
                    places = places[linear.places.cpu()]  # (rows or columns of the weight,)
                    del filled[f"{stem}.places"]
                for key in (f"{stem}.weight",) if dim else (f"{stem}.weight", f"{stem}.bias"):
                    if key in state:
                        filled[key] = scatter_into_zeros(state[key], places, start * tall, dim)
        for name, _, letter in head_norms(subject.layers[index], family):
            pad_norm(filled, f"{family.layers}.{index}.{name}", units[letter], total[letter])
    return filled


def pad_norm(filled: dict[str, Tensor], stem: str, places: Tensor, total: int) -> None:
    """Pad a norm with separate weights for each head with zeros, in `filled`.

    `places` (n,) are the new indices of its n heads of `total`.
    """
    if f"{stem}.weight" in filled:
        filled[f"{stem}.weight"] = scatter_into_zeros(filled[f"{stem}.weight"], places, total, 0)
        return
    one = torch.stack([filled[f"{stem}.norms.{head}.weight"] for head in range(len(places))])  # (n, e)
    for head, weight in enumerate(scatter_into_zeros(one, places, total, 0)):
        filled[f"{stem}.norms.{head}.weight"] = weight.clone()


def scatter_into_zeros(tensor: Tensor, places: Tensor, total: int, dim: int) -> Tensor:
    """Return zeros of size `total` along `dim`, with the tensor's n rows or columns at `places` (n,)."""
    shape = list(tensor.shape)
    shape[dim] = total
    # Along `dim`: n → total.
    return tensor.new_zeros(shape).index_copy(dim, places.to(tensor.device), tensor)
