"""Whole layers: a pruned model without the layers that its plan drops."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import nn

from slimllm.models.families import Family


def drop_layers(model: Any, family: Family, dropped: Collection[int]) -> None:
    """Takes these decoder layers out of a skeleton and numbers the others anew.

    Caches find a layer's keys by its `layer_idx`, and some configs say something of every layer in lists.
    """
    if not dropped:
        return
    layers = model.get_submodule(family.layers)
    count = len(layers)
    kept = [index for index in range(count) if index not in dropped]
    parent, _, name = family.layers.rpartition(".")
    setattr(model.get_submodule(parent), name, nn.ModuleList(layers[index] for index in kept))
    for place, index in enumerate(kept):
        for module in layers[index].modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place
    for config in {id(c): c for c in (model.config, model.get_submodule(parent).config)}.values():
        for key, value in list(vars(config).items()):
            if isinstance(value, list) and len(value) == count:
                setattr(config, key, [value[index] for index in kept])
        config.num_hidden_layers = len(kept)
