"""Zeros that fill a pruned model up to widths that all of its layers share."""

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
    """Widths that hold every layer, the smallest first, up to those of the dense config."""
    config, widths = subject.model.config, subject.shape.widths
    groups, each = max(row[1] for row in widths), max(row[0] // row[1] for row in widths)
    most_groups = max(groups, config.num_key_value_heads or config.num_attention_heads)
    most_each = max(each, config.num_attention_heads // most_groups)
    choices = itertools.product(range(groups, most_groups + 1), range(each, most_each + 1))
    for g, p in sorted(choices, key=math.prod):
        yield g * p, g, max(row[2] for row in widths)


def pad_state(subject: Subject, state: State, target: Widths) -> dict[str, Tensor]:
    """The state with zero heads inside each group, zeros for missing values, and zero groups and zero
    channels appended."""
    family, size, filled = subject.family, subject.shape.head_size, dict(state)
    total = {"q": target[0], "k": target[1], "v": target[1], "c": target[2]}
    for index, (heads, groups, channels) in enumerate(subject.shape.widths):
        head, each = torch.arange(heads), heads // groups
        units = {"q": head // each * (target[0] // target[1]) + head % each, "c": torch.arange(channels)}
        units["k"] = units["v"] = torch.arange(groups)
        for site, unit, tall in ((family.attention, "q", size), (family.mlp, "c", 1)):
            for name, letters in {**site.writers, site.reader: unit}.items():
                rows, start = [], 0
                for letter in letters:
                    rows.append(((start + units[letter])[:, None] * tall + torch.arange(tall)).flatten())
                    start += total[letter]
                dim, stem = int(name == site.reader), f"{family.layers}.{index}.{name}"
                places, linear = torch.cat(rows), linear_of(subject.layers[index], name)
                if isinstance(linear, Placed):
                    places = places[linear.places.cpu()]
                    del filled[f"{stem}.places"]
                for key in (f"{stem}.weight",) if dim else (f"{stem}.weight", f"{stem}.bias"):
                    if key in state:
                        filled[key] = scatter_into_zeros(state[key], places, start * tall, dim)
        for name, _, letter in head_norms(subject.layers[index], family):
            pad_norm(filled, f"{family.layers}.{index}.{name}", units[letter], total[letter])
    return filled


def pad_norm(filled: dict[str, Tensor], stem: str, places: Tensor, total: int) -> None:
    """Gives a norm that has weights for each head zeros for those that are filled in."""
    if f"{stem}.weight" in filled:
        filled[f"{stem}.weight"] = scatter_into_zeros(filled[f"{stem}.weight"], places, total, 0)
        return
    one = torch.stack([filled[f"{stem}.norms.{head}.weight"] for head in range(len(places))])
    for head, weight in enumerate(scatter_into_zeros(one, places, total, 0)):
        filled[f"{stem}.norms.{head}.weight"] = weight.clone()


def scatter_into_zeros(tensor: Tensor, places: Tensor, total: int, dim: int) -> Tensor:
    """Zeros, `total` along `dim`, with the tensor's rows or columns at `places`."""
    shape = list(tensor.shape)
    shape[dim] = total
    return tensor.new_zeros(shape).index_copy(dim, places.to(tensor.device), tensor)
