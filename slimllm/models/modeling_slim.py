"""A causal language model whose decoder layers have individual widths.

This file is stored inside checkpoints written by slimllm, so it depends only on torch and transformers. It
gives every linear layer listed in `config.slim` its own shape, and tells each attention module how many heads
it has. Everything else is the original architecture's code.

Values may be narrower than their heads. The attention code has only one head size, so the linear layer that
writes such values pads them with zeros, and the linear layer that reads them takes only the kept columns.
"""

from typing import Any

import torch
import transformers
from torch import Tensor, nn


class OwnHeads:
    """The model's config with the head counts of one attention module; everything else is shared."""

    def __init__(self, shared: Any, heads: int, groups: int) -> None:
        self.shared, self.num_attention_heads, self.num_key_value_heads = shared, heads, groups

    def __getattr__(self, name: str) -> Any:
        # Copying asks for these before `shared` is set.
        if name.startswith("__") or name == "shared":
            raise AttributeError(name)
        return getattr(self.shared, name)


def set_heads(attention: Any, heads: int, groups: int) -> None:
    """Set the head counts of an attention module, with a config of its own if it reads them from there."""
    attention.num_key_value_groups = heads // groups
    # Phi-3 splits its fused projection by these counts in forward.
    if hasattr(attention, "num_key_value_heads"):
        attention.num_key_value_heads = groups
        attention.config = OwnHeads(getattr(attention.config, "shared", attention.config), heads, groups)
    if hasattr(attention, "num_heads"):
        attention.num_heads = heads
    # StableLM of transformers 4 joins its heads to this size.
    if hasattr(attention, "hidden_size"):
        attention.hidden_size = heads * attention.head_dim


def keep_heads(norm: Any, kept: list[int]) -> None:
    """Keep only these heads' part of a norm: their own norms, or their rows of one weight."""
    if hasattr(norm, "norms"):
        norm.norms = nn.ModuleList(norm.norms[head] for head in kept)
    else:
        # (heads, …) → (kept heads, …)
        norm.weight = nn.Parameter(norm.weight.detach()[kept], norm.weight.requires_grad)


class Placed(nn.Linear):
    """A linear layer whose weight lacks some rows or columns.

    The others belong to the outputs or inputs `places` (n,), ascending along `dim` of the weight, which are
    stored beside it.
    """

    places: Tensor
    dim: int

    def own(self, whole: Tensor) -> Tensor:
        """Return the part that this weight has of a tensor with the shape of the whole weight."""
        # Along `dim`: whole size → n.
        return whole.index_select(self.dim, self.places)


class Widened(Placed):
    """A linear layer whose outputs without a row in the weight (n, in_features) are zero."""

    dim = 0

    def __init__(self, in_features: int, out_features: int, count: int, **how: Any) -> None:
        super().__init__(in_features, count, **how)
        self.out_features = out_features
        self.register_buffer("places", torch.arange(count, device=how.get("device")))

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (…, out_features) for inputs (…, in_features)."""
        some = super().forward(input)  # (…, n)
        # (…, n) → (…, out_features)
        return some.new_zeros(*some.shape[:-1], self.out_features).index_copy_(-1, self.places, some)


class Selected(Placed):
    """A linear layer that ignores inputs without a column in the weight (out_features, n)."""

    dim = 1

    def __init__(self, in_features: int, out_features: int, count: int, **how: Any) -> None:
        super().__init__(count, out_features, **how)
        self.in_features = in_features
        self.register_buffer("places", torch.arange(count, device=how.get("device")))

    def forward(self, input: Tensor) -> Tensor:
        """Return the outputs (…, out_features) for inputs (…, in_features)."""
        return super().forward(input.index_select(-1, self.places))  # (…, in_features) → (…, n)


LINEAR_KINDS = {"Widened": Widened, "Selected": Selected}


def resize_linears(model: transformers.PreTrainedModel, slim: dict[str, Any]) -> None:
    """Replace the linear layers listed in `slim` by empty ones of the listed shapes, and cut norms.

    A shape is (outputs, inputs, bias), and for a `Placed` layer also its class and its number of places.
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
    """A mixin for a `…ForCausalLM` class that gives each layer its own widths."""

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, *args, **kwargs)  # type: ignore[call-arg]
        resize_linears(self, config.slim)

    def _get_static_cache_init_shape(self) -> None:
        """Return None, so that a static cache is allocated at its first use.

        By then each layer has its own head count; the config has only one count for all layers.
        """
