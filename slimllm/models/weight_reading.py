"""The weights of a model's folder, read onto a device: one answer however they are read, and what is to be
known of the files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from slimllm.models.families import family_of
from slimllm.models.offload_loading import load_offloaded, place_of
from slimllm.models.slim_class import build_slim_model, slim_class
from slimllm.models.weight_coverage import Stored, check_missing, has_own_head, judge_unused

Where = tuple[torch.device, torch.dtype, bool]  # and whether it may be spread over several devices


class Notes:
    """What is to be known of a model's files: said at once, and kept."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say, self.found = say, list[str]()

    def add(self, words: str) -> None:
        if words:
            self.found.append(words)
            self.say(words)


def settle_head(config: Any, tensors: Sequence[Stored], source: str, say: Callable[[str], object]) -> None:
    """Makes a config that says the output matrix is the embedding say what the files hold: where they have
    one of its own, that is the model's, in every way of loading it."""
    if getattr(config, "tie_word_embeddings", False) and has_own_head(tensors):
        config.tie_word_embeddings = False
        say(
            f"The config.json of '{source}' says that its output matrix is its embedding, but its files hold "
            "another one (lm_head.weight), which is used."
        )


def read_model(folder: Path, config: Any, source: str, where: Where, notes: Notes) -> Any:
    """The model in a folder, on a device and in a dtype; a `Refusal` where files and config do not match."""
    (place, kind, spread), family = where, family_of(config, source)
    builder: Any = transformers.AutoModelForCausalLM
    if getattr(config, "slim", None):
        builder = slim_class(config.slim, source)
    how = place_of(folder, kind, source, place, spread)
    if how == "lent":
        notes.say(f"'{source}' is larger than the free memory, so its layers are read when they are needed.")
        make = partial(build_slim_model, config, source, dtype=kind)
        return load_offloaded(folder, make, family, kind, source, place, notes.add)
    if how == "spread":
        notes.say(f"'{source}' is larger than the device's free memory, so it is spread over all there is.")
    model, read = builder.from_pretrained(
        folder,
        config=config,
        dtype=kind,
        local_files_only=True,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        device_map="auto" if how == "spread" else None,
    )
    check_missing(read["missing_keys"], source)
    notes.add(judge_unused(read["unexpected_keys"], model, family, source))
    return model if how == "spread" else model.to(place)


def empty_model(config: Any, source: str) -> nn.Module:
    """The model of a config without memory."""
    with torch.device("meta"):
        return build_slim_model(copy.deepcopy(config), source)
