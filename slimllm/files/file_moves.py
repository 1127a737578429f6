"""Moving files and folders, and waiting until they are on the disk, as far as the system can do that."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from pathlib import Path

# How often a move is tried on Windows, and the seconds between two tries.
MOST_MOVES, PAUSE = 20, 0.1


def sync_path(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    # Windows opens no folders, and it syncs a file only for somebody who may write to it.
    if sys.platform == "win32":
        with contextlib.suppress(PermissionError):
            sync_opened(path, os.O_RDWR)
    else:
        sync_opened(path, os.O_RDONLY)


def sync_opened(path: Path, flags: int) -> None:
    """Open a file or folder with these flags, and wait until it is on the disk."""
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def move_path(source: Path, target: Path) -> None:
    """Rename a file or folder, over an earlier file of that name; raise `OSError` if that fails."""
    # Windows moves nothing that any program has open, and a virus scanner opens each new file for a moment.
    tries = MOST_MOVES if sys.platform == "win32" else 1
    for left in reversed(range(tries)):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not left:
                raise
            time.sleep(PAUSE)
