"""Peak memory of a stretch of work, and how much there is."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import torch

# psutil knows no peak that can be begun anew, and no limits of control groups: of a container it tells the
# machine's memory.
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
GROUPS = Path("/proc/self/cgroup")


def watch_peak(device: torch.device) -> Callable[[], float]:
    """Begin a measurement; the function returned gives the peak since then in MiB: of the device on CUDA,
    else of the process's resident memory. Where the system tells no peak, it is the larger one of what is
    resident at the beginning and at the end."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return lambda: torch.cuda.max_memory_allocated(device) / 2**20
    before = resident_mib()
    # Resets the high-water mark of this process only.
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")
    return lambda: high_water_mib() or max(before, resident_mib())


def high_water_mib() -> float:
    """Tell the most memory that was resident since the mark was reset; 0 where the system does not."""
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return 0.0


def resident_mib() -> float:
    """Tell the memory of this process that is resident; 0 where the system does not."""
    with contextlib.suppress(OSError, psutil.Error):
        return psutil.Process().memory_info().rss / 2**20
    return 0.0


def give_back() -> None:
    """Hand memory that is free again to the system. Glibc keeps what threads have freed: 1.5 of 3 GB after a
    few comparisons of a model of 270 MB."""
    # Another C library, or none under this name.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def available_mib(device: torch.device | None = None) -> float:
    """Tell the memory that this process can still take: of a CUDA device, else by the machine's and its own
    group's account; infinite where no system tells."""
    if device is not None and device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 2**20
    found = [float("inf")]
    with contextlib.suppress(OSError, psutil.Error):
        found.append(psutil.virtual_memory().available / 2**20)
    for limit in memory_limit_files():
        # "max" is no number.
        with contextlib.suppress(OSError, ValueError):
            found.append(int(limit.read_text()) / 2**20 - resident_mib())
    return min(found)


def memory_limit_files() -> Iterator[Path]:
    """Find the files that would limit this process's memory, in both versions of control groups."""
    with contextlib.suppress(OSError):
        for line in GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            inside = path.lstrip("/")
            if controllers == "memory":
                yield Path("/sys/fs/cgroup/memory", inside, "memory.limit_in_bytes")
            elif not controllers:
                yield Path("/sys/fs/cgroup", inside, "memory.max")
