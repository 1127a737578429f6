"""Checks of a model's folder before any library opens a file in it.

They examine which files exist, how large they are, and whether the small ones contain what they should.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from slimllm.core.errors import Refusal
from slimllm.files import file_limits
from slimllm.files.weight_headers import Declared, safetensors_header
from slimllm.tokenizers.tokenizer_guard import check_tokenizer

FETCH_AGAIN = "fetch the model again"
# The optional files that hold one JSON object each.
OBJECTS = (
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
ENDS = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id")
MOST_ID = 10_000_000
# The most characters of a string, or entries of a list, in a config.
LONGEST_SETTING = 100_000
FRACTIONS = ("temperature", "top_p", "min_p", "typical_p", "repetition_penalty", "length_penalty")
COUNT_FIELDS = ("top_k", "max_length", "max_new_tokens", "min_length", "num_beams")
MOST_LABELS = 100_000
# A config may describe this many parameters beyond four times those in the files.
SLACK = 50_000_000


def inspect_folder(folder: Path, source: str) -> None:
    """Raise `Refusal` if a folder has a file that no library should open.

    That is one that is not regular, is larger than any of its kind, or has settings of wrong types.
    """
    for path in sorted(folder.iterdir()):
        if path.suffix not in file_limits.OPENED:
            continue
        what = f"'{path.name}' of '{source}'"
        try:
            size = file_limits.check_regular(path, what, FETCH_AGAIN)
        except FileNotFoundError:
            raise Refusal(f"{what} is a link to what is not there; {FETCH_AGAIN}.") from None
        if path.name in file_limits.LARGEST_FILES:
            file_limits.check_size(size, file_limits.LARGEST_FILES[path.name], what, FETCH_AGAIN)
    for name in OBJECTS:
        if (folder / name).exists():
            read_settings(folder, name, source)


def stored_tensors(files: Iterable[Path], config: Any, source: str) -> list[Declared]:
    """Return the tensors that the headers of weight files declare.

    Raise `Refusal` if a header is damaged or if there are fewer tensors than the config has layers.
    """
    stored = [row for file in files for row in safetensors_header(file, source)]
    check_layers(config, stored, source)
    return stored


def check_layers(config: Any, stored: list[Declared], source: str) -> None:
    """Raise `Refusal` if a config has more layers than there are tensors, before any layer is built."""
    layers = getattr(config, "num_hidden_layers", 0)
    if layers > len(stored):
        raise Refusal(
            f"The config.json of '{source}' speaks of {layers} layers and its weight files lack most of the "
            f"weights, with {len(stored)} tensors; fetch the model again."
        )


def inspect_tokenizer(folder: Path, source: str) -> None:
    """Raise `Refusal` if a tokenizer could take unlimited time or memory."""
    names = [name for name in OBJECTS if "token" in name and (folder / name).exists()]
    check_tokenizer(folder, [read_settings(folder, name, source) for name in names], source)


def read_settings(folder: Path, name: str, source: str) -> dict[str, Any]:
    """Return the checked object in a file of settings; raise `Refusal` if it is not valid."""
    what = f"'{name}' of '{source}'"
    try:
        found = file_limits.read_object(folder / name, what, FETCH_AGAIN)
    except OSError as failure:
        raise Refusal(f"{what} cannot be read ({failure.strerror}); {FETCH_AGAIN}.") from None
    if name in ("config.json", "generation_config.json"):
        check_values(found, what)
    if name == "config.json":
        check_lengths(found, what)
    return found


def check_values(settings: Mapping[str, Any], what: str) -> None:
    """Raise `Refusal` for impossible token ids and for settings that are not numbers of the right type."""
    for name in ENDS:
        ids = settings.get(name)
        for each in ids if isinstance(ids, list) else [ids]:
            if each is not None and (type(each) is not int or not -1 <= each < MOST_ID):
                raise Refusal(
                    f"{what} says that {name} is {quote_value(ids)}, which is no token; {FETCH_AGAIN}."
                )
    for name in (*FRACTIONS, *COUNT_FIELDS):
        value = settings.get(name)
        proper = type(value) is int or (type(value) is float and (name in FRACTIONS or value.is_integer()))
        if value is not None and (not proper or abs(value) > MOST_ID):
            raise Refusal(
                f"{what} says that {name} is {quote_value(value)}, which is no such number; {FETCH_AGAIN}."
            )


def check_lengths(settings: Mapping[str, Any], what: str) -> None:
    """Raise `Refusal` for lists, strings and counts that are larger than in any config."""
    for name, value in settings.items():
        if isinstance(value, list | str | dict) and len(value) > LONGEST_SETTING:
            raise Refusal(
                f"{what} has {len(value):,} entries in {name:.60}, more than any model; {FETCH_AGAIN}."
            )
    labels = settings.get("num_labels")
    if labels is not None and (type(labels) is not int or not 0 <= labels <= MOST_LABELS):
        raise Refusal(
            f"{what} says that num_labels is {quote_value(labels)}, which is no such number; {FETCH_AGAIN}."
        )


def quote_value(value: Any) -> str:
    """Return a value in at most 60 characters."""
    return f"{value!r:.60}"


def check_promise(model: nn.Module, stored: list[Declared], source: str) -> None:
    """Raise `Refusal` if a config describes far more parameters than its weight files hold, or other shapes.

    This is checked before memory is allocated; `model` is the config's model without memory.
    """
    promised = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    for tensor in stored:
        shape = promised.get(tensor.name, tensor.shape)
        if shape != tensor.shape:
            raise Refusal(
                f"The config.json of '{source}' gives {tensor.name} the shape {list(shape)}, and the weight "
                f"files give it {list(tensor.shape)}, so it cannot be loaded; fetch the model again."
            )
    expected = sum(math.prod(shape) for shape in promised.values())
    held = sum(tensor.count for tensor in stored)
    if expected > 4 * held + SLACK:
        raise Refusal(
            f"The config.json of '{source}' speaks of {expected:,} parameters and its weight files hold "
            f"{held:,}; fetch the model again."
        )
