"""What key services wrote into their own audit logs: each use of a key, whoever asked for it.

Two formats: the audit devices of OpenBao and Vault (JSON lines; strings are HMACed there, so the
blob is not told), and AWS CloudTrail (`Records`, or one record a line). Both may be gzipped.
https://openbao.org/docs/audit/, https://docs.aws.amazon.com/kms/latest/developerguide/logging-using-cloudtrail.html
"""

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

Operation = Literal["unwrap", "wrap", "rewrap"]

_Entry = Mapping[str, Any]

_GZIP = b"\x1f\x8b"
_TRANSIT = re.compile(
    r"(?P<mount>.+)/(?P<what>encrypt|decrypt|rewrap|datakey/(?:plaintext|wrapped))/(?P<name>[^/]+)"
)
_TRANSIT_OPERATION: Mapping[str, Operation] = {
    "encrypt": "wrap",
    "decrypt": "unwrap",
    "rewrap": "rewrap",
    "datakey/plaintext": "wrap",
    "datakey/wrapped": "wrap",
}
_AWS_OPERATION: Mapping[str, Operation] = {
    "Encrypt": "wrap",
    "Decrypt": "unwrap",
    "ReEncrypt": "rewrap",
    "GenerateDataKey": "wrap",
    "GenerateDataKeyWithoutPlaintext": "wrap",
}


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


def read(path: Path) -> Iterator[Logged]:
    """Yield the entries of a log.

    Raises:
        LogError: it cannot be read, or has something in it that neither service writes.
    """
    try:
        for number, entry in _entries(path):
            try:
                yield _logged(entry)
            except (KeyError, TypeError, ValueError, AttributeError):
                raise LogError(
                    f"{path}: entry {number} is none of an audit device of OpenBao or Vault, nor "
                    "of CloudTrail"
                ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise LogError(f"{path} cannot be read: {error}") from error


def _entries(path: Path) -> Iterator[tuple[int, _Entry]]:
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    with gzip.open(path) if zipped else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = msgspec.json.decode(line)
            except msgspec.DecodeError:
                if number > 1 and not line.endswith(b"\n"):
                    return  # it is being written
                if number > 1:
                    raise LogError(f"{path}: line {number} is not JSON") from None
                entry = _document(path, line + lines.read())
                yield from enumerate(entry["Records"], start=1)
                return
            records = entry.get("Records") if isinstance(entry, dict) else None
            if isinstance(records, list):
                yield from enumerate(records, start=1)
            else:
                yield number, entry


def _document(path: Path, data: bytes) -> dict[str, list[_Entry]]:
    """Read a log that is one document over many lines."""
    try:
        document: dict[str, list[_Entry]] = msgspec.json.decode(
            data, type=dict[str, list[dict[str, Any]]]
        )
    except msgspec.MsgspecError:
        document = {}
    if document.keys() != {"Records"}:
        raise LogError(f"{path} is neither JSON lines nor a document of CloudTrail")
    return document


def _logged(entry: _Entry) -> Logged:
    if "eventSource" in entry:
        time = _time(entry["eventTime"])
        is_kms = entry["eventSource"] == "kms.amazonaws.com"
        operation = _AWS_OPERATION.get(entry["eventName"]) if is_kms else None
        return Logged(time, "aws-kms:", _aws(entry, time, operation) if operation else None)
    time = _time(entry["time"])
    match = _TRANSIT.fullmatch(str(entry["request"].get("path", "")))
    if entry["type"] != "response" or match is None:
        return Logged(time, "hcvault:", None)
    return Logged(time, "hcvault:", _transit(entry, time, match))


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _transit(entry: _Entry, time: datetime, match: re.Match[str]) -> LoggedUse:
    request, auth = entry["request"], entry.get("auth") or {}
    count, is_certain = _transit_count(entry, request.get("data") or {})
    return LoggedUse(
        time,
        _TRANSIT_OPERATION[match["what"]],
        f"hcvault://{match['mount']}/{match['name']}",
        count,
        is_certain,
        request_id=str(request.get("id", "")),
        who=f"{auth.get('display_name', 'somebody')} at {request.get('remote_address', '?')}",
    )


def _transit_count(entry: _Entry, asked: _Entry) -> tuple[int, bool]:
    """Return how many wraps came out, and whether that is certain."""
    data = (entry.get("response") or {}).get("data") or {}
    results = data.get("batch_results")
    if isinstance(results, list):
        return sum(1 for item in results if not item.get("error")), True
    if "http_raw_body" in data:
        # The answer to a batch of which some items failed is hashed as a whole, and may hold keys.
        return len(asked.get("batch_input") or [None]), False
    done = not entry.get("error") and ("plaintext" in data or "ciphertext" in data)
    return int(done), True


def _aws(entry: _Entry, time: datetime, operation: Operation) -> LoggedUse:
    asked = entry.get("requestParameters") or {}
    identity = entry.get("userIdentity") or {}
    context = asked.get("encryptionContext") or asked.get("destinationEncryptionContext") or {}
    return LoggedUse(
        time,
        operation,
        f"aws-kms://{_aws_key(entry, asked)}",
        int(not entry.get("errorCode")),
        request_id=str(entry.get("requestID", "")),
        blob_id=str(context.get("blob_id", "")),
        who=f"{identity.get('arn', 'somebody')} at {entry.get('sourceIPAddress', '?')}",
    )


def _aws_key(entry: _Entry, asked: _Entry) -> str:
    """Return the ARN of the key that made the wrap, or opened it."""
    destination = str(asked.get("destinationKeyId", ""))
    if destination.startswith("arn:"):
        return destination
    arns = [str(resource["ARN"]) for resource in entry.get("resources") or []]
    return arns[-1] if arns else str(asked.get("keyId", ""))
