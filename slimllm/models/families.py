"""Architectures as data: the linear layers that write and read each prunable space, and the resulting shape.

A new family whose layers have one attention and one MLP is one row of `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from torch import Tensor, nn
from transformers.models.auto import modeling_auto as auto

from slimllm.core.errors import Refusal
from slimllm.core.shapes import LayerShape, Shape

# The sizes in a config, and the largest value that any model could have.
SIZES = {
    "num_hidden_layers": 1000,
    "hidden_size": 1_000_000,
    "intermediate_size": 1_000_000,
    "num_attention_heads": 10_000,
    "num_key_value_heads": 10_000,
    "head_dim": 100_000,
    "vocab_size": 10_000_000,
    "max_position_embeddings": 1 << 31,
}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Site:
    """One prunable space: the linear layer that reads it, and the linear layers that write it.

    `writers` maps each writer to the letters of the blocks stacked in its rows.
    """

    reader: str
    writers: Mapping[str, str]


@dataclass(frozen=True)
class Family:
    """The names of a decoder layer's parts, and their blocks: q, k, v attention heads; c channels.

    `between` names the module that reads the residual stream between attention and MLP. It is empty if a
    reader's output is normalised or scaled before it is added to the stream, or if both sites read the same
    stream. `norms` names the modules that hold separate weights for each head, with the letter of these
    heads; a model may lack them. `whole` says why no head can be removed; it is empty if heads can be.
    """

    attention: Site
    mlp: Site
    trunk: str = "model"
    layers: str = "model.layers"
    attention_module: str = "self_attn"
    between: str = ""
    norms: Mapping[str, str] = field(default_factory=dict)
    whole: str = ""


STANDARD = Family(
    attention=Site(
        "self_attn.o_proj", {"self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v"}
    ),
    mlp=Site("mlp.down_proj", {"mlp.gate_proj": "c", "mlp.up_proj": "c"}),
)
STACKED = Site("mlp.down_proj", {"mlp.gate_up_proj": "cc"})
FUSED = Family(
    attention=Site("self_attn.o_proj", {"self_attn.qkv_proj": "qkv"}),
    mlp=STACKED,
    between="post_attention_layernorm",
)
PARALLEL = Family(
    attention=Site(
        "self_attn.dense", {"self_attn.q_proj": "q", "self_attn.k_proj": "k", "self_attn.v_proj": "v"}
    ),
    mlp=Site("mlp.fc2", {"mlp.fc1": "c"}),
)
PLAIN = replace(STANDARD, between="post_attention_layernorm")
UNGATED = replace(PLAIN, mlp=Site("mlp.down_proj", {"mlp.up_proj": "c"}))
NORMED = replace(
    STANDARD,
    whole="queries and keys are normalised over all heads together, so a head that goes changes the rest",
)
FAMILIES: dict[str, Family] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma", "smollm3"), PLAIN),
    **dict.fromkeys(("ministral", "ministral3", "ernie4_5", "seed_oss", "hunyuan_v1_dense"), PLAIN),
    **dict.fromkeys(("olmo", "helium"), PLAIN),
    **dict.fromkeys(("gemma2", "gemma3_text", "granite", "cohere2", "exaone4"), STANDARD),
    **dict.fromkeys(("arcee", "nemotron"), UNGATED),
    "apertus": replace(UNGATED, between="feedforward_layernorm"),
    "phi3": FUSED,
    "glm": replace(PLAIN, mlp=STACKED),
    "glm4": replace(STANDARD, mlp=STACKED),
    "phi": PARALLEL,
    "starcoder2": replace(PLAIN, mlp=Site("mlp.c_proj", {"mlp.c_fc": "c"})),
    "stablelm": replace(PLAIN, norms={"self_attn.q_layernorm": "q", "self_attn.k_layernorm": "k"}),
    "cohere": replace(STANDARD, norms={"self_attn.q_norm": "q", "self_attn.k_norm": "k"}),
    **dict.fromkeys(("olmo2", "olmo3"), NORMED),
}


def family_of(config: Any, source: str) -> Family:
    """Return the family row for a config; raise `Refusal` with the reason and the list if there is none."""
    check_settings(config.to_dict(), source)
    family = FAMILIES[config.model_type]
    # With a parallel residual, both sites read the same stream.
    parallel = getattr(config, "use_parallel_residual", False)
    return replace(family, between="") if parallel else family


def check_settings(settings: Any, source: str) -> None:
    """Raise `Refusal` if the settings of a config.json describe no model that can be pruned here."""
    if not isinstance(settings, Mapping) or not isinstance(settings.get("model_type"), str):
        raise Refusal(
            f"The config.json of '{source}' names no model type; give a complete transformers model folder."
        )
    if settings.get("quantization_config"):
        raise Refusal(
            f"'{source}' holds quantised weights, which cannot be sliced; load its unquantised version."
        )
    kind = settings["model_type"]
    if kind not in FAMILIES:
        raise Refusal(
            f"Model type '{kind}' of '{source}' is not supported ({reason_against(settings)}); take one of "
            f"the supported families: {', '.join(FAMILIES)}."
        )
    check_sizes(settings, source)


def check_sizes(settings: Mapping[str, Any], source: str) -> None:
    """Raise `Refusal` for impossible sizes, before anything of these sizes is built."""
    for name, most in SIZES.items():
        size = settings.get(name)
        least = 2 if name == "max_position_embeddings" else 1
        if size is not None and (type(size) is not int or not least <= size <= most):
            raise Refusal(
                f"The config.json of '{source}' says that {name} is {size!r}, which is no possible size; "
                "fetch the model again."
            )
    heads, groups = settings.get("num_attention_heads"), settings.get("num_key_value_heads")
    if heads is not None and groups is not None and heads % groups:
        raise Refusal(
            f"The config.json of '{source}' says {heads} heads in {groups} groups, which do not divide; "
            "fetch the model again."
        )


def reason_against(settings: Mapping[str, Any]) -> str:
    """Return in a few words why an unknown type of model is not supported."""
    kind = settings["model_type"]
    # A GGUF of our own without its config.json has this type.
    if kind == "deci":
        return "its layers differ in width, which is read only in the folder that the file was exported to"
    if settings.get("is_encoder_decoder") or kind in auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES:
        return "it is an encoder-decoder"
    if any(settings.get(name) for name in EXPERTS):
        return "mixture-of-experts layers cannot be pruned here"
    seeing = any(settings.get(name) for name in ("vision_config", "audio_config"))
    if seeing or kind in auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        return "it is multimodal"
    if kind in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return "it is an encoder, which does not write text"
    if settings.get("auto_map") and kind not in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return "it needs program code of its own, which is never run here"
    return "this architecture's layers are not described yet"


def linear_of(layer: nn.Module, name: str) -> nn.Linear:
    """Return the linear layer called `name` inside a decoder layer."""
    return layer.get_submodule(name)  # type: ignore[return-value]


def head_norms(layer: nn.Module, family: Family) -> Iterator[tuple[str, nn.Module, str]]:
    """Yield (name, module, letter) of this layer's norms with separate weights for each head."""
    inside = dict(layer.named_modules()) if family.norms else {}
    for name, letter in family.norms.items():
        if name in inside:
            yield name, inside[name], letter


