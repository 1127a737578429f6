"""Copies of a model that share its tensors, whole or without some layers; where each tensor comes from."""

from __future__ import annotations

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from slimllm.models.families import Family


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a module's tensors come from: its name in the model that was loaded, and which rows of them and
    which columns of the weight are left; None stands for all."""

    name: str
    rows: Tensor | None = None
    columns: Tensor | None = None

    def cut(self, full: Tensor | None, leaf: str) -> Tensor | None:
        """What is left of a tensor as it was loaded."""
        if full is None:
            return None
        if self.rows is not None:
            full = full[self.rows]
        return full if self.columns is None or leaf != "weight" else full[:, self.columns]


def share_model(model: Any) -> Any:
    """A copy of the model's modules and config around the very same parameters.

    Slicing replaces parameters, never writes into them, so the original stays as it is and memory holds each
    weight once.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo=shared)


def freeze_tensor(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach().contiguous(), requires_grad=False)


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
