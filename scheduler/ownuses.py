"""What our own trail says was done with keys: the events of workers and of applications."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from keywrap.keys import KeyVersion
from scheduler.kmslogs import LogError, Operation

_OPERATION: Mapping[str, Operation] = {
    "unwrap": "unwrap",
    "prove": "unwrap",
    "wrap": "wrap",
    "rewrap": "rewrap",
}

_MAYBE = frozenset({"kms_unavailable", "answer_malformed", "version_not_current"})
"""What is noted where no usable answer came: the service may have done it all the same."""


class _Event(msgspec.Struct, frozen=True):
    time: str
    event: str
    outcome: str = ""
    key_id: str = ""
    blob_id: str = ""
    reason_code: str = ""
    request_id: str = ""
    cached: bool = False


_EVENT = msgspec.json.Decoder(_Event)


@dataclass(frozen=True, slots=True)
class OwnUse:
    """One use of a key by us.

    Attributes:
        time: when it was noted.
        operation: what was done.
        key: URI of the KEK, without version.
        blob_id: the blob.
        request_id: how the key service names the request; empty where that is not known.
        came_out: whether something came out; None where no answer came, so that is not known.
    """

    time: datetime
    operation: Operation
    key: str
    blob_id: str
    request_id: str
    came_out: bool | None


def of_workers(lines: bytes) -> Iterator[OwnUse]:
    """Yield the uses that a segment's lines tell of.

    Raises:
        LogError: they are no events.
    """
    for line in lines.splitlines():
        yield from _uses(_event(line, "a segment"), proves=False)


def of_application(path: Path) -> Iterator[OwnUse]:
    """Yield the uses that an application's JSON lines tell of; see `keywrap.auditing`.

    Each wrap that an application makes is opened once, to prove it, without an event of its own.

    Raises:
        LogError: the file cannot be read, or holds something else.
    """
    try:
        with path.open("rb") as lines:
            for line in lines:
                if line.strip():
                    yield from _uses(_event(line, str(path)), proves=True)
    except OSError as error:
        raise LogError(f"{path} cannot be read: {error.strerror}") from error


def _event(line: bytes, where: str) -> _Event:
    try:
        return _EVENT.decode(line)
    except msgspec.MsgspecError:
        raise LogError(f"{where} holds a line that is no audit event of ours") from None


def _uses(event: _Event, *, proves: bool) -> Iterator[OwnUse]:
    operation = _OPERATION.get(event.event)
    if operation is None or event.cached or not event.key_id:
        return
    try:
        time = datetime.fromisoformat(event.time).astimezone(UTC)
        key = KeyVersion.parse(event.key_id).key
    except (ValueError, OverflowError):
        raise LogError(f"an audit event names {event.key_id!r} at {event.time!r}") from None
    came_out = event.outcome == "ok" or (None if event.reason_code in _MAYBE else False)
    yield OwnUse(time, operation, key, event.blob_id, event.request_id, came_out)
    if proves and operation == "wrap":
        yield OwnUse(time, "unwrap", key, event.blob_id, "", came_out)
