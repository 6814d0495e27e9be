"""Plain lists of blob ids: text, CSV, JSON lines and Parquet."""

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from scheduler.sources.files import READ_AGAIN, check_text, open_file, read_errors
from scheduler.sources.lines import lines, records
from scheduler.sources.parquet import open_parquet, rows
from scheduler.sources.source import SourceError

COLUMN = "blob_id"
"""As `rewrap inventory --export` names it."""


class _Record(msgspec.Struct):
    blob_id: str


_RECORD = msgspec.json.Decoder(_Record)


def read_text(file: Path) -> Iterator[str]:
    """Yield the blob ids of a text file: one a line, blank lines left out.

    Raises:
        SourceError: it cannot be used.
    """
    with open_file(file) as stream, read_errors(str(file)):
        for number, line in lines(stream, str(file)):
            blob_id = line.removesuffix("\n").removesuffix("\r")
            if blob_id.strip():
                yield check_text(blob_id, f"{file}: line {number}")


def read_csv(file: Path) -> Iterator[str]:
    """Yield the blob ids of a CSV file, from its column `blob_id`.

    Raises:
        SourceError: it cannot be used.
    """
    with open_file(file) as stream, read_errors(str(file)):
        table = records(stream, str(file))
        header = next(table, [])
        if header.count(COLUMN) != 1:
            raise SourceError(
                f"{file} has no column {COLUMN}, or two, in its first line",
                reason_code="source_no_column",
                next_command=f"name the column of the ids {COLUMN}, as `rewrap inventory --export` "
                "does; a plain list of ids ends in .txt",
            )
        at = header.index(COLUMN)
        for number, row in enumerate(table, 2):
            if len(row) != len(header):
                raise SourceError(
                    f"{file}: record {number} has {len(row)} fields, and the header {len(header)}",
                    reason_code="source_not_csv",
                    next_command=READ_AGAIN,
                )
            yield check_text(row[at], f"{file}: record {number}")


def read_json_lines(file: Path) -> Iterator[str]:
    """Yield the blob ids of a file of JSON objects, one a line, from their `blob_id`.

    Raises:
        SourceError: it cannot be used.
    """
    with open_file(file) as stream, read_errors(str(file)):
        for number, line in lines(stream, str(file)):
            if not line.strip():
                continue
            try:
                blob_id = _RECORD.decode(line).blob_id
            except (msgspec.DecodeError, RecursionError) as error:
                raise SourceError(
                    f"{file}: line {number} is no JSON object with a {COLUMN}: {error}",
                    reason_code="source_not_json",
                    next_command=READ_AGAIN,
                ) from None
            yield check_text(blob_id, f"{file}: line {number}")


def read_parquet(file: Path) -> Iterator[str]:
    """Yield the blob ids of a Parquet file, from its column `blob_id` of strings.

    Raises:
        SourceError: it cannot be used.
    """
    with open_file(file) as stream:
        for (blob_id,) in rows(open_parquet(stream, str(file), COLUMN), str(file), [COLUMN]):
            yield check_text(blob_id, str(file))


READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".txt": read_text,
    ".csv": read_csv,
    ".jsonl": read_json_lines,
    ".parquet": read_parquet,
}
"""What reads a list, by the end of its name."""
