"""Reading rows of text files within limits.

No row may be larger than any real text, and no column of a parquet file may be small on disk but huge in
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from pyarrow.parquet import ParquetFile

from slimllm.core.errors import Refusal
from slimllm.files.file_limits import MIB

Made = TypeVar("Made")
# The most bytes of a row; the longest novels have 10 MiB.
MOST_ROW = 16 * MIB
# The most rows of a parquet file.
MOST_ROWS = 20_000_000
# The most decompressed bytes of the column in one row group.
MOST_GROUP = 1024 * MIB
# The bytes of a column that are read at once.
AT_ONCE = 8 * MIB
# The most rows that are read at once.
ROW_BATCH = 1024
ROW_REMEDY = "split the file into smaller ones"


def bounded_lines(file: BufferedReader) -> Iterator[bytes]:
    """Yield the lines of a file from its current position on, each with its line feed.

    Raise `Refusal` if a line has more than `MOST_ROW` bytes.
    """
    while line := file.readline(MOST_ROW + 1):
        if len(line) > MOST_ROW:
            raise Refusal(f"A row of '{file.name}' is longer than {MOST_ROW // MIB} MiB; {ROW_REMEDY}.")
        yield line


def open_parquet(path: Path, column: str) -> ParquetFile:
    """Return a parquet file whose column is read as a dictionary, each repeated value once.

    Raise `Refusal` if the file declares too many rows, a too long row or a too large row group.
    """
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
    """Return the decompressed bytes of a column in each row group, as the file declares them."""
    known = file.metadata
    groups = [known.row_group(number) for number in range(known.num_row_groups)]
    parts = [i for i in range(known.num_columns) if known.schema.column(i).path.split(".")[0] == column]
    return [sum(group.column(part).total_uncompressed_size for part in parts) for group in groups]


def rows_at_once(file: ParquetFile, column: str) -> int:
    """Return how many rows to read at once: fewer if the rows are longer."""
    mean = sum(sizes_of(file, column)) // max(1, file.metadata.num_rows)
    return max(1, min(ROW_BATCH, AT_ONCE // max(1, mean)))


def each_once(found: Any, make: Callable[[Any], Made]) -> list[Made]:
    """Return the results of `make` for the values of an array, calling it once per distinct value."""
    if not hasattr(found, "dictionary"):
        return [make(value) for value in found.to_pylist()]
    places = found.indices.to_pylist()
    made = {place: make(None if place is None else found.dictionary[place].as_py()) for place in set(places)}
    return [made[place] for place in places]
