"""Verification of a checkpoint: plain transformers loads it in a fresh process, and results are compared."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from slimllm.core.errors import Refusal
from slimllm.files import atomic_write
from slimllm.models import plain_reload
from slimllm.models.layer_offload import is_offloaded
from slimllm.models.loading import Subject
from slimllm.tokenizers.tokenizer_guard import SAMPLE

# For models with more parameters, no float32 copy is made for the comparison.
LARGE = 2_000_000_000
# The tokens that the comparison reads and generates.
PROMPT, NEW = 24, 16
# The tokens that it generates with an offloaded model.
NEW_FROM_DISK = 2
# The factor on the tolerance between ways to read the same text, which sum in other orders.
OTHERWISE = 10


@dataclass(frozen=True)
class How:
    """How a checkpoint is compared.

    The comparison is in float32 if `exact`, else in the `dtype` of the model in memory, over `new` generated
    tokens. The modules are in these `places`; without any, everything is in memory. The prompt begins with
    the ids `begins_with`. `buffers` that the model in memory holds in a narrower dtype than float32 are
    rounded to it, by name.
    """

    exact: bool = True
    new: int = NEW
    places: Mapping[str, str] = field(default_factory=dict)
    dtype: str = "float32"
    begins_with: tuple[int, ...] = ()
    buffers: Mapping[str, str] = field(default_factory=dict)


EVERYTHING = How()


@dataclass(frozen=True, eq=False)
class Reload:
    """The results of a checkpoint in a fresh process.

    `ids` (n,) are the prompt and its greedy continuation, generated with the cache. `logits` (n, v) are
    computed over all of them without a cache. `words` (m,) are the ids of a sample sentence. `off` holds the
    largest difference of a logit for other ways to read the same text, by their names.
    """

    ids: Tensor
    logits: Tensor
    words: Tensor | None = None
    off: Mapping[str, float] = field(default_factory=dict)


def reload_elsewhere(
    folders: Sequence[Path], how: How = EVERYTHING, python: str | None = None
) -> list[Reload]:
    """Return the results of these checkpoints with plain transformers, in one fresh process.

    The process cannot import this package. It uses the packages of another `python` if one is given. Raise
    `Refusal` if it fails.
    """
    with atomic_write.temporary_folder() as place:
        outs = [str(place / f"{index}.safetensors") for index in range(len(folders))]
        job = {
            "folders": [(str(folder), out) for folder, out in zip(folders, outs, strict=True)],
            # The fresh process uses the packages of this one.
            "path": [] if python else [entry for entry in sys.path if entry],
            "threads": torch.get_num_threads(),
            "dtype": how.dtype,
            "sample": SAMPLE,
            "prompt": PROMPT,
            "new": how.new,
            "places": dict(how.places),
            "begins_with": list(how.begins_with),
            "buffers": dict(how.buffers),
        }
        quiet = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "CUDA_VISIBLE_DEVICES": ""}
        env = {**os.environ, **quiet, "HF_MODULES_CACHE": str(place / "modules")}
        command = [python or sys.executable, "-I", "-B", plain_reload.__file__]
        run = subprocess.run(
            command, input=json.dumps(job), text=True, capture_output=True, cwd=place, env=env
        )
        if run.returncode:
            lines = run.stderr.strip().splitlines() or [f"the process ended with status {run.returncode}"]
            reason = f"The checkpoint does not load in a fresh process ({lines[-1][:300]})"
            raise Refusal(f"{reason}, so nothing was written; free memory, or use --export shim.")
        return [reload_of(load_file(out)) for out in outs]


def reload_of(found: dict[str, Tensor]) -> Reload:
    """Return the results in one file of answers."""
    ids, logits, words = found.pop("ids"), found.pop("logits"), found.pop("words", None)
    return Reload(ids, logits, words, {name: float(off) for name, off in found.items()})


def how_of(subject: Subject) -> How:
    """Return how a model's checkpoint is compared.

    Large models are compared in their own dtype. Offloaded models, which are read from disk for every token,
    are compared over few tokens.
    """
    begins_with = subject.beginning.ids
    dtype = str(subject.dtype).removeprefix("torch.")
    if not is_offloaded(subject.model):
        if subject.shape.parameters > LARGE:
            return How(False, dtype=dtype, begins_with=begins_with)
        narrow = {
            name: str(buffer.dtype).removeprefix("torch.")
            for name, buffer in subject.model.named_buffers()
            if buffer.dtype in (torch.bfloat16, torch.float16)
        }
        return How(begins_with=begins_with, buffers=narrow)
    above, _, layers = subject.family.layers.rpartition(".")
    named = [
        (prefix, name)
        for prefix in ("", above)
        for name, _ in subject.model.get_submodule(prefix).named_children()
    ]
    places = {".".join(filter(None, pair)): "disk" if pair == (above, layers) else "cpu" for pair in named}
    parts = {name: place for name, place in places.items() if name != above}
    return How(False, NEW_FROM_DISK, parts, dtype, begins_with)


def compare_reload(subject: Subject, reload: Reload) -> float:
    """Return the largest logit difference between the model in memory and its reload.

    The continuation must also be greedy for the model in memory, up to ties within the tolerance. Raise
    `Refusal` if the results differ.
    """
    how = how_of(subject)
    exact = how.exact
    with torch.inference_mode():
        logits = on_cpu(subject.model, exact)(reload.ids[None], use_cache=False).logits[0].float()
    difference, top = float((logits - reload.logits).abs().max()), float(logits.abs().max())
    tolerance = max(1e-4, 1e-5 * top) if exact else 0.02 * top
    steps, chosen = logits[PROMPT - 1 : -1], reload.ids[PROMPT:, None]  # (new, v), (new, 1)
    lag = float((steps.max(1).values - steps.gather(1, chosen)[:, 0]).max())  # (new,) → ()
    if not (difference <= tolerance and lag <= 2 * tolerance and len(chosen) == how.new):
        found = f"gives other results (logits off by {difference:.2g}, greedy tokens by {lag:.2g})"
        raise Refusal(
            f"The checkpoint, loaded in a fresh process, {found}, so nothing was written; use --export shim."
        )
    for way in [name for name, off in reload.off.items() if not off <= OTHERWISE * tolerance]:
        found = f"gives other results with {way} (logits off by {reload.off[way]:.2g})"
        raise Refusal(
            f"The checkpoint, loaded in a fresh process, {found}, so nothing was written; use --export shim."
        )
    if reload.words is not None and reload.words.tolist() != subject.tokenizer(SAMPLE).input_ids:
        raise Refusal(
            "The stored tokenizer splits words differently, so nothing was written; use --export shim."
        )
    return difference


def on_cpu(model: Any, exact: bool) -> Any:
    """Return the model on the CPU, in float32 if `exact`.

    Return the model itself if it already is so or if it is offloaded.
    """
    if is_offloaded(model):
        return model

    def move_tensor(tensor: Tensor) -> Tensor:
        return tensor.to("cpu", torch.float32 if exact and tensor.is_floating_point() else tensor.dtype)

    if all(move_tensor(tensor) is tensor for tensor in (*model.parameters(), *model.buffers())):
        return model
    parameters = {id(t): nn.Parameter(move_tensor(t), requires_grad=False) for t in model.parameters()}
    return copy.deepcopy(model, memo={**parameters, **{id(t): move_tensor(t) for t in model.buffers()}})
