"""The peak memory of a stretch of work, and the memory that is available, on a device."""

from __future__ import annotations

from collections.abc import Callable

import torch

from slimllm.core.devices import CPU, KINDS, kind_of
from slimllm.core.process_memory import trim_heap


def watch_peak(device: torch.device) -> Callable[[], float]:
    """Start a measurement, and return a function that returns the peak since then in MiB.

    The peak is the memory that tensors take on an accelerator, and the resident memory of this process if the
    device is the processor.
    """
    return kind_of(device).watch_peak(device)


def available_mib(device: torch.device = CPU) -> float:
    """Return the memory in MiB that this process can still take on a device."""
    return kind_of(device).read_free_mib(device)


def give_back() -> None:
    """Return memory that was freed, but is still held for later use, to the system and to the devices."""
    trim_heap()
    for kind in KINDS.values():
        if kind.count():
            kind.empty_cache()
