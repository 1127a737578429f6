"""Files and folders that are written whole or not at all, also where the program is killed or the disk is
full.

They are made in a folder `.NAME.TOKEN.partial` beside their place, on the same disk, and renamed once all is
on the disk. The maker marks and locks that folder, and the system gives the lock back when the maker dies: a
marked folder that nobody holds is what a kill left behind, and whoever comes next mends it. What was at the
place before waits in that folder, too, and is removed only where it is known to be our own.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from slimllm.types import Refusal

LEFT = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(partial|begun)")
MARK = "made-by-slimllm"  # the file by which such a folder is known to be ours
NEW, OLD, SPENT = "new", "old", "spent"  # in it: what is made, what was there before, and that it may go
UNMARKED = 60.0  # seconds within which a folder that is begun has its mark
TEMPORARY = "slimllm-session-"  # folders in the system's place for what is temporary
REMEDY = "free space or choose another place"


class Unwritten(Refusal):
    """Nothing could be written: the disk is full, or does not let us."""


@contextlib.contextmanager
def told(what: str, remedy: str = REMEDY) -> Iterator[None]:
    """Says of a failure to write what could not be done, why, and the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as failure:
        raise Unwritten(f"{what} ({reason(failure)}); {remedy}.") from failure


def reason(failure: Exception) -> str:
    """Why it failed, in the words of the system."""
    said = getattr(failure, "strerror", None) or str(failure)
    return re.sub(r"^.*I/O error: | \(os error \d+\)$", "", said)


def replace_file(path: Path, write: Callable[[Path], Any], what: str = "", remedy: str = REMEDY) -> None:
    """Writes a file whole or not at all; where that fails, `what` says so. Devices are written straight."""
    with told(what or f"'{path}' cannot be written", remedy):
        path = path.resolve()
        if path.exists() and not path.is_file() and not path.is_dir():
            write(path)
            return
        with scratch(path) as folder:
            made = folder / path.name
            write(made)
            sync(made)
            os.replace(made, path)
            sync(path.parent)


def write_text(path: Path, text: str, what: str = "", remedy: str = REMEDY) -> None:
    """Writes a text file whole or not at all."""
    replace_file(path, lambda made: made.write_text(text, encoding="utf-8"), what, remedy)


def check_folder(folder: Path, remedy: str) -> None:
    """Refuses a folder that nothing can be written to, before hours of work; nothing is left there."""
    absolute = folder.absolute()
    with told(f"'{folder}' cannot be written to", remedy):
        ground = next(place for place in (absolute, *absolute.parents) if place.exists())
        with tempfile.TemporaryFile(dir=ground):
            pass


def is_empty(folder: Path) -> bool:
    """Whether nothing is in a folder."""
    return not any(folder.iterdir())


@contextlib.contextmanager
def replace_folder(
    folder: Path,
    what: str,
    remedy: str = REMEDY,
    *,
    spendable: Callable[[Path], bool] = is_empty,
    say: Callable[[str], object] = str,
) -> Iterator[Path]:
    """A folder to fill, which takes the place of `folder` in the end; what is there stays until then, and
    goes only if it is `spendable`: else it is kept beside, and `say` is told where."""
    with told(what, remedy), scratch(folder) as space:
        made = space / NEW
        made.mkdir()
        yield made
        place(made, folder, space, spendable, say)


@contextlib.contextmanager
def scratch(path: Path) -> Iterator[Path]:
    """A new folder beside a path, held by this program, that is gone afterwards."""
    begun = beside(path)
    begun.mkdir(parents=True)
    space = begun.with_suffix(".partial")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a file system without locks
            stack.enter_context(held(begun))
        (begun / MARK).touch()
        begun.rename(space)  # nobody sees it before it is marked and held
        try:
            yield space
        finally:
            clear(space, path)


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A temporary folder, held by this program, that is gone afterwards, or by `abandoned` after a kill."""
    with contextlib.ExitStack() as stack:
        made = tempfile.TemporaryDirectory(prefix=TEMPORARY, ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(made))
        with contextlib.suppress(OSError):  # a file system without locks
            stack.enter_context(held(folder))
        yield folder


def beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.begun")


@contextlib.contextmanager
def held(folder: Path, shared: bool = False) -> Iterator[None]:
    """Locks a folder meanwhile, alone or among others who only read; `BlockingIOError` where another program
    holds it, another `OSError` where the file system has no locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        yield
    finally:
        os.close(handle)


