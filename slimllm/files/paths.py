"""Paths that people write, and which of them may be opened.

A server that others use declares roots in `$SLIMLLM_ROOTS`: only paths that really lie inside them are
opened, and everything outside is treated as missing. Without declared roots, as on one's own machine, every
path may be opened.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath

from slimllm.core.errors import Refusal

ROOTS = "SLIMLLM_ROOTS"
ELSEWHERE = "set SLIMLLM_HOME to another folder"
# The folders inside the program's own folder that may always be opened.
OWN_FOLDERS = ("models", "exports")
LONGEST_PATH, LONGEST_NAME = 4096, 255  # bytes
# The names of devices on Windows, with any ending, and what no name may contain there.
DEVICE = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9¹²³]) *([.:].*)?", re.IGNORECASE)
FORBIDDEN = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$')


def home_folder() -> Path:
    """Return the folder of everything that is cached: `$SLIMLLM_HOME`, by default ~/.cache/slimllm."""
    return Path(os.environ.get("SLIMLLM_HOME") or "~/.cache/slimllm").expanduser()


def path_of(words: str | Path) -> Path:
    """Return the path that somebody wrote, with ~ expanded; raise `Refusal` if it cannot be a path."""
    written = str(words)
    if not written.strip():
        raise Refusal("A path is empty; name a file or a folder.")
    try:
        encoded, names = os.fsencode(written), [os.fsencode(name) for name in Path(written).parts]
        longest = max(map(len, names), default=0)
        if b"\0" in encoded or len(encoded) >= LONGEST_PATH or longest > LONGEST_NAME:
            raise ValueError
        path = Path(written).expanduser()
    except ValueError:
        # Also raised for characters that no file system can write.
        raise Refusal(f"'{written}' cannot be a path; write a shorter one, of ordinary letters.") from None
    except RuntimeError:
        raise Refusal(f"'{written}' names nobody's home folder; write the whole path.") from None
    # Windows opens the printer for `prn.json`, and drops a dot at the end without a word.
    if sys.platform == "win32" and (name := windows_fault(written)):
        raise Refusal(f"Windows can give nothing the name '{name}'; choose another one.")
    return path


def windows_fault(written: str) -> str:
    """Return the first name in a path that Windows cannot give a file or folder, or an empty string."""
    path = PureWindowsPath(written)
    names = [name for name in path.parts if name not in (path.anchor, "..")]
    return next((name for name in names if DEVICE.fullmatch(name) or FORBIDDEN.search(name)), "")


def declare_roots(roots: Sequence[str | Path]) -> None:
    """Allow opening only inside these folders, in this process and in those that it starts."""
    os.environ[ROOTS] = os.pathsep.join(str(path_of(root).resolve()) for root in roots)


def allowed_roots() -> list[Path] | None:
    """Return the folders whose content may be opened, with our own, or None if every path may be opened."""
    declared = os.environ.get(ROOTS)
    if declared is None:
        return None
    own = [(home_folder() / name).resolve() for name in OWN_FOLDERS]
    return [*(Path(root) for root in declared.split(os.pathsep) if root), *own]


def may_open(path: Path) -> bool:
    """Return whether the real place of a path, with links followed, lies inside an allowed root."""
    allowed = allowed_roots()
    if allowed is None:
        return True
    try:
        real = path.resolve()
    except (OSError, RuntimeError):
        # A circle of links.
        return False
    return any(real.is_relative_to(root) for root in allowed)


def is_file(path: Path) -> bool:
    """Return whether the file exists and may be opened."""
    return path_exists(path) and path.is_file()


def is_folder(path: Path) -> bool:
    """Return whether the folder exists and may be opened."""
    return path_exists(path) and path.is_dir()


def path_exists(path: Path) -> bool:
    """Return whether a path exists and may be opened; a path that cannot be examined counts as missing."""
    try:
        return may_open(path) and path.exists()
    except OSError:
        return False


def leading_out(folder: Path) -> str | None:
    """Return the name of an entry of a folder that may not be opened, such as a link to outside, or None."""
    return next((path.name for path in sorted(folder.iterdir()) if not may_open(path)), None)
