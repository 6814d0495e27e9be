import errno
import hashlib
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from keywrap.segments import (
    AuditUnavailableError,
    Segment,
    SegmentWriter,
    Source,
    examine,
    is_segment_name,
    names,
)
from keywrap.stores import StoreUnavailableError
from keywrap.trailfaults import FaultKind

SOURCE = Source(7, 12, 3, "host-4:1207")
LINES = b'{"a":1}\n{"a":2}\n'


def written(folder: Path, lines: bytes = LINES) -> Segment:
    writer = SegmentWriter.open(folder, SOURCE, 0)
    writer.append(lines, 2)
    return writer.close()


def kind_of(segment: Segment, *folders: Path) -> FaultKind | None:
    fault = examine(segment, folders)
    return fault.kind if fault else None


def rewrite(path: Path, data: bytes) -> None:
    path.unlink()
    path.write_bytes(data)


def test_a_closed_segment_knows_its_digest_size_and_events(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "audit"
    segment = written(folder)
    assert (folder / segment.name).read_bytes() == LINES
    assert segment.sha256 == hashlib.sha256(LINES).digest()
    assert (segment.size, segment.events, segment.source) == (len(LINES), 2, SOURCE)
    assert names(folder) == {segment.name}
    assert kind_of(segment, folder) is None


def test_only_its_user_can_read_a_segment_and_nobody_writes_to_a_closed_one(tmp_path: Path) -> None:
    path = tmp_path / "audit" / written(tmp_path / "audit").name
    assert stat.S_IMODE(path.stat().st_mode) == 0o400
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700


def test_two_segments_of_one_claim_have_two_names(tmp_path: Path) -> None:
    assert written(tmp_path).name != written(tmp_path).name


def test_a_changed_segment_is_told_from_a_cut_and_a_missing_one(tmp_path: Path) -> None:
    segment = written(tmp_path)
    path = tmp_path / segment.name
    rewrite(path, LINES.replace(b"2", b"3"))
    assert kind_of(segment, tmp_path) is FaultKind.EDITED
    rewrite(path, LINES + b"{}\n")
    assert kind_of(segment, tmp_path) is FaultKind.EDITED
    rewrite(path, LINES[:-1])
    assert kind_of(segment, tmp_path) is FaultKind.TRUNCATED
    path.unlink()
    assert kind_of(segment, tmp_path) is FaultKind.MISSING
    assert kind_of(segment) is FaultKind.MISSING


def test_a_link_or_folder_in_its_place_is_no_segment(tmp_path: Path) -> None:
    segment = written(tmp_path)
    path = tmp_path / segment.name
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    assert kind_of(segment, tmp_path) is FaultKind.MISSING
    path.unlink()
    path.mkdir()
    assert kind_of(segment, tmp_path) is FaultKind.MISSING
    path.rmdir()
    os.mkfifo(path)
    assert kind_of(segment, tmp_path) is FaultKind.MISSING


def test_of_several_folders_one_with_the_very_bytes_is_enough(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    segment = written(one)
    other.mkdir()
    assert kind_of(segment, other, one) is None
    assert kind_of(segment, one, other) is None
    rewrite(one / segment.name, LINES[:-1])
    assert kind_of(segment, other, one) is FaultKind.TRUNCATED
    assert kind_of(segment, one, other) is FaultKind.TRUNCATED


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "7/../8/1-1-0-00000000.jsonl", "", "7/x", "/7/1-1-0-00000000.jsonl"],
)
def test_a_name_from_a_changed_ledger_leads_to_no_file(tmp_path: Path, name: str) -> None:
    assert not is_segment_name(name)
    assert kind_of(replace(written(tmp_path), name=name), tmp_path) is FaultKind.ROW_CHANGED


def test_a_full_disk_is_something_to_wait_for_and_spoils_the_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SegmentWriter.open(tmp_path, SOURCE, 0)
    writer.append(LINES, 2)

    def full(_file: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(AuditUnavailableError, match="No space left on device") as failed:
        writer.append(LINES, 2)
    monkeypatch.undo()
    assert isinstance(failed.value, StoreUnavailableError)
    assert failed.value.reason_code == "audit_unavailable"
    for again in (lambda: writer.append(LINES, 2), writer.close):
        with pytest.raises(AuditUnavailableError):
            again()


def test_what_the_system_takes_in_pieces_is_written_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:3]))
    segment = written(tmp_path)
    assert (tmp_path / segment.name).read_bytes() == LINES
    assert kind_of(segment, tmp_path) is None


def test_a_folder_that_cannot_be_made_is_something_to_wait_for(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file")
    with pytest.raises(AuditUnavailableError, match="nothing goes on before it can"):
        SegmentWriter.open(tmp_path / "audit", SOURCE, 0)


def path_of(file: int) -> str:
    return str(Path(f"/proc/self/fd/{file}").readlink())


def test_a_segment_outlives_a_power_failure_with_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    writer = SegmentWriter.open(tmp_path, SOURCE, 0)
    writer.append(LINES, 2)
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(path_of(fd)))
    path = tmp_path / writer.close().name
    assert synced == [str(path), str(path.parent)]


def test_a_new_folder_outlives_a_power_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(path_of(fd)))
    SegmentWriter.open(tmp_path / "audit", SOURCE, 0).abandon()
    assert synced == [str(tmp_path), str(tmp_path / "audit")]
