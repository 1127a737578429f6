"""Files and folders that are written whole or not at all, also where the program is killed or the disk is
full.

They are made in a folder `.NAME.TOKEN.partial` beside their place, on the same disk, and renamed once all is
on the disk. The maker marks and locks that folder, and the system gives the lock back when the maker dies: a
marked folder that nobody holds is what a kill left behind, and whoever comes next mends it. What was at the
place before waits in that folder, too, and is removed only where it is known to be our own.
"""

from __future__ import annotations

import contextlib
import errno
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

from slimllm.core.errors import Refusal
from slimllm.files.file_lock import hold_path

LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(partial|begun)")
MARK = "made-by-slimllm"  # the file by which such a folder is known to be ours
NEW, OLD, SPENT = "new", "old", "spent"  # in it: what is made, what was there before, and that it may go
UNMARKED = 60.0  # seconds within which a folder that is begun has its mark
TEMPORARY = "slimllm-session-"  # folders in the system's place for what is temporary
WRITE_REMEDY = "free space or choose another place"
TRIES = 100  # folders that are made until one is held


class Unwritten(Refusal):
    """Nothing could be written: the disk is full, or does not let us."""


@contextlib.contextmanager
def translate_write_failures(what: str, remedy: str = WRITE_REMEDY) -> Iterator[None]:
    """Says of a failure to write what could not be done, why, and the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as failure:
        raise Unwritten(f"{what} ({failure_reason(failure)}); {remedy}.") from failure


def failure_reason(failure: Exception) -> str:
    """Why it failed, in the words of the system."""
    said = getattr(failure, "strerror", None) or str(failure)
    return re.sub(r"^.*I/O error: | \(os error \d+\)$", "", said)


def replace_file(
    path: Path, write: Callable[[Path], Any], what: str = "", remedy: str = WRITE_REMEDY
) -> None:
    """Writes a file whole or not at all; where that fails, `what` says so. Devices are written straight."""
    with translate_write_failures(what or f"'{path}' cannot be written", remedy):
        path = path.resolve()
        if path.exists() and not path.is_file() and not path.is_dir():
            write(path)
            return
        with scratch_folder(path) as folder:
            made = folder / path.name
            write(made)
            sync_path(made)
            os.replace(made, path)
            sync_path(path.parent)


def write_text(path: Path, text: str, what: str = "", remedy: str = WRITE_REMEDY) -> None:
    """Writes a text file whole or not at all."""
    replace_file(path, lambda made: made.write_text(text, encoding="utf-8"), what, remedy)


def check_folder(folder: Path, remedy: str) -> None:
    """Refuses a folder that nothing can be written to, before hours of work; nothing is left there."""
    absolute = folder.absolute()
    with translate_write_failures(f"'{folder}' cannot be written to", remedy):
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
    remedy: str = WRITE_REMEDY,
    *,
    spendable: Callable[[Path], bool] = is_empty,
    say: Callable[[str], object] = str,
) -> Iterator[Path]:
    """A folder to fill, which takes the place of `folder` in the end; what is there stays until then, and
    goes only if it is `spendable`: else it is kept beside, and `say` is told where."""
    with translate_write_failures(what, remedy), scratch_folder(folder) as space:
        made = space / NEW
        made.mkdir()
        yield made
        place_folder(made, folder, space, spendable, say)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """A new folder beside a path, held by this program, that is gone afterwards."""

    def make_folder() -> Path:
        folder = scratch_parent(path)
        folder.mkdir(parents=True)
        return folder

    with made_and_held(make_folder) as begun:
        space = begun.with_suffix(".partial")
        (begun / MARK).touch()
        begun.rename(space)  # nobody sees it before it is marked and held
        try:
            yield space
        finally:
            clear_scratch(space, path)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A temporary folder, held by this program, that is gone afterwards, or by `remove_abandoned` after a
    kill."""
    with made_and_held(lambda: Path(tempfile.mkdtemp(prefix=TEMPORARY))) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def made_and_held(make: Callable[[], Path], shared_name: bool = False) -> Iterator[Path]:
    """A folder that `make` makes, held by this program. Between its making and its lock a sweep may take it
    for abandoned and remove it; then it is made again. Where others use the same name (`shared_name`), one
    that is held is theirs, and a `BlockingIOError` says so."""
    with contextlib.ExitStack() as stack:
        for _ in range(TRIES):
            folder = make()
            try:
                stack.enter_context(hold_path(folder))
            except FileNotFoundError:
                continue
            except BlockingIOError:
                if shared_name:
                    raise
                with contextlib.suppress(OSError):
                    folder.rmdir()
                continue
            except OSError:  # a file system without locks, on which nothing is swept either
                pass
            break
        else:
            raise OSError(errno.EBUSY, "folders vanish as they are made")
        yield folder


