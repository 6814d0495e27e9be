import csv
import gzip
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from keywrap.config import StoreConfig
from scheduler import exporting
from scheduler.sources import SourceError, SourceKind, open_source
from scheduler.sources.lines import MAX_LINE_BYTES
from tests.inventories import (
    ALL_VERSIONS,
    BUCKET,
    CREATED_MS,
    DAY,
    STORE,
    csv_file,
    manifest,
    md5,
    parquet_file,
)

FOLDER = StoreConfig(url="file:///srv/blobs")

IDS = ["a", "tenant/Rechnung März", 'with "quotes", and commas', "=cmd", " spaces ", "日本/語"]


def write_list(file: Path, ids: list[str]) -> Path:
    if file.suffix == ".txt":
        file.write_text("".join(f"{one}\n" for one in ids), "utf-8")
    elif file.suffix == ".csv":
        with file.open("w", encoding="utf-8", newline="") as output:
            csv.writer(output).writerows([["problem", "blob_id"], *(["", one] for one in ids)])
    elif file.suffix == ".jsonl":
        lines = [json.dumps({"blob_id": one, "wrap_bytes": ""}) for one in ids]
        file.write_text("\n\n".join(lines), "utf-8")
    else:
        columns = {"problem": [""] * len(ids), "blob_id": pa.array(ids, pa.string())}
        parquet.write_table(pa.table(columns), file, row_group_size=-(-len(ids) // 3))
    return file


def refused(place: Path | str, store: StoreConfig = FOLDER) -> SourceError:
    with pytest.raises(SourceError) as caught:
        list(open_source(str(place), store))
    assert caught.value.next_command
    assert "nothing was changed" in str(caught.value)
    return caught.value


def file_of(folder: Path, name: str, data: bytes) -> Path:
    (folder / name).write_bytes(data)
    return folder / name


@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl", "parquet", "TXT"])
def test_a_list_yields_its_blob_ids_in_order_and_as_often_as_it_is_asked(
    tmp_path: Path, ending: str
) -> None:
    place = str(
        write_list(tmp_path / f"ids.{ending.lower()}", IDS).rename(tmp_path / f"x.{ending}")
    )
    source = open_source(place, FOLDER)
    assert list(source) == list(source) == IDS
    assert (source.place, source.kind, source.as_of) == (place, SourceKind.BLOB_IDS, None)


def test_blank_lines_a_byte_order_mark_and_ends_of_lines_are_no_part_of_an_id(
    tmp_path: Path,
) -> None:
    text = file_of(tmp_path, "ids.txt", b"\xef\xbb\xbfa\r\n\r\n  \nb/c\n\t\nd")
    table = file_of(tmp_path, "ids.csv", b"\xef\xbb\xbfblob_id\r\na\r\n\r\nb/c\r\nd")
    assert list(open_source(str(text), FOLDER)) == ["a", "b/c", "d"]
    assert list(open_source(str(table), FOLDER)) == ["a", "b/c", "d"]


@pytest.mark.parametrize("ending", ["txt", "csv", "jsonl", "parquet"])
def test_a_list_may_be_longer_than_any_line_of_it(tmp_path: Path, ending: str) -> None:
    ids = [f"{number:0100}" for number in range(10_000)]
    assert list(open_source(str(write_list(tmp_path / f"ids.{ending}", ids)), FOLDER)) == ids


def test_a_dictionary_of_strings_is_a_column_of_strings(tmp_path: Path) -> None:
    column = pa.array(["a", "b", "a"]).dictionary_encode()
    parquet.write_table(pa.table({"blob_id": column}), tmp_path / "ids.parquet")
    assert list(open_source(str(tmp_path / "ids.parquet"), FOLDER)) == ["a", "b", "a"]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))))
def test_what_is_exported_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, ids: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("lists")
    for ending in exporting.FORMATS:
        file = folder / f"blobs{ending}"
        assert exporting.write(file, (exporting.Finding(one, None) for one in ids)) == len(ids)
        assert list(open_source(str(file), FOLDER)) == ids


LONG = b"x" * (MAX_LINE_BYTES + 1)

