"""What the application's side did with keys: an event for each wrap and unwrap.

An event is a flat record without key material:

```json
{"time": "2026-11-24T09:30:00.123456Z", "event": "unwrap", "outcome": "failed",
 "blob_id": "tenants/7/invoice.pdf", "key_id": "hcvault://transit/blob-kek?version=3",
 "reason_code": "kms_unavailable"}
```
"""

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol

import msgspec

from keywrap.keys import KeyVersion

EventName = Literal["wrap", "unwrap", "legacy_unwrap", "fallback", "alert"]
"""`wrap`, `unwrap`: a data key was wrapped or opened, or could not be. `legacy_unwrap`: a legacy
wrap was opened while cutover is `warn`. `fallback`: the wrap before the newest was opened instead.
`alert`: a read or write did not come about; a person must look."""


class AuditSink(Protocol):
    """Where audit events go."""

    def event(self, event: Mapping[str, object]) -> None:
        """Take one event; may be called from many threads.

        What it raises reaches the caller of the read or write, which then does not come about:
        no data key is used without its trace.
        """


class AuditLog:
    """Hands events as JSON lines to the logger `keywrap.audit`.

    Alerts are errors, fallbacks and legacy unwraps are warnings, and the rest are informational:
    a program that has not set up logging shows alerts and warnings on standard error.
    """

    _levels: Mapping[object, int] = {
        "alert": logging.ERROR,
        "fallback": logging.WARNING,
        "legacy_unwrap": logging.WARNING,
    }

    def __init__(self) -> None:
        self._log = logging.getLogger("keywrap.audit")

    def event(self, event: Mapping[str, object]) -> None:
        """Log one event."""
        level = self._levels.get(event["event"], logging.INFO)
        if self._log.isEnabledFor(level):
            self._log.log(level, "%s", msgspec.json.encode(event).decode())


class JsonLines:
    """Appends events to a file, one JSON object a line.

    Each event is one write of a whole line to a file opened for appending, so lines of several
    threads and processes do not mix. A line is with the operating system when `event` returns: it
    outlives this process, and a power failure as far as the file system has flushed it.

    Args:
        path: the file; made with mode 0600 where there is none.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
        self._path = path
        self._file = os.open(path, flags, 0o600)
        self._lock = Lock()

    def event(self, event: Mapping[str, object]) -> None:
        """Append one event.

        Raises:
            OSError: it was not written whole, as on a full disk.
        """
        line = msgspec.json.encode(event) + b"\n"
        with self._lock:
            written = os.write(self._file, line)
        if written != len(line):
            raise OSError(f"{self._path}: an audit event was cut off after {written} bytes")

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


@dataclass(frozen=True, slots=True)
class Trail:
    """Makes events of what happens to blobs and keys.

    Attributes:
        sink: where they go.
    """

    sink: AuditSink

    def record(
        self,
        event: EventName,
        blob_id: str,
        version: KeyVersion | None = None,
        error: Exception | None = None,
        **more: object,
    ) -> None:
        """Send one event.

        Args:
            event: what happened.
            blob_id: to which blob.
            version: with which KEK version, where one was chosen.
            error: why it did not come about; None where it did. Its reason code is sent, and
                never its text.
            more: further fields.
        """
        record: dict[str, object] = {
            "time": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "event": event,
            "outcome": "ok" if error is None else "failed",
            "blob_id": blob_id,
        }
        if version is not None:
            record["key_id"] = str(version)
        if error is not None:
            record["reason_code"] = reason_of(error)
        self.sink.event(record | more)


def reason_of(error: Exception) -> str:
    """Return an error's short stable code, or the name of its kind where it has none."""
    return str(getattr(error, "reason_code", type(error).__name__))
