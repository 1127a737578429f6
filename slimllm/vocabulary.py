"""A tokenizer as llama.cpp keeps it: tokens, their kinds, merges, and the name of its way to split text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gguf
from gguf import TokenType
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

SPLITS = {GGUF_PRE_TOKENIZER_SPLITS[name]: name for name in ("llama-bpe", "qwen2", "tekken")}
SPECIAL = ("bos", "eos", "unk", "pad")


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF says of a byte-level tokenizer: `split` is the name of its way to split text into words."""

    split: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    special: Mapping[str, int]
    starts: bool  # whether every text begins with the token for that
    template: str


def hindrance(tokenizer: Any) -> str:
    """Why a tokenizer cannot be written; empty where it can."""
    if not getattr(tokenizer, "is_fast", False):
        return "its tokenizer has no tokenizer.json"
    made = parts_of(tokenizer)
    if made["model"].get("type") != "BPE" or made["model"].get("byte_fallback"):
        return "its tokenizer is no byte-level BPE"
    if not made["model"].get("merges") or not split_of(made):
        return "its tokenizer splits text in a way that has no name there"
    return ""


def parts_of(tokenizer: Any) -> dict[str, Any]:
    """The tokenizer.json of a tokenizer."""
    found: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return found


def split_of(made: Mapping[str, Any]) -> str:
    """What llama.cpp calls the way in which a byte-level tokenizer splits text; empty where it has none."""
    steps = made["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    kinds = [step.get("type") for step in steps]
    if (made["normalizer"] or {}).get("type", "NFC") != "NFC" or kinds[-1] != "ByteLevel":
        return ""
    if steps[-1].get("add_prefix_space"):
        return ""
    if steps[-1].get("use_regex", True):
        digits = kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits")
        return "smollm" if digits else "gpt-2" if len(kinds) == 1 else ""
    if kinds != ["Split", "ByteLevel"] or steps[0].get("behavior") != "Isolated":
        return ""
    return SPLITS.get(steps[0]["pattern"].get("Regex", ""), "")


def vocabulary(tokenizer: Any, count: int) -> Vocabulary:
    """The tokenizer of a model with `count` embeddings; those without a token are called [PADn]."""
    made = parts_of(tokenizer)
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    added = {row["id"]: row for row in made["added_tokens"]}
    tokens, kinds = [], []
    for index in range(count):
        tokens.append(known.get(index, f"[PAD{index}]"))
        kind = TokenType.NORMAL if index in known else TokenType.UNUSED
        if index in added:
            kind = TokenType.CONTROL if added[index]["special"] else TokenType.USER_DEFINED
        kinds.append(int(kind))
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in made["model"]["merges"]]
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in SPECIAL}
    first = tokenizer("a").input_ids[:1]
    template = tokenizer.chat_template
    return Vocabulary(
        split=split_of(made),
        tokens=tuple(tokens),
        kinds=tuple(kinds),
        merges=tuple(merges),
        special={name: index for name, index in special.items() if index is not None and index < count},
        starts=bool(first) and first[0] == tokenizer.bos_token_id,
        template=template if isinstance(template, str) else "",
    )


def add_to(writer: gguf.GGUFWriter, words: Vocabulary) -> None:
    """Puts a vocabulary into a file."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words.split)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.kinds)
    writer.add_token_merges(words.merges)
    for name, index in words.special.items():
        getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(words.starts)
    if words.template:
        writer.add_chat_template(words.template)