BAD_LISTS = {
    "not UTF-8": ("ids.txt", b"a\n\xff\n", "source_not_utf8"),
    "half a surrogate pair in text": ("ids.txt", b"a\n\xed\xa0\x80\n", "source_not_utf8"),
    "UTF-16": ("ids.txt", "a\nb\n".encode("utf-16"), "source_not_utf8"),
    "NUL in text": ("ids.txt", b"a\nb\0c\n", "source_name_not_text"),
    "a line without end in text": ("ids.txt", LONG, "source_line_too_long"),
    "a line without end in CSV": ("ids.csv", b"blob_id\n" + LONG, "source_line_too_long"),
    "a line without end in JSON": ("ids.jsonl", b'{"blob_id":"' + LONG, "source_line_too_long"),
    "a record without end": ("ids.csv", b'blob_id\n"' + b'a\n","' * 70_000, "source_line_too_long"),
    "no column in CSV": ("ids.csv", b"id\na\n", "source_no_column"),
    "two columns in CSV": ("ids.csv", b"blob_id,blob_id\na,b\n", "source_no_column"),
    "an empty CSV": ("ids.csv", b"", "source_no_column"),
    "a quote that is not closed": ("ids.csv", b'blob_id\n"a\n', "source_not_csv"),
    "text after a quote": ("ids.csv", b'blob_id\n"a"b\n', "source_not_csv"),
    "a field too few": ("ids.csv", b"problem,blob_id\na\n", "source_not_csv"),
    "NUL in CSV": ("ids.csv", b"blob_id\na\0\n", "source_name_not_text"),
    "bad JSON": ("ids.jsonl", b'{"blob_id": "a"}\n{"blob_id": "b\n', "source_not_json"),
    "JSON that is no object": ("ids.jsonl", b'["a"]\n', "source_not_json"),
    "an object without an id": ("ids.jsonl", b'{"id": "a"}\n', "source_not_json"),
    "an id that is a number": ("ids.jsonl", b'{"blob_id": 7}\n', "source_not_json"),
    "a surrogate in JSON": ("ids.jsonl", b'{"blob_id": "\\ud800"}\n', "source_not_json"),
    "NUL in JSON": ("ids.jsonl", b'{"blob_id": "\\u0000"}\n', "source_name_not_text"),
    "deep JSON": ("ids.jsonl", b'{"a":' + b"[" * 50_000 + b"\n", "source_not_json"),
    "no Parquet": ("ids.parquet", b"blob_id\na\n", "source_not_parquet"),
    "an empty Parquet": ("ids.parquet", b"", "source_not_parquet"),
    "no column in Parquet": ("ids.parquet", parquet_file(id=["a"]), "source_no_column"),
    "numbers in Parquet": ("ids.parquet", parquet_file(blob_id=[7]), "source_no_column"),
    "a null in Parquet": ("ids.parquet", parquet_file(blob_id=["a", None]), "source_name_missing"),
    "NUL in Parquet": ("ids.parquet", parquet_file(blob_id=["\0"]), "source_name_not_text"),
    "an id without end": (
        "ids.parquet",
        parquet_file(blob_id=[LONG.decode()]),
        "source_line_too_long",
    ),
    "an unknown ending": ("ids.xlsx", b"", "source_kind"),
    "bytes that are not UTF-8 in Parquet": (
        "ids.parquet",
        parquet_file(blob_id=["abc"]).replace(b"abc", b"a\xffc"),
        "source_not_utf8",
    ),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_a_list_that_cannot_be_used_is_refused_with_its_reason(tmp_path: Path, name: str) -> None:
    ending, data, reason_code = BAD_LISTS[name]
    assert refused(file_of(tmp_path, ending, data)).reason_code == reason_code


def test_a_parquet_file_is_refused_wherever_it_was_cut_or_altered(tmp_path: Path) -> None:
    ids = [f"tenant/{number:05}" for number in range(300)]
    whole = write_list(tmp_path / "ids.parquet", ids).read_bytes()
    for size in range(0, len(whole), 397):
        file = file_of(tmp_path, "cut.parquet", whole[:size])
        assert refused(file).reason_code == "source_not_parquet"
    for at in range(0, len(whole), 97):
        file = file_of(
            tmp_path, "bad.parquet", whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :]
        )
        try:
            list(open_source(str(file), FOLDER))
        except SourceError:
            continue


def test_a_row_group_that_would_take_all_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = file_of(tmp_path, "ids.parquet", parquet_file(blob_id=["x" * 60_000]))
    assert len(list(open_source(str(file), FOLDER))) == 1
    monkeypatch.setattr("scheduler.sources.parquet.MAX_CHUNK_BYTES", 50_000)
    assert refused(file).reason_code == "source_too_large"


def test_places_that_are_no_list_are_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.txt").mkdir()
    os.mkfifo(tmp_path / "pipe.txt")
    assert refused(tmp_path / "none.txt").reason_code == "source_missing"
    assert refused(tmp_path / "folder.txt").reason_code == "source_no_file"
    assert refused(tmp_path / "pipe.txt").reason_code == "source_no_file"
    assert refused(f"{tmp_path}/a\0b.txt").reason_code == "source_unreadable"
    for place in ("gs://reports/x_manifest.json", "https://h/manifest.json", "s3://b/ids.txt", ""):
        assert refused(place, STORE).reason_code == "source_kind"


