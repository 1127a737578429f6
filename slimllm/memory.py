"""Peak memory of a stretch of work."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def watch_peak(device: torch.device) -> Callable[[], float]:
    """Starts a measurement; the function returned gives the peak since then in MiB: of the device on CUDA,
    else of the process's resident memory (0 where the system does not tell)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")  # resets the high-water mark of this process only
    return lambda: status_mib("VmHWM")


def status_mib(name: str) -> float:
    """A memory figure of this process from the system's own account."""
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
        return int(line.split()[1]) / 1024
    return 0.0
