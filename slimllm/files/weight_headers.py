"""The headers of weight files, read by hand within limits before a library believes what they declare: every
count, length and place is held against the size of the file."""

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
MOST_TENSORS = 100_000  # 40,000 are in use, of 1,000 layers
MOST_HEADER = 16 * MIB  # bytes of a safetensors header: 150 per tensor
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
MOST_KEYS = 10_000  # of a GGUF; about 50 are in use
MOST_VALUES = 1_200_000  # in an array of a GGUF: of merges; 600,000 of a vocabulary
MOST_BYTES = 64 * MIB  # of a text in a GGUF: some hold a whole tokenizer.json
MOST_WORD = 4096  # bytes of a text in an array
MOST_SQUARES = 500_000_000  # sum of the squared lengths of a vocabulary: merges are sought in every cut
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of a GGUF's kinds of numbers
TEXT, ARRAY = 8, 9


@dataclass(frozen=True)
class Declared:
    """What a header says of a tensor: its name and shape."""

    name: str
    shape: tuple[int, ...]

    @property
    def count(self) -> int:
        return math.prod(self.shape)


class HeaderFault(ValueError):
    """What is wrong with a header, to be completed to a sentence."""


def safetensors_header(file: Path, source: str) -> list[Declared]:
    """The tensors that a safetensors file declares, each inside of the file; a `Refusal` where the header is
    damaged or larger than any."""
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
    """Why a header cannot be read, in a few words."""
    if isinstance(failure, RecursionError):
        return "its header is nested too deeply"
    if isinstance(failure, HeaderFault):
        return str(failure)
    return f"its header: {str(failure)[:100]}"


def safetensors_tensors(opened: BinaryIO) -> Iterator[Declared]:
    """The tensors of an opened file; a `ValueError` where something is wrong."""
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
    """A tensor of a safetensors header, which lies in so many bytes."""
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
    """The tensors that a GGUF file declares; a `Refusal` where a count, a length or a place in it is larger
    than any, or than the file."""
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
    """Walks through the header of a GGUF file."""

    def __init__(self, opened: BinaryIO) -> None:
        self.file = opened
        self.size = opened.seek(0, 2)
        opened.seek(0)

    def bytes(self, count: int, most: int, what: str) -> bytes:
        """The next so many bytes; a `HeaderFault` where that is more than there are, or than there may be."""
        if count > most or self.file.tell() + count > self.size:
            raise HeaderFault(f"{what} should have {count:,} bytes")
        return self.file.read(count)

    def skip(self, count: int, what: str) -> None:
        if self.file.tell() + count > self.size:
            raise HeaderFault(f"{what} should have {count:,} bytes")
        self.file.seek(count, 1)

    def numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack(form, self.bytes(struct.calcsize(form), 64, "a number"))

    def text(self, what: str, most: int = MOST_BYTES) -> str:
        (length,) = self.numbers("<Q")
        return self.bytes(length, most, what).decode("utf-8")

    def tensors(self) -> list[Declared]:
        """The table of tensors, after all keys were walked through."""
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
        """Walks past all keys; the alignment that they give to the tensors."""
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
        """Walks past a value."""
        if kind in WIDTHS:
            self.skip(WIDTHS[kind], "a number")
        elif kind == TEXT:
            self.text(f"'{name:.60}'")
        elif kind == ARRAY:
            self.array(name)
        else:
            raise HeaderFault(f"'{name:.60}' is of the unknown kind {kind}")

    def array(self, name: str) -> None:
        """Walks past an array."""
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
        """(the next tensor of the table, its place behind the header)."""
        name = self.text("a tensor's name", MOST_WORD)
        (dimensions,) = self.numbers("<I")
        if not 1 <= dimensions <= 4:
            raise HeaderFault(f"tensor '{name:.60}' has {dimensions:,} dimensions")
        shape = self.numbers(f"<{dimensions}Q")
        _, place = self.numbers("<IQ")
        if not all(shape) or math.prod(shape) // 8 > self.size:  # no kind has less than a bit a value
            raise HeaderFault(f"tensor '{name:.60}' is larger than the file")
        return Declared(name, tuple(reversed(shape))), place
