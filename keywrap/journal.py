"""Where a mass operation notes what it does with keys: one event for each use of a key.

An event is one line of JSON, flat and without key material:

```json
{"time":"2026-11-24T09:30:00.123456Z","event":"unwrap","outcome":"failed",
 "reason_code":"wrap_refused","key_id":"hcvault://transit/blob-kek?version=3",
 "blob_id":"tenants/7/invoice.pdf","campaign":7,"shard":12,"fence":3,"by":"host-4:1207"}
```

`unwrap`, `wrap`, `rewrap`: the wrap was opened, made, moved by the service. `prove`: the new wrap
was opened, to compare. `decided`: what the blob came to; its `outcome` is one of
`keywrap.moves.Outcome`. `remove`: an old content is about to be removed; it has `object`, its
name, and `bytes`, its size. `approval`: a person asked for something, approved it or did it alone.
"""

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Literal, Protocol

import msgspec

from keywrap.auditing import reason_of
from keywrap.keys import KeyVersion
from keywrap.moves import Result
from keywrap.segments import AuditUnavailableError, Segment, SegmentWriter, Source

Operation = Literal["unwrap", "wrap", "rewrap", "prove"]

Use = tuple[str, KeyVersion, object, str]
"""A blob's id; the KEK version; what came out, an exception where nothing did; and the id of the
request as the key service names it, empty where that is not to be had."""


class Journal(Protocol):
    """Takes note of what is done with keys; may be used from many threads."""

    def used(self, operation: Operation, uses: Iterable[Use]) -> None:
        """Note uses of keys, before anything is done with what they gave.

        The note is with the operating system when this returns: it outlives this process.

        Raises:
            AuditUnavailableError: it cannot be written. What came out is not to be used.
        """

    def removes(self, blob_id: str, name: str, size: int) -> None:
        """Note that an old content is about to be removed, before it is.

        Args:
            blob_id: the blob whose content it was.
            name: the object's name.
            size: in bytes.

        Raises:
            AuditUnavailableError: it cannot be written. Nothing is to be removed.
        """


class NoJournal:
    """Takes no note: where the library's user has an audit log of their own, and in tests."""

    def used(self, operation: Operation, uses: Iterable[Use]) -> None:
        """Forget it."""

    def removes(self, blob_id: str, name: str, size: int) -> None:
        """Forget it."""

    def decided(self, results: Sequence[Result]) -> None:
        """Forget it."""

    def close(self) -> None:
        """Have no segment."""

    def abandon(self) -> None:
        """Have nothing to let go of."""


NO_JOURNAL = NoJournal()


class SegmentJournal:
    """Notes events into segments of the audit trail.

    Args:
        folder: the folder of the trail.
        source: whose events they are.
    """

    def __init__(self, folder: Path, source: Source) -> None:
        self._folder = folder
        self._source = source
        self._lock = Lock()
        self._open: SegmentWriter | None = None
        self._failure: AuditUnavailableError | None = None
        self._closed = 0
        who = {
            "campaign": source.campaign_id,
            "shard": source.shard_no,
            "fence": source.fence,
            "by": source.owner,
        }
        self._tail = b"," + msgspec.json.encode(who).removeprefix(b"{") + b"\n"

    def used(self, operation: Operation, uses: Iterable[Use]) -> None:
        """Note uses of keys; see `Journal.used`."""
        # What events of one step have in common is encoded once: there are some for each blob.
        start, tail, lines = _start(operation), self._tail, []
        begun: dict[tuple[KeyVersion, str], bytes] = {}
        for blob_id, version, result, request_id in uses:
            failure = reason_of(result) if isinstance(result, Exception) else ""
            head = begun.get((version, failure))
            if head is None:
                outcome = _outcome("failed" if failure else "ok", failure)
                named = b',"key_id":' + msgspec.json.encode(str(version))
                head = begun[version, failure] = start + outcome + named + b',"blob_id":'
            end = b',"request_id":' + _text(request_id) + tail if request_id else tail
            lines.append(head + _text(blob_id) + end)
        self._write(lines)

    def removes(self, blob_id: str, name: str, size: int) -> None:
        """Note what is about to be removed; see `Journal.removes`."""
        what = b',"object":' + _text(name) + b',"bytes":%d' % size
        head = _start("remove") + _outcome("begun", "") + b',"blob_id":' + _text(blob_id)
        self._write([head + what + self._tail])

    def decided(self, results: Sequence[Result]) -> None:
        """Note what blobs came to.

        Raises:
            AuditUnavailableError: it cannot be written.
        """
        start, lines = _start("decided"), []
        begun: dict[tuple[str, str], bytes] = {}
        for result in results:
            what = result.outcome, result.reason_code
            head = begun.get(what)
            if head is None:
                head = begun[what] = start + _outcome(*what) + b',"blob_id":'
            lines.append(head + _text(result.blob_id) + self._tail)
        self._write(lines)

    def acted(self, event: str, outcome: str, **more: str | int) -> None:
        """Note what a person did that is no use of a key, such as an approval.

        Args:
            event: a short stable word.
            outcome: what came of it, likewise.
            more: further fields.

        Raises:
            AuditUnavailableError: it cannot be written.
        """
        fields = b"".join(
            b"," + _text(name) + b":" + (_text(value) if isinstance(value, str) else b"%d" % value)
            for name, value in more.items()
        )
        self._write([_start(event) + _outcome(outcome, "") + fields + self._tail])

    def _write(self, lines: list[bytes]) -> None:
        if not lines:
            return
        with self._lock:
            self._require_whole()
            try:
                if self._open is None:
                    self._open = SegmentWriter.open(self._folder, self._source, self._closed)
                self._open.append(b"".join(lines), len(lines))
            except AuditUnavailableError as error:
                self._failure = error
                raise

    def _require_whole(self) -> None:
        """See that nothing is missing: what comes of a use without a trace is never recorded."""
        if self._failure is not None:
            raise self._failure

    def close(self) -> Segment | None:
        """End the segment, durably; what is noted from now on goes into another.

        Returns:
            The segment; None where nothing was noted.

        Raises:
            AuditUnavailableError: not all of it was written; none of it may be relied upon.
        """
        self._require_whole()
        if self._open is None:
            return None
        segment = self._open.close()
        self._open = None
        self._closed += 1
        return segment

    def abandon(self) -> None:
        """Let go of what is not closed; its file, if there is one, stays as it is."""
        if self._open is not None:
            self._open.abandon()
            self._open = None


def _start(event: str) -> bytes:
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return f'{{"time":"{now}","event":"{event}"'.encode()


def _outcome(outcome: str, reason_code: str) -> bytes:
    reason = b',"reason_code":' + msgspec.json.encode(reason_code) if reason_code else b""
    return b',"outcome":' + msgspec.json.encode(outcome) + reason


def _text(text: str) -> bytes:
    if text.isascii():
        return msgspec.json.encode(text)
    # In ASCII, slower: other programs take U+2028 and the like for the end of a line.
    return json.dumps(text).encode()
