"""Files and folders that are written completely or not at all, even after a kill or on a full disk.

They are made in a folder `.NAME.TOKEN.partial` beside their target, on the same disk, and renamed once they
are synced to disk. The program marks and locks that folder. The system releases the lock when the program
dies, so a marked folder without a lock was left by a killed program, and the next run cleans it up. The
target's earlier content waits in that folder too; it is deleted only if it is known to be our own.
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
from slimllm.files.file_moves import move_path, sync_path

LEFTOVER = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(partial|begun)")
# The file that marks such a folder as ours.
MARK = "made-by-slimllm"
# The parts of such a folder: the new content, the earlier content, and earlier content that may be deleted.
NEW, OLD, SPENT = "new", "old", "spent"
# Seconds after which a new folder without its mark counts as abandoned.
UNMARKED = 60.0
# The prefix of our folders in the system's temporary folder.
TEMPORARY = "slimllm-session-"
WRITE_REMEDY = "free space or choose another place"
# The most attempts to make and lock a folder.
TRIES = 100


class Unwritten(Refusal):
    """A failed write: the disk is full, or the system does not permit it."""


@contextlib.contextmanager
def translate_write_failures(what: str, remedy: str = WRITE_REMEDY) -> Iterator[None]:
    """Turn a failure to write into an `Unwritten` that says what failed, why, and the remedy."""
    try:
        yield
    except (OSError, SafetensorError) as failure:
        raise Unwritten(f"{what} ({failure_reason(failure)}); {remedy}.") from failure


def failure_reason(failure: Exception) -> str:
    """Return the reason of a failure, in the words of the system."""
    said = getattr(failure, "strerror", None) or str(failure)
    return re.sub(r"^.*I/O error: | \(os error \d+\)$", "", said)


def replace_file(
    path: Path, write: Callable[[Path], Any], what: str = "", remedy: str = WRITE_REMEDY
) -> None:
    """Write a file completely or not at all; write to a device directly.

    Raise `Unwritten` if that fails; `what` begins its sentence.
    """
    with translate_write_failures(what or f"'{path}' cannot be written", remedy):
        path = path.resolve()
        if path.exists() and not path.is_file() and not path.is_dir():
            write(path)
            return
        with scratch_folder(path) as folder:
            made = folder / path.name
            write(made)
            sync_path(made)
            move_path(made, path)
            sync_path(path.parent)


def write_text(path: Path, text: str, what: str = "", remedy: str = WRITE_REMEDY) -> None:
    """Write a UTF-8 text file completely or not at all."""
    replace_file(path, lambda made: made.write_text(text, encoding="utf-8"), what, remedy)


def check_folder(folder: Path, remedy: str) -> None:
    """Raise `Unwritten` if a folder cannot be written to, before hours of work; leave nothing there."""
    absolute = folder.absolute()
    with translate_write_failures(f"'{folder}' cannot be written to", remedy):
        ground = next(place for place in (absolute, *absolute.parents) if place.exists())
        with tempfile.TemporaryFile(dir=ground):
            pass


def is_empty(folder: Path) -> bool:
    """Return whether a folder is empty."""
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
    """Yield a folder to fill, which replaces `folder` at the end of the block.

    The earlier content stays in place until then. It is deleted only if it is `spendable`; otherwise it is
    kept beside the folder, and `say` receives a sentence that names the place. Raise `Unwritten` if writing
    fails.
    """
    with translate_write_failures(what, remedy), scratch_folder(folder) as space:
        made = space / NEW
        made.mkdir()
        yield made
        place_folder(made, folder, space, spendable, say)


@contextlib.contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a new, locked folder beside a path; remove it afterwards."""

    def make_folder() -> Path:
        folder = scratch_parent(path)
        folder.mkdir(parents=True)
        return folder

    with made_and_held(make_folder) as begun:
        space = begun.with_suffix(".partial")
        (begun / MARK).touch()
        # The final name appears only once the folder is marked and locked.
        move_path(begun, space)
        try:
            yield space
        finally:
            clear_scratch(space, path)


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a locked temporary folder; remove it afterwards.

    After a kill, `remove_abandoned` removes it.
    """
    with made_and_held(lambda: Path(tempfile.mkdtemp(prefix=TEMPORARY))) as folder:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def made_and_held(make: Callable[[], Path], shared_name: bool = False) -> Iterator[Path]:
    """Yield a folder that `make` made, locked by this program.

    Before it is locked, another process may take it for abandoned and remove it; then it is made again. If
    several programs use the same name (`shared_name`), a locked folder belongs to another one, and
    `BlockingIOError` is raised. Raise `OSError` if no attempt succeeds.
    """
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
            except OSError:
                # A file system without locks; nobody removes abandoned folders there either.
                pass
            break
        else:
            raise OSError(errno.EBUSY, "folders vanish as they are made")
        yield folder


def scratch_parent(path: Path) -> Path:
    """Return a new name beside a path for a folder that is not yet marked."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.begun")