def report(folder: Path, files: dict[str, bytes], /, **changed: Any) -> Path:
    """A report beside whose manifest the data files lie, by their last names."""
    for key, data in files.items():
        (folder / key.rsplit("/", 1)[-1]).write_bytes(data)
    return file_of(folder, "manifest.json", manifest(files, **changed))


VERSIONED = [
    [BUCKET, "tenant/a b+c/ü", "v1", "true", "false", "5"],
    [BUCKET, "tenant/a b+c/ü", "v0", "false", "false", "5"],
    [BUCKET, "tenant/gone", "v2", "true", "true", ""],
    [BUCKET, "tenant/unsaid", "", "", "", ""],
    [BUCKET, "tenant/folder/", "v1", "true", "false", "0"],
    [BUCKET, "tenant/slash/", "v1", "true", "false", "7"],
    [BUCKET, "tenant/", "v1", "true", "false", "0"],
    [BUCKET, "tenant/.rewrap/control.json", "v1", "true", "false", "9"],
    [BUCKET, "tenant2/other", "v1", "true", "false", "5"],
    [BUCKET, "other", "v1", "true", "false", "5"],
]
NAMES = ["a b+c/ü", "unsaid", "slash/"]


def test_a_report_in_csv_yields_the_latest_objects_of_the_store(tmp_path: Path) -> None:
    files = {f"{DAY}/1.csv.gz": csv_file(VERSIONED), f"{DAY}/2.csv.gz": csv_file(VERSIONED[:1])}
    source = open_source(str(report(tmp_path, files, fileSchema=ALL_VERSIONS)), STORE)
    assert list(source) == list(source) == [*NAMES, NAMES[0]]
    assert source.kind is SourceKind.OBJECT_NAMES
    assert source.as_of == datetime.fromtimestamp(CREATED_MS / 1000, UTC)


def test_a_report_in_parquet_yields_the_same(tmp_path: Path) -> None:
    booleans = {"true": True, "false": False, "": None}
    data = parquet_file(
        bucket=[row[0] for row in VERSIONED],
        size=[int(row[5]) if row[5] else None for row in VERSIONED],
        key=[row[1] for row in VERSIONED],
        is_delete_marker=[booleans[row[4]] for row in VERSIONED],
        is_latest=[booleans[row[3]] for row in VERSIONED],
    )
    place = report(tmp_path, {f"{DAY}/1.parquet": data}, fileFormat="Parquet", fileSchema="message")
    assert list(open_source(str(place), STORE)) == NAMES


def test_columns_are_found_by_the_schema_and_a_store_may_be_all_of_a_bucket(tmp_path: Path) -> None:
    data = csv_file([["5", "a%2Fb", BUCKET], ["0", "c/", BUCKET], ["0", "d", BUCKET]])
    place = report(tmp_path, {"1.csv.gz": data}, fileSchema="Size,Key,Bucket")
    whole = msgspec.structs.replace(STORE, url=f"s3://{BUCKET}")
    assert list(open_source(str(place), whole)) == ["a%2Fb", "d"]


@pytest.mark.parametrize("key", ["1.csv.gz", f"{DAY}/1.csv.gz"])
def test_data_files_are_found_beside_the_manifest_or_where_s3_places_them(
    tmp_path: Path, key: str
) -> None:
    day = tmp_path / "2026-11-06T21-32Z"
    day.mkdir()
    data = csv_file([[BUCKET, "tenant/a"]])
    file_of(day, "manifest.json", manifest({key: data}))
    for folder in (tmp_path / "data", day, (day / key).parent):
        folder.mkdir(parents=True, exist_ok=True)
        file = file_of(folder, "1.csv.gz", data)
        assert list(open_source(str(day / "manifest.json"), STORE)) == ["a"]
        file.unlink()
    assert refused(day / "manifest.json", STORE).reason_code == "source_missing"


def test_a_manifest_is_what_its_checksum_says(tmp_path: Path) -> None:
    place = report(tmp_path, {"1.csv.gz": csv_file([[BUCKET, "tenant/a"]])})
    file_of(tmp_path, "manifest.checksum", md5(place.read_bytes()).encode() + b"\n")
    assert list(open_source(str(place), STORE)) == ["a"]
    for wrong in (md5(b"").encode(), b"", b"\xff"):
        file_of(tmp_path, "manifest.checksum", wrong)
        assert refused(place, STORE).reason_code == "source_damaged"


def test_no_name_of_a_damaged_data_file_is_used(tmp_path: Path) -> None:
    first, second = csv_file([[BUCKET, "tenant/a"]]), csv_file([[BUCKET, "tenant/b"]])
    place = report(tmp_path, {"1.csv.gz": first, "2.csv.gz": second})
    file_of(tmp_path, "2.csv.gz", csv_file([[BUCKET, "tenant/x"]]))
    names = iter(open_source(str(place), STORE))
    assert next(names) == "a"
    with pytest.raises(SourceError, match="MD5") as caught:
        next(names)
    assert caught.value.reason_code == "source_damaged"


