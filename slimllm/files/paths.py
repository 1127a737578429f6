"""Paths that people write, and which of them may be opened.

A server that others may use declares roots in `$SLIMLLM_ROOTS`: only what is really inside of them is opened,
and what is outside looks like what is missing. On one's own machine no root is declared, and all may be
opened.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from slimllm.core.errors import Refusal

ROOTS = "SLIMLLM_ROOTS"
ELSEWHERE = "set SLIMLLM_HOME to another folder"
OWN_FOLDERS = ("models", "exports")  # of the program's own folder
LONGEST_PATH, LONGEST_NAME = 4096, 255  # bytes


def home_folder() -> Path:
    """The folder of everything that is cached: `$SLIMLLM_HOME`, by default ~/.cache/slimllm."""
    return Path(os.environ.get("SLIMLLM_HOME") or "~/.cache/slimllm").expanduser()


def path_of(words: str | Path) -> Path:
    """The path that somebody wrote, with ~ expanded; a `Refusal` for what cannot be one."""
    written = str(words)
    if not written.strip():
        raise Refusal("A path is empty; name a file or a folder.")
    try:
        encoded = os.fsencode(written)
        if (
            b"\0" in encoded
            or len(encoded) >= LONGEST_PATH
            or max(map(len, encoded.split(b"/"))) > LONGEST_NAME
        ):
            raise ValueError
        return Path(written).expanduser()
    except ValueError:  # among them letters that no file system can write
        raise Refusal(f"'{written}' cannot be a path; write a shorter one, of ordinary letters.") from None
    except RuntimeError:
        raise Refusal(f"'{written}' names nobody's home folder; write the whole path.") from None


def declare_roots(roots: Sequence[str | Path]) -> None:
    """From now on only what is inside of these folders is opened, by this process and any that it starts."""
    os.environ[ROOTS] = os.pathsep.join(str(path_of(root).resolve()) for root in roots)


def allowed_roots() -> list[Path] | None:
    """The folders whose content may be opened, with our own; None where all may be."""
    declared = os.environ.get(ROOTS)
    if declared is None:
        return None
    own = [(home_folder() / name).resolve() for name in OWN_FOLDERS]
    return [*(Path(root) for root in declared.split(os.pathsep) if root), *own]


def may_open(path: Path) -> bool:
    """Whether the real place of a path, links followed, is inside of a root."""
    allowed = allowed_roots()
    if allowed is None:
        return True
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a circle of links
        return False
    return any(real.is_relative_to(root) for root in allowed)


def is_file(path: Path) -> bool:
    """Whether there is such a file and it may be opened."""
    return path_exists(path) and path.is_file()


def is_folder(path: Path) -> bool:
    """Whether there is such a folder and it may be opened."""
    return path_exists(path) and path.is_dir()


def path_exists(path: Path) -> bool:
    """Whether something is there that may be opened; what cannot be looked at is as good as missing."""
    try:
        return may_open(path) and path.exists()
    except OSError:
        return False


def leading_out(folder: Path) -> str | None:
    """The name of something in a folder that is a link to where nothing may be opened, if there is any."""
    return next((path.name for path in sorted(folder.iterdir()) if not may_open(path)), None)
