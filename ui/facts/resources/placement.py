"""Where a model runs: the device, its free memory, and the layers that do not stay in it.

No Gradio.
"""

from __future__ import annotations

import math

import torch

from slimllm.core.devices import name_device, pick_device
from slimllm.core.memory import available_mib
from slimllm.models.layer_offload import is_offloaded
from slimllm.models.loading import Subject
from ui.look.formatting import format_bytes


def placement_facts(subject: Subject, device_name: str, dtype: str) -> list[tuple[str, str]]:
    """Return (label, value) of where a loaded model runs, what is free there now, and what is offloaded."""
    device = torch.device(device_name)
    offloaded = f"all {len(subject.shape.layers)} layers" if is_offloaded(subject.model) else "nothing"
    return [
        ("Runs on", f"{name_device(device)}, {dtype}"),
        ("Free memory there", format_free(device)),
        ("Kept on disk", offloaded),
    ]


def placement_sentence(device_name: str) -> str:
    """Return where models will run, for a device by its name in the settings, and what will be offloaded."""
    device = pick_device(device_name)
    there = "the processor" if device.type == "cpu" else name_device(device)
    return (
        f"Models run on {there}, with {format_free(device)} of memory free. The layers of a model that is "
        "larger are read from disk when they are needed."
    )


def format_free(device: torch.device) -> str:
    """Return the free memory of a device in words."""
    free = available_mib(device)
    return format_bytes(free * 2**20) if math.isfinite(free) else "an unknown amount"
