"""Rules for a tokenizer.json: limits on its tables, and the parts that are known to be safe.

The time and output of a safe part grow no faster than the text. Any other part runs only in a process that
can be ended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

# The most words of a vocabulary; 262,144 are in use.
MOST_WORDS = 600_000
MOST_MERGES = 1_200_000
# The most added tokens; 6,415 are in use.
MOST_ADDED = 20_000
LONGEST_WORD = 4096  # characters
# The largest sum of squared word lengths, because older formats search merges at every cut of a word.
MOST_SQUARES = 500_000_000
# The most steps of a normalizer or another part.
MOST_RULES = 64
# The most characters that a part may make from one.
GROWTH = 8

# Regular expressions of models in use, each of which reads any text in linear time.
PATTERNS = frozenset(
    {
        *GGUF_PRE_TOKENIZER_SPLITS.values(),
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"\p{N}{1,3}",
        r"\p{N}",
        r"\d{1,3}",
        r"\d",
        r"[0-9]",
        r"[\r\n]",
        r" {2,}",
        r"\s+",
    }
)
# Parts whose settings do not matter.
PLAIN_PARTS = {
    "normalizer": {
        *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Strip", "BertNormalizer", "Nmt"),
        "ByteLevel",
    },
    "pre_tokenizer": {
        *("ByteLevel", "Whitespace", "WhitespaceSplit", "Digits", "Punctuation", "Metaspace"),
        *("BertPreTokenizer", "UnicodeScripts", "CharDelimiterSplit", "FixedLength"),
    },
    "decoder": {"ByteLevel", "Metaspace", "BPEDecoder", "WordPiece", "ByteFallback", "Fuse", "Strip"},
    "post_processor": {"ByteLevel", "BertProcessing", "RobertaProcessing"},
    "model": {"BPE", "Unigram", "WordLevel"},
}


class RuleFault(ValueError):
    """A fault in a tokenizer; its message completes a sentence."""


def check_tables(data: Mapping[str, Any]) -> None:
    """Raise `RuleFault` if a table of a tokenizer.json is too large or not of a known form."""
    model, added = data.get("model"), data.get("added_tokens") or []
    if not isinstance(model, Mapping) or not isinstance(added, list):
        raise RuleFault("has no model")
    words, merges = model.get("vocab"), model.get("merges") or []
    if not isinstance(words, dict | list) or not words or not isinstance(merges, list):
        raise RuleFault("has no vocabulary")
    for count, most, what in (
        (len(words), MOST_WORDS, "words"),
        (len(merges), MOST_MERGES, "merges"),
        (len(added), MOST_ADDED, "added tokens"),
    ):
        if count > most:
            raise RuleFault(f"has {count:,} {what}, more than any model")
    lengths = [len(word) for word in vocabulary_words(words)]
    if max(lengths, default=0) > LONGEST_WORD or sum(n * n for n in lengths) > MOST_SQUARES:
        raise RuleFault(f"has words of {max(lengths):,} letters, longer than any model")
    ids = list(words.values()) if isinstance(words, dict) else []
    ids += [row.get("id") if isinstance(row, Mapping) else None for row in added]
    most = MOST_WORDS + MOST_ADDED
    if wrong := [each for each in ids if type(each) is not int or not 0 <= each < most]:
        raise RuleFault(f"gives a token the number {wrong[0]!r:.40}")


def vocabulary_words(words: Any) -> Iterator[str]:
    """Yield the words of a vocabulary; raise `RuleFault` if one is not a string."""
    for word in words:
        word = word[0] if isinstance(word, list) and word else word
        if not isinstance(word, str):
            raise RuleFault("has words that are none")
        yield word


def check_tokens(found: Mapping[str, Any]) -> None:
    """Raise `RuleFault` if another settings file adds too many tokens or tokens with impossible ids."""
    added = found.get("added_tokens_decoder", {})
    if not isinstance(added, Mapping) or not all(isinstance(row, Mapping) for row in added.values()):
        raise RuleFault("says what no table of added tokens says")
    if len(added) > MOST_ADDED:
        raise RuleFault(f"has {len(added):,} added tokens, more than any model")
    if far := [key for key in added if not (key.isdecimal() and len(key) < 9)]:
        raise RuleFault(f"gives a token the number {far[0]:.40}")


def unknown_parts(data: Mapping[str, Any]) -> list[str]:
    """Return the parts of a tokenizer that may take more time, or make more characters, than a text is long.

    `data` holds the parts by their names in a tokenizer.json.
    """
    return [name for name in PLAIN_PARTS if data.get(name) is not None and not is_bounded(name, data[name])]


def is_bounded(part: str, data: Any) -> bool:
    """Return whether all steps of a part are known and lengthen a text at most `GROWTH` times."""
    steps = list(rule_steps(data))
    if len(steps) > MOST_RULES:
        return False
    growth = 1.0
    for step in steps:
        grown = growth_of(part, step)
        if grown is None:
            return False
        growth *= grown
    return growth <= GROWTH


def rule_steps(data: Any) -> Iterator[Any]:
    """Yield the steps of a part, with nested sequences flattened."""
    if isinstance(data, Mapping) and data.get("type") == "Sequence":
        for name in ("normalizers", "pretokenizers", "decoders", "processors"):
            for step in data.get(name, ()):
                yield from rule_steps(step)
    else:
        yield data


def growth_of(part: str, step: Any) -> float | None:
    """Return the largest factor by which a step lengthens a text, or None if it is unknown."""
    if not isinstance(step, Mapping):
        return None
    kind = step.get("type", "BPE" if part == "model" and "merges" in step else None)
    if kind == "WordPiece" and part == "model":
        most = step.get("max_input_chars_per_word", 100)
        return 1.0 if isinstance(most, int) and most <= 1000 else None
    if kind == "TemplateProcessing":
        return 1.0 if is_short_template(step) else None
    if kind in PLAIN_PARTS[part]:
        return 1.0
    if kind == "Prepend" and part == "normalizer":
        return 1.0 if len(str(step.get("prepend", ""))) <= GROWTH else None
    if kind in ("Split", "Replace") and part != "model":
        pattern, new = step.get("pattern"), step.get("content", "")
        if not isinstance(pattern, Mapping) or not isinstance(new, str):
            return None
        old = pattern.get("String")
        if isinstance(old, str) and old:
            return max(1.0, len(new) / len(old))
        return max(1.0, float(len(new))) if pattern.get("Regex") in PATTERNS else None
    return None


def is_short_template(step: Mapping[str, Any]) -> bool:
    """Return whether a template is short and every token in it has an id; otherwise the library panics."""
    known, pieces = step.get("special_tokens"), step.get("single")
    if not isinstance(known, Mapping) or not isinstance(pieces, list) or len(pieces) > MOST_RULES:
        return False
    named = [row.get("SpecialToken", {}).get("id") for row in pieces if isinstance(row, Mapping)]
    return all(name is None or name in known for name in named)
