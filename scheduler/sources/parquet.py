"""Columns of a Parquet file, read in batches.

pyarrow is imported where it is used: it is large, and no worker needs it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from scheduler.sources.files import READ_AGAIN
from scheduler.sources.lines import MAX_LINE_BYTES
from scheduler.sources.source import SourceError

if TYPE_CHECKING:
    from pyarrow import DataType
    from pyarrow.parquet import ParquetFile

_BATCH_ROWS = 4096
_BUFFER_BYTES = 1024 * 1024
"""Column chunks are read through a buffer of this size, not whole."""

MAX_CHUNK_BYTES = 256 * 1024 * 1024
"""Most bytes that a column of a row group may have unpacked: a damaged or hostile file of a few KB
may unpack to gigabytes in one page. A million ids of 100 bytes come to 100 MB; writers make row
groups of a million rows (pyarrow) or 128 MiB (Spark, Hive)."""


def open_parquet(stream: IO[bytes], place: str, needed: str) -> "ParquetFile":
    """Open a Parquet file and see that it has a column of strings.

    Args:
        stream: the file; can be sought in.
        place: for errors.
        needed: the column's name.

    Raises:
        SourceError: it is no Parquet file, or has no such column.
    """
    from pyarrow.parquet import ParquetFile  # noqa: PLC0415 - see above

    with parquet_errors(place):
        file = ParquetFile(
            stream,
            buffer_size=_BUFFER_BYTES,
            pre_buffer=False,
            page_checksum_verification=True,
        )
        schema = file.schema_arrow
    if schema.names.count(needed) != 1 or not _is_text(schema.field(needed).type):
        raise SourceError(
            f"{place} has no column {needed} of strings",
            reason_code="source_no_column",
            next_command=f"write the names in a column {needed}, as `rewrap inventory --export` "
            "does",
        )
    return file


def rows(file: "ParquetFile", place: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Yield the values of some columns, row by row; the first column is of names.

    Raises:
        SourceError: the file is damaged or of too large row groups, or a name is missing or too
            long.
    """
    _check_chunks(file, place, columns)
    number = 0
    with parquet_errors(place):
        for batch in file.iter_batches(_BATCH_ROWS, columns=list(columns), use_threads=False):
            for row in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                number += 1
                if row[0] is None:
                    raise SourceError(
                        f"{place}: row {number} has no {columns[0]}",
                        reason_code="source_name_missing",
                        next_command=READ_AGAIN,
                    )
                if len(row[0]) > MAX_LINE_BYTES:
                    raise SourceError(
                        f"{place}: the {columns[0]} of row {number} has more than "
                        f"{MAX_LINE_BYTES:,} characters",
                        reason_code="source_line_too_long",
                        next_command=READ_AGAIN,
                    )
                yield row


def _check_chunks(file: "ParquetFile", place: str, columns: Sequence[str]) -> None:
    with parquet_errors(place):
        groups = [file.metadata.row_group(number) for number in range(file.num_row_groups)]
        chunks = [group.column(at) for group in groups for at in range(group.num_columns)]
        sizes = [one.total_uncompressed_size for one in chunks if one.path_in_schema in columns]
    if max(sizes, default=0) > MAX_CHUNK_BYTES:
        raise SourceError(
            f"{place} has a column of {max(sizes):,} bytes in a row group",
            reason_code="source_too_large",
            next_command="write it in row groups of up to a million rows",
        )


@contextmanager
def parquet_errors(place: str) -> Iterator[None]:
    """Turn what pyarrow says of a damaged file into an error of the list.

    Raises:
        SourceError: the file cannot be read.
    """
    from pyarrow import ArrowException  # noqa: PLC0415 - see above

    try:
        yield
    except UnicodeDecodeError:
        raise SourceError(
            f"{place} has a name that is not UTF-8",
            reason_code="source_not_utf8",
            next_command=READ_AGAIN,
        ) from None
    except (ArrowException, OSError) as error:  # damaged metadata comes as a plain OSError
        raise SourceError(
            f"{place} is no Parquet file, or not all of it: {str(error)[:200]}",
            reason_code="source_not_parquet",
            next_command=READ_AGAIN,
        ) from error


def _is_text(kind: "DataType") -> bool:
    from pyarrow import types  # noqa: PLC0415 - see above

    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))
