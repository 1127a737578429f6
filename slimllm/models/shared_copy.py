"""Copies of a model that share its tensors, with or without some layers, and the origin of each tensor."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from slimllm.models.families import Family


@dataclass(frozen=True, eq=False)
class Origin:
    """The origin of a module's tensors: the module's name in the loaded model, and the kept rows and columns.

    `rows` (n,) are those of all its tensors, `columns` (m,) those of the weight; None means all.
    """

    name: str
    rows: Tensor | None = None
    columns: Tensor | None = None

    def cut(self, full: Tensor | None, leaf: str) -> Tensor | None:
        """Return the kept part of a tensor as it was loaded; `leaf` is its name in the module."""
        if full is None:
            return None
        if self.rows is not None:
            full = full[self.rows]  # (all rows, …) → (n, …)
        # (n, all columns) → (n, m)
        return full if self.columns is None or leaf != "weight" else full[:, self.columns]


def share_model(model: Any) -> Any:
    """Return a copy of the model's modules and config that shares all of its parameters and buffers.

    Pruning replaces parameters and never writes into them, so the original stays unchanged and each weight is
    in memory once.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo=shared)


def freeze_tensor(tensor: Tensor) -> nn.Parameter:
    """Return a contiguous parameter with the tensor's values that requires no gradient."""
    return nn.Parameter(tensor.detach().contiguous(), requires_grad=False)


def drop_layers(model: Any, family: Family, dropped: Collection[int]) -> None:
    """Remove these decoder layers from a shared copy and renumber the others.

    Caches find a layer's keys by its `layer_idx`, and some configs have lists with one entry per layer.
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