GOOD = csv_file([[BUCKET, "tenant/a"]])

BAD_DATA: dict[str, tuple[bytes, str]] = {
    "cut": (GOOD[:-9], "source_damaged"),
    "no gzip": (b"Bucket,Key\n", "source_damaged"),
    "bad deflate": (GOOD[:10] + b"\xff" * 20, "source_damaged"),
    "a wrong CRC": (GOOD[:-8] + bytes(8), "source_damaged"),
    "too few fields": (gzip.compress(b'"a"\n'), "source_damaged"),
    "not encoded": (gzip.compress(b'"blobs-7","tenant/100%"\n'), "source_damaged"),
    "not UTF-8": (gzip.compress(b'"blobs-7","tenant/%ff"\n'), "source_not_utf8"),
    "a surrogate": (gzip.compress(b'"blobs-7","tenant/%ed%a0%80"\n'), "source_not_utf8"),
    "NUL": (gzip.compress(b'"blobs-7","tenant/%00"\n'), "source_name_not_text"),
    "a bomb": (gzip.compress(bytes(200_000_000), 1), "source_line_too_long"),
}


@pytest.mark.parametrize("name", BAD_DATA)
def test_a_data_file_that_is_none_is_refused_though_its_md5_is_right(
    tmp_path: Path, name: str
) -> None:
    data, reason_code = BAD_DATA[name]
    assert refused(report(tmp_path, {"1.csv.gz": data}), STORE).reason_code == reason_code


@pytest.mark.parametrize(
    ("changed", "reason_code"),
    [
        ({"files": []}, "source_empty"),
        ({"files": None}, "source_not_manifest"),
        ({"files": [{"key": "1.csv.gz", "size": 1}]}, "source_not_manifest"),
        ({"files": [{"key": "1.csv.gz", "size": 1, "MD5checksum": "x"}]}, "source_not_manifest"),
        ({"sourceBucket": "blobs-8"}, "source_other_bucket"),
        ({"sourceBucket": None}, "source_not_manifest"),
        ({"fileFormat": "ORC"}, "source_format"),
        ({"creationTimestamp": "today"}, "source_not_manifest"),
        ({"creationTimestamp": "9" * 18}, "source_not_manifest"),
        ({"fileSchema": "Bucket, Name"}, "source_no_column"),
        ({"fileSchema": "Key, Key"}, "source_no_column"),
        ({"fileSchema": "IsLatest, Key"}, "source_damaged"),
    ],
)
def test_a_manifest_that_cannot_be_used_is_refused(
    tmp_path: Path, changed: dict[str, Any], reason_code: str
) -> None:
    assert (
        refused(report(tmp_path, {"1.csv.gz": GOOD}, **changed), STORE).reason_code == reason_code
    )


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"files": []}'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, data: bytes) -> None:
    place = file_of(tmp_path, "manifest.json", data)
    assert refused(place, STORE).reason_code == "source_not_manifest"
    assert refused(place, FOLDER).reason_code == "source_other_bucket"


@pytest.mark.parametrize(
    "key", ["../1.csv.gz", "a/../1.csv.gz", "/1.csv.gz", "a//1.csv.gz", "\0", "."]
)
def test_a_manifest_leads_to_no_other_folder(tmp_path: Path, key: str) -> None:
    file_of(tmp_path, "1.csv.gz", GOOD)
    (tmp_path / "day").mkdir()
    place = file_of(tmp_path / "day", "manifest.json", manifest({key: GOOD}))
    assert refused(place, STORE).reason_code == "source_damaged"


def test_a_parquet_report_that_is_none_is_refused(tmp_path: Path) -> None:
    for data, code in (
        (parquet_file(key=["tenant/a"])[:-20], "source_not_parquet"),
        (parquet_file(name=["tenant/a"]), "source_no_column"),
        (parquet_file(key=["tenant/a"], is_latest=["maybe"]), "source_damaged"),
    ):
        place = report(tmp_path, {"1.parquet": data}, fileFormat="Parquet")
        assert refused(place, STORE).reason_code == code


def test_a_key_longer_than_any_path_is_refused(tmp_path: Path) -> None:
    place = file_of(tmp_path, "manifest.json", manifest({"k" * 5_000: GOOD}))
    assert refused(place, STORE).reason_code == "source_unreadable"


def test_pyarrow_is_loaded_only_where_it_is_needed() -> None:
    loaded = "import sys, scheduler.sources, scheduler.commands; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert "scheduler.sources" in ran.stdout.split()
    assert "pyarrow" not in ran.stdout.split()
