"""Checks that a model uses everything in its weight files and finds everything it needs there."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import safe_open

from slimllm.core.errors import Refusal
from slimllm.models.families import Family

# Patterns of tensors that nothing reads, and why that changes nothing.
HARMLESS = {
    r"rotary_emb\.inv_freq$": "older versions stored it; it is computed from the config",
    r"(^|\.)position_ids$": "older versions stored it; positions are counted",
    r"\.(masked_bias|attn\.bias)$": "older versions stored the mask that hides later tokens",
}
EMBEDDING, HEAD = "embed_tokens.weight", "lm_head.weight"
# The rows that are compared at once.
COMPARED_ROWS = 4096


class Stored(Protocol):
    """The description of a tensor in a file."""

    @property
    def name(self) -> str: ...
    @property
    def file(self) -> Path: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


def first_names(names: Collection[str]) -> str:
    """Return the first of some names in alphabetical order, and how many more there are."""
    first, *more = sorted(names)
    return f"{first} and {len(more)} more" if more else first


def is_harmless(name: str) -> bool:
    """Return whether a tensor can be ignored without any effect."""
    return any(re.search(pattern, name) for pattern in HARMLESS)


def check_missing(missing: Collection[str], source: str) -> None:
    """Raise `Refusal` if weight files lack tensors, which would otherwise be initialised at random."""
    if missing:
        raise Refusal(
            f"The weight files of '{source}' lack {len(missing)} of the weights, {sorted(missing)[0]} the "
            "first; fetch the model again."
        )


def judge_unused(unused: Collection[str], model: Any, family: Family, source: str) -> str:
    """Return a sentence about tensors that the model does not read, or an empty string if there are none.

    Harmless tensors need no sentence. Raise `Refusal` if unread tensors belong to parts that the model has,
    because it would compute something else.
    """
    over = [name for name in unused if not is_harmless(name)]
    inside = [name for name in over if is_inside(name, model, family)]
    if inside:
        raise Refusal(
            f"The weight files of '{source}' hold {first_names(inside)}, for which the model that its "
            "config.json "
            "describes has no place; correct the config, or fetch the model again."
        )
    return (
        f"Of '{source}', {first_names(over)} is not used: this program reads the text model only."
        if over
        else ""
    )


def is_inside(name: str, model: Any, family: Family) -> bool:
    """Return whether a tensor belongs to the decoder layers or to a module of the model."""
    modules = {module for module, _ in model.named_modules()}
    trunk = family.layers.rpartition(".")[2]
    layered = re.search(rf"(^|\.){re.escape(trunk)}\.\d+\.", name) and name.split(".")[0] in (
        family.layers.split(".")[0],
        trunk,
    )
    parent = name.rpartition(".")[0]
    return bool(layered) or (parent != "" and parent in modules)


def compare_names(tensors: Sequence[Stored], model: Any) -> tuple[set[str], set[str]]:
    """Return (names that the model needs and no file has, names in the files that it does not read).

    Files may omit the name of the trunk, and hold tied weights only once.
    """
    given = {tensor.name for tensor in tensors}
    prefix = f"{model.base_model_prefix}."
    needed, tied = set(model.state_dict()), getattr(model, "all_tied_weights_keys", None) or {}
    if not any(name.startswith(prefix) for name in given):
        given = {prefix + name if prefix + name in needed else name for name in given}
    missing = needed - given
    missing -= {name for pair in tied.items() for name in pair if given & set(pair)}
    return missing, given - needed


def has_own_head(tensors: Sequence[Stored]) -> bool:
    """Return whether the files hold an output matrix that differs from the embedding."""
    by_name = {tensor.name: tensor for tensor in tensors}
    head = by_name.get(HEAD)
    embedding = next((t for name, t in by_name.items() if name.endswith(EMBEDDING)), None)
    return head is not None and embedding is not None and not are_equal(head, embedding)


def are_equal(one: Stored, other: Stored) -> bool:
    """Return whether two matrices in files hold the same numbers."""
    if one.shape != other.shape:
        return False
    with safe_open(one.file, "pt") as first, safe_open(other.file, "pt") as second:
        mine, theirs = first.get_slice(one.name), second.get_slice(other.name)
        return all(
            torch.equal(mine[row : row + COMPARED_ROWS].double(), theirs[row : row + COMPARED_ROWS].double())
            for row in range(0, one.shape[0], COMPARED_ROWS)
        )
