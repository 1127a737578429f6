"""Headers of weight files, parsed within limits before a library trusts them.

Every count, length and offset is checked against the size of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_TOKENIZER_TYPES

from slimllm.core.errors import Refusal
from slimllm.files.file_limits import MIB, open_regular, parse_object

HEADER_REMEDY = "fetch it again"
# The most tensors of a file; 40,000 are in use, in models of 1,000 layers.
MOST_TENSORS = 100_000
# The most bytes of a safetensors header, which has 150 per tensor.
MOST_HEADER = 16 * MIB
DTYPE_BYTES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
# The most keys of a GGUF file; about 50 are in use.
MOST_KEYS = 10_000
# The most values of an array in a GGUF file, reached by merges; a vocabulary may have half as many.
MOST_VALUES = 1_200_000
# The most bytes of a string in a GGUF file; some hold a whole tokenizer.json.
MOST_BYTES = 64 * MIB
# The most bytes of a string in an array.
MOST_WORD = 4096
# The largest sum of squared word lengths in a vocabulary, because merges are searched at every cut of a word.
MOST_SQUARES = 500_000_000
# The bytes of each numeric value type of GGUF.
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
# The other value types of GGUF.
TEXT, ARRAY = 8, 9


@dataclass(frozen=True)
class Declared:
    """The name and shape of a tensor, as a header declares them."""

    name: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        """The number of values."""
        return math.prod(self.shape)


class HeaderFault(ValueError):
    """A fault in a header; its message completes a sentence."""


def safetensors_header(file: Path, source: str) -> list[Declared]:
    """Return the tensors that a safetensors file declares.

    Raise `Refusal` if the header is damaged or too large, or if a tensor lies outside the file.
    """
    what = f"'{file.name}' of '{source}'"
    try:
        with open_regular(file, what, HEADER_REMEDY) as opened:
            return list(safetensors_tensors(opened))
    except (OSError, ValueError, RecursionError) as failure:
        if isinstance(failure, Refusal):
            raise
        raise Refusal(
            f"{what} is damaged or cut off and cannot be loaded ({header_fault(failure)}); {HEADER_REMEDY}."
        ) from None


def header_fault(failure: Exception) -> str:
    """Return in a few words why a header cannot be read."""
    if isinstance(failure, RecursionError):
        return "its header is nested too deeply"
    if isinstance(failure, HeaderFault):
        return str(failure)
    return f"its header: {str(failure)[:100]}"


def safetensors_tensors(opened: BinaryIO) -> Iterator[Declared]:
    """Yield the tensors of an open safetensors file; raise `ValueError` if the header is faulty."""
    size = opened.seek(0, 2)
    opened.seek(0)
    if size < 8:
        raise HeaderFault(f"it has {size} bytes")
    (length,) = struct.unpack("<Q", opened.read(8))
    if length > size - 8:
        raise HeaderFault(f"its header should have {length:,} bytes, more than the file")
    if length > MOST_HEADER:
        raise HeaderFault(
            f"its header has {length / MIB:,.0f} MiB, and none is larger than {MOST_HEADER // MIB}"
        )
    header = parse_object(opened.read(length))
    header.pop("__metadata__", None)
    if len(header) > MOST_TENSORS:
        raise HeaderFault(f"it has {len(header):,} tensors, more than any model")
    if not header:
        raise HeaderFault("it holds no tensors")
    for name, row in header.items():
        yield declare_tensor(name, row, size - 8 - length)


def declare_tensor(name: str, row: Any, room: int) -> Declared:
    """Return one tensor of a safetensors header whose data section has `room` bytes.

    Raise `HeaderFault` if its description is wrong or if it lies outside that section.
    """
    try:
        shape, (begin, end), dtype = row["shape"], row["data_offsets"], row["dtype"]
        proper = all(type(count) is int for count in (*shape, begin, end)) and isinstance(dtype, str)
    except (TypeError, KeyError, ValueError):
        proper = False
    if not proper or min((*shape, begin, 0)) < 0 or len(shape) > 8:
        raise HeaderFault(f"tensor '{name:.60}' is described wrongly")
    if not begin <= end <= room:
        raise HeaderFault(f"tensor '{name:.60}' lies outside of the file")
    if dtype in DTYPE_BYTES and math.prod(shape) * DTYPE_BYTES[dtype] != end - begin:
        raise HeaderFault(f"tensor '{name:.60}' has another size than its shape")
    return Declared(name, tuple(shape))


# GGUF -------------------------------------------------------------------------------------------------------


def gguf_header(file: Path, source: str) -> list[Declared]:
    """Return the tensors that a GGUF file declares.

    Raise `Refusal` if a count, a length or an offset exceeds its limit or the file.
    """
    what = f"'{source}'"
    try:
        with open_regular(file, what, HEADER_REMEDY) as opened:
            return Gguf(opened).tensors()
    except (OSError, ValueError) as failure:
        if isinstance(failure, Refusal):
            raise
        raise Refusal(
            f"{what} cannot be read as GGUF: it is truncated, damaged or of an unknown kind "
            f"({header_fault(failure)}); {HEADER_REMEDY}."
        ) from None


class Gguf:
    """A parser of the header of a GGUF file, which reads from the current position of the file."""

    def __init__(self, opened: BinaryIO) -> None:
        self.file = opened
        self.size = opened.seek(0, 2)
        opened.seek(0)

    def bytes(self, count: int, most: int, what: str) -> bytes:
        """Return the next `count` bytes; raise `HeaderFault` if there are fewer or `count` exceeds `most`."""
        if count > most or self.file.tell() + count > self.size:
            raise HeaderFault(f"{what} should have {count:,} bytes")
        return self.file.read(count)

    def skip(self, count: int, what: str) -> None:
        """Move the position by `count` bytes; raise `HeaderFault` if fewer remain."""
        if self.file.tell() + count > self.size:
            raise HeaderFault(f"{what} should have {count:,} bytes")
        self.file.seek(count, 1)

    def numbers(self, form: str) -> tuple[Any, ...]:
        """Return the next numbers, in the format of `struct`."""
        return struct.unpack(form, self.bytes(struct.calcsize(form), 64, "a number"))

    def text(self, what: str, most: int = MOST_BYTES) -> str:
        """Return the next string; raise `HeaderFault` if it has more than `most` bytes."""
        (length,) = self.numbers("<Q")
        return self.bytes(length, most, what).decode("utf-8")

    def tensors(self) -> list[Declared]:
        """Parse all keys and return the table of tensors.

        Raise `HeaderFault` if the header is faulty.
        """
        if self.file.read(4) != b"GGUF":
            raise HeaderFault("it does not begin as one")
        version, tensors, keys = self.numbers("<IQQ")
        if version not in (2, 3):
            raise HeaderFault(f"version {version}")
        for count, most, what in ((tensors, MOST_TENSORS, "tensors"), (keys, MOST_KEYS, "keys")):
            if count > most:
                raise HeaderFault(f"it should have {count:,} {what}, more than any model")
        align = self.keys(keys)
        found = [self.tensor() for _ in range(tensors)]
        start = -(-self.file.tell() // align) * align
        if late := [row for row, place in found if start + place > self.size]:
            raise HeaderFault(f"tensor '{late[0].name:.60}' lies outside of the file")
        return [row for row, _ in found]

    def keys(self, count: int) -> int:
        """Read past all keys and return the alignment of the tensors in bytes."""
        align, tokenizer = 32, ""
        for _ in range(count):
            name = self.text("a key", MOST_WORD)
            (kind,) = self.numbers("<I")
            if name == "general.alignment" and kind == 4:
                (align,) = self.numbers("<I")
            elif name == "tokenizer.ggml.model" and kind == TEXT:
                tokenizer = self.text(name, MOST_WORD)
            else:
                self.value(name, kind)
        if not 1 <= align <= MIB:
            raise HeaderFault(f"its alignment is {align}")
        if tokenizer not in GGUF_TOKENIZER_TYPES:
            raise HeaderFault(f"its tokenizer is of the unknown kind '{tokenizer:.60}'")
        return align

    def value(self, name: str, kind: int) -> None:
        """Read past one value; raise `HeaderFault` if its type is unknown."""
        if kind in WIDTHS:
            self.skip(WIDTHS[kind], "a number")
        elif kind == TEXT:
            self.text(f"'{name:.60}'")
        elif kind == ARRAY:
            self.array(name)
        else:
            raise HeaderFault(f"'{name:.60}' is of the unknown kind {kind}")

    def array(self, name: str) -> None:
        """Read past one array; raise `HeaderFault` if it is too long or its type is unknown."""
        kind, count = self.numbers("<IQ")
        if count > (MOST_VALUES // 2 if name == "tokenizer.ggml.tokens" else MOST_VALUES):
            raise HeaderFault(f"'{name:.60}' should have {count:,} values, more than any model")
        if kind in WIDTHS:
            self.skip(count * WIDTHS[kind], f"'{name:.60}'")
        elif kind == TEXT:
            squares = 0
            for _ in range(count):
                (length,) = struct.unpack("<Q", self.bytes(8, 8, "a length"))
                squares += length * length
                if length > MOST_WORD or squares > MOST_SQUARES:
                    raise HeaderFault(f"'{name:.60}' holds words of {length:,} bytes")
                self.skip(length, f"'{name:.60}'")
        else:
            raise HeaderFault(f"'{name:.60}' is an array of the unknown kind {kind}")

    def tensor(self) -> tuple[Declared, int]:
        """Return (the next tensor of the table, its offset in the data section)."""
        name = self.text("a tensor's name", MOST_WORD)
        (dimensions,) = self.numbers("<I")
        if not 1 <= dimensions <= 4:
            raise HeaderFault(f"tensor '{name:.60}' has {dimensions:,} dimensions")
        shape = self.numbers(f"<{dimensions}Q")
        _, place = self.numbers("<IQ")
        # Every type of tensor takes at least one bit per value.
        if not all(shape) or math.prod(shape) // 8 > self.size:
            raise HeaderFault(f"tensor '{name:.60}' is larger than the file")
        return Declared(name, tuple(reversed(shape))), place
