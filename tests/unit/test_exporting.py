import csv
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyarrow import parquet

from keywrap.keys import KeyVersion
from ledger.findings import Finding
from scheduler import exporting

OLD, NEW = KeyVersion.parse("env:BLOB_KEY"), KeyVersion("hcvault://transit/blob-kek", "2")

FOUND = [
    Finding('a/ü, "b"\nc', NEW, OLD),
    Finding("b", OLD, wrap_bytes=48),
    Finding("c", None, problem="sidecar_not_json"),
]
ROWS = [
    ('a/ü, "b"\nc', "vault", str(NEW), "env:BLOB_KEY", "", None),
    ("b", "env", "env:BLOB_KEY", "", "", 48),
    ("c", "", "", "", "sidecar_not_json", None),
]
FIELDS = ["blob_id", "provider", "key_id", "previous_key_id", "problem", "wrap_bytes"]


def test_all_formats_say_the_same(tmp_path: Path) -> None:
    for ending in exporting.FORMATS:
        assert exporting.write(tmp_path / f"blobs{ending}", iter(FOUND)) == 3
    with (tmp_path / "blobs.csv").open(encoding="utf-8", newline="") as lines:
        table = list(csv.DictReader(lines))
    text = (tmp_path / "blobs.jsonl").read_text("utf-8")
    as_text = [(*row[:-1], "" if row[-1] is None else str(row[-1])) for row in ROWS]
    assert table == [dict(zip(FIELDS, row, strict=True)) for row in as_text]
    assert [json.loads(line) for line in text.splitlines()] == table
    columns = parquet.read_table(tmp_path / "blobs.parquet")
    assert columns.to_pylist() == [dict(zip(FIELDS, row, strict=True)) for row in ROWS]
    assert [str(kind) for kind in columns.schema.types] == ["string"] * 5 + ["int32"]


def test_parquet_comes_in_row_groups_that_are_compressed(tmp_path: Path) -> None:
    found = (Finding(f"{number:08}", OLD, wrap_bytes=48) for number in range(100_001))
    assert exporting.write(tmp_path / "blobs.parquet", found) == 100_001
    written = parquet.ParquetFile(tmp_path / "blobs.parquet").metadata
    sizes = [written.row_group(i).num_rows for i in range(written.num_row_groups)]
    assert sizes == [50_000, 50_000, 1]
    ids, keys = written.row_group(0).column(0), written.row_group(0).column(2)
    assert (ids.compression, ids.has_dictionary_page) == ("ZSTD", False)
    assert (keys.compression, keys.has_dictionary_page) == ("ZSTD", True)


@pytest.mark.parametrize("ending", exporting.FORMATS)
def test_a_file_that_was_not_finished_replaces_nothing(tmp_path: Path, ending: str) -> None:
    def broken() -> Iterator[Finding]:
        yield from FOUND
        raise ConnectionResetError

    file = tmp_path / f"blobs{ending}"
    with pytest.raises(ConnectionResetError):
        exporting.write(file, broken())
    assert list(tmp_path.iterdir()) == []
    file.write_bytes(b"of yesterday")
    with pytest.raises(ConnectionResetError):
        exporting.write(file, broken())
    assert list(tmp_path.iterdir()) == [file]
    assert file.read_bytes() == b"of yesterday"


@pytest.mark.parametrize("ending", exporting.FORMATS)
def test_a_disk_that_is_full_leaves_nothing(
    tmp_path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        exporting.write(tmp_path / f"blobs{ending}", iter(FOUND))
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_one_and_the_file_behind_it_is_replaced(tmp_path: Path) -> None:
    link = tmp_path / "latest.csv"
    link.symlink_to(tmp_path / "day.csv")
    exporting.write(link, iter(FOUND))
    assert link.is_symlink()
    assert (tmp_path / "day.csv").is_file()
    assert {entry.name for entry in tmp_path.iterdir()} == {"latest.csv", "day.csv"}