def place(
    made: Path, folder: Path, space: Path, spendable: Callable[[Path], bool], say: Callable[[str], object]
) -> None:
    """Moves a complete folder to its place. What was there waits in a `scratch` space meanwhile, out of
    everybody's reach, and is looked at once more there."""
    for path in (*made.rglob("*"), made):
        sync(path)
    old = space / OLD
    if os.path.lexists(folder):
        folder.rename(old)
        if spendable(old):
            old.rename(space / SPENT)
    made.rename(folder)
    if old.exists():
        say(f"What was in '{folder}' is not all from this program; it is kept in '{keep(old, folder)}'.")
    sync(folder.parent)


def keep(old: Path, folder: Path) -> Path:
    """The place beside a folder that what was there before has been moved to."""
    kept = folder.with_name(f"{folder.name}.kept-{secrets.token_hex(4)}")
    old.rename(kept)
    return kept


def clear(space: Path, path: Path) -> None:
    """Removes a scratch space. What had been at the path goes back there unless its successor has arrived;
    then only what is spent is removed with the space."""
    try:
        for earlier in (space / SPENT, space / OLD):
            if earlier.exists() and not os.path.lexists(path):
                earlier.rename(path)
            elif earlier.exists() and earlier.name == OLD:
                keep(earlier, path)
    except OSError:  # it stays where it is
        return
    shutil.rmtree(space, ignore_errors=True)


def sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# After a kill -----------------------------------------------------------------------------------------------


def mended(path: Path, say: Callable[[str], object]) -> None:
    """Puts in order what a kill left beside a path, and says so; the name `*` stands for all in a folder."""
    name = path.name if path.name == "*" else glob.escape(path.name)
    found = {place for left in path.parent.glob(f".{name}.*") if (place := mend(left))}
    if found:
        names = " and ".join(f"'{place}'" for place in sorted(found))
        say(
            f"An earlier run was interrupted while it wrote {names}; its unfinished part was removed, and "
            "what was complete before is in its place."
        )


def mended_below(*roots: Path) -> list[Path]:
    """The places below these folders beside which something was put in order."""
    found = (left for root in roots for left in sorted(root.rglob(".*")))
    return [path for left in found if (path := mend(left))]


def mend(left: Path) -> Path | None:
    """The place that something was left beside by a program that lives no more: unfinished parts are removed,
    what had been moved away is moved back unless its successor arrived. None where nothing of ours was
    left."""
    match = LEFT.fullmatch(left.name)
    if not match or left.is_symlink():
        return None
    path = left.with_name(match[1])
    with contextlib.suppress(OSError), held(left):
        if is_left(left):
            clear(left, path)
            return path
        if match[2] == "begun" and time.time() - left.stat().st_mtime > UNMARKED:
            (left / MARK).unlink(missing_ok=True)
            left.rmdir()  # where anything else is in it, it is not ours
            return path
    return None


def is_left(folder: Path) -> bool:
    """Whether a folder is one that something was being made in."""
    match = LEFT.fullmatch(folder.name)
    return match is not None and match[2] == "partial" and (folder / MARK).is_file()


def abandoned() -> int:
    """How many temporary folders of programs that live no more there were; they are gone now."""
    return sum(removed(folder) for folder in Path(tempfile.gettempdir()).glob(f"{TEMPORARY}*"))


def removed(folder: Path) -> bool:
    """Whether a folder was there that nobody holds any more; it is gone now."""
    try:
        with held(folder):
            shutil.rmtree(folder)
    except OSError:  # somebody is at work there, or it cannot be told
        return False
    return True
