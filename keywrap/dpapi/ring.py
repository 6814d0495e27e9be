"""A ring: DPAPI master keys by GUID, in a file, for hosts that are not the Windows host.

```json
{"format": "dpapi-ring-v1", "master_keys": [
  {"guid": "ed93694f-5a6d-46e2-b821-219f2c0ecd4d", "key": "<128 hex digits>", "sha1": "<40>"}]}
```

`key` are the 64 bytes; `sha1` is their SHA-1, which is all that opening a blob takes and all that
Windows' LSASS keeps. One of the two is enough; where both are there they must agree, so that a
damaged key is found when the ring is read and not by a thousand blobs. Whoever can read the file
opens every blob of these keys: it is refused unless it is its owner's alone.
"""

import binascii
import json
import os
import secrets
import stat
import uuid
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from keywrap.dpapi.blob import Blob, NotOpenedError
from keywrap.dpapi.secret import MASTER_KEY_BYTES, SHA1_BYTES, MasterKey
from keywrap.durable import sync_folder

MAX_RING_BYTES = 4 * 1024 * 1024
"""Some 16,000 master keys."""

_MODE = 0o600
_ON_ITS_OWN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)  # Windows has neither
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | _ON_ITS_OWN
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | _ON_ITS_OWN


class RingError(Exception):
    """A ring cannot be used.

    Args:
        message: what is wrong with the file, and what to do; never a key.
    """


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    guid: str
    key: str = ""
    sha1: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: Literal["dpapi-ring-v1"]
    master_keys: tuple[_Entry, ...]


class MasterKeyRing:
    """Master keys by GUID.

    Args:
        keys: the keys by GUID, in lower case.
        place: the file that they come from, for errors.
    """

    def __init__(self, keys: Mapping[str, MasterKey], place: str = "the ring") -> None:
        self._keys = dict(keys)
        self._place = place

    def __repr__(self) -> str:
        return f"MasterKeyRing({self._place}, {len(self._keys)} keys)"

    def __iter__(self) -> Iterator[str]:
        """Yield the GUIDs."""
        return iter(self._keys)

    @classmethod
    def parse(cls, data: bytes, place: str = "the ring") -> Self:
        """Read a ring strictly.

        Raises:
            RingError: it is none, or a key of it is not the one that it was.
        """
        try:
            # Read by json for what is given twice, of which msgspec would take the last.
            document = json.loads(data, object_pairs_hook=_once)
            file = msgspec.convert(document, _File)
        except msgspec.ValidationError as error:
            where = str(error).rpartition(" - at ")[2] if " - at " in str(error) else "its object"
            raise RingError(f"{place} is no ring: {where} is not what it should be") from None
        except (ValueError, RecursionError):
            raise RingError(f"{place} is no ring: it is not JSON, or says a thing twice") from None
        keys: dict[str, MasterKey] = {}
        for number, entry in enumerate(file.master_keys, 1):
            try:
                key = _key(entry)
            except ValueError as error:
                raise RingError(f"{place} is no sound ring: master key {number} {error}") from None
            if keys.setdefault(entry.guid, key) is not key:
                raise RingError(f"{place} is no sound ring: it has {entry.guid} twice")
        return cls(keys, place)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a ring's file.

        Raises:
            RingError: it is missing or no ring, or others than its owner could read it.
        """
        try:
            file = os.open(path, _READ)
        except FileNotFoundError:
            raise RingError(f"{path} is not there; `rewrap dpapi-ring` makes a ring") from None
        except OSError as error:
            raise RingError(f"{path} cannot be opened: {error.strerror}") from error
        try:
            _require_private(path, os.fstat(file))
            with open(file, "rb", closefd=False) as stream:
                data = stream.read(MAX_RING_BYTES + 1)
        except OSError as error:
            raise RingError(f"{path} cannot be read: {error.strerror}") from error
        finally:
            os.close(file)
        if len(data) > MAX_RING_BYTES:
            raise RingError(f"{path} is no ring: it has more than {MAX_RING_BYTES} bytes")
        return cls.parse(data, str(path))

    def with_keys(self, keys: Mapping[str, MasterKey]) -> Self:
        """Return a ring that has more keys.

        Raises:
            RingError: it has another key of such a GUID.
        """
        for guid, key in keys.items():
            if self._keys.get(guid, key) != key:
                raise RingError(f"{self._place} has another key under {guid}")
        # A key of 64 bytes says more than its SHA-1.
        more = {g: k for g, k in keys.items() if len(k.reveal()) == MASTER_KEY_BYTES}
        return type(self)({**keys, **self._keys, **more}, self._place)

    def to_bytes(self) -> bytes:
        """Return the file's content."""
        entries = tuple(_entry(guid, key) for guid, key in sorted(self._keys.items()))
        encoded = msgspec.json.encode(_File("dpapi-ring-v1", entries))
        return msgspec.json.format(encoded, indent=2) + b"\n"

    def write(self, path: Path, *, replace: bool = False) -> None:
        """Write the ring durably, for its owner alone.

        Args:
            path: the file.
            replace: whether to take the place of a ring that is there.

        Raises:
            FileExistsError: there is a file, and it was not to be replaced; it is unchanged.
            OSError: it cannot be written; a file that was there is unchanged.
        """
        new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        try:
            with os.fdopen(os.open(new, _NEW, _MODE), "wb") as stream:
                stream.write(self.to_bytes())
                stream.flush()
                os.fsync(stream.fileno())
            # One atomic step each. Crash before it: what was there; after it: the whole ring.
            if replace:
                new.replace(path)
            else:
                path.hardlink_to(new)
            sync_folder(path.parent)
        finally:
            with suppress(FileNotFoundError):
                new.unlink()

    def open(self, blob: Blob, entropy: bytes) -> bytes:
        """Return what a blob wraps.

        Raises:
            NotOpenedError: the ring has no such key, or the blob does not open with it.
        """
        key = self._keys.get(blob.master_key)
        if key is None:
            raise NotOpenedError(
                "dpapi_master_key_missing", f"{self._place} has no master key {blob.master_key}"
            )
        try:
            return blob.open(key, entropy)
        except NotOpenedError as error:
            raise self._explained(blob, key, entropy, error) from None

    def _explained(
        self, blob: Blob, key: MasterKey, entropy: bytes, error: NotOpenedError
    ) -> NotOpenedError:
        """Say more of why a blob does not open, where another MAC tells; decrypts nothing."""
        if error.reason_code != "dpapi_does_not_open":
            return error
        if entropy and blob.is_of(key):
            return NotOpenedError(
                "dpapi_entropy_not_used", "it was protected without the entropy that is configured"
            )
        for other in self._keys.values():
            if other is not key and any(blob.is_of(other, e) for e in {entropy, b""}):
                return NotOpenedError(
                    "dpapi_master_key_wrong",
                    f"{self._place} has another key under {blob.master_key}: the right one stands "
                    "there under another GUID",
                )
        return error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) != len(pairs):
        raise ValueError
    return record


