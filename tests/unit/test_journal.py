import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from keywrap.datakey import DataKey
from keywrap.journal import NO_JOURNAL, SegmentJournal
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import RefusedError
from keywrap.rewrapping import Outcome, Result
from keywrap.segments import AuditUnavailableError, Segment, Source
from keywrap.trailcheck import examine

OLD, NEW = KeyVersion("env:BLOB_KEY"), KeyVersion("hcvault://transit/blob-kek", "3")
SOURCE = Source(7, 12, 3, "host-4:1207")


def journal_in(folder: Path) -> SegmentJournal:
    return SegmentJournal(folder, SOURCE)


def events(folder: Path, segment: Segment | None) -> list[dict[str, Any]]:
    assert segment is not None
    lines = (folder / segment.name).read_text(encoding="utf-8").splitlines()
    assert len(lines) == segment.events
    return [json.loads(line) for line in lines]


def test_an_event_says_when_what_which_key_which_blob_and_who(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.used("unwrap", [("a/b", NEW, None, "")])
    (event,) = events(tmp_path, journal.close())
    assert datetime.fromisoformat(event.pop("time")).utcoffset() is not None
    assert event == {
        "event": "unwrap",
        "outcome": "ok",
        "key_id": "hcvault://transit/blob-kek?version=3",
        "blob_id": "a/b",
        "campaign": 7,
        "shard": 12,
        "fence": 3,
        "by": "host-4:1207",
    }


def test_a_use_that_failed_says_why_by_its_code_and_not_by_its_text(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    error = RefusedError("a text that may quote anything", reason_code="wrap_does_not_open")
    journal.used("unwrap", [("a", OLD, error, ""), ("b", OLD, None, ""), ("c", OLD, error, "")])
    found = events(tmp_path, journal.close())
    assert [e["outcome"] for e in found] == ["failed", "ok", "failed"]
    assert [e.get("reason_code") for e in found] == ["wrap_does_not_open", None] * 1 + [
        "wrap_does_not_open"
    ]
    assert "a text" not in json.dumps(found)


def test_what_blobs_came_to_is_noted_with_its_reason(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    bad = Result("b", Outcome.QUARANTINED, "sidecar_not_json", "detail")
    journal.decided([Result("a", Outcome.REWRAPPED), bad])
    found = events(tmp_path, journal.close())
    assert [(e["event"], e["blob_id"], e["outcome"], e.get("reason_code")) for e in found] == [
        ("decided", "a", "rewrapped", None),
        ("decided", "b", "quarantined", "sidecar_not_json"),
    ]


def test_no_key_and_no_wrap_is_in_any_event(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    key, wrapped = DataKey.generate(), WrappedKey(NEW, bytes(range(60)))
    journal.used("unwrap", [("a", OLD, key, "")])
    journal.used("wrap", [("a", NEW, wrapped, "")])
    text = json.dumps(events(tmp_path, journal.close()))
    assert key.reveal().hex() not in text
    assert wrapped.ciphertext.hex() not in text
    assert "DataKey" not in text
    assert "WrappedKey" not in text


def test_an_odd_blob_id_stays_one_line_and_one_field(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    odd = ['a"\n{"event":"wrap"}', "ü\u2028\x00", "tail\\", "half \ud800 a pair"]
    journal.used("unwrap", [(blob_id, OLD, None, "") for blob_id in odd])
    found = events(tmp_path, journal.close())
    assert [e["blob_id"] for e in found] == odd


def test_nothing_noted_makes_no_segment(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.used("unwrap", [])
    journal.decided([])
    assert journal.close() is None
    assert list(tmp_path.iterdir()) == []


def test_an_event_is_with_the_system_before_the_segment_is_closed(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.used("unwrap", [("a", OLD, None, "")])
    (file,) = tmp_path.glob("7/*.jsonl")
    assert json.loads(file.read_text())["blob_id"] == "a"
    journal.abandon()
    assert json.loads(file.read_text())["blob_id"] == "a"


def test_after_a_segment_comes_another_of_its_own(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.used("unwrap", [("a", OLD, None, "")])
    first = journal.close()
    journal.used("unwrap", [("b", OLD, None, "")])
    second = journal.close()
    assert [e["blob_id"] for e in events(tmp_path, second)] == ["b"]
    assert first is not None
    assert examine(first, [tmp_path]) is None


def test_a_request_that_its_service_names_is_named(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    journal.used("unwrap", [("a", NEW, None, "req-1"), ("b", NEW, None, "")])
    found = events(tmp_path, journal.close())
    assert [e.get("request_id") for e in found] == ["req-1", None]


def test_an_event_that_cannot_be_written_spoils_the_segment_and_not_the_next_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = journal_in(tmp_path)
    journal.used("unwrap", [("a", OLD, None, "")])

    def full(_file: int, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        with pytest.raises(AuditUnavailableError, match="No space left"):
            journal.used("wrap", [("a", NEW, None, "")])
    # What was used has no trace, so nothing that came of it may be recorded, disk or no disk.
    with pytest.raises(AuditUnavailableError, match="No space left"):
        journal.decided([Result("a", Outcome.REWRAPPED)])
    with pytest.raises(AuditUnavailableError, match="No space left"):
        journal.close()
    journal.abandon()
    another = journal_in(tmp_path)
    another.used("unwrap", [("a", OLD, None, "")])
    assert another.close() is not None


def test_a_segment_that_could_not_be_made_is_no_segment_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "7").write_text("no folder")
    journal = journal_in(tmp_path)
    with pytest.raises(AuditUnavailableError):
        journal.used("unwrap", [("a", OLD, None, "")])
    (tmp_path / "7").unlink()
    with pytest.raises(AuditUnavailableError):
        journal.close()


def test_many_threads_note_whole_lines(tmp_path: Path) -> None:
    journal = journal_in(tmp_path)
    uses = [(f"b{n}", OLD, None, "") for n in range(50)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _n: journal.used("unwrap", uses), range(40)))
    assert len(events(tmp_path, journal.close())) == 2000


def test_a_journal_of_nothing_takes_everything() -> None:
    NO_JOURNAL.used("unwrap", [("a", OLD, None, "")])
    NO_JOURNAL.decided([Result("a", Outcome.CURRENT)])
    NO_JOURNAL.close()
    NO_JOURNAL.abandon()
