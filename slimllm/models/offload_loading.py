"""Loading models that are larger than a device's memory.

Everything but the decoder layers is read, and the layers are offloaded. Models that are only evaluated can be
spread over all devices instead.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import accelerate
import torch
import transformers
from safetensors import safe_open

from slimllm.core.devices import kind_of
from slimllm.core.errors import Refusal
from slimllm.core.memory import available_mib
from slimllm.models.families import Family
from slimllm.models.layer_offload import OffloadedLayer, OnDisk, offload_layer
from slimllm.models.sources import stored_in
from slimllm.models.weight_coverage import compare_names, judge_unused

# The share of the memory that weights may fill; activations and computations need the rest.
MEMORY_SHARE = 0.7


def too_large(folder: Path, dtype: torch.dtype, source: str, device: torch.device) -> bool:
    """Return whether the checkpoint, in this dtype, would leave too little of the device's memory."""
    count = sum(tensor.count for tensor in stored_in(folder, source))
    return count * dtype.itemsize / 2**20 > MEMORY_SHARE * available_mib(device)


def place_of(
    folder: Path, dtype: torch.dtype, source: str, device: torch.device, spread: bool
) -> Literal["whole", "offloaded", "spread"]:
    """Return how to load the checkpoint: "whole" if it fits, else "offloaded" (offloaded layer by layer).

    If `spread` is true and the device has memory of its own, the model is spread over all such devices and
    the machine's memory instead.
    """
    if not too_large(folder, dtype, source, device):
        return "whole"
    return "spread" if spread and kind_of(device).owns_memory else "offloaded"


def read_ahead_executor(device: torch.device) -> Executor | None:
    """Return the executor that reads the next layer while one is used: a thread, or None.

    It is None for a device without memory of its own: the machine's memory has no room for two layers.
    """
    return ThreadPoolExecutor(1, "read-ahead") if kind_of(device).owns_memory else None


def load_offloaded(
    folder: Path,
    make: Callable[[], Any],
    family: Family,
    dtype: torch.dtype,
    source: str,
    device: torch.device,
    say: Callable[[str], object] = str,
) -> Any:
    """Return a model on the device whose decoder layers stay in the folder's files.

    `make` builds the model in this dtype. Raise `Refusal` if the files lack a tensor or use other names.
    """
    tensors = stored_in(folder, source)
    places = {tensor.name: (tensor.file, tensor.name) for tensor in tensors}
    with accelerate.init_empty_weights(include_buffers=False):
        model = make()
    model.tie_weights()
    tied = set(model.all_tied_weights_keys)
    state = {name for name in model.state_dict() if name not in tied}
    missing = sorted(state - places.keys())
    if missing:
        raise Refusal(
            f"'{source}' is larger than the memory, and layers cannot be read one by one because its files "
            f"hold no '{missing[0]}'; use a machine with more memory."
        )
    say(judge_unused(compare_names(tensors, model)[1], model, family, source))
    prefix = f"{family.layers}."
    parameters = dict(model.named_parameters())
    for name in state:
        if not (name in parameters and name.startswith(prefix)):
            file, key = places[name]
            with safe_open(file, "pt") as tensors:
                accelerate.utils.set_module_tensor_to_device(
                    model,
                    name,
                    device,
                    value=tensors.get_tensor(key),
                    dtype=dtype if name in parameters else None,
                )
    model.tie_weights()
    for module in model.modules():
        # Buffers that are in no file are still on the CPU.
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
    row: list[OffloadedLayer] = []
    ahead = read_ahead_executor(device)
    for index, layer in enumerate(model.get_submodule(family.layers)):
        own = {name: places[f"{prefix}{index}.{name}"] for name, _ in layer.named_parameters()}
        offload_layer(layer, OnDisk(own, dtype, device, ahead), row)
    if (folder / "generation_config.json").is_file():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder, local_files_only=True)
    return model
