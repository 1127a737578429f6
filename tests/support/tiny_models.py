"""Build tiny random models from configs, a tokenizer with one token per byte, and a page of text.

Nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from slimllm.models.loading import Subject, make_subject

FAMILY_CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"tie_word_embeddings": False},
    "mistral": {"sliding_window": None},
    "qwen2": {},
    "qwen3": {},
    "gemma": {},
    "gemma2": {"sliding_window": 16, "query_pre_attn_scalar": 8},
    "gemma3_text": {
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
    },
    "granite": {"attention_multiplier": 8**-0.5},
    "phi": {"num_key_value_heads": 6},
    "phi3": {"pad_token_id": 0},
}

# families that the grid of families adds to those that every oracle goes through
MORE_CONFIGS: dict[str, dict[str, Any]] = {
    "smollm3": {"no_rope_layer_interval": 2, "tie_word_embeddings": True},
    "starcoder2": {"sliding_window": None},
    "cohere": {"use_qk_norm": True},
    "stablelm": {"qk_layernorm": True, "use_qkv_bias": True},
    "olmo2": {},
    "olmo": {"clip_qkv": 4.0},
    "olmo3": {"sliding_window": 16},
    "ministral": {
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"],
    },
    "ministral3": {"sliding_window": None},
    "ernie4_5": {"use_bias": True},
    "seed_oss": {},
    "hunyuan_v1_dense": {},
    "helium": {"attention_bias": False},
    "arcee": {},
    "nemotron": {},
    "apertus": {},
    "cohere2": {"sliding_window": 16},
    "exaone4": {"sliding_window": 16, "sliding_window_pattern": 2},
    "glm": {},
    "glm4": {},
}


PAGE = (
    "A model is a long chain of layers. Every layer reads a stream of numbers, looks back at earlier "
    "words with its "
    "heads, and writes what it found. Then its channels open and close like small gates. Some of them "
    "hardly ever "
    "change what comes out, and these can be cut away. What remains must be mended, so that the sum of "
    "it still says "
    "what the whole one said. To know which parts matter, we let the model read a few pages, and watch.\n"
)


def tiny_tokenizer() -> Any:
    """Return a tokenizer with one token per byte."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=alphabet[-1])


def tiny_config(family: str, **changes: Any) -> Any:
    """Return a config of 3 layers, hidden size 48, 6 heads in 3 groups, head size 8 and 96 channels."""
    settings = {
        "vocab_size": 256,
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 8,
        "max_position_embeddings": 512,
        "bos_token_id": None,
        "eos_token_id": 255,
        "pad_token_id": None,
        "initializer_range": 0.2,
        **(FAMILY_CONFIGS | MORE_CONFIGS)[family],
        **changes,
    }
    return transformers.AutoConfig.for_model(family, **settings)


def tiny_model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """Return a random float32 model of one family.

    Biases and norms are random too, so that a test notices if one is lost.
    """
    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(family, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.normal_(0.0 if "bias" in name else 1.0, 0.1)
    return model


def tiny_subject(family: str = "llama", **changes: Any) -> Subject:
    """Return a tiny model with its tokenizer as a `Subject`."""
    return make_subject(f"tiny-{family}", tiny_model(family, **changes), tiny_tokenizer())
