"""Which kind of list a place names."""

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from keywrap.config import StoreConfig
from keywrap.endpoints import folder_of
from scheduler.sources.folder import FolderReport
from scheduler.sources.lists import READERS
from scheduler.sources.manifest import read_manifest
from scheduler.sources.report import read_names
from scheduler.sources.source import Source, SourceError, SourceKind

if TYPE_CHECKING:
    from scheduler.sources.bucket import BucketReport


def open_source(place: str, store: StoreConfig) -> Source:
    """Open a list of names.

    Args:
        place: a path that ends in `.txt`, `.csv`, `.jsonl` or `.parquet`: blob ids, one a line or
            in the column `blob_id`; or the path or `s3://bucket/key` of the `manifest.json` of
            a report of Amazon S3 Inventory.
        store: the store whose objects it names, as `check_store` has passed it.

    Returns:
        The list. A manifest has been read and checked; of others only the first name was looked
        for. The rest is read by whoever iterates.

    Raises:
        SourceError: it cannot be used.
    """
    scheme, separator, _ = place.partition("://")
    if separator and scheme != "s3":
        raise SourceError(
            f"{place} is not read: a list is a file, or a report of Amazon S3 Inventory in s3://",
            reason_code="source_kind",
            next_command="reports of Google and Azure are not read: list the bucket, or write the "
            "blob ids to a .txt",
        )
    ending = Path(place).suffix.lower()
    if ending == ".json":
        return _open_report(place, store, in_bucket=bool(separator))
    if separator or ending not in READERS:
        raise SourceError(
            f"{place} is no list: its name ends in none of .txt, .csv, .jsonl, .parquet and .json",
            reason_code="source_kind",
            next_command="rewrap inventory --export blobs.csv writes such a list",
        )
    read, file = READERS[ending], Path(place)
    next(read(file), None)
    return Source(place, SourceKind.BLOB_IDS, None, lambda: read(file))


def _open_report(place: str, store: StoreConfig, *, in_bucket: bool) -> Source:
    parts = urlsplit(store.url)
    if parts.scheme != "s3":
        raise SourceError(
            f"{place} is a report of Amazon S3 Inventory, and the store is {store.url}",
            reason_code="source_other_bucket",
            next_command="list the store, or write the blob ids to a .txt",
        )
    files = _in_bucket(place, store) if in_bucket else FolderReport(Path(place))
    manifest = read_manifest(files.manifest(), files.checksum(), place, parts.netloc)
    prefix = folder_of(unquote(parts.path).strip("/"))
    return Source(
        place,
        SourceKind.OBJECT_NAMES,
        manifest.as_of,
        lambda: read_names(manifest, files, prefix),
    )


def _in_bucket(place: str, store: StoreConfig) -> "BucketReport":
    from scheduler.sources.bucket import BucketReport  # noqa: PLC0415 - boto3 takes a while

    # As the AWS CLI reads such names: nothing is percent-encoded.
    bucket, _, key = place.removeprefix("s3://").partition("/")
    return BucketReport(bucket, key, store)
