"""Peak memory of a stretch of work, and how much there is."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
MACHINE, GROUPS = Path("/proc/meminfo"), Path("/proc/self/cgroup")


def watch_peak(device: torch.device) -> Callable[[], float]:
    """Starts a measurement; the function returned gives the peak since then in MiB: of the device on CUDA,
    else of the process's resident memory (0 where the system does not tell)."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device) / 2**20
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")  # resets the high-water mark of this process only
    return lambda: status_mib("VmHWM")


def give_back() -> None:
    """Hands memory that is free again to the system. Glibc keeps what threads have freed: 1.5 of 3 GB after a
    few comparisons of a model of 270 MB."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def status_mib(name: str) -> float:
    """A memory figure of this process from the system's own account."""
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
        return int(line.split()[1]) / 1024
    return 0.0


def available_mib(device: torch.device | None = None) -> float:
    """The memory that this process can still take: of a CUDA device, else by the machine's and its own
    group's account; infinite where no system tells."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    found = [float("inf")]
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in MACHINE.read_text().splitlines() if line.startswith("MemAvailable:"))
        found.append(int(line.split()[1]) / 1024)
    for limit in memory_limit_files():
        with contextlib.suppress(OSError, ValueError):  # "max" is no number
            found.append(int(limit.read_text()) / 2**20 - status_mib("VmRSS"))
    return min(found)


def memory_limit_files() -> Iterator[Path]:
    """The files that would limit this process's memory, in both versions of control groups."""
    with contextlib.suppress(OSError):
        for line in GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            inside = path.lstrip("/")
            if controllers == "memory":
                yield Path("/sys/fs/cgroup/memory", inside, "memory.limit_in_bytes")
            elif not controllers:
                yield Path("/sys/fs/cgroup", inside, "memory.max")
