"""Writing a model as one GGUF file, with the sizes, tokenizer and weights that llama.cpp expects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import MODEL_ARCH_NAMES, GGMLQuantizationType, LlamaFileType, get_tensor_name_map
from torch import Tensor

from slimllm.files.rope_scaling import llama3_factors
from slimllm.tokenizers import gguf_vocabulary

FILE = "model.gguf"
# llama.cpp's architecture that computes the same as a class, at any head count.
ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "GraniteForCausalLM": "llama",
    "Qwen3ForCausalLM": "qwen3",
}
# The inputs in the smallest quantised block of llama.cpp.
BLOCK = 32
# llama.cpp's architecture of a Llama with individual widths in every layer.
UNEVEN = "deci"
# The classes that can hold a model which computes what a Llama does.
TWINS = ("LlamaForCausalLM", "GraniteForCausalLM")
ALIKE = ("MistralForCausalLM", "Qwen2ForCausalLM")
# The architectures that rotate neighbouring instead of opposite rows of queries and keys.
ROTATED = ("llama", UNEVEN)
SCALES = ("embedding_multiplier", "residual_multiplier", "logits_scaling")
ROPES = ("default", "linear", "llama3")
GGUF_TYPES = {
    torch.float32: (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    torch.float16: (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    torch.bfloat16: (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
}


def llamacpp_hindrance(name: str, config: Any, size: int, tokenizer: Any) -> str:
    """Return why llama.cpp cannot read models of a class with this head size and tokenizer, as far as known.

    Return an empty string if it can.
    """
    if name not in (*ARCHITECTURES, *ALIKE):
        return f"there is no mapping of {name} to an architecture of llama.cpp here"
    if config.hidden_act != "silu":
        return f"llama.cpp computes silu where it has {config.hidden_act}"
    windowed = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    if windowed or "sliding_attention" in (getattr(config, "layer_types", None) or ()):
        return "its attention sees a sliding window only"
    scales = [getattr(config, key, 1.0) for key in SCALES]
    if scales != [1.0] * len(scales) or not math.isclose(
        getattr(config, "attention_multiplier", size**-0.5), size**-0.5
    ):
        return f"{name} scales its streams"
    if rope_fields(config)["rope_type"] not in ROPES:
        return f"positions of type '{rope_fields(config)['rope_type']}' are not written here"
    return gguf_vocabulary.tokenizer_hindrance(tokenizer) if tokenizer is not None else ""


def hindrance_uneven(model: Any) -> str:
    """Return why llama.cpp cannot read a model with individual widths in every layer, or an empty string.

    The model must pass `llamacpp_hindrance` at equal widths.
    """
    base = model.config.slim["base"]
    if base not in (*TWINS, "MistralForCausalLM"):
        return f"llama.cpp reads layers of different widths only as a Llama, which {base} is not"
    writers = ("q_proj.bias", "k_proj.bias", "v_proj.bias")
    if any(key.endswith(writers) for key in model.state_dict()):
        return "llama.cpp has no place for biases of queries and keys where layers differ in width"
    return ""


def coarse_words(channels: Sequence[int]) -> str:
    """Return a sentence about layers with these channels that llama.cpp cannot quantise fully.

    Return an empty string if it can quantise them all.
    """
    odd = sum(count % BLOCK > 0 for count in channels)
    if not odd:
        return ""
    return (
        f"In {odd} of {len(channels)} layers the channels are no multiple of {BLOCK}, so llama.cpp leaves "
        f"their down projection at 16 bit when it quantises the file; --align {BLOCK} (on the page: channels "
        f"stay in multiples of {BLOCK}) lets it quantise all."
    )


def rope_fields(config: Any) -> dict[str, Any]:
    """Return the settings of the rotary position encoding."""
    return {"rope_type": "default", **(config.rope_parameters or {})}


def write_gguf(model: Any, tensors: Mapping[str, Tensor], tokenizer: Any, name: str, file: Path) -> None:
    """Write tensors to a GGUF file; `model` is the empty model of the class that they belong to."""
    config = model.config
    arch = UNEVEN if getattr(config, "slim", None) else ARCHITECTURES[type(model).__name__]
    dtype = next(iter(tensors.values())).dtype
    writer = gguf.GGUFWriter(file, arch)
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(GGUF_TYPES[dtype][1])
    add_sizes(writer, config)
    if tokenizer is not None:
        gguf_vocabulary.add_to(writer, gguf_vocabulary.gguf_vocabulary_of(tokenizer, config.vocab_size))
    found = {value: key for key, value in MODEL_ARCH_NAMES.items()}[arch]
    names = get_tensor_name_map(found, config.num_hidden_layers)
    rows = layer_widths(config)
    if rope_fields(config)["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", llama3_factors(rope_fields(config), config.head_dim).numpy())
    for key, tensor in tensors.items():
        stem, _, leaf = key.rpartition(".")
        place = {"q_proj": 0, "k_proj": 1}.get(stem.rpartition(".")[2]) if arch in ROTATED else None
        if place is not None:
            tensor = interleave_halves(tensor, rows[int(stem.split(".")[2])][place])
        add_tensor(writer, f"{names.get_name(stem)}.{leaf}", tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def layer_widths(config: Any) -> list[tuple[int, int, int]]:
    """Return (heads, groups, channels) of every layer."""
    slim = getattr(config, "slim", None)
    if not slim:
        alike = config.num_attention_heads, config.num_key_value_heads, config.intermediate_size
        return [alike] * config.num_hidden_layers
    read = [row[1] for row in slim["linears"]["mlp.down_proj"]]
    return [(*heads, channels) for heads, channels in zip(slim["heads"], read, strict=True)]


def add_sizes(writer: gguf.GGUFWriter, config: Any) -> None:
    """Write the sizes in a config to the file."""
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    columns = zip(*layer_widths(config), strict=True)
    heads, groups, channels = (row[0] if len(set(row)) == 1 else list(row) for row in columns)
    writer.add_feed_forward_length(channels)
    writer.add_head_count(heads)
    writer.add_head_count_kv(groups)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    turn = rope_fields(config)
    writer.add_rope_freq_base(turn["rope_theta"])
    if turn["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(turn["factor"])


def add_tensor(writer: gguf.GGUFWriter, name: str, tensor: Tensor) -> None:
    """Write a tensor to the file: vectors in float32, matrices in their dtype."""
    if tensor.ndim == 1:
        tensor = tensor.float()
    # numpy has no bfloat16.
    if tensor.dtype == torch.bfloat16:
        raw: np.ndarray[Any, Any] = tensor.contiguous().view(torch.uint8).numpy()  # (…, n) → (…, 2n)
        writer.add_tensor(name, raw, raw_dtype=GGUF_TYPES[tensor.dtype][0])
    else:
        writer.add_tensor(name, tensor.contiguous().numpy())


def interleave_halves(tensor: Tensor, heads: int) -> Tensor:
    """Return the rows (heads · e, …) with the two halves of every head interleaved."""
    halves = tensor.view(heads, 2, -1, *tensor.shape[1:])  # (heads · e, …) → (heads, 2, e/2, …)
    return halves.transpose(1, 2).reshape(tensor.shape)  # (heads, e/2, 2, …) → (heads · e, …)
