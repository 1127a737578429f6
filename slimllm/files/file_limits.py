"""Limits on the size and kind of files that other people made, checked before anything reads them.

Only regular files are opened: reading a named pipe can wait for ever, and a device has no end.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from slimllm.core.errors import Refusal

KIB, MIB = 2**10, 2**20
# The flag with which a named pipe is opened without waiting for a writer; Windows has neither.
NEVER_WAIT = getattr(os, "O_NONBLOCK", 0)
# The limit of a file of settings.
SMALL_FILE = 4 * MIB
# The limit in bytes of each file by its name. The comments name the largest ones in use.
LARGEST_FILES = {
    "config.json": SMALL_FILE,
    "generation_config.json": SMALL_FILE,
    "tokenizer_config.json": 16 * MIB,  # 1.2 MiB, Gemma 3, with every added token
    "special_tokens_map.json": SMALL_FILE,
    "added_tokens.json": 16 * MIB,
    "tokenizer.json": 64 * MIB,  # 32 MiB, Gemma 3
    "tokenizer.model": 32 * MIB,
    "vocab.json": 64 * MIB,
    "vocab.txt": 64 * MIB,
    "merges.txt": 64 * MIB,
    "tekken.json": 64 * MIB,
    "chat_template.jinja": MIB,
    "model.safetensors.index.json": 32 * MIB,  # 4 MiB, models of 60,000 tensors
    "adapter_config.json": SMALL_FILE,
    "plan.json": 5_000_000,  # 0.1 MB, 126 layers
    "analysis.json": 32 * MIB,  # 0.2 MiB, 126 layers
    "moments.json": MIB,
    "slimllm.json": 64 * MIB,  # 40 MiB: every kept channel of 126 layers
}
# The endings of the files in a model's folder that libraries open.
OPENED = (".json", ".safetensors", ".gguf", ".jinja", ".model", ".txt")
# The most JSON lists and objects inside each other.
DEEPEST = 64
# The most digits of a number.
MOST_DIGITS = 400
# The most parts of JSON data; each takes up to 100 bytes in memory, but may take only three in the file.
MOST_PARTS = 10_000_000
FILE_KINDS = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISDIR: "a folder",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


def check_regular(path: Path, what: str, remedy: str) -> int:
    """Return the size of a file in bytes, following links.

    Raise `Refusal` for a pipe, a device, a folder or a circle of links, and `FileNotFoundError` for a missing
    file.
    """
    try:
        state = path.stat()
    except FileNotFoundError:
        raise
    except OSError as failure:
        raise Refusal(f"{what} cannot be opened ({failure.strerror}); {remedy}.") from None
    return size_of(state, what, remedy)


def size_of(state: os.stat_result, what: str, remedy: str) -> int:
    """Return the size in bytes from a file's state; raise `Refusal` if the file is not a regular one."""
    if not stat.S_ISREG(state.st_mode):
        kind = next((words for test, words in FILE_KINDS.items() if test(state.st_mode)), "something else")
        raise Refusal(f"{what} is {kind}, where a regular file belongs; {remedy}.")
    return state.st_size


def check_size(size: int, most: int, what: str, remedy: str) -> None:
    """Raise `Refusal` if a size in bytes exceeds the limit of its kind of file."""
    if size > most:
        raise Refusal(
            f"{what} is too large: it has {size / MIB:,.0f} MiB, and none of its kind has more than "
            f"{most / MIB:,.0f}; {remedy}."
        )


def open_regular(path: Path, what: str, remedy: str) -> BinaryIO:
    """Open a regular file for reading; never wait for it to open.

    The kind of file is checked again once it is open. Raise `Refusal` if the file is not a regular one, and
    `OSError` if it cannot be opened.
    """
    check_regular(path, what, remedy)
    # The file object owns its handle from the start, so an interruption in between closes it once, not twice.
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(
            open(path, "rb", opener=lambda name, flags: os.open(name, flags | NEVER_WAIT))
        )
        size_of(os.fstat(file.fileno()), what, remedy)
        stack.pop_all()
        return file


def read_bytes(path: Path, what: str, remedy: str, most: int | None = None) -> bytes:
    """Return the content of a regular file.

    Raise `Refusal` if the file exceeds the limit of its kind, and `OSError` if it cannot be opened.
    """
    most = LARGEST_FILES[path.name] if most is None else most
    with open_regular(path, what, remedy) as file:
        check_size(os.fstat(file.fileno()).st_size, most, what, remedy)
        content = file.read(most)
    if path.suffix == ".json" and sum(map(content.count, (b"[", b"{", b","))) > MOST_PARTS:
        raise Refusal(f"{what} is too large: it has more than {MOST_PARTS:,} parts; {remedy}.")
    return content


def read_text(path: Path, what: str, remedy: str, most: int | None = None) -> str:
    """Return the content of a regular file as UTF-8 text without a byte order mark.

    Raise `UnicodeDecodeError` if it is not UTF-8, and otherwise as `read_bytes`.
    """
    return read_bytes(path, what, remedy, most).decode("utf-8-sig")


# JSON -------------------------------------------------------------------------------------------------------


def read_object(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """Return the JSON object in a file.

    Raise `Refusal` if the file is not a JSON object, gives two values for one name, or holds an invalid
    number. Raise `OSError` if it cannot be opened.
    """
    content = read_bytes(path, what, remedy)
    try:
        return parse_object(content)
    except (ValueError, RecursionError) as failure:
        why = "it is nested too deeply" if isinstance(failure, RecursionError) else str(failure)[:120]
        raise Refusal(f"{what} cannot be loaded: it is not a valid JSON object ({why}); {remedy}.") from None


def parse_object(content: bytes) -> dict[str, Any]:
    """Return the JSON object in UTF-8 bytes.

    Raise `ValueError` with the reason if it is not one or if it is ambiguous, and `RecursionError` if it is
    nested too deeply for the parser.
    """
    text = content.decode("utf-8-sig")
    if not text.strip():
        raise ValueError("it is empty")
    data = json.loads(text, object_pairs_hook=unique_pairs, parse_constant=no_number, parse_int=whole_number)
    if not isinstance(data, dict):
        raise ValueError("it is no object")
    check_plain(data)
    return data


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object from its pairs; raise `ValueError` if a name has two different values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, value in pairs:
            if found[name] != value:
                raise ValueError(f"it gives two values for '{name:.40}'")
    return found


def no_number(constant: str) -> float:
    """Raise `ValueError` for a constant such as NaN."""
    raise ValueError(f"{constant} is no number")


def whole_number(digits: str) -> int:
    """Return the whole number that the digits say; raise `ValueError` if there are too many."""
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def check_plain(data: Any) -> None:
    """Raise `ValueError` if JSON is nested too deeply or a number is too large for a float."""
    level: Iterable[Any] = (data,)
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, float) and not math.isfinite(value):
                raise ValueError("it holds a number without end")
        if not inner:
            return
        level = inner
    raise ValueError("it is nested too deeply")
