"""Locks on folders and files that the system gives back when the program dies, however it dies.

What is locked is the folder or file itself, by a handle to it: nothing is left beside it, the lock moves
along when it is renamed, and programs of other users see it, too. Every lock is exclusive: `filelock` has no
shared one that does the same, for its read/write locks need a database or records in files of their own.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import filelock


@contextlib.contextmanager
def hold_path(path: Path) -> Iterator[None]:
    """Lock a folder or a file meanwhile.

    Raises `BlockingIOError` where somebody else holds it, `FileNotFoundError` where it was removed or
    replaced before it was locked, another `OSError` where the system or the file system has no such locks.
    """
    # Windows opens no folders and keeps others from reading what is locked.
    if not filelock.has_fcntl:
        raise OSError(errno.ENOTSUP, "this system locks no folders", str(path))
    # A named pipe would be waited for.
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        if not filelock.lock_descriptor(handle, blocking=False):
            raise BlockingIOError(errno.EWOULDBLOCK, "it is in use", str(path))
        if not os.path.samestat(os.fstat(handle), os.stat(path)):
            raise FileNotFoundError(errno.ENOENT, "another one took its place", str(path))
        yield
    finally:
        os.close(handle)
