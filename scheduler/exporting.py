"""An inventory written to a file: CSV, JSON lines or Parquet."""

import csv
import io
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from keywrap.durable import sync_folder
from ledger.findings import Finding

_FIELDS = ("blob_id", "provider", "key_id", "previous_key_id", "problem", "wrap_bytes")
_GROUP_ROWS = 50_000
"""Rows of a row group of Parquet, which is held whole: about 60 MB with pyarrow's copies."""


def write(file: Path, found: Iterator[Finding]) -> int:
    """Write an inventory in the format that the file's ending names, one of `FORMATS`.

    The file appears under its name when it is whole and on the disk, or not at all.

    Args:
        file: where to; replaced if it is there.
        found: the inventory.

    Returns:
        How many blobs were written.

    Raises:
        OSError: it cannot be written; what was there is there still.
    """
    with _replacing(file) as output:
        return FORMATS[file.suffix](output, found)


@contextmanager
def _replacing(file: Path) -> Iterator[BinaryIO]:
    target = Path(os.path.realpath(file))  # where it is a link, the link stays
    beside = target.with_name(f".{target.name[:200]}.{secrets.token_hex(8)}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        with os.fdopen(descriptor, "wb") as output:
            yield output
            output.flush()
            os.fsync(output.fileno())
        beside.replace(target)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _write_csv(output: BinaryIO, found: Iterator[Finding]) -> int:
    text = io.TextIOWrapper(output, encoding="utf-8", newline="", write_through=True)
    table = csv.DictWriter(text, _FIELDS)
    table.writeheader()
    count = 0
    for finding in found:
        table.writerow(_row(finding))
        count += 1
    text.detach()
    return count


def _write_json_lines(output: BinaryIO, found: Iterator[Finding]) -> int:
    count = 0
    for finding in found:
        output.write(json.dumps(_row(finding), ensure_ascii=False).encode() + b"\n")
        count += 1
    return count


def _write_parquet(output: BinaryIO, found: Iterator[Finding]) -> int:
    import pyarrow as pa  # noqa: PLC0415 - it is large, and only this needs it
    from pyarrow.parquet import ParquetWriter  # noqa: PLC0415 - likewise

    texts = _FIELDS[:-1]
    schema = pa.schema(
        [pa.field(name, pa.string(), nullable=False) for name in texts]
        + [pa.field("wrap_bytes", pa.int32())]
    )
    count = 0
    # Every string but the ids comes again and again.
    with ParquetWriter(
        output, schema, compression="zstd", use_dictionary=list(texts[1:])
    ) as writer:
        while group := list(islice(found, _GROUP_ROWS)):
            rows = [_row(finding) | {"wrap_bytes": finding.wrap_bytes} for finding in group]
            writer.write_table(pa.Table.from_pylist(rows, schema), row_group_size=_GROUP_ROWS)
            count += len(group)
    return count


def _row(finding: Finding) -> dict[str, str]:
    version = finding.key_version
    return {
        "blob_id": finding.blob_id,
        "provider": version.provider if version else "",
        "key_id": str(version or ""),
        "previous_key_id": str(finding.previous or ""),
        "problem": finding.problem or "",
        "wrap_bytes": "" if finding.wrap_bytes is None else str(finding.wrap_bytes),
    }


FORMATS: dict[str, Callable[[BinaryIO, Iterator[Finding]], int]] = {
    ".csv": _write_csv,
    ".jsonl": _write_json_lines,
    ".parquet": _write_parquet,
}
"""What writes an inventory, by the ending of the file's name."""
