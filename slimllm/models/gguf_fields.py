"""GGUF fields that transformers ignores: they are copied into the config, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from torch import Tensor
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.integrations.gguf.reader import GgufHeader, load_gguf_state_dict, read_gguf_metadata

from slimllm.core.errors import Refusal
from slimllm.files.rope_scaling import fit_llama3
from slimllm.models.weight_coverage import first_names

FREQUENCIES = "rope_freqs.weight"
# Keys below the architecture's name, and the config's names of these settings.
SETTINGS = {
    "attention.key_length": "head_dim",
    "attention.value_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
# Keys that change nothing without other keys or tensors.
HARMLESS = (
    "rope.scaling.finetuned",
    "rope.scaling.original_context_length",
    "tensor_data_layout",
    "vocab_size",
)
NEUTRAL = {"rope.scaling.type": "none", "rope.scaling.attn_factor": 1.0, "attention.causal": True}
OTHER = "give the model as safetensors, or the folder that the file was exported to"


def complete_gguf_config(file: Path, config: Any) -> Any:
    """Complete the config that transformers made from a GGUF, in place, and return it.

    Raise `Refusal` if the config has no place for a field that affects results.
    """
    metadata, tensors = read_gguf_metadata(str(file))
    arch = metadata["general.architecture"]
    left = {
        key.removeprefix(f"{arch}."): value
        for key, value in metadata.items()
        if key.startswith(f"{arch}.") and key.removeprefix(f"{arch}.") not in taken_over(arch, config)
    }
    for key in [key for key in left if key in SETTINGS]:
        take_setting(file, config, key, left.pop(key))
    scale_positions(file, config, left)
    if FREQUENCIES in tensors:
        scale_frequencies(file, config)
    left.pop("rope.dimension_count", None)
    check_rotated(file, config, metadata.get(f"{arch}.rope.dimension_count"))
    over = [
        k for k, value in left.items() if k not in HARMLESS and not (k in NEUTRAL and NEUTRAL[k] == value)
    ]
    if over:
        raise Refusal(f"'{file}' says {first_names(over)}, which is not read here; {OTHER}.")
    return config


def taken_over(arch: str, config: Any) -> set[str]:
    """Return the keys below an architecture's name that transformers copies into a config."""
    mapped: Mapping[str, Any] = (
        GGUF_CONFIG_MAPPING.get(config.model_type) or GGUF_CONFIG_MAPPING.get(arch) or {}
    )
    return {key for key, name in mapped.items() if name is not None}


def take_setting(file: Path, config: Any, key: str, value: Any) -> None:
    """Copy a value into the config; raise `Refusal` if the config has no place for it."""
    name = SETTINGS[key]
    size = config.hidden_size // config.num_attention_heads if name == "head_dim" else None
    if not hasattr(config, name) and value != size:
        raise Refusal(f"'{file}' says {key}, for which {config.model_type} has no place; {OTHER}.")
    setattr(config, name, value)


def scale_positions(file: Path, config: Any, left: dict[str, Any]) -> None:
    """Move base and linear scaling of positions from the `left` fields into the config.

    Raise `Refusal` for any other scaling.
    """
    turn = config.rope_parameters.get("full_attention", config.rope_parameters)
    if "rope.freq_base" in left:
        turn["rope_theta"] = left.pop("rope.freq_base")
    kind, factor = left.pop("rope.scaling.type", "none"), left.pop("rope.scaling.factor", 1.0)
    if kind not in ("none", "linear"):
        raise Refusal(f"'{file}' scales its positions by '{kind}', which is not read here; {OTHER}.")
    if factor != 1.0:
        turn.update(rope_type="linear", factor=float(factor))


def scale_frequencies(file: Path, config: Any) -> None:
    """Store the frequency factors of a GGUF in the config as Llama 3's scaling.

    Raise `Refusal` if the factors are not of that kind.
    """
    turn = config.rope_parameters
    found = None
    if turn.get("rope_type") in ("default", "llama3"):
        found = fit_llama3(frequency_factors(file), turn["rope_theta"])
    if found is None:
        raise Refusal(
            f"'{file}' scales the frequencies of its positions one by one ({FREQUENCIES}), in no way that is "
            f"known here; {OTHER}."
        )
    config.rope_parameters = {**turn, **found}


def frequency_factors(file: Path) -> Tensor:
    """Return the factors (e/2,) by which a GGUF divides its frequencies, for head size e."""
    tensors = load_gguf_state_dict(GgufHeader.from_file(str(file)))
    factors: Tensor = tensors[FREQUENCIES][:]
    return factors.flatten().to(torch.float32)  # (e/2,)


def check_rotated(file: Path, config: Any, rotated: int | None) -> None:
    """Raise `Refusal` if a file rotates another share of each head than the config does."""
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    share = config.rope_parameters.get("partial_rotary_factor") or 1.0
    if rotated is not None and rotated != int(size * share):
        raise Refusal(
            f"'{file}' rotates {rotated} of the {size} numbers of a head, which is not read here; {OTHER}."
        )


def check_gguf_tensors(file: Path, model: Any) -> None:
    """Raise `Refusal` if a GGUF has tensors for which transformers' class has no place."""
    metadata, given = read_gguf_metadata(str(file))
    arch = {value: key for key, value in MODEL_ARCH_NAMES.items()}[metadata["general.architecture"]]
    names = get_tensor_name_map(arch, model.config.num_hidden_layers)
    over = sorted(set(given) - set(stored_names(names, model.state_dict())) - {FREQUENCIES})
    if any(name.endswith(".bias") for name in over):
        raise Refusal(
            f"'{file}' holds biases that get lost when transformers reads it; give the folder that it was "
            "exported to, or the model as safetensors."
        )
    if over:
        raise Refusal(f"'{file}' holds {first_names(over)}, which no part of the model reads; {OTHER}.")


def stored_names(names: Any, state: Iterable[str]) -> Iterable[str]:
    """Yield the GGUF names of a model's tensors."""
    for key in state:
        stem, _, leaf = key.rpartition(".")
        yield f"{names.get_name(stem)}.{leaf}"