def value_writer(family: Family) -> str:
    """Return the name of the linear layer that writes the values, alone or as one of its blocks."""
    return next(name for name, letters in family.attention.writers.items() if "v" in letters)


def narrows_values(family: Family) -> bool:
    """Return whether attention can keep fewer value columns per head.

    That is the case if the values are one block of one linear layer.
    """
    return "".join(family.attention.writers.values()).count("v") == 1


def writer_blocks(layer: nn.Module, site: Site) -> list[Tensor]:
    """Return the weights (c, o) that write each channel of an MLP site, one per stacked block, in float32."""
    blocks: list[Tensor] = []
    for name, letters in site.writers.items():
        blocks += linear_of(layer, name).weight.float().chunk(len(letters))  # (blocks · c, o) → (c, o) each
    return blocks


def layer_shape(layer: nn.Module, family: Family) -> LayerShape:
    """Return the widths and unit costs of one decoder layer, read from its modules instead of the config."""
    size: int = layer.get_submodule(family.attention_module).head_dim  # type: ignore[assignment]
    reader, down = linear_of(layer, family.attention.reader), linear_of(layer, family.mlp.reader)
    # Outputs and inputs count whole heads, because attention only works with them; values may have fewer
    # weights.
    heads, channels = reader.in_features // size, down.in_features
    rows = sum(linear_of(layer, name).out_features for name in family.attention.writers)
    groups = (rows // size - heads) // 2
    values = reader.weight.shape[1] // heads
    head_cost, group_cost, channel_cost = values * reader.out_features, 0, down.out_features
    value_cost = heads * reader.out_features
    for site in (family.attention, family.mlp):
        for name, letters in site.writers.items():
            linear = linear_of(layer, name)
            row = linear.in_features + (linear.bias is not None)
            head_cost += row * size * letters.count("q")
            group_cost += row * (size * letters.count("k") + values * letters.count("v"))
            value_cost += row * groups * letters.count("v")
            channel_cost += row * letters.count("c")
    for _, norm, letter in head_norms(layer, family):
        weights = sum(p.numel() for p in norm.parameters())
        head_cost += weights // heads if letter == "q" else 0
        group_cost += weights // groups if letter == "k" else 0
    total = sum(p.numel() for p in layer.parameters())
    fixed = total - heads * head_cost - groups * group_cost - channels * channel_cost
    biases = reader.bias is not None, down.bias is not None
    costs = head_cost, group_cost, channel_cost
    found = LayerShape(heads, groups, channels, *costs, fixed, *biases, values=values, value_cost=value_cost)
    return replace(found, whole=bool(family.whole))


def shape_of(model: Any, family: Family) -> Shape:
    """Return the shape of a loaded model; tied parameters count once."""
    layers = model.get_submodule(family.layers)
    shapes = tuple(layer_shape(layer, family) for layer in layers)
    total = sum(p.numel() for p in model.parameters())
    return Shape(
        family=model.config.model_type,
        hidden=linear_of(layers[0], family.attention.reader).out_features,
        head_size=layers[0].get_submodule(family.attention_module).head_dim,
        vocab=model.get_input_embeddings().weight.shape[0],
        max_length=getattr(model.config, "max_position_embeddings", None) or 2048,
        outside=total - sum(s.dense for s in shapes),
        layers=shapes,
    )