def scratch_parent(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.begun")


def place_folder(
    made: Path, folder: Path, space: Path, spendable: Callable[[Path], bool], say: Callable[[str], object]
) -> None:
    """Moves a complete folder to its place. What was there waits in a scratch folder meanwhile, out of
    everybody's reach, and is looked at once more there."""
    for path in (*made.rglob("*"), made):
        sync_path(path)
    old = space / OLD
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # nothing is there, or it is read: it is moved all the same
            stack.enter_context(hold_path(folder))
        with contextlib.suppress(FileNotFoundError):
            folder.rename(old)
            if spendable(old):
                old.rename(space / SPENT)
        made.rename(folder)
    if old.exists():
        say(
            f"What was in '{folder}' is not all from this program; it is kept in "
            f"'{kept_beside(old, folder)}'."
        )
    sync_path(folder.parent)


def kept_beside(old: Path, folder: Path) -> Path:
    """The place beside a folder that what was there before has been moved to."""
    kept = folder.with_name(f"{folder.name}.kept-{secrets.token_hex(4)}")
    old.rename(kept)
    return kept


def clear_scratch(space: Path, path: Path) -> None:
    """Removes a scratch space. What had been at the path goes back there unless its successor has arrived;
    then only what is spent is removed with the space."""
    try:
        for earlier in (space / SPENT, space / OLD):
            if earlier.exists() and not os.path.lexists(path):
                earlier.rename(path)
            elif earlier.exists() and earlier.name == OLD:
                kept_beside(earlier, path)
    except OSError:  # it stays where it is
        return
    shutil.rmtree(space, ignore_errors=True)


def sync_path(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# After a kill -----------------------------------------------------------------------------------------------


def mend_leftovers(path: Path, say: Callable[[str], object]) -> None:
    """Puts in order what a kill left beside a path, and says so; the name `*` stands for all in a folder."""
    lefts = [path.parent / name for name in names_in(path.parent)]
    wanted = [left for left in lefts if path.name in ("*", left_beside(left))]
    found = {place for left in wanted if (place := mend_leftover(left))}
    if found:
        names = " and ".join(f"'{place}'" for place in sorted(found))
        say(
            f"An earlier run was interrupted while it wrote {names}; its unfinished part was removed, and "
            "what was complete before is in its place."
        )


def mended_below(*roots: Path) -> list[Path]:
    """The places below these folders beside which something was put in order. What vanishes meanwhile was put
    in order by somebody else."""
    found = []
    for folder, inner, _ in (step for root in roots for step in os.walk(root)):
        for name in sorted(inner):
            left = Path(folder, name)
            if left_beside(left):
                inner.remove(name)
                found += [path] if (path := mend_leftover(left)) else []
    return found


def names_in(folder: Path) -> list[str]:
    """The names in a folder; none where it cannot be read, or is no more."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def left_beside(left: Path) -> str | None:
    """The name of what something was left beside by its own name; None where it was not."""
    match = LEFTOVER.fullmatch(left.name)
    return match[1] if match else None


def mend_leftover(left: Path) -> Path | None:
    """The place that something was left beside by a program that lives no more: unfinished parts are removed,
    what had been moved away is moved back unless its successor arrived. None where nothing of ours was
    left."""
    match = LEFTOVER.fullmatch(left.name)
    if not match or left.is_symlink():
        return None
    path = left.with_name(match[1])
    with contextlib.suppress(OSError), hold_path(left):
        if is_left(left):
            clear_scratch(left, path)
            return path
        if match[2] == "begun" and time.time() - left.stat().st_mtime > UNMARKED:
            (left / MARK).unlink(missing_ok=True)
            left.rmdir()  # where anything else is in it, it is not ours
            return path
    return None


def is_left(folder: Path) -> bool:
    """Whether a folder is one that something was being made in."""
    match = LEFTOVER.fullmatch(folder.name)
    return match is not None and match[2] == "partial" and (folder / MARK).is_file()


def remove_abandoned() -> int:
    """How many temporary folders of programs that live no more there were; they are gone now."""
    place = Path(tempfile.gettempdir())
    return sum(remove_unheld(place / name) for name in names_in(place) if name.startswith(TEMPORARY))


def remove_unheld(folder: Path) -> bool:
    """Whether a folder was there that nobody holds any more; it is gone now."""
    try:
        with hold_path(folder):
            shutil.rmtree(folder)
    except OSError:  # somebody is at work there, or it cannot be told
        return False
    return True
