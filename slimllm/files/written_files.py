"""Records of the files that this program wrote into a folder.

An export notes the names, sizes and digests of its files in its slimllm.json, so that files that a person
added or changed are never taken for our own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FACTS = "slimllm.json"
# The key of the inventory in that file.
NOTED = "files"
# Files of up to this many bytes are hashed completely.
READ_WHOLE = 2**24
# Of larger files, this many evenly spaced pieces of this many bytes are hashed.
PIECES, PIECE = 256, 2**16

# A file's path in the folder → [bytes, digest].
Inventory = dict[str, list[Any]]


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal digits, of a large file that of evenly spaced pieces."""
    found, size = hashlib.sha256(), file.stat().st_size
    with file.open("rb") as stream:
        if size <= READ_WHOLE:
            found.update(stream.read())
        else:
            for piece in range(PIECES):
                stream.seek((size - PIECE) * piece // (PIECES - 1))
                found.update(stream.read(PIECE))
    return found.hexdigest()


def facts_digest(facts: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the content of slimllm.json without its inventory."""
    rest = {key: value for key, value in facts.items() if key != NOTED}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def note_files(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write slimllm.json with these facts and the inventory of a folder's files.

    This must be the last file written there.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    noted: Inventory = {name: [path.stat().st_size, file_digest(path)] for name, path in files.items()}
    noted[FACTS] = [0, facts_digest(facts)]
    (folder / FACTS).write_text(json.dumps({**facts, NOTED: noted}) + "\n", encoding="utf-8")


def has_inventory(folder: Path) -> bool:
    """Return whether a folder is an export that noted its files."""
    return bool(read_inventory(folder))


def read_inventory(folder: Path) -> Inventory:
    """Return the files that an export noted, or nothing if the folder is not such an export.

    If slimllm.json itself was changed since, it is not among them.
    """
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        noted = {str(name): list(entry) for name, entry in facts[NOTED].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    if noted.pop(FACTS, None) == [0, facts_digest(facts)]:
        noted[FACTS] = [(folder / FACTS).stat().st_size, file_digest(folder / FACTS)]
    return noted


def foreign_files(folder: Path) -> Iterator[str]:
    """Yield the paths in a folder of everything that this program did not write as it is now.

    These are other files, links, other folders and files changed since.
    """
    noted = read_inventory(folder)
    parents = {str(parent) for name in noted for parent in Path(name).parents}
    for place, folders, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        for name in sorted(folders):
            path = inside / name
            if str(path) not in parents or (folder / path).is_symlink():
                folders.remove(name)
                yield f"{path.as_posix()}/"
        for name in sorted(files):
            path = inside / name
            if not is_unchanged(folder / path, noted.get(path.as_posix())):
                yield path.as_posix()


def is_unchanged(file: Path, entry: list[Any] | None) -> bool:
    """Return whether a file is a regular one with the size and digest of its entry."""
    regular = entry is not None and not file.is_symlink() and file.is_file()
    return regular and entry == [file.stat().st_size, file_digest(file)]


def is_all_ours(folder: Path) -> bool:
    """Return whether a folder contains only what this program wrote there."""
    return folder.is_dir() and not folder.is_symlink() and next(foreign_files(folder), None) is None