def place_folder(
    made: Path, folder: Path, space: Path, spendable: Callable[[Path], bool], say: Callable[[str], object]
) -> None:
    """Move a complete folder to its target.

    The earlier content waits in a scratch folder meanwhile, out of reach of other programs, and is checked
    there once more.
    """
    for path in (*made.rglob("*"), made):
        sync_path(path)
    old = space / OLD
    with contextlib.ExitStack() as stack:
        # The folder may be missing, or locked by a reader, which does not prevent the move.
        with contextlib.suppress(OSError):
            stack.enter_context(hold_path(folder))
        with contextlib.suppress(FileNotFoundError):
            move_path(folder, old)
            if spendable(old):
                move_path(old, space / SPENT)
        move_path(made, folder)
    if old.exists():
        say(
            f"What was in '{folder}' is not all from this program; it is kept in "
            f"'{kept_beside(old, folder)}'."
        )
    sync_path(folder.parent)


def kept_beside(old: Path, folder: Path) -> Path:
    """Move the earlier content of a folder to a new place beside it, and return that place."""
    kept = folder.with_name(f"{folder.name}.kept-{secrets.token_hex(4)}")
    move_path(old, kept)
    return kept


def clear_scratch(space: Path, path: Path) -> None:
    """Remove a scratch folder.

    Earlier content returns to the path if nothing new has arrived there. Otherwise it is deleted if it is
    spent, and moved to a place beside the path if not.
    """
    try:
        for earlier in (space / SPENT, space / OLD):
            if earlier.exists() and not os.path.lexists(path):
                move_path(earlier, path)
            elif earlier.exists() and earlier.name == OLD:
                kept_beside(earlier, path)
    except OSError:
        # The earlier content could not be moved, so the scratch folder stays.
        return
    shutil.rmtree(space, ignore_errors=True)


# After a kill -----------------------------------------------------------------------------------------------


def mend_leftovers(path: Path, say: Callable[[str], object]) -> None:
    """Clean up what a killed program left beside a path, and report it to `say`.

    The name `*` stands for every name in the folder.
    """
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
    """Clean up below these folders and return the paths beside which something was left.

    What disappears meanwhile was cleaned up by another process.
    """
    found = []
    for folder, inner, _ in (step for root in roots for step in os.walk(root)):
        for name in sorted(inner):
            left = Path(folder, name)
            if left_beside(left):
                inner.remove(name)
                found += [path] if (path := mend_leftover(left)) else []
    return found


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in a folder, or none if it cannot be read or no longer exists."""
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def left_beside(left: Path) -> str | None:
    """Return the name of the target that a leftover's name contains, or None if it is not a leftover."""
    match = LEFTOVER.fullmatch(left.name)
    return match[1] if match else None


def mend_leftover(left: Path) -> Path | None:
    """Clean up one leftover of a dead program and return the path of its target.

    Unfinished parts are removed, and earlier content returns to its place if nothing new has arrived there.
    Return None if it is not a leftover of ours or if its program still runs.
    """
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
            # This fails if the folder holds anything else: then it is not ours.
            left.rmdir()
            return path
    return None


def is_left(folder: Path) -> bool:
    """Return whether a folder is one in which this program makes a file or folder."""
    match = LEFTOVER.fullmatch(folder.name)
    return match is not None and match[2] == "partial" and (folder / MARK).is_file()


def remove_abandoned() -> int:
    """Remove the temporary folders of dead programs and return their number."""
    place = Path(tempfile.gettempdir())
    return sum(remove_unheld(place / name) for name in names_in(place) if name.startswith(TEMPORARY))


def remove_unheld(folder: Path) -> bool:
    """Remove a folder if no program has locked it, and return whether it was removed."""
    try:
        with hold_path(folder):
            shutil.rmtree(folder)
    except OSError:
        # Another program uses it, or the file system has no locks.
        return False
    return True
