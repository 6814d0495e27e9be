"""The names that a report of Amazon S3 Inventory lists.

Amazon S3 User Guide, "Amazon S3 inventory list": data files of CSV are compressed with GZIP, and
their keys are URL-encoded, a space as `+`; those of Parquet are not encoded.
"""

import gzip
import hashlib
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import IO, Any, NamedTuple, Protocol
from urllib.parse import unquote_plus

from keywrap.layout import RESERVED
from scheduler.sources.files import check_text, read_errors
from scheduler.sources.lines import records
from scheduler.sources.manifest import DataFile, Manifest, damaged
from scheduler.sources.parquet import open_parquet, rows
from scheduler.sources.source import SourceError

_NOT_ENCODED = re.compile("%(?![0-9A-Fa-f]{2})")

_CSV_COLUMNS = ("Key", "IsLatest", "IsDeleteMarker", "Size")
_PARQUET_COLUMNS = ("key", "is_latest", "is_delete_marker", "size")


class Row(NamedTuple):
    """What a report says of one object; empty where it does not say.

    Attributes:
        key: the object's key, decoded.
        is_latest: `true` or `false`, in reports that list versions.
        is_delete_marker: likewise.
        size: in bytes.
    """

    key: str
    is_latest: str
    is_delete_marker: str
    size: str


class ReportFiles(Protocol):
    """Where the files of a report lie."""

    def open(self, file: DataFile) -> AbstractContextManager[IO[bytes]]:
        """Open a data file at its begin; what is opened can be sought in.

        Raises:
            SourceError: it is not there, or cannot be read.
        """


def read_names(manifest: Manifest, files: ReportFiles, prefix: str) -> Iterator[str]:
    """Yield the name of every object of a store that a report lists.

    Left out are other folders of the bucket, the store's own corner, versions that are not the
    latest, delete markers, and what consoles make for a folder.

    Args:
        manifest: of the report.
        files: its files.
        prefix: the store's folder in the bucket, with a slash at its end; empty for all of it.

    Raises:
        SourceError: a data file is missing or damaged; none of its names was yielded where its
            MD5 is not the manifest's.
    """
    read: Callable[[IO[bytes], str, Manifest], Iterator[Row]]
    read = _csv_rows if manifest.file_format.lower() == "csv" else _parquet_rows
    for file in manifest.files:
        with files.open(file) as stream:
            _check_md5(stream, file)
            for row in read(stream, file.key, manifest):
                if not (row.key.startswith(prefix) and _is_object(row, file.key)):
                    continue
                name = row.key.removeprefix(prefix)
                if not name.startswith(RESERVED):
                    yield check_text(name, file.key)


def _check_md5(stream: IO[bytes], file: DataFile) -> None:
    with read_errors(file.key):
        digest = hashlib.md5(usedforsecurity=False)
        while chunk := stream.read(1024 * 1024):
            digest.update(chunk)
        stream.seek(0)
    if digest.hexdigest() != file.md5.lower():
        raise damaged(f"the data file {file.key} has not the MD5 that the manifest says")


def _is_object(row: Row, place: str) -> bool:
    """Tell whether an object is there now, that is no folder.

    Where a report does not say, it is: a name too much is found to be none when it is read, a
    name too few would be left behind.
    """
    if not {row.is_latest, row.is_delete_marker} <= {"true", "false", ""}:
        raise damaged(f"{place} says neither true nor false of a version")
    if row.is_latest == "false" or row.is_delete_marker == "true":
        return False
    return not (row.key.endswith("/") and row.size == "0")


def _csv_rows(stream: IO[bytes], place: str, manifest: Manifest) -> Iterator[Row]:
    columns = manifest.columns
    if columns.count("Key") != 1:
        raise _no_key(place)
    at = [columns.index(name) if name in columns else None for name in _CSV_COLUMNS]
    try:
        with gzip.open(stream) as text:
            for fields in records(text, place):
                if len(fields) != len(columns):
                    raise damaged(f"{place} has a row of {len(fields)} fields for {len(columns)}")
                key, *rest = ["" if i is None else fields[i] for i in at]
                latest, deleted, size = rest
                yield Row(_decoded(key, place), latest.lower(), deleted.lower(), size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise damaged(f"{place} is no GZIP file, or not all of it") from error
    except OSError as error:
        raise damaged(f"{place} cannot be read: {error}") from error


def _decoded(key: str, place: str) -> str:
    if _NOT_ENCODED.search(key):
        raise damaged(f"{place} has a key that is not URL-encoded")
    try:
        return unquote_plus(key, errors="strict")
    except UnicodeDecodeError:
        raise SourceError(
            f"{place} has a key that is not UTF-8",
            reason_code="source_not_utf8",
            next_command="rename the object, or write the blob ids to a .txt",
        ) from None


def _parquet_rows(stream: IO[bytes], place: str, _manifest: Manifest) -> Iterator[Row]:
    file = open_parquet(stream, place, _PARQUET_COLUMNS[0])
    there = set(file.schema_arrow.names)
    columns = [name for name in _PARQUET_COLUMNS if name in there]
    for values in rows(file, place, columns):
        found: dict[str, Any] = dict(zip(columns, values, strict=True))
        latest, deleted, size = (_word(found.get(name)) for name in _PARQUET_COLUMNS[1:])
        yield Row(found["key"], latest, deleted, size)


def _word(value: object) -> str:
    return "" if value is None else str(value).lower()


def _no_key(place: str) -> SourceError:
    return SourceError(
        f"{place} has no column Key, or two, by the manifest's fileSchema",
        reason_code="source_no_column",
        next_command="take a report of Amazon S3 Inventory as S3 wrote it",
    )
