"""Rows of text files read within limits: no row larger than any text, no column of a parquet file that is
made large only by being read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from pyarrow.parquet import ParquetFile

from slimllm.core.errors import Refusal
from slimllm.files.file_limits import MIB

Made = TypeVar("Made")
MOST_ROW = 16 * MIB  # bytes; the longest novels have 10
MOST_ROWS = 20_000_000  # of a parquet file
MOST_GROUP = 1024 * MIB  # of the column in a group of rows, as its pages are once they are decompressed
AT_ONCE = 8 * MIB  # of a column
ROW_BATCH = 1024  # at once, of short ones
ROW_REMEDY = "split the file into smaller ones"


def bounded_lines(file: BufferedReader) -> Iterator[bytes]:
    """The lines of a file from its present place on, each with its line feed; a `Refusal` at one that is
    longer than any text."""
    while line := file.readline(MOST_ROW + 1):
        if len(line) > MOST_ROW:
            raise Refusal(f"A row of '{file.name}' is longer than {MOST_ROW // MIB} MiB; {ROW_REMEDY}.")
        yield line


def open_parquet(path: Path, column: str) -> ParquetFile:
    """A parquet file whose column holds each repeated value once, however often it is repeated; a `Refusal`
    where it declares more than any text has."""
    file = ParquetFile(path, read_dictionary=[column])
    rows, sizes = file.metadata.num_rows, sizes_of(file, column)
    largest = max(sizes, default=0)
    if rows > MOST_ROWS:
        raise Refusal(f"'{path}' has {rows:,} rows, more than the {MOST_ROWS:,} that are read; {ROW_REMEDY}.")
    if sum(sizes) > rows * MOST_ROW:
        raise Refusal(f"A row of '{path}' is longer than {MOST_ROW // MIB} MiB; {ROW_REMEDY}.")
    if largest > MOST_GROUP:
        raise Refusal(
            f"'{path}' has {largest / MIB:,.0f} MiB in a group of rows, more than the {MOST_GROUP // MIB:,} "
            "that are read; write it in smaller groups."
        )
    return file


def sizes_of(file: ParquetFile, column: str) -> list[int]:
    """The bytes of a column in each group of rows, once decompressed, as the file declares them."""
    known = file.metadata
    groups = [known.row_group(number) for number in range(known.num_row_groups)]
    parts = [i for i in range(known.num_columns) if known.schema.column(i).path.split(".")[0] == column]
    return [sum(group.column(part).total_uncompressed_size for part in parts) for group in groups]


def rows_at_once(file: ParquetFile, column: str) -> int:
    """How many rows are read at once: the fewer, the longer they are."""
    mean = sum(sizes_of(file, column)) // max(1, file.metadata.num_rows)
    return max(1, min(ROW_BATCH, AT_ONCE // max(1, mean)))


def each_once(found: Any, make: Callable[[Any], Made]) -> list[Made]:
    """What `make` makes of the values of an array, of a repeated one only once."""
    if not hasattr(found, "dictionary"):
        return [make(value) for value in found.to_pylist()]
    places = found.indices.to_pylist()
    made = {place: make(None if place is None else found.dictionary[place].as_py()) for place in set(places)}
    return [made[place] for place in places]
