"""Settings in an export that let transformers 4.57 read it as version 5 does.

It also says which exports need a newer version.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# The oldest version of transformers that is tested.
OLDEST = "4.57"
NEWER = "5"
# The families that are new in version 5.
UNKNOWN = ("ministral3",)
# The class that reads a tokenizer.json as it is, in every version.
TOKENIZER = "PreTrainedTokenizerFast"
# The families whose config in version 4 accepts only these keys for scaling.
OLDER_SCALING = {
    **dict.fromkeys(("olmo", "olmo2"), ("type", "factor")),
    "phi3": ("type", "short_factor", "long_factor"),
}
FULL, SLIDING = "full_attention", "sliding_attention"


def version_hindrance(settings: Mapping[str, Any]) -> str:
    """Return why transformers 4.57 cannot read a model of these settings as 5 does, or an empty string."""
    kind, turn = settings.get("model_type"), settings.get("rope_parameters") or {}
    scaling = turn.get("rope_type", "default")
    if kind in UNKNOWN:
        return f"{OLDEST} does not know the family {kind}"
    if kind == "apertus":
        return f"{OLDEST} rounds what its activation has learned"
    if kind == "nemotron" and scaling != "default":
        return f"{OLDEST} leaves out the scaling of its positions"
    if kind in ("olmo", "olmo2") and scaling not in ("default", "linear", "dynamic"):
        return f"{OLDEST} refuses the scaling '{scaling}' of its positions"
    if scaling == "longrope" and turn.get("factor") and not turn.get("attention_factor"):
        return f"{OLDEST} derives the scaling of its attention from other settings"
    if kind == "olmo3" and turn.get(SLIDING):
        far, near = turn.get(FULL) or turn[SLIDING], turn[SLIDING]
        if near["rope_type"] != "default" or near["rope_theta"] != far["rope_theta"]:
            return f"{OLDEST} has one base of positions for both kinds of its layers"
    return ""


def reader_versions(settings: Mapping[str, Any]) -> str:
    """Return in words which versions of transformers read a model of these settings."""
    reason = version_hindrance(settings)
    return f"transformers {NEWER} or newer, as {reason}" if reason else f"transformers {OLDEST} or newer"


def loading_options(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the options that loading needs.

    Version 4 would otherwise choose an attention implementation that caps no logits.
    """
    return {"attn_implementation": "eager"} if settings.get("attn_logit_softcapping") else {}


def with_older_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a config.json with the corresponding keys of transformers 4 added."""
    done = dict(settings)
    if settings.get("dtype"):
        done["torch_dtype"] = settings["dtype"]
    turn = settings.get("rope_parameters") or {}
    if FULL in turn or SLIDING in turn:
        far, near = turn.get(FULL) or {}, turn.get(SLIDING) or {}
        done.update(rope_keys(far or near, settings))
        if settings.get("model_type") == "gemma3_text" and near:
            done["rope_local_base_freq"] = near["rope_theta"]
    elif turn:
        done.update(rope_keys(turn, settings))
    return done


def rope_keys(turn: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys of transformers 4 for the position encoding that `rope_parameters` describe."""
    apart = ("rope_theta", "partial_rotary_factor")
    keys = {name: turn[name] for name in apart if turn.get(name) is not None}
    scaling = {name: value for name, value in turn.items() if name not in apart and value is not None}
    exact = OLDER_SCALING.get(str(settings.get("model_type")))
    if exact:
        older = {"type": turn["rope_type"], **turn}
        scaling = {name: older[name] for name in exact if name in older}
    if turn.get("rope_type", "default") != "default":
        keys["rope_scaling"] = scaling
    if turn.get("rope_type") == "longrope" and turn.get("original_max_position_embeddings"):
        keys["original_max_position_embeddings"] = turn["original_max_position_embeddings"]
    return keys


def complete_config(folder: Path) -> None:
    """Add the keys of transformers 4 to the config.json in a folder."""
    rewrite_json(folder / "config.json", with_older_keys)


def complete_tokenizer(folder: Path) -> None:
    """Set a class and keys that every version knows in the tokenizer's settings in a folder.

    The folder must have a tokenizer.json, which contains everything else.
    """
    if (folder / "tokenizer.json").is_file() and (folder / "tokenizer_config.json").is_file():
        rewrite_json(folder / "tokenizer_config.json", with_known_class)


def with_known_class(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a tokenizer_config.json in a form that every version reads."""
    done = {name: value for name, value in settings.items() if name != "backend"}
    done["tokenizer_class"] = TOKENIZER
    # Version 4 would add token types, which no model here accepts.
    done["model_input_names"] = ["input_ids", "attention_mask"]
    # Version 4 reads this list as names of tokens.
    if isinstance(done.get("extra_special_tokens"), list):
        done["additional_special_tokens"] = done.pop("extra_special_tokens")
    return done


def rewrite_json(file: Path, made: Any) -> None:
    """Replace the JSON object in a file by what `made` returns for it."""
    settings = made(json.loads(file.read_text(encoding="utf-8")))
    file.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
