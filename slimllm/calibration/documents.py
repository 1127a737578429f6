"""The documents of a text, read only as far as they are needed, with one reader per format.

The same rows give the same documents in every format. A .txt file is one document. A row of any other format
is a document unless it is blank, and is never stripped.
"""

from __future__ import annotations

import abc
import codecs
import contextlib
import io
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, overload

import pyarrow
import pyarrow.parquet

from slimllm.core.errors import Refusal
from slimllm.files.row_limits import bounded_lines, each_once, open_parquet, rows_at_once

# The first of these columns that a file has is read.
COLUMNS = ("text", "content", "sentence")
# The characters that are read at once.
READ_LETTERS = 1 << 16


class LongDocument(Protocol):
    """A document that can be read from any place.

    `size` counts bytes in a file, and characters in memory.
    """

    size: int

    def pieces(self) -> Iterator[str]:
        """Yield the whole document piece by piece."""

    def read(self, place: int, count: int) -> str:
        """Return at most `count` characters from about that place on."""


class TextFile(Sequence[str]):
    """A .txt file, which is one document; every kind of line break is read as a line feed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with refuse_unreadable(path):
            self.size = path.stat().st_size

    def __len__(self) -> int:
        return 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        return ["".join(self.pieces())][index]

    def __iter__(self) -> Iterator[str]:
        yield self[0]

    def pieces(self) -> Iterator[str]:
        """Yield the whole file piece by piece; raise `Refusal` if it cannot be read as UTF-8."""
        with refuse_unreadable(self.path), self.path.open(encoding="utf-8-sig") as file:
            while piece := file.read(READ_LETTERS):
                yield piece

    def read(self, place: int, count: int) -> str:
        """Return at most `count` characters from about the byte `place` on."""
        with refuse_unreadable(self.path), self.path.open("rb") as file:
            file.seek(place)
            # The place may lie inside a character of several bytes.
            while file.peek(1)[:1] and file.peek(1)[0] & 0xC0 == 0x80:
                file.read(1)
            with io.TextIOWrapper(file, encoding="utf-8-sig") as text:
                return text.read(count)


class Held:
    """A document in memory with the interface of a file."""

    def __init__(self, words: str) -> None:
        self.words, self.size = words, len(words)

    def pieces(self) -> Iterator[str]:
        """Yield the whole document piece by piece."""
        return (self.words[start : start + READ_LETTERS] for start in range(0, self.size, READ_LETTERS))

    def read(self, place: int, count: int) -> str:
        """Return at most `count` characters from `place` on."""
        return self.words[place : place + count]


class Rows(Sequence[str], abc.ABC):
    """The documents of a file of rows; only their places are kept in memory."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def places(self) -> Sequence[int]:
        """The place of each document, from one pass over the file."""
        return array("q", (place for place, _ in self.documents()))

    @abc.abstractmethod
    def documents(self) -> Iterator[tuple[int, str]]:
        """Yield (place, document) of every document."""

    @abc.abstractmethod
    def pick(self, numbers: Sequence[int]) -> list[str]:
        """Return the documents with these numbers, in this order."""

    def __len__(self) -> int:
        return len(self.places)

    def __iter__(self) -> Iterator[str]:
        return (document for _, document in self.documents())

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        chosen = range(len(self))[index]
        return self.pick(chosen) if isinstance(chosen, range) else self.pick([chosen])[0]


class JsonLines(Rows):
    """A .jsonl file: one JSON object per line."""

    @cached_property
    def column(self) -> str:
        """The field of each object that holds the text."""
        with refuse_unreadable(self.path), self.path.open("rb") as file:
            row: Any = next((row_of(line) for _, line in lines_of(file) if line.strip()), None)
        return column_of(row if isinstance(row, dict) else (), self.path)

    def documents(self) -> Iterator[tuple[int, str]]:
        """Yield (offset in bytes, document) of every line with a document."""
        with refuse_unreadable(self.path), self.path.open("rb") as file:
            for place, line in lines_of(file):
                if line.strip() and (document := self.document(line)) is not None:
                    yield place, document

    def pick(self, numbers: Sequence[int]) -> list[str]:
        """Return the documents with these numbers, in this order."""
        found = {}
        with refuse_unreadable(self.path), self.path.open("rb") as file:
            for place in sorted({self.places[number] for number in numbers}):
                file.seek(place)
                found[place] = self.document(next(lines_of(file))[1]) or ""
        return [found[self.places[number]] for number in numbers]

    def document(self, line: bytes) -> str | None:
        """Return the document of a line, or None if it is blank; raise `Refusal` if it is not an object."""
        row = row_of(line)
        if not isinstance(row, dict):
            raise Refusal(
                f"A row of '{self.path}' is no object with a '{self.column}' field; write the file again."
            )
        return document_of(row.get(self.column), self.column, self.path)