def _key(entry: _Entry) -> MasterKey:
    if not is_guid(entry.guid):
        raise ValueError("has no GUID in lower case")
    key = _from_hex(entry.key, MASTER_KEY_BYTES, "key")
    digest = _from_hex(entry.sha1, SHA1_BYTES, "sha1")
    if key is None and digest is None:
        raise ValueError("has neither `key` nor `sha1`")
    if key is not None and digest is not None and key != digest:
        raise ValueError("is damaged: its `sha1` is not that of its `key`")
    found = key or digest
    assert found is not None  # noqa: S101 - one of them is there
    return found


def _from_hex(text: str, size: int, name: str) -> MasterKey | None:
    if not text:
        return None
    try:
        value = binascii.unhexlify(text)
    except ValueError:
        value = b""
    if len(value) != size:
        raise ValueError(f"has a `{name}` that is not {2 * size} hexadecimal digits")
    return MasterKey(value)


def _entry(guid: str, key: MasterKey) -> _Entry:
    digits = key.reveal().hex() if len(key.reveal()) == MASTER_KEY_BYTES else ""
    return _Entry(guid, digits, key.sha1().hex())


def is_guid(text: str) -> bool:
    """Whether a text is a GUID in its one canonical form: lower case, with dashes."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def _require_private(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise RingError(f"{path} is no regular file")
    if os.name != "posix":
        return  # Windows says who may read it by access lists, which its owner keeps
    if found.st_uid not in {0, os.geteuid()}:
        raise RingError(
            f"{path} belongs to user {found.st_uid}, and this process is user {os.geteuid()}"
        )
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise RingError(
            f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, so others have access to the "
            f"master keys: chmod 600 {path}"
        )
