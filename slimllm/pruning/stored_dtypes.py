"""The dtypes that an export stores: every tensor has that of the source's files.

A tensor that only lost rows and columns is read from there again. Only what a recovery or a training changed
comes from memory. The dtype of computations does not matter.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from slimllm.models.layer_offload import is_offloaded, offload_as_stored
from slimllm.models.loading import Pruned, Subject
from slimllm.models.shared_copy import Origin, freeze_tensor, share_model
from slimllm.models.sources import Stored

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def as_stored(pruned: Pruned) -> Pruned:
    """Return the pruned model with its tensors as an export stores them; it may mix dtypes and cannot be run.

    Tensors that come from the files are on the CPU. Return the model itself if it is stored as in memory.
    """
    subject = pruned.subject
    if not subject.files:
        return pruned
    model = share_model(subject.model)
    if is_offloaded(model):
        for layer in model.get_submodule(subject.family.layers):
            offload_as_stored(layer)
    here = [
        (module, leaf, held)
        for module in model.modules()
        for leaf, held in module.named_parameters(recurse=False)
        if not held.is_meta
    ]
    # Of tied parameters, the one that is in the files comes first.
    here.sort(key=lambda each: place_of(subject.files, *each[:2]) is None)
    made: dict[int, nn.Parameter] = {}
    for module, leaf, held in here:
        if id(held) not in made:
            made[id(held)] = freeze_tensor(stored_tensor(subject.files, module, leaf, held))
        setattr(module, leaf, made[id(held)])
    return dataclasses.replace(pruned, subject=dataclasses.replace(subject, model=model))


def stored_layer(files: Mapping[str, Stored], layer: nn.Module) -> dict[str, Tensor]:
    """Return the parameters of a decoder layer by name, as an export stores them."""
    return {
        f"{path}.{leaf}" if path else leaf: stored_tensor(files, module, leaf, held).detach()
        for path, module in layer.named_modules()
        for leaf, held in module.named_parameters(recurse=False)
    }


def stored_tensor(files: Mapping[str, Stored], module: nn.Module, leaf: str, held: Tensor) -> Tensor:
    """Return a parameter as an export stores it.

    That is the tensor in the files if it rounds to the one in memory. Otherwise it is the one in memory, in
    the dtype of the files.
    """
    if not files:
        return held
    place = place_of(files, module, leaf)
    if place is None:
        return cast_stored(held, main_dtype(files))
    wanted = DTYPES.get(place.wanted or place.dtype, held.dtype)
    if DTYPES.get(place.dtype) == held.dtype == wanted:
        return held
    origin: Origin = module.origin  # type: ignore[assignment]
    full = origin.cut(read_source_tensor(place), leaf)
    if full is None or full.shape != held.shape or not torch.equal(full.to(held.dtype), held.cpu()):
        return cast_stored(held, wanted)
    narrow = full.to(wanted)
    return narrow if torch.equal(narrow.to(full.dtype), full) else full


def place_of(files: Mapping[str, Stored], module: nn.Module, leaf: str) -> Stored | None:
    """Return the place of a module's parameter in the source's files, or None if it is not there."""
    origin: Origin | None = getattr(module, "origin", None)
    return files.get(f"{origin.name}.{leaf}") if origin else None


def read_source_tensor(place: Stored) -> Tensor | None:
    """Return a tensor from the source's files, or None if they are gone."""
    try:
        with safe_open(place.file, "pt") as opened:
            found: Tensor = opened.get_tensor(place.name)
            return found
    except (OSError, SafetensorError):
        return None


def cast_stored(held: Tensor, wanted: torch.dtype) -> Tensor:
    """Return the tensor in this dtype, or in float32 if its values are too large for it."""
    made = held.to(wanted)
    return held.float() if bool((made.isinf() & ~held.isinf()).any()) else made


def main_dtype(files: Mapping[str, Stored]) -> torch.dtype:
    """Return the dtype that most values have in these files, or are to have."""
    counts: Counter[torch.dtype] = Counter()
    for place in files.values():
        counts[DTYPES.get(place.wanted or place.dtype, torch.float32)] += place.count
    return counts.most_common(1)[0][0]


def dtype_of(subject: Subject) -> torch.dtype:
    """Return the dtype of most values in an export of this model."""
    return main_dtype(subject.files) if subject.files else subject.dtype


def dtype_words(subject: Subject) -> str:
    """Return the dtypes of an export of this model, in words."""
    named = str(dtype_of(subject)).removeprefix("torch.")
    kinds = {place.wanted or place.dtype for place in subject.files.values()}
    mixed = f", some of it in {others_words(kinds, named)}" if len(kinds) > 1 else ""
    return f"{named}{mixed}, as in the source" if kinds else named


def others_words(kinds: set[str], named: str) -> str:
    """Return the names of the other dtypes, joined by "and"."""
    names = sorted(str(DTYPES.get(kind, kind)).removeprefix("torch.") for kind in kinds)
    return " and ".join(name for name in names if name != named)


def bytes_per_parameter(subject: Subject) -> float:
    """Return the mean size in bytes of a parameter in an export."""
    if not subject.files:
        return float(subject.dtype.itemsize)
    sizes = [
        (DTYPES.get(p.wanted or p.dtype, torch.float32).itemsize, p.count) for p in subject.files.values()
    ]
    return sum(size * count for size, count in sizes) / max(1, sum(count for _, count in sizes))
