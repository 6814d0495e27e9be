"""Reports as Amazon S3 Inventory writes them, and stores that they are of."""

import csv
import gzip
import hashlib
import io
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote_plus

import pyarrow as pa
from pyarrow import parquet

from keywrap.config import StoreConfig

BUCKET = "blobs-7"
STORE = StoreConfig(url=f"s3://{BUCKET}/tenant", region="eu-central-1")
DAY = "Inventory/blobs-7/all/2026-11-06T21-32Z"
CREATED_MS = 1_794_000_720_000
ALL_VERSIONS = "Bucket, Key, VersionId, IsLatest, IsDeleteMarker, Size"


def csv_file(rows: Sequence[Sequence[str]]) -> bytes:
    """A data file; the second field of each row is a key, not yet encoded."""
    text = io.StringIO()
    table = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\n")
    table.writerows([row[0], quote_plus(row[1], safe="/"), *row[2:]] for row in rows)
    return gzip.compress(text.getvalue().encode())


def parquet_file(**columns: Sequence[Any]) -> bytes:
    """A data file of these columns."""
    output = io.BytesIO()
    parquet.write_table(pa.table(columns), output, compression="snappy")
    return output.getvalue()


def manifest(files: dict[str, bytes], /, **changed: Any) -> bytes:
    """A manifest of data files, by their keys; changed fields, None for those left out."""
    document = {
        "sourceBucket": BUCKET,
        "destinationBucket": "arn:aws:s3:::reports-7",
        "version": "2016-11-30",
        "creationTimestamp": str(CREATED_MS),
        "fileFormat": "CSV",
        "fileSchema": "Bucket, Key",
        "files": [
            {"key": key, "size": len(data), "MD5checksum": md5(data)} for key, data in files.items()
        ],
    } | changed
    return json.dumps(
        {name: value for name, value in document.items() if value is not None}
    ).encode()


def md5(data: bytes) -> str:
    """As a manifest says it."""
    return hashlib.md5(data, usedforsecurity=False).hexdigest()
