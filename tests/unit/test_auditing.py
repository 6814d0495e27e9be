import json
import logging
import os
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keywrap.auditing import AuditLog, JsonLines, Trail, reason_of
from keywrap.keys import KeyVersion
from keywrap.kms import DeniedError

VERSION = KeyVersion("hcvault://transit/blob-kek", "3")


class Kept:
    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def event(self, event: Any) -> None:
        self.events.append(dict(event))


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_an_event_says_when_what_which_blob_and_which_key_version() -> None:
    sink = Kept()
    Trail(sink).record("unwrap", "a/b", VERSION, cached=False)
    (event,) = sink.events
    time = datetime.fromisoformat(event.pop("time"))
    assert time.tzinfo == UTC
    assert abs(datetime.now(UTC) - time) < timedelta(minutes=1)
    assert event == {
        "event": "unwrap",
        "outcome": "ok",
        "blob_id": "a/b",
        "key_id": "hcvault://transit/blob-kek?version=3",
        "cached": False,
    }


def test_an_event_of_a_failure_has_its_code_and_not_its_text() -> None:
    sink = Kept()
    error = DeniedError("a secret text", key=VERSION.key, reason_code="permission_denied")
    Trail(sink).record("alert", "a", None, error)
    assert sink.events[0]["outcome"] == "failed"
    assert sink.events[0]["reason_code"] == "permission_denied"
    assert "key_id" not in sink.events[0]
    assert "secret" not in repr(sink.events)
    assert reason_of(KeyError("x")) == "KeyError"


def test_lines_are_appended_to_a_file_that_only_its_owner_reads(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    before = os.umask(0)
    try:
        for name in ("eins", "zwei\nzeilen"):
            lines = JsonLines(path)
            Trail(lines).record("wrap", name, VERSION)
            assert read(path)[-1]["blob_id"] == name, "it is there before the file is closed"
            lines.close()
    finally:
        os.umask(before)
    assert [event["blob_id"] for event in read(path)] == ["eins", "zwei\nzeilen"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_lines_of_many_writers_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "keys.jsonl"
    sinks = [JsonLines(path) for _ in range(2)]

    def write(sink: JsonLines, number: int) -> None:
        for turn in range(200):
            Trail(sink).record("wrap", f"{number}/{turn}" + "x" * 500, VERSION)

    threads = [
        threading.Thread(target=write, args=(sink, number)) for number, sink in enumerate(sinks * 2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sink in sinks:
        sink.close()
    assert len({event["blob_id"] for event in read(path)}) == 800


def test_a_line_that_is_not_written_whole_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = JsonLines(tmp_path / "keys.jsonl")
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[:10]))
    with pytest.raises(OSError, match="cut off after 10 bytes"):
        Trail(lines).record("wrap", "a", VERSION)
    lines.close()


@pytest.mark.parametrize(
    ("event", "level"),
    [
        ("wrap", logging.INFO),
        ("unwrap", logging.INFO),
        ("legacy_unwrap", logging.WARNING),
        ("fallback", logging.WARNING),
        ("alert", logging.ERROR),
    ],
)
def test_the_log_gets_each_event_as_a_line_of_json(
    event: Any, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "keywrap.audit"):
        Trail(AuditLog()).record(event, "100% a", VERSION)
    ((_, logged_level, line),) = caplog.record_tuples
    assert logged_level == level
    assert json.loads(line)["blob_id"] == "100% a"
    assert json.loads(line)["event"] == event
