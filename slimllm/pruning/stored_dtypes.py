"""What an export stores: every tensor in the dtype that the source's files have it in, and read from there
again as far as only rows and columns were taken away. What it is computed in is another thing.

Only what a recovery or a training changed is as precise as it was computed.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from slimllm.models.layer_offload import is_lent, lend_as_stored
from slimllm.models.loading import Pruned, Subject
from slimllm.models.shared_copy import Origin, freeze_tensor, share_model
from slimllm.models.sources import Stored

DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def as_stored(pruned: Pruned) -> Pruned:
    """The pruned model with its tensors as an export keeps them, on the CPU where they come from the files;
    itself where it is stored as it was computed. Not to be run: its tensors may differ in dtype."""
    subject = pruned.subject
    if not subject.files:
        return pruned
    model = share_model(subject.model)
    if is_lent(model):
        for layer in model.get_submodule(subject.family.layers):
            lend_as_stored(layer)
    here = [
        (module, leaf, held)
        for module in model.modules()
        for leaf, held in module.named_parameters(recurse=False)
        if not held.is_meta
    ]
    here.sort(key=lambda each: place_of(subject.files, *each[:2]) is None)  # tied ones where they are known
    made: dict[int, nn.Parameter] = {}
    for module, leaf, held in here:
        if id(held) not in made:
            made[id(held)] = freeze_tensor(stored_tensor(subject.files, module, leaf, held))
        setattr(module, leaf, made[id(held)])
    return dataclasses.replace(pruned, subject=dataclasses.replace(subject, model=model))


def stored_layer(files: Mapping[str, Stored], layer: nn.Module) -> dict[str, Tensor]:
    """The parameters of a decoder layer by name, as an export keeps them."""
    return {
        f"{path}.{leaf}" if path else leaf: stored_tensor(files, module, leaf, held).detach()
        for path, module in layer.named_modules()
        for leaf, held in module.named_parameters(recurse=False)
    }


def stored_tensor(files: Mapping[str, Stored], module: nn.Module, leaf: str, held: Tensor) -> Tensor:
    """A parameter as an export keeps it: what the files have for it, where that rounds to what is held; else
    what is held, in the dtype that it has there."""
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
    """Where a module's parameter is in the source's files, if it is there."""
    origin: Origin | None = getattr(module, "origin", None)
    return files.get(f"{origin.name}.{leaf}") if origin else None


def read_source_tensor(place: Stored) -> Tensor | None:
    """A tensor from the source's files; None where they are gone."""
    try:
        with safe_open(place.file, "pt") as opened:
            found: Tensor = opened.get_tensor(place.name)
            return found
    except (OSError, SafetensorError):
        return None


def cast_stored(held: Tensor, wanted: torch.dtype) -> Tensor:
    """The tensor in this dtype; in float32 where its numbers are too large for it."""
    made = held.to(wanted)
    return held.float() if bool((made.isinf() & ~held.isinf()).any()) else made


def main_dtype(files: Mapping[str, Stored]) -> torch.dtype:
    """The dtype that most numbers have in these files, or are to have."""
    counts: Counter[torch.dtype] = Counter()
    for place in files.values():
        counts[DTYPES.get(place.wanted or place.dtype, torch.float32)] += place.count
    return counts.most_common(1)[0][0]


def dtype_of(subject: Subject) -> torch.dtype:
    """The dtype that most numbers of an export of this model have."""
    return main_dtype(subject.files) if subject.files else subject.dtype


def dtype_words(subject: Subject) -> str:
    """What an export of this model is stored in, in words."""
    named = str(dtype_of(subject)).removeprefix("torch.")
    kinds = {place.wanted or place.dtype for place in subject.files.values()}
    mixed = f", some of it in {others_words(kinds, named)}" if len(kinds) > 1 else ""
    return f"{named}{mixed}, as in the source" if kinds else named


def others_words(kinds: set[str], named: str) -> str:
    """The names of the other dtypes."""
    names = sorted(str(DTYPES.get(kind, kind)).removeprefix("torch.") for kind in kinds)
    return " and ".join(name for name in names if name != named)


def bytes_per_parameter(subject: Subject) -> float:
    """How many bytes of an export's weights a parameter takes, on average."""
    if not subject.files:
        return float(subject.dtype.itemsize)
    sizes = [
        (DTYPES.get(p.wanted or p.dtype, torch.float32).itemsize, p.count) for p in subject.files.values()
    ]
    return sum(size * count for size, count in sizes) / max(1, sum(count for _, count in sizes))
