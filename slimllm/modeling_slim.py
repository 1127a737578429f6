"""A causal language model whose decoder layers have widths of their own.

This file travels inside checkpoints written by slimllm, so it depends on nothing but torch and transformers.
It does two things: it gives every linear layer listed in `config.slim` its own shape, and tells each
attention how many heads it has. Everything else is the original architecture's code.
"""

from typing import Any

import transformers
from torch import nn


class OwnHeads:
    """The model's config as one attention sees it: the head counts are its own, all else is shared."""

    def __init__(self, shared: Any, heads: int, groups: int) -> None:
        self.shared, self.num_attention_heads, self.num_key_value_heads = shared, heads, groups

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "shared":  # asked for while it is being copied
            raise AttributeError(name)
        return getattr(self.shared, name)


def set_heads(attention: Any, heads: int, groups: int) -> None:
    """Tells an attention module its head counts, by a config of its own where it reads them from there."""
    attention.num_key_value_groups = heads // groups
    if hasattr(attention, "num_key_value_heads"):  # Phi-3 splits its fused projection by these in forward
        attention.num_key_value_heads = groups
        attention.config = OwnHeads(getattr(attention.config, "shared", attention.config), heads, groups)


def resize(model: transformers.PreTrainedModel, slim: dict[str, Any]) -> None:
    """Replaces the linear layers named in `slim` by empty ones of the listed (rows, columns, bias)."""
    for index, layer in enumerate(model.get_submodule(slim["layers"])):
        for name, shapes in slim["linears"].items():
            rows, columns, bias = shapes[index]
            parent, _, leaf = name.rpartition(".")
            like = layer.get_submodule(name).weight
            linear = nn.Linear(columns, rows, bias=bias, device=like.device, dtype=like.dtype)
            setattr(layer.get_submodule(parent), leaf, linear)
        set_heads(layer.get_submodule(slim["attention"]), *slim["heads"][index])


class Slim:
    """Mixed in before a `…ForCausalLM` class."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        resize(self, config.slim)
