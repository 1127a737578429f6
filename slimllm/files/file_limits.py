"""How large and of which kind the files of others may be, asked before anything reads them. Only regular
files are opened: a named pipe waits for ever, a device never ends."""

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
SMALL_FILE = 4 * MIB  # of a file of settings
LARGEST_FILES = {  # bytes of a file by its name; the largest in use are named behind it
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
OPENED = (".json", ".safetensors", ".gguf", ".jinja", ".model", ".txt")  # by libraries, of a model's folder
DEEPEST = 64  # JSON inside of JSON
MOST_DIGITS = 400  # of a number
MOST_PARTS = 10_000_000  # of JSON; each takes up to 100 bytes once it is read, and three in the file
FILE_KINDS = {
    stat.S_ISFIFO: "a named pipe",
    stat.S_ISDIR: "a folder",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
    stat.S_ISSOCK: "a socket",
}


def check_regular(path: Path, what: str, remedy: str) -> int:
    """The bytes of a file, links followed; a `Refusal` for a pipe, a device, a folder or a circle of links.
    Raises `FileNotFoundError` where nothing is there."""
    try:
        state = path.stat()
    except FileNotFoundError:
        raise
    except OSError as failure:
        raise Refusal(f"{what} cannot be opened ({failure.strerror}); {remedy}.") from None
    return size_of(state, what, remedy)


def size_of(state: os.stat_result, what: str, remedy: str) -> int:
    """The size that a regular file has."""
    if not stat.S_ISREG(state.st_mode):
        kind = next((words for test, words in FILE_KINDS.items() if test(state.st_mode)), "something else")
        raise Refusal(f"{what} is {kind}, where a regular file belongs; {remedy}.")
    return state.st_size


def check_size(size: int, most: int, what: str, remedy: str) -> None:
    """Refuses a file that is larger than any of its kind."""
    if size > most:
        raise Refusal(
            f"{what} is too large: it has {size / MIB:,.0f} MiB, and none of its kind has more than "
            f"{most / MIB:,.0f}; {remedy}."
        )


def open_regular(path: Path, what: str, remedy: str) -> BinaryIO:
    """A file opened for reading, for certain a regular one: it is asked again once it is open, and opening
    never waits. Raises `OSError` where it cannot be opened."""
    check_regular(path, what, remedy)
    # The file owns its handle from the start: an interruption in between closes it once, not twice.
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(
            open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
        )
        size_of(os.fstat(file.fileno()), what, remedy)
        stack.pop_all()
        return file


def read_bytes(path: Path, what: str, remedy: str, most: int | None = None) -> bytes:
    """The content of a regular file that is not larger than its kind may be. Raises `OSError` where it cannot
    be opened."""
    most = LARGEST_FILES[path.name] if most is None else most
    with open_regular(path, what, remedy) as file:
        check_size(os.fstat(file.fileno()).st_size, most, what, remedy)
        content = file.read(most)
    if path.suffix == ".json" and sum(map(content.count, (b"[", b"{", b","))) > MOST_PARTS:
        raise Refusal(f"{what} is too large: it has more than {MOST_PARTS:,} parts; {remedy}.")
    return content


def read_text(path: Path, what: str, remedy: str, most: int | None = None) -> str:
    """That content as UTF-8, without a byte order mark; a `UnicodeDecodeError` where it is none."""
    return read_bytes(path, what, remedy, most).decode("utf-8-sig")


# JSON -------------------------------------------------------------------------------------------------------


def read_object(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """The JSON object in a file; a `Refusal` where it is another thing, says a name twice, or holds what is
    no number. Raises `OSError` where it cannot be opened."""
    content = read_bytes(path, what, remedy)
    try:
        return parse_object(content)
    except (ValueError, RecursionError) as failure:
        why = "it is nested too deeply" if isinstance(failure, RecursionError) else str(failure)[:120]
        raise Refusal(f"{what} cannot be loaded: it is not a valid JSON object ({why}); {remedy}.") from None


def parse_object(content: bytes) -> dict[str, Any]:
    """The JSON object in UTF-8 bytes; a `ValueError` with the reason where it is none, or where readers could
    understand it in two ways; `RecursionError` where it is nested without end."""
    text = content.decode("utf-8-sig")
    if not text.strip():
        raise ValueError("it is empty")
    data = json.loads(text, object_pairs_hook=unique_pairs, parse_constant=no_number, parse_int=whole_number)
    if not isinstance(data, dict):
        raise ValueError("it is no object")
    check_plain(data)
    return data


def unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, in which a name may come twice only with the same value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        for name, value in pairs:
            if found[name] != value:
                raise ValueError(f"it gives two values for '{name:.40}'")
    return found


def no_number(constant: str) -> float:
    raise ValueError(f"{constant} is no number")


def whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"it holds a number of {len(digits)} digits")
    return int(digits)


def check_plain(data: Any) -> None:
    """Raises a `ValueError` where JSON is nested too deeply or a number is too large for a float."""
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
