"""Reading a log of whichever service: JSON lines, or one document over many, gzipped or not."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from scheduler.kmslogs import azure, cloudtrail, google, transit
from scheduler.kmslogs.entries import Entry, LogError, Logged

_GZIP = b"\x1f\x8b"
_LISTS = ("Records", "records")
"""What a document of CloudTrail, and one of Azure, has its entries under."""


def read(path: Path) -> Iterator[Logged]:
    """Yield the entries of a log.

    Raises:
        LogError: it cannot be read, or has something in it that none of the services writes.
    """
    try:
        for number, entry in _entries(path):
            try:
                yield _logged(entry)
            except (KeyError, TypeError, ValueError, AttributeError, OverflowError):
                raise LogError(
                    f"{path}: entry {number} is none of an audit device of OpenBao or Vault, of "
                    "CloudTrail, of Cloud Audit Logs nor of Azure Key Vault"
                ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise LogError(f"{path} cannot be read: {error}") from error


def _entries(path: Path) -> Iterator[tuple[int, Entry]]:
    with path.open("rb") as file:
        zipped = file.read(2) == _GZIP
    with gzip.open(path) if zipped else path.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = msgspec.json.decode(line)
            except (msgspec.DecodeError, RecursionError):
                if number > 1 and not line.endswith(b"\n"):
                    return  # it is being written
                if number > 1:
                    raise LogError(f"{path}: line {number} is not JSON") from None
                yield from enumerate(_document(path, line + lines.read()), start=1)
                return
            many = _many(entry)
            if many is None:
                yield number, entry
            else:
                yield from enumerate(many, start=1)


def _document(path: Path, data: bytes) -> list[Any]:
    """Read a log that is one document over many lines."""
    try:
        many = _many(msgspec.json.decode(data))
    except (msgspec.DecodeError, RecursionError):
        many = None
    if many is None:
        raise LogError(f"{path} is neither JSON lines nor a list of entries")
    return many


def _many(document: object) -> list[Any] | None:
    """Return the entries of a document that has many; None where it is one entry itself."""
    if isinstance(document, list):
        return document  # as `gcloud logging read --format=json` writes
    if isinstance(document, dict):
        for name in _LISTS:
            if isinstance(document.get(name), list):
                return list(document[name])
    return None


def _logged(entry: Entry) -> Logged:
    if "eventSource" in entry:
        return cloudtrail.logged(entry)
    if "protoPayload" in entry:
        return google.logged(entry)
    if azure.is_one(entry):
        return azure.logged(entry)
    return transit.logged(entry)
