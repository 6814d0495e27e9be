"""What an entry of a key service's audit log tells, whatever the service."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

Operation = Literal["unwrap", "wrap", "rewrap"]

Entry = Mapping[str, Any]


class LogError(Exception):
    """A log cannot be read, or is of another format."""

    reason_code = "log_unreadable"


@dataclass(frozen=True, slots=True)
class LoggedUse:
    """One request for uses of a key, as its service has logged it.

    Attributes:
        time: when.
        operation: what was done.
        key: URI of the KEK, without version.
        count: how many wraps came out, at most; 0 where the service refused.
        is_certain: whether the log tells that number, and not only how many were asked for.
        request_id: how the service names the request.
        blob_id: the blob, where the log tells it.
        who: who asked.
    """

    time: datetime
    operation: Operation
    key: str
    count: int
    is_certain: bool = True
    request_id: str = ""
    blob_id: str = ""
    who: str = ""


@dataclass(frozen=True, slots=True)
class Logged:
    """An entry of a log.

    Attributes:
        time: when it was written: so far the log reaches.
        scheme: of the URIs of the keys that such a log is about.
        use: the use of a key that it tells of, if it does.
    """

    time: datetime
    scheme: str
    use: LoggedUse | None


def time_of(text: str) -> datetime:
    """Read a time (RFC 3339); without an offset it is in UTC.

    Raises:
        ValueError: it is none.
    """
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
