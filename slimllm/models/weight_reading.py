"""Reading the weights of a model's folder onto a device, with notes about its files.

The model is the same whether it is read whole, offloaded or spread.
"""

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

# The device, the dtype, and whether the model may be spread over several devices.
Where = tuple[torch.device, torch.dtype, bool]


class Notes:
    """Notes about a model's files: each is reported to `say` at once and kept in `found`."""

    def __init__(self, say: Callable[[str], object]) -> None:
        self.say, self.found = say, list[str]()

    def add(self, words: str) -> None:
        """Report and keep a note, unless it is empty."""
        if words:
            self.found.append(words)
            self.say(words)


def settle_head(config: Any, tensors: Sequence[Stored], source: str, say: Callable[[str], object]) -> None:
    """Correct a config that ties the output matrix to the embedding if the files hold another output matrix.

    The model then uses the matrix in the files, however it is loaded.
    """
    if getattr(config, "tie_word_embeddings", False) and has_own_head(tensors):
        config.tie_word_embeddings = False
        say(
            f"The config.json of '{source}' says that its output matrix is its embedding, but its files hold "
            "another one (lm_head.weight), which is used."
        )


def read_model(folder: Path, config: Any, source: str, where: Where, notes: Notes) -> Any:
    """Return the model in a folder, on a device and in a dtype.

    Raise `Refusal` if the files and the config do not match.
    """
    (place, kind, spread), family = where, family_of(config, source)
    builder: Any = transformers.AutoModelForCausalLM
    if getattr(config, "slim", None):
        builder = slim_class(config.slim, source)
    how = place_of(folder, kind, source, place, spread)
    if how == "offloaded":
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
    """Return the model of a config on the meta device, without memory."""
    with torch.device("meta"):
        return build_slim_model(copy.deepcopy(config), source)
