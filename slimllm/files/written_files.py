"""What of a folder this program wrote: the names of an export's files with size and digest, noted in its
slimllm.json, so that what a person put or changed there is never taken for our own."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

FACTS = "slimllm.json"
NOTED = "files"  # the key of the list in it
READ_WHOLE = 2**24  # bytes up to which all of a file is hashed
PIECES, PIECE = 256, 2**16  # of larger ones: so many pieces of so many bytes, from the first to the last

Inventory = dict[str, list[Any]]  # a file's path in the folder → [bytes, digest]


def file_digest(file: Path) -> str:
    """The SHA-256 of a file, of a large one that of pieces spread over it, as hexadecimal digits."""
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
    """The SHA-256 of what slimllm.json says but for its list of files."""
    rest = {key: value for key, value in facts.items() if key != NOTED}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def note_files(folder: Path, facts: Mapping[str, Any]) -> None:
    """Writes slimllm.json with these facts and the list of all files of a folder; the last thing to be
    written there."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    noted: Inventory = {name: [path.stat().st_size, file_digest(path)] for name, path in files.items()}
    noted[FACTS] = [0, facts_digest(facts)]
    (folder / FACTS).write_text(json.dumps({**facts, NOTED: noted}) + "\n", encoding="utf-8")


def has_inventory(folder: Path) -> bool:
    """Whether a folder is an export that noted its files."""
    return bool(read_inventory(folder))


def read_inventory(folder: Path) -> Inventory:
    """The files that an export noted; none where it is no export, or of a version that noted none. Where
    slimllm.json itself was changed, it is not among them."""
    try:
        facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        noted = {str(name): list(entry) for name, entry in facts[NOTED].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
    if noted.pop(FACTS, None) == [0, facts_digest(facts)]:
        noted[FACTS] = [(folder / FACTS).stat().st_size, file_digest(folder / FACTS)]
    return noted


def foreign_files(folder: Path) -> Iterator[str]:
    """The paths in a folder of all that this program did not write as it is now: other files, links, folders
    and what was changed since."""
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
    """Whether a file is a regular one and what its entry says."""
    regular = entry is not None and not file.is_symlink() and file.is_file()
    return regular and entry == [file.stat().st_size, file_digest(file)]


def is_all_ours(folder: Path) -> bool:
    """Whether all that is in a folder is what this program wrote there."""
    return folder.is_dir() and not folder.is_symlink() and next(foreign_files(folder), None) is None
