"""Rows of text files read within limits: no row larger than any text, no column of a parquet file that is made
large only by being read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from slimllm.limits import MIB
from slimllm.types import Refusal

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

MOST_ROW = 16 * MIB  # bytes; the longest novels have 10
MOST_ROWS = 20_000_000  # of a parquet file
MOST_GROUP = 2048 * MIB  # of the column in a group of rows, as its pages are once they are decompressed
AT_ONCE = 8 * MIB  # of a column
ROWS = 1024  # at once, of short ones
REMEDY = "split the file into smaller ones"


def bounded_lines(file: BinaryIO, path: Path) -> Iterator[bytes]:
    """The lines of a file from its present place on, each with its line feed; a `Refusal` at one that is
    longer than any text."""
    while line := file.readline(MOST_ROW + 1):
        if len(line) > MOST_ROW:
            raise Refusal(f"A row of '{path}' is longer than {MOST_ROW // MIB} MiB; {REMEDY}.")
        yield line


def open_parquet(path: Path, column: str) -> ParquetFile:
    """A parquet file whose column keeps each repeated value once, however often it is repeated."""
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(path, read_dictionary=[column])


def parquet_values(file: ParquetFile, column: str, path: Path) -> Iterator[list[Any]]:
    """The values of a column, some rows at once; a `Refusal` where it declares more than any text has."""
    rows, known = file.metadata.num_rows, file.metadata
    if rows > MOST_ROWS:
        raise Refusal(f"'{path}' has {rows:,} rows, more than the {MOST_ROWS:,} that are read; {REMEDY}.")
    place = file.schema_arrow.get_field_index(column)
    sizes = [known.row_group(i).column(place).total_uncompressed_size for i in range(known.num_row_groups)]
    if max(sizes, default=0) > MOST_GROUP:
        raise Refusal(
            f"'{path}' has {max(sizes) / MIB:,.0f} MiB in a group of rows, more than the "
            f"{MOST_GROUP // MIB:,} that are read; write it in smaller groups."
        )
    if not rows:
        return
    mean = max(1, sum(sizes) // rows)
    for batch in file.iter_batches(max(1, min(ROWS, AT_ONCE // mean)), columns=[column]):
        yield values_of(batch.column(0))


def values_of(found: Any) -> list[Any]:
    """The values of an array, repeated ones the same objects."""
    if not hasattr(found, "dictionary"):
        values: list[Any] = found.to_pylist()
        return values
    words = found.dictionary.to_pylist()
    return [None if index is None else words[index] for index in found.indices.to_pylist()]
