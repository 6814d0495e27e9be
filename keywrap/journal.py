"""Where a mass operation notes what it does with keys: one event for each use of a key.

An event is one line of JSON, flat and without key material:

```json
{"time":"2026-11-24T09:30:00.123456Z","event":"unwrap","outcome":"failed",
 "reason_code":"wrap_refused","key_id":"hcvault://transit/blob-kek?version=3",
 "blob_id":"tenants/7/invoice.pdf","campaign":7,"shard":12,"fence":3,"by":"host-4:1207"}
```

`unwrap`, `wrap`, `rewrap`: the wrap was opened, made, moved by the service. `prove`: the new wrap
was opened, to compare. `decided`: what the blob came to; its `outcome` is one of
`keywrap.moves.Outcome`.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from keywrap.auditing import reason_of
from keywrap.keys import KeyVersion
from keywrap.moves import Result
from keywrap.segments import Segment, SegmentWriter, Source

Operation = Literal["unwrap", "wrap", "rewrap", "prove"]

Use = tuple[str, KeyVersion, object]
"""A blob's id, the KEK version, and what came out: an exception where nothing did."""


class Journal(Protocol):
    """Takes note of what is done with keys. Used by one thread."""

    def used(self, operation: Operation, uses: Iterable[Use]) -> None:
        """Note uses of keys, before anything is done with what they gave."""

    def flush(self) -> None:
        """Hand what was noted to the operating system: it outlives this process from then on.

        Raises:
            AuditUnavailableError: it cannot be written.
        """


class NoJournal:
    """Takes no note: for a library's user who has an audit log of their own, and for tests."""

    def used(self, operation: Operation, uses: Iterable[Use]) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Have nothing to write."""


class SegmentJournal:
    """Notes events into segments of the audit trail.

    Args:
        folder: the folder of the trail.
        source: whose events they are.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder = folder
        self._source = source
        self._lines: list[bytes] = []
        self._open: SegmentWriter | None = None
        self._closed = 0
        self._tail = (
            b","
            + msgspec.json.encode(
                {
                    "campaign": source.campaign_id,
                    "shard": source.shard_no,
                    "fence": source.fence,
                    "by": source.owner,
                }
            ).removeprefix(b"{")
            + b"\n"
        )

    def used(self, operation: Operation, uses: Iterable[Use]) -> None:
        """Note uses of keys; see `Journal.used`."""
        # What events of one step have in common is encoded once: there are some for each blob.
        start = self._start(operation)
        begun: dict[tuple[KeyVersion, str], bytes] = {}
        for blob_id, version, result in uses:
            failure = reason_of(result) if isinstance(result, Exception) else ""
            head = begun.get((version, failure))
            if head is None:
                outcome = _outcome("failed" if failure else "ok", failure)
                named = b',"key_id":' + msgspec.json.encode(str(version))
                head = begun[version, failure] = start + outcome + named
            self._lines.append(head + b',"blob_id":' + _text(blob_id) + self._tail)

    def decided(self, results: Sequence[Result]) -> None:
        """Note what blobs came to."""
        start = self._start("decided")
        begun: dict[tuple[str, str], bytes] = {}
        for result in results:
            what = result.outcome, result.reason_code
            head = begun.get(what)
            if head is None:
                head = begun[what] = start + _outcome(*what)
            self._lines.append(head + b',"blob_id":' + _text(result.blob_id) + self._tail)

    def _start(self, event: str) -> bytes:
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        return f'{{"time":"{now}","event":"{event}"'.encode()

    def flush(self) -> None:
        """Hand what was noted to the operating system; see `Journal.flush`."""
        if not self._lines:
            return
        lines, self._lines = self._lines, []
        if self._open is None:
            self._open = SegmentWriter.open(self._folder, self._source, self._closed)
        self._open.append(b"".join(lines), len(lines))

    def close(self) -> Segment | None:
        """End the segment, durably; what is noted from now on goes into another.

        Returns:
            The segment; None where nothing was noted.

        Raises:
            AuditUnavailableError: it cannot be written; nothing of it may be relied upon.
        """
        self.flush()
        if self._open is None:
            return None
        segment = self._open.close()
        self._open = None
        self._closed += 1
        return segment

    def abandon(self) -> None:
        """Let go of what is not closed; its file, if there is one, stays."""
        if self._open is not None:
            self._open.abandon()
            self._open = None


def _outcome(outcome: str, reason_code: str) -> bytes:
    reason = b',"reason_code":' + msgspec.json.encode(reason_code) if reason_code else b""
    return b',"outcome":' + msgspec.json.encode(outcome) + reason


def _text(text: str) -> bytes:
    if text.isascii():
        return msgspec.json.encode(text)
    # In ASCII, slower: other programs take U+2028 and the like for the end of a line.
    return json.dumps(text).encode()
