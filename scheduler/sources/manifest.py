"""The manifest of a report of Amazon S3 Inventory.

Amazon S3 User Guide, "Locating your inventory list": `manifest.json` names the bucket that was
listed, when, in what format, and the data files with the MD5 of each; `manifest.checksum` is the
MD5 of `manifest.json`. MD5 shows what was damaged on its way, not what somebody has altered.
"""

import hashlib
from datetime import UTC, datetime
from typing import Annotated

import msgspec

from scheduler.sources.source import SourceError

MAX_MANIFEST_BYTES = 64 * 1024 * 1024
"""A data file takes about 200 bytes of it and names millions of objects."""

FORMATS = frozenset({"csv", "parquet"})

_FETCH_AGAIN = "fetch the report again, or take another day's, and run the command again"


class DataFile(msgspec.Struct, frozen=True):
    """A file of a report.

    Attributes:
        key: its object key in the bucket that holds the report.
        size: in bytes.
        md5: of its content, in hexadecimal digits.
    """

    key: Annotated[str, msgspec.Meta(min_length=1)]
    size: Annotated[int, msgspec.Meta(ge=0)]
    md5: Annotated[str, msgspec.Meta(pattern="^[0-9a-fA-F]{32}$")] = msgspec.field(
        name="MD5checksum"
    )


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """What a report says of itself.

    Attributes:
        source_bucket: the bucket that was listed.
        creation_timestamp: when the listing began, in milliseconds since 1970.
        file_format: `CSV`, `ORC` or `Parquet`.
        file_schema: for CSV the names of the columns, with commas between them.
        files: the data files.
    """

    source_bucket: str
    creation_timestamp: int
    file_format: str
    file_schema: str
    files: list[DataFile]

    @property
    def as_of(self) -> datetime:
        """When the listing began."""
        return datetime.fromtimestamp(self.creation_timestamp / 1000, UTC)

    @property
    def columns(self) -> list[str]:
        """The names of the columns of CSV."""
        return [name.strip() for name in self.file_schema.split(",")]


_MANIFEST = msgspec.json.Decoder(Manifest, strict=False)  # the timestamp is a string of digits


def read_manifest(data: bytes, checksum: bytes | None, place: str, bucket: str) -> Manifest:
    """Read and check a manifest.

    Args:
        data: `manifest.json`.
        checksum: `manifest.checksum`; None where there is none.
        place: for errors.
        bucket: that of the store.

    Raises:
        SourceError: it is damaged, of another bucket, of a format that is not read, or names no
            data files.
    """
    if checksum is not None and checksum.decode("ascii", "replace").strip().lower() != _md5(data):
        raise damaged(f"{place} is not what its manifest.checksum says")
    try:
        manifest = _MANIFEST.decode(data)
        manifest.as_of  # noqa: B018 - a time that is none
    except (msgspec.DecodeError, RecursionError, OverflowError, ValueError, OSError) as error:
        raise SourceError(
            f"{place} is no manifest of Amazon S3 Inventory: {error}",
            reason_code="source_not_manifest",
            next_command="name the manifest.json of a report of Amazon S3 Inventory; those of "
            "Google and Azure are not read: list their buckets, or write the blob ids to a .txt",
        ) from None
    _check(manifest, place, bucket)
    return manifest


def _check(manifest: Manifest, place: str, bucket: str) -> None:
    if manifest.source_bucket != bucket:
        raise SourceError(
            f"{place} lists the bucket {manifest.source_bucket!r}, and the store is in {bucket!r}",
            reason_code="source_other_bucket",
            next_command="name the report of the store's own bucket",
        )
    if manifest.file_format.lower() not in FORMATS:
        raise SourceError(
            f"{place} is of the format {manifest.file_format!r}, and CSV and Parquet are read",
            reason_code="source_format",
            next_command="set the inventory's output format to CSV or Apache Parquet, and wait "
            "for its next report",
        )
    if not manifest.files:
        raise SourceError(
            f"{place} names no data files",
            reason_code="source_empty",
            next_command="take a report that is complete",
        )


def damaged(message: str) -> SourceError:
    """Say that a part of a report is not what it should be."""
    return SourceError(message, reason_code="source_damaged", next_command=_FETCH_AGAIN)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
