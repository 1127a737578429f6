"""A causal language model whose decoder layers have widths of their own.

This file travels inside checkpoints written by slimllm, so it depends on nothing but torch and transformers.
It does two things: it gives every linear layer listed in `config.slim` its own shape, and tells each
attention how many heads it has. Everything else is the original architecture's code.

Values may be narrower than their heads. Attention code knows one head size only, so the linear that writes
such values fills them up with zeros, and the linear that reads them takes only the places that are kept.
"""

from typing import Any

import torch
import transformers
from torch import Tensor, nn


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
    if hasattr(attention, "num_heads"):
        attention.num_heads = heads
    if hasattr(attention, "hidden_size"):  # StableLM of transformers 4 joins its heads to this size
        attention.hidden_size = heads * attention.head_dim


def keep_heads(norm: Any, kept: list[int]) -> None:
    """Keeps what a norm has for these heads: norms of their own, or rows of one weight."""
    if hasattr(norm, "norms"):
        norm.norms = nn.ModuleList(norm.norms[head] for head in kept)
    else:
        norm.weight = nn.Parameter(norm.weight.detach()[kept], norm.weight.requires_grad)


class Placed(nn.Linear):
    """A linear layer whose weight lacks some rows or columns. Those it has belong to the outputs or inputs
    `places` (n,), ascending along `dim` of the weight, which are stored beside it."""

    places: Tensor
    dim: int

    def own(self, whole: Tensor) -> Tensor:
        """The part of a tensor in the shape of the whole weight that this weight has."""
        return whole.index_select(self.dim, self.places)


class Widened(Placed):
    """Outputs without a row are zero."""

    dim = 0

    def __init__(self, in_features: int, out_features: int, count: int, **how: Any) -> None:
        super().__init__(in_features, count, **how)
        self.out_features = out_features
        self.register_buffer("places", torch.arange(count, device=how.get("device")))

    def forward(self, input: Tensor) -> Tensor:
        some = super().forward(input)
        return some.new_zeros(*some.shape[:-1], self.out_features).index_copy_(-1, self.places, some)


class Selected(Placed):
    """Inputs without a column are not read."""

    dim = 1

    def __init__(self, in_features: int, out_features: int, count: int, **how: Any) -> None:
        super().__init__(count, out_features, **how)
        self.in_features = in_features
        self.register_buffer("places", torch.arange(count, device=how.get("device")))

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.index_select(-1, self.places))


LINEAR_KINDS = {"Widened": Widened, "Selected": Selected}


def resize_linears(model: transformers.PreTrainedModel, slim: dict[str, Any]) -> None:
    """Replaces the linear layers named in `slim` by empty ones of the listed shapes, and cuts norms that have
    weights for each head.

    A shape is (outputs, inputs, bias), and for a `Placed` one its kind and number of places.
    """
    for index, layer in enumerate(model.get_submodule(slim["layers"])):
        for name, shapes in slim["linears"].items():
            outputs, inputs, bias, *places = shapes[index]
            parent, _, leaf = name.rpartition(".")
            like = layer.get_submodule(name).weight
            how = {"bias": bias, "device": like.device, "dtype": like.dtype}
            kind, count = (LINEAR_KINDS[places[0]], places[1:]) if places else (nn.Linear, ())
            setattr(layer.get_submodule(parent), leaf, kind(inputs, outputs, *count, **how))
        set_heads(layer.get_submodule(slim["attention"]), *slim["heads"][index])
        for name, counts in slim.get("norms", {}).items():
            keep_heads(layer.get_submodule(name), list(range(counts[index])))


class Slim:
    """Mixed in before a `…ForCausalLM` class."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        resize_linears(self, config.slim)

    def _get_static_cache_init_shape(self) -> None:
        """Nothing, so that a static cache is made when it is first used: by then each layer says how many
        heads it has, while the config knows one number for all."""
