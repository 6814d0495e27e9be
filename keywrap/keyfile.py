"""What a file of local keys says: one KEK, its versions, and how often each may have wrapped.

```json
{"key": "blobs", "versions": [
  {"version": 1, "state": "enabled", "created_at": "2026-11-24T01:00:00Z",
   "key": "<base64 of 32 bytes>", "id": "<16 hex digits>", "wraps": 65536}]}
```

The file is the only copy of the KEK, and losing it loses every blob. So it is read strictly, each
version's key is checked against its `id`, and nothing is written that would be read differently.

`wraps` stands in this file, and not in one of its own, because the two must not part: a count that
was lost, or came back older than its key, would allow more wraps under that key than are safe, and
a key without its count could not be used at all. One file is copied, restored and lost as one. (A
restored backup is older in both: give the KEK a new version after restoring one.)

Wraps name a version by its number and the first digits of its `id`, as in `2-1a2b3c4d`. A number
alone may come twice, for two keys: after a backup was restored, or where two hosts made a version
of one copied file. A wrap under the one would pass for a wrap under the other.
"""

import base64
import binascii
import hashlib
import hmac
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

import msgspec

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion

KEK_BYTES = 32

NAMED_DIGITS = 8
"""Digits of the key check value in a version's name: enough to tell a few keys apart."""

WRAP_LIMIT = 2**32
"""Most wraps under one key with nonces drawn at random (NIST SP 800-38D, section 8.3)."""

MAX_FILE_BYTES = 1024 * 1024
"""Some 4,000 versions."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


class BadKeyFileError(ValueError):
    """The file does not say, without any doubt, what the KEK's versions are; never shows one."""


class LocalVersion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One version of a local KEK.

    Attributes:
        version: its number, from 1.
        state: a disabled version neither wraps nor unwraps.
        created_at: when it was made.
        key: the KEK.
        id: key check value: tells a damaged or exchanged key, and nothing about the right one.
        wraps: no more wraps than this were made under it: reserved before they are made.
    """

    version: Annotated[int, msgspec.Meta(ge=1)]
    state: Literal["enabled", "disabled"]
    created_at: Annotated[datetime, msgspec.Meta(tz=True)]
    key: DataKey
    id: str
    wraps: Annotated[int, msgspec.Meta(ge=0, le=WRAP_LIMIT)]

    @property
    def is_enabled(self) -> bool:
        """Whether it may be used."""
        return self.state == "enabled"


class KeyFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A local KEK.

    Attributes:
        key: its name; its URI is `local:<name>`.
        versions: from the first to the newest.
    """

    key: str
    versions: tuple[LocalVersion, ...]

    @classmethod
    def new(cls, name: str) -> Self:
        """Make a KEK with its first version.

        Raises:
            ValueError: it cannot have that name.
        """
        if not _NAME.fullmatch(name):
            raise ValueError("a key's name has letters, digits, dots, dashes and underscores")
        return cls(name, ()).with_new_version()

    @staticmethod
    def parse(data: bytes) -> "KeyFile":
        """Read a key file, strictly; only white space between its parts is free.

        Raises:
            BadKeyFileError: it is none, or could be understood in two ways.
        """
        # From None: an error of the parser may carry what it read, the keys included.
        try:
            file = _KEY_FILE.decode(data)
            canonical = _encoded(file) == msgspec.json.format(data, indent=-1)
        except msgspec.ValidationError as error:
            place = str(error).rpartition(" - at ")[2] if " - at " in str(error) else "its object"
            raise BadKeyFileError(f"{place} is not what it should be") from None
        except (ValueError, RecursionError):
            raise BadKeyFileError("it is not JSON") from None
        if not canonical:
            raise BadKeyFileError("it is not written as rewrap writes it")
        _check(file)
        return file

    def to_bytes(self) -> bytes:
        """Return the canonical form.

        Raises:
            BadKeyFileError: it would be read differently; the parser itself is asked.
        """
        data = msgspec.json.format(_encoded(self), indent=2) + b"\n"
        if KeyFile.parse(data) != self:
            raise BadKeyFileError("it would be read back differently")
        return data

    @property
    def newest(self) -> LocalVersion:
        """The version that wraps."""
        return self.versions[-1]

    def name_of(self, version: LocalVersion) -> KeyVersion:
        """Return a version as wraps name it: its number, and which key it is."""
        check_value = version.id[:NAMED_DIGITS]
        return KeyVersion(f"local:{self.key}", f"{version.version}-{check_value}")

    def with_new_version(self) -> Self:
        """Return the KEK with a new version, drawn from the operating system."""
        number, key = len(self.versions) + 1, DataKey.generate()
        now = datetime.now(UTC).replace(microsecond=0)
        check_value = _check_value(self.key, number, key)
        made = LocalVersion(number, "enabled", now, key, check_value, 0)
        return msgspec.structs.replace(self, versions=(*self.versions, made))

    def with_version(self, number: int, **changes: object) -> Self:
        """Return the KEK with one version changed.

        Raises:
            LookupError: there is no such version.
        """
        if not 1 <= number <= len(self.versions):
            raise LookupError(f"there is no version {number}")
        versions = list(self.versions)
        versions[number - 1] = msgspec.structs.replace(versions[number - 1], **changes)
        return msgspec.structs.replace(self, versions=tuple(versions))


def _check(file: KeyFile) -> None:
    """See that the versions are counted and their keys are the right ones."""
    if not _NAME.fullmatch(file.key):
        raise BadKeyFileError("the name is no name of a key")
    numbers = [version.version for version in file.versions]
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        raise BadKeyFileError("the versions are not numbered from 1 without gaps")
    for version in file.versions:
        if version.id != _check_value(file.key, version.version, version.key):
            raise BadKeyFileError(f"the key of version {version.version} is not the one it was")


def _check_value(name: str, number: int, key: DataKey) -> str:
    """Name and number go in, so that a key copied from elsewhere does not pass.

    An HMAC, and not the customary encryption of zeros: that is AES-GCM's hash key.
    """
    text = f"rewrap key check value local:{name}?version={number}".encode()
    return hmac.new(key.reveal(), text, hashlib.sha256).hexdigest()[:16]


def _encoded(file: KeyFile) -> bytes:
    return msgspec.json.encode(file, enc_hook=_encode)


def _encode(value: Any) -> str:  # noqa: ANN401 - msgspec hands over what it does not know
    if not isinstance(value, DataKey):
        raise NotImplementedError
    return base64.b64encode(value.reveal()).decode()


def _decode(_type: type, value: Any) -> DataKey:  # noqa: ANN401 - any JSON value
    try:
        key = base64.b64decode(value, validate=True)
    except (TypeError, binascii.Error, ValueError):
        raise ValueError("not base64") from None
    if len(key) != KEK_BYTES:
        raise ValueError("not a key of 32 bytes")
    return DataKey(key)


_KEY_FILE = msgspec.json.Decoder(KeyFile, dec_hook=_decode)
