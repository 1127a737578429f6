"""Locks on folders and files that the system releases when the program dies, however it dies.

The lock is on the folder or file itself, through a handle to it. It leaves nothing beside it, it stays when
the folder is renamed, and programs of other users see it. Every lock is exclusive: the read/write locks of
`filelock` would need a database or files of their own.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import filelock

from slimllm.files.file_limits import NEVER_WAIT


@contextlib.contextmanager
def hold_path(path: Path) -> Iterator[None]:
    """Lock a folder or file for the block.

    Raise `BlockingIOError` if another program holds the lock, `FileNotFoundError` if the path was removed or
    replaced before it was locked, and another `OSError` if the system or file system has no such locks.
    """
    # Windows cannot open folders, and its locks keep others from reading.
    if not filelock.has_fcntl:
        raise OSError(errno.ENOTSUP, "this system locks no folders", str(path))
    handle = os.open(path, os.O_RDONLY | NEVER_WAIT)
    try:
        if not filelock.lock_descriptor(handle, blocking=False):
            raise BlockingIOError(errno.EWOULDBLOCK, "it is in use", str(path))
        if not os.path.samestat(os.fstat(handle), os.stat(path)):
            raise FileNotFoundError(errno.ENOENT, "another one took its place", str(path))
        yield
    finally:
        os.close(handle)