class Parquet(Rows):
    """One column of a .parquet file, from a disk or from the hub."""

    @cached_property
    def column(self) -> str:
        """The column that holds the text."""
        with refuse_unreadable(self.path), pyarrow.parquet.ParquetFile(self.path) as file:
            return column_of(file.schema_arrow.names, self.path)

    def documents(self) -> Iterator[tuple[int, str]]:
        """Yield (row number, document) of every row with a document."""
        place = 0
        with refuse_unreadable(self.path), open_parquet(self.path, self.column) as file:
            if not file.metadata.num_rows:
                return
            for batch in file.iter_batches(rows_at_once(file, self.column), columns=[self.column]):
                for document in each_once(batch.column(0), self.document):
                    if document is not None:
                        yield place, document
                    place += 1

    def pick(self, numbers: Sequence[int]) -> list[str]:
        """Return the documents with these numbers, in this order; read each row group at most once."""
        wanted, found, first = {self.places[number] for number in numbers}, {}, 0
        with refuse_unreadable(self.path), open_parquet(self.path, self.column) as file:
            for group in range(file.num_row_groups):
                places = range(first, first := first + file.metadata.row_group(group).num_rows)
                if mine := [place for place in wanted if place in places]:
                    values = file.read_row_group(group, columns=[self.column]).column(0)
                    for place in mine:
                        found[place] = self.document(values[place - places.start].as_py()) or ""
        return [found[self.places[number]] for number in numbers]

    def document(self, value: Any) -> str | None:
        """Return the document of a value, or None if it is blank."""
        return document_of(value, self.column, self.path)


READERS: dict[str, type[TextFile] | type[Rows]] = {
    ".txt": TextFile,
    ".jsonl": JsonLines,
    ".parquet": Parquet,
}


def file_documents(path: Path) -> Sequence[str]:
    """Return the documents of a file in one of these formats; they are read on demand."""
    return READERS[path.suffix](path)


def long_document(documents: Sequence[str]) -> LongDocument | None:
    """Return the only document, or None if there are several or none."""
    if isinstance(documents, TextFile):
        return documents
    return Held(documents[0]) if len(documents) == 1 else None


def pieces_of(documents: Iterable[str]) -> Iterator[Iterator[str]]:
    """Yield every document as an iterator of its pieces."""
    if isinstance(documents, TextFile):
        yield documents.pieces()
        return
    for document in documents:
        yield Held(document).pieces()


def in_order(documents: Sequence[str], order: Sequence[int], at_once: int) -> Iterator[str]:
    """Yield the documents in the order of these numbers, reading `at_once` of them together."""
    for start in range(0, len(order), at_once):
        numbers = order[start : start + at_once]
        yield from (
            documents.pick(numbers) if isinstance(documents, Rows) else map(documents.__getitem__, numbers)
        )


@contextlib.contextmanager
def refuse_unreadable(path: Path) -> Iterator[None]:
    """Turn a failure to read a file into a `Refusal`."""
    try:
        yield
    except Refusal:
        raise
    except UnicodeDecodeError as failure:
        raise Refusal(f"'{path}' is not UTF-8 text; convert it to UTF-8.") from failure
    except (ValueError, OSError, RecursionError, pyarrow.ArrowException) as failure:
        why = str(failure)[:200] or type(failure).__name__
        raise Refusal(f"'{path}' cannot be read as {path.suffix}: {why}; write the file again.") from failure


def lines_of(file: io.BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Yield (place, line) of the lines of a file from its current position on.

    Every kind of line break ends a line.
    """
    place = file.tell()
    for block in bounded_lines(file):
        for line in block.removesuffix(b"\n").split(b"\r"):
            yield place, line if place else line.removeprefix(codecs.BOM_UTF8)
            place += len(line) + 1
        place += 0 if block.endswith(b"\n") else -1


def row_of(line: bytes) -> Any:
    """Return the value of a line of JSON; raise `ValueError` if it is not JSON or not UTF-8."""
    return json.loads(line.decode("utf-8"))


def column_of(names: Iterable[str], path: Path) -> str:
    """Return the column that holds the text; raise `Refusal` if there is none."""
    known = set(names)
    column = next((name for name in COLUMNS if name in known), None)
    if column is None:
        raise Refusal(f"The rows of '{path}' have no 'text' field; name the column of text 'text'.")
    return column


def document_of(value: Any, column: str, path: Path) -> str | None:
    """Return a row's document, or None if it is missing or blank; raise `Refusal` if it is not a string."""
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if value is not None and not isinstance(value, str):
        kind = type(value).__name__
        raise Refusal(f"'{column}' of a row of '{path}' is no text but {kind}; write each text as a string.")
    return replace_surrogates(value) if value and not value.isspace() else None


def replace_surrogates(words: str) -> str:
    """Return the text with a replacement character for every lone surrogate.

    JSON can hold lone surrogates, but no tokenizer can read them.
    """
    return words.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
