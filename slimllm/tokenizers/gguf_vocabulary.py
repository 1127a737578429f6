"""A tokenizer as llama.cpp stores it: tokens and their types, and the rule that splits text into them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gguf
from gguf import TokenType
from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

from slimllm.tokenizers.text_start import find_beginning

SPLITS = {GGUF_PRE_TOKENIZER_SPLITS[name]: name for name in ("llama-bpe", "qwen2", "tekken")}
SPECIAL = ("bos", "eos", "unk", "pad")
# llama.cpp's names of byte-level BPE and of SentencePiece tokenizers.
BYTES, PIECES = "gpt2", "llama"
# The character that stands for a space in pieces.
SPACE = "\u2581"
# With these rules for splitting text, llama.cpp begins texts with <bos> if the file does not say (measured).
BEGUN = {
    "chameleon", "falcon-h1", "falcon3", "jina-v5-nano", "lfm2", "llama-bpe", "llama-v3", "llama3",
    "midm-2.0", "pixtral", "tekken",
}  # fmt: skip
BYTE = re.compile("<0x[0-9A-F]{2}>")


@dataclass(frozen=True)
class Vocabulary:
    """The tokenizer in a GGUF.

    Byte-level tokenizers have the name of the rule that `split`s text into words, and `merges`. SentencePiece
    tokenizers have `scores`, and may put a space before every text (`spaced`).
    """

    kind: str
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    special: Mapping[str, int]
    # Whether every text begins with the beginning-of-text token.
    starts: bool
    template: str
    split: str = "default"
    merges: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    spaced: bool = False


def tokenizer_hindrance(tokenizer: Any) -> str:
    """Return why a tokenizer cannot be written to a GGUF, or an empty string if it can."""
    if not getattr(tokenizer, "is_fast", False):
        return "its tokenizer has no tokenizer.json"
    made = vocabulary_parts(tokenizer)
    if made["model"].get("type") != "BPE" or not made["model"].get("merges"):
        return "its tokenizer is no BPE with merges"
    if not (joins_pieces(made) if made["model"].get("byte_fallback") else split_of(made)):
        return "its tokenizer splits text in a way that has no name there"
    if find_beginning(tokenizer).ids not in ((), (tokenizer.bos_token_id,)):
        return "its tokenizer begins texts with more than the token for that"
    return ""


def vocabulary_parts(tokenizer: Any) -> dict[str, Any]:
    """Return the tokenizer.json of a tokenizer."""
    found: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    return found


def normalizer_steps(part: Mapping[str, Any] | None, inside: str) -> list[Mapping[str, Any]]:
    """Return the steps of a normaliser or of a pre-tokenizer."""
    return [] if part is None else part.get(inside, [part])


def split_of(made: Mapping[str, Any]) -> str:
    """Return llama.cpp's name for a byte-level tokenizer's rule of splitting text, or an empty string."""
    steps = normalizer_steps(made["pre_tokenizer"], "pretokenizers")
    kinds = [step["type"] for step in steps]
    if (made["normalizer"] or {}).get("type", "NFC") != "NFC" or kinds[-1:] != ["ByteLevel"]:
        return ""
    if steps[-1].get("add_prefix_space"):
        return ""
    if steps[-1].get("use_regex", True):
        digits = kinds == ["Digits", "ByteLevel"] and steps[0].get("individual_digits")
        return "smollm" if digits else "gpt-2" if len(kinds) == 1 else ""
    if kinds != ["Split", "ByteLevel"] or steps[0].get("behavior") != "Isolated":
        return ""
    return SPLITS.get(steps[0]["pattern"].get("Regex", ""), "")


def joins_pieces(made: Mapping[str, Any]) -> bool:
    """Return whether a tokenizer joins pieces over the whole text, with a mark for spaces.

    SentencePiece does so.
    """
    marks = [step["type"] for step in normalizer_steps(made["normalizer"], "normalizers")]
    splits = normalizer_steps(made["pre_tokenizer"], "pretokenizers")
    if not splits:
        return marks in (["Replace"], ["Prepend", "Replace"])
    whole = [step["type"] for step in splits] == ["Metaspace"] and not splits[0].get("split", True)
    return whole and not marks


def gguf_vocabulary_of(tokenizer: Any, count: int) -> Vocabulary:
    """Return the tokenizer of a model with `count` embeddings; those without a token are called [PADn]."""
    made = vocabulary_parts(tokenizer)
    pieces = bool(made["model"].get("byte_fallback"))
    known = {index: token for token, index in tokenizer.get_vocab().items()}
    added = {row["id"]: bool(row["special"]) for row in made["added_tokens"]}
    tokens = tuple(known.get(index, f"[PAD{index}]") for index in range(count))
    special = {name: getattr(tokenizer, f"{name}_token_id") for name in SPECIAL}
    special = {name: index for name, index in special.items() if index is not None and index < count}

    def kind_of(index: int) -> int:
        if index not in known:
            return TokenType.UNUSED
        if pieces and index == special.get("unk"):
            return TokenType.UNKNOWN
        if index in added:
            return TokenType.CONTROL if added[index] else TokenType.USER_DEFINED
        return TokenType.BYTE if pieces and BYTE.fullmatch(tokens[index]) else TokenType.NORMAL

    pairs = [
        tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in made["model"]["merges"]
    ]
    rule: dict[str, Any] = {"split": split_of(made), "merges": tuple(map(" ".join, pairs))}
    if pieces:
        spaced = tokenizer.tokenize("a", add_special_tokens=False)[0].startswith(SPACE)
        rule = {"scores": scores_of(tokens, pairs), "spaced": spaced}
    template = tokenizer.chat_template
    return Vocabulary(
        kind=PIECES if pieces else BYTES,
        tokens=tokens,
        kinds=tuple(int(kind_of(index)) for index in range(count)),
        special=special,
        starts=find_beginning(tokenizer).ids == (tokenizer.bos_token_id,),
        template=template if isinstance(template, str) else "",
        **rule,
    )


def scores_of(tokens: Sequence[str], merges: Sequence[tuple[str, ...]]) -> tuple[float, ...]:
    """Return a score for every token; it is higher the earlier a pair is merged into the token."""
    joined: dict[str, int] = {}
    for rank, pair in enumerate(merges):
        joined.setdefault("".join(pair), rank)
    return tuple(-float(joined.get(token, len(merges) + index)) for index, token in enumerate(tokens))


def begin_as_llama_cpp(tokenizer: Any, metadata: Mapping[str, Any]) -> None:
    """Let a GGUF's tokenizer begin texts with <bos> where llama.cpp does although the file does not say so.

    transformers does this only for SentencePiece tokenizers.
    """
    unsaid = "tokenizer.ggml.add_bos_token" not in metadata
    if unsaid and metadata.get("tokenizer.ggml.pre") in BEGUN and tokenizer.bos_token is not None:
        tokenizer.add_bos_token = True


def add_to(writer: gguf.GGUFWriter, words: Vocabulary) -> None:
    """Write a vocabulary to a GGUF file."""
    writer.add_tokenizer_model(words.kind)
    writer.add_tokenizer_pre(words.split)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.kinds)
    if words.kind == PIECES:
        writer.add_token_scores(words.scores)
        writer.add_add_space_prefix(words.spaced)
    else:
        writer.add_token_merges(words.merges)
    for name, index in words.special.items():
        getattr(writer, f"add_{name}_token_id")(index)
    writer.add_add_bos_token(words.starts)
    if words.template:
        writer.add_chat_template(words.template)
