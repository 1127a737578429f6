"""The places where an export may be written.

An export never replaces what the model is read from or files that this program did not write.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from slimllm.core.errors import Refusal
from slimllm.files.paths import path_of
from slimllm.files.written_files import FACTS, foreign_files, has_inventory
from slimllm.models.sources import conversion_folder, source_path

# On Linux; os.path.ismount does not recognise a folder mounted from the same disk.
MOUNTS = Path("/proc/self/mountinfo")
# Device and number of a file or folder, which do not depend on its name.
Identity = tuple[int, int]


def check_target(folder: str | Path, source: str = "") -> Path:
    """Return the absolute path to export to.

    Raise `Refusal` if something else is there, if the model called `source` would be lost, or if nothing can
    be written.
    """
    try:
        folder = path_of(folder).resolve()
        if folder.exists() and not folder.is_dir():
            raise Refusal(f"'{folder}' is a file; name a folder to export to.")
        if relation := find_overlap(folder, source):
            raise Refusal(
                f"'{folder}' {relation} the place that the model '{source}' comes from; choose another "
                "folder."
            )
        check_content(folder)
        ground = next(place for place in folder.parents if place.exists())
    except OSError as failure:
        raise Refusal(f"'{folder}' cannot be read ({failure.strerror}); name another folder.") from failure
    if not ground.is_dir() or not os.access(ground, os.W_OK | os.X_OK):
        raise Refusal(f"Nothing can be written in '{ground}'; name another folder.")
    return folder


def check_content(folder: Path) -> None:
    """Raise `Refusal` if a folder holds anything but an earlier, unchanged export, or cannot be replaced."""
    if not folder.is_dir():
        return
    if is_mount(folder):
        raise Refusal(f"'{folder}' is a mount point, which cannot be replaced; name a folder inside of it.")
    if not any(folder.iterdir()):
        return
    if not (folder / FACTS).is_file():
        raise Refusal(f"Folder '{folder}' is not empty and no earlier export; name another folder.")
    if not has_inventory(folder):
        raise Refusal(
            f"'{folder}' is an export without a list of its files, so it cannot be told what in it is yours; "
            "name another folder."
        )
    if names := list(itertools.islice(foreign_files(folder), 4)):
        more = " and more" if len(names) > 3 else ""
        raise Refusal(
            f"'{folder}' is an earlier export with files that this program did not write, or that were "
            f"changed since ({', '.join(names[:3])}{more}); move them away, or name another folder."
        )


def find_overlap(folder: Path, source: str) -> str:
    """Return how a folder relates to the places that a model is read from: "is", "is inside of" or "holds".

    Files are compared by identity, not by name. Return an empty string if they are unrelated.
    """
    around, own = set(path_identities(folder)), path_identity(folder)
    for place in places_of(source):
        if own is not None and own in set(path_identities(place)):
            return "is" if own == path_identity(place) else "holds"
        if place.is_dir() and path_identity(place) in around:
            return "is inside of"
    return ""


def places_of(source: str) -> list[Path]:
    """Return the real places that a model is read from, or nothing for a model of the hub.

    These are its folder and the targets of links in it, or its GGUF file and the folder of its conversion.
    """
    try:
        place = source_path(source) if source else None
    except Refusal:
        # The source is not a place, or no longer exists.
        return []
    if place is None:
        return []
    named = Path(source).expanduser()
    if place.suffix == ".gguf" and place.is_file():
        found = [place, conversion_folder(place), *([named] if named.is_dir() else [])]
    else:
        found = [place, *place.iterdir()]
    return [path.resolve() for path in found if path.exists()]


def path_identities(path: Path) -> Iterator[Identity]:
    """Yield the identities of a path and of all folders around it that exist."""
    return (found for place in (path, *path.parents) if (found := path_identity(place)) is not None)


def path_identity(path: Path) -> Identity | None:
    """Return the device and number of what a path leads to, or None if nothing is there."""
    try:
        state = path.stat()
    except OSError:
        return None
    return state.st_dev, state.st_ino


def is_mount(folder: Path) -> bool:
    """Return whether another file system, or another folder, is mounted there."""
    try:
        mounted = {line.split()[4] for line in MOUNTS.read_text().splitlines()}
    except (OSError, IndexError):
        mounted = set()
    return os.path.ismount(folder) or str(folder).replace(" ", "\\040") in mounted
