"""How a blob's content is encrypted, and how a data key is proved against it.

`gcm-v1` is one AES-GCM message (NIST SP 800-38D): 12-byte nonce, ciphertext, 16-byte tag, no
additional data. `records-v1` is the first adopter's format: records one after the other, each
`[nonce 12][length of what follows 4, big-endian][ciphertext and 16-byte tag]`, no additional
data, 4,096 plaintext bytes a record; an empty blob has no records. Records can be dropped or
reordered unseen, which is why `reencrypt` moves such blobs on.
"""

import os
from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keywrap.datakey import DataKey

NONCE_BYTES = 12
TAG_BYTES = 16
LENGTH_BYTES = 4
HEADER_BYTES = NONCE_BYTES + LENGTH_BYTES

RECORD_PLAINTEXT_BYTES = 4096
"""What the first adopter's application puts into one record."""

MAX_RECORD_BYTES = 16 * 1024 * 1024 + TAG_BYTES
"""Longest record that is read. The format allows 4 GiB, which one forged length would make a
worker fetch; the first adopter's records have 4,112 bytes."""

MAX_MESSAGE_BYTES = 2**31 - 1
"""Longest message that OpenSSL takes in one call, and with it `cryptography`."""

FIRST_READ_BYTES = 16 * 1024
"""One ranged read that holds the first record of every blob the first adopter wrote."""

READ_BYTES = 8 * 1024 * 1024
"""How much of a one-message blob is fetched at a time."""

RangedRead = Callable[[int, int], bytes]
"""`read(start, length)`: up to `length` bytes from byte `start`, fewer where the content ends."""


class ContentError(ValueError):
    """A blob's content is not what its format says, or does not open with the data key.

    Args:
        message: a sentence for the operator; never key or content bytes.
        reason_code: `content_truncated`, `content_does_not_open`, `content_record_length`,
            `content_too_large`, `content_proves_nothing` or `content_format_unknown`.
    """

    def __init__(self, message: str, reason_code: str) -> None:
        super().__init__(message)
        self.reason_code = reason_code


class Proof(Enum):
    """What a content said about a data key."""

    OPENED = auto()
    """The key opens it: an authentication tag was right."""
    EMPTY = auto()
    """There is nothing to open, so any key is as good: it says nothing about whose the key is."""


class ContentFormat(Protocol):
    """One way in which a blob's content is encrypted."""

    def seal(self, data_key: DataKey, plaintext: bytes) -> bytes:
        """Encrypt a content under fresh nonces."""

    def open(self, data_key: DataKey, content: bytes) -> bytes:
        """Decrypt a content whole.

        Raises:
            ContentError: it is truncated, malformed or does not open.
        """

    def proves(self, data_key: DataKey, read: RangedRead) -> Proof:
        """Open as little of a content as shows that the key belongs to it.

        Raises:
            ContentError: it is truncated, malformed or does not open with this key.
        """


class GcmV1:
    """One AES-GCM message; it opens whole or not at all."""

    def seal(self, data_key: DataKey, plaintext: bytes) -> bytes:
        """Encrypt as one message.

        Raises:
            ContentError: it is too large for one message.
        """
        if len(plaintext) > MAX_MESSAGE_BYTES - TAG_BYTES:
            raise _too_large()
        nonce = os.urandom(NONCE_BYTES)
        return nonce + data_key.cipher().encrypt(nonce, plaintext, None)

    def open(self, data_key: DataKey, content: bytes) -> bytes:
        """Decrypt one message; see `ContentFormat.open`."""
        if len(content) < NONCE_BYTES + TAG_BYTES:
            raise ContentError("the content is shorter than nonce and tag", "content_truncated")
        if len(content) > MAX_MESSAGE_BYTES:
            raise _too_large()
        view = memoryview(content)
        return _opened(data_key.cipher(), view[:NONCE_BYTES], view[NONCE_BYTES:])

    def proves(self, data_key: DataKey, read: RangedRead) -> Proof:
        """Open the whole message: its only tag covers all of it."""
        whole = bytearray()
        while len(whole) <= MAX_MESSAGE_BYTES:
            part = read(len(whole), READ_BYTES)
            whole += part
            if len(part) < READ_BYTES:
                break
        self.open(data_key, bytes(whole))
        return Proof.OPENED


class RecordsV1:
    """The first adopter's records."""

    def seal(self, data_key: DataKey, plaintext: bytes) -> bytes:
        """Encrypt in records of 4,096 plaintext bytes."""
        cipher = data_key.cipher()
        records: list[bytes] = []
        for start in range(0, len(plaintext), RECORD_PLAINTEXT_BYTES):
            nonce = os.urandom(NONCE_BYTES)
            sealed = cipher.encrypt(nonce, plaintext[start : start + RECORD_PLAINTEXT_BYTES], None)
            records += (nonce, len(sealed).to_bytes(LENGTH_BYTES), sealed)
        return b"".join(records)

    def open(self, data_key: DataKey, content: bytes) -> bytes:
        """Decrypt every record; see `ContentFormat.open`."""
        cipher = data_key.cipher()
        return b"".join(
            _opened(cipher, nonce, sealed) for nonce, sealed in _records(memoryview(content))
        )

    def proves(self, data_key: DataKey, read: RangedRead) -> Proof:
        """Open the first record: one ranged read, and a second only if the record is longer."""
        first = read(0, FIRST_READ_BYTES)
        if not first:
            return Proof.EMPTY
        missing = HEADER_BYTES + _record_length(memoryview(first)) - len(first)
        if missing > 0 and len(first) == FIRST_READ_BYTES:
            first += read(len(first), missing)
        nonce, sealed = next(_records(memoryview(first)))
        _opened(data_key.cipher(), nonce, sealed)
        return Proof.OPENED


def _records(rest: memoryview) -> Iterator[tuple[memoryview, memoryview]]:
    """Yield nonce and sealed bytes of each record; nothing may be left over."""
    while rest:
        end = HEADER_BYTES + _record_length(rest)
        if len(rest) < end:
            raise ContentError("the content ends inside a record", "content_truncated")
        yield rest[:NONCE_BYTES], rest[HEADER_BYTES:end]
        rest = rest[end:]


def _record_length(record: memoryview) -> int:
    """Read how many bytes follow a record's header, within what a record may have."""
    if len(record) < HEADER_BYTES:
        raise ContentError("the content ends inside a record's header", "content_truncated")
    length = int.from_bytes(record[NONCE_BYTES:HEADER_BYTES])
    if not TAG_BYTES <= length <= MAX_RECORD_BYTES:
        raise ContentError(
            f"a record has {TAG_BYTES} to {MAX_RECORD_BYTES} bytes, not {length}",
            "content_record_length",
        )
    return length


def _opened(cipher: AESGCM, nonce: memoryview, sealed: memoryview) -> bytes:
    try:
        return cipher.decrypt(nonce, sealed, None)
    except InvalidTag:
        raise ContentError(
            "the content does not open with this data key", "content_does_not_open"
        ) from None


def _too_large() -> ContentError:
    return ContentError("one AES-GCM message has at most 2 GiB", "content_too_large")


_FORMATS: dict[str, ContentFormat] = {"gcm-v1": GcmV1(), "records-v1": RecordsV1()}


def content_format(name: str) -> ContentFormat:
    """Return the content format of that name.

    Raises:
        ContentError: there is none of that name.
    """
    try:
        return _FORMATS[name]
    except KeyError:
        known = ", ".join(_FORMATS)
        raise ContentError(
            f"the content format is none of {known}", "content_format_unknown"
        ) from None
