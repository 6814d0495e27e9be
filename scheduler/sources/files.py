"""Opening a file of names, and what can be wrong with any of them."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from scheduler.sources.source import SourceError

READ_AGAIN = "mend the list, or write it again, and run the command again"


def open_file(file: Path) -> BinaryIO:
    """Open a regular file; the caller closes it.

    Raises:
        SourceError: it is not there, is no file, or cannot be read.
    """
    try:
        # Without blocking: nobody may ever write into what turns out to be a pipe.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise SourceError(
            f"{file} is not there", reason_code="source_missing", next_command="check its path"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path with NUL
        raise _unreadable(str(file), error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceError(
            f"{file} is no file", reason_code="source_no_file", next_command="write it to a file"
        )
    return os.fdopen(descriptor, "rb")


@contextmanager
def read_errors(place: str) -> Iterator[None]:
    """Turn an error of the disk into one of the list.

    Raises:
        SourceError: the file could not be read to its end.
    """
    try:
        yield
    except OSError as error:
        raise _unreadable(place, error) from error


def check_text(name: str, where: str) -> str:
    """Return a name that every later step can hold.

    Raises:
        SourceError: it has a NUL or half a surrogate pair, which no text of PostgreSQL has.
    """
    if "\0" in name:
        raise SourceError(
            f"{where} has a NUL in a name",
            reason_code="source_name_not_text",
            next_command=READ_AGAIN,
        )
    return name


def _unreadable(place: str, error: Exception) -> SourceError:
    reason = getattr(error, "strerror", None) or str(error)
    return SourceError(
        f"{place} cannot be read: {reason}",
        reason_code="source_unreadable",
        next_command="check the file and its permissions, and run the command again",
    )
