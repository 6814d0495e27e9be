"""Text read line by line and CSV read record by record, in bounded memory."""

import csv
from collections.abc import Iterator
from typing import Protocol

from scheduler.sources.files import READ_AGAIN
from scheduler.sources.source import SourceError

MAX_LINE_BYTES = 64 * 1024
"""Of a line, and of a record of CSV. A blob id has up to 1,024 bytes, URL-encoded thrice that."""


class Readable(Protocol):
    """A binary file, compressed or not."""

    def readline(self, size: int = -1, /) -> bytes:
        """Return up to the end of the line, or `size` bytes; empty at the end."""


def lines(stream: Readable, place: str) -> Iterator[tuple[int, str]]:
    """Yield each line of UTF-8, its end included, with its number, counted from 1.

    A byte order mark at the begin, as editors on Windows write it, is left out.

    Raises:
        SourceError: a line is longer than `MAX_LINE_BYTES`, or not UTF-8.
    """
    number = 0
    while line := stream.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise _too_long(f"{place}: line {number}")
        try:
            text = line.decode()
        except UnicodeDecodeError:
            raise SourceError(
                f"{place}: line {number} is not UTF-8",
                reason_code="source_not_utf8",
                next_command="write the list as UTF-8, and run the command again",
            ) from None
        yield number, text.removeprefix("\ufeff") if number == 1 else text


def records(stream: Readable, place: str) -> Iterator[list[str]]:
    """Yield the records of CSV (RFC 4180); empty lines are left out.

    Raises:
        SourceError: as `lines`; also where it is no CSV, as where it ends within quotes.
    """
    held = 0

    def counted() -> Iterator[str]:
        nonlocal held
        for number, line in lines(stream, place):
            held += len(line)
            if held > MAX_LINE_BYTES:  # a quote that is never closed would take all of the file
                raise _too_long(f"{place}: the record at line {number}")
            yield line

    rows = csv.reader(counted(), strict=True)
    try:
        for row in rows:
            held = 0
            if row:
                yield row
    except csv.Error as error:
        raise SourceError(
            f"{place}: line {rows.line_num} is no CSV: {error}",
            reason_code="source_not_csv",
            next_command=READ_AGAIN,
        ) from error


def _too_long(where: str) -> SourceError:
    return SourceError(
        f"{where} has more than {MAX_LINE_BYTES:,} bytes",
        reason_code="source_line_too_long",
        next_command="see whether it is a list of names at all",
    )
