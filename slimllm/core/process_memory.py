"""The memory of this process: what it holds, its peak, and what it can still take."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

# psutil has no peak that can be reset and does not read the limits of control groups: in a container it
# reports the memory of the whole machine.
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
GROUPS, GROUP_ROOT = Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def watch_process_peak() -> Callable[[], float]:
    """Start a measurement, and return a function that returns the peak resident memory since then in MiB.

    If the system reports no peak, it is the larger of the resident memory at the start and at the end.
    """
    before = resident_mib()
    # Resets the high-water mark of this process only.
    with contextlib.suppress(OSError):
        CLEAR.write_text("5")
    return lambda: high_water_mib() or max(before, resident_mib())


def high_water_mib() -> float:
    """Return the peak resident memory in MiB since the last reset, or 0 if the system does not report it."""
    with contextlib.suppress(OSError, StopIteration):
        line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 1024
    return 0.0


def resident_mib() -> float:
    """Return the resident memory of this process in MiB, or 0 if the system does not report it."""
    with contextlib.suppress(OSError, psutil.Error):
        return psutil.Process().memory_info().rss / 2**20
    return 0.0


def trim_heap() -> None:
    """Return freed memory of the process to the system.

    Glibc keeps memory that threads have freed: 1.5 of 3 GB after a few comparisons of a model of 270 MB.
    """
    # Other C libraries have no `malloc_trim`.
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def available_to_process() -> float:
    """Return the memory in MiB that this process can still take.

    It is the smallest of the machine's available memory and what is left in the control groups of this
    process, or infinity if the system reports neither.
    """
    found = [float("inf")]
    with contextlib.suppress(OSError, psutil.Error):
        found.append(psutil.virtual_memory().available / 2**20)
    for folder, kind in control_groups():
        # A file without a limit contains "max", which is not a number.
        with contextlib.suppress(OSError, ValueError):
            found.append((int((folder / kind.limit).read_text()) - bytes_in_use(folder, kind)) / 2**20)
    return min(found)


@dataclass(frozen=True)
class GroupFiles:
    """The files of a control group that hold its limit and its use in bytes, and the entry of `memory.stat`
    for files that the system only keeps until somebody needs the memory."""

    limit: str
    use: str
    spare: str


GROUP_FILES = {
    "memory": GroupFiles("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    "": GroupFiles("memory.max", "memory.current", "inactive_file"),
}


def bytes_in_use(folder: Path, kind: GroupFiles) -> int:
    """Return the bytes that all processes of a control group hold, without files that can be dropped."""
    used = int((folder / kind.use).read_text())
    rows = (line.split() for line in (folder / "memory.stat").read_text().splitlines())
    return used - next((int(size) for name, size in rows if name == kind.spare), 0)


def control_groups() -> Iterator[tuple[Path, GroupFiles]]:
    """Yield the folders of the control groups that this process is in, from the inside out.

    The groups around them have limits, too.
    """
    with contextlib.suppress(OSError):
        for line in GROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if kind := GROUP_FILES.get(controllers):
                top = GROUP_ROOT / controllers
                folder = top / path.lstrip("/")
                yield from ((place, kind) for place in (folder, *folder.parents) if place.is_relative_to(top))
