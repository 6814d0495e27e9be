"""How a blob's content is encrypted, and how a data key is proved against it.

`stream-v1` is ours, in `keywrap.stream_v1`: every new content is in it. The others are read only:
`gcm-v1` is one AES-GCM message (NIST SP 800-38D): 12-byte nonce, ciphertext, 16-byte tag, no
additional data. `records-v1` is the first adopter's format: records one after the other, each
`[nonce 12][length of what follows 4, big-endian][ciphertext and 16-byte tag]`, no additional
data, 4,096 plaintext bytes a record; an empty blob has no records. Records can be dropped or
reordered unseen, which is why `reencrypt` moves such blobs on.
"""

import os
from collections.abc import Iterator

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from keywrap.contentformat import (
    READ_BYTES,
    TAG_BYTES,
    ContentError,
    ContentFormat,
    Flow,
    Proof,
    RangedRead,
)
from keywrap.datakey import DataKey
from keywrap.stream_v1 import StreamV1

__all__ = [
    "CONTENT_FORMATS",
    "NEW_CONTENT",
    "READ_BYTES",
    "TAG_BYTES",
    "ContentError",
    "ContentFormat",
    "Flow",
    "GcmV1",
    "Proof",
    "RangedRead",
    "RecordsV1",
    "StreamV1",
    "content_format",
]

NEW_CONTENT = "stream-v1"
"""The format of every content that is written anew."""

NONCE_BYTES = 12
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

    def open(self, data_key: DataKey, content: bytes | bytearray) -> bytes:
        """Decrypt one message; see `ContentFormat.open`."""
        if len(content) < NONCE_BYTES + TAG_BYTES:
            raise ContentError("the content is shorter than nonce and tag", "content_truncated")
        if len(content) > MAX_MESSAGE_BYTES:
            raise _too_large()
        view = memoryview(content)
        return _opened(data_key.cipher(), view[:NONCE_BYTES], view[NONCE_BYTES:])

    def chunks(self, data_key: DataKey, read: RangedRead) -> Iterator[bytes]:
        """Yield the whole message at once, and hold it in memory: its only tag is its last bytes.

        Raises:
            ContentError: see `ContentFormat.open`.
        """
        whole = bytearray()
        while len(whole) <= MAX_MESSAGE_BYTES:
            part = read(len(whole), READ_BYTES)
            whole += part
            if len(part) < READ_BYTES:
                break
        yield self.open(data_key, whole)

    def proves(self, data_key: DataKey, read: RangedRead) -> Proof:
        """Open the whole message: its only tag covers all of it."""
        for _ in self.chunks(data_key, read):
            pass
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
        return b"".join(
            self.chunks(data_key, lambda start, length: content[start : start + length])
        )

    def chunks(self, data_key: DataKey, read: RangedRead) -> Iterator[bytes]:
        """Yield each record's plaintext; records that were dropped or moved are not seen.

        Raises:
            ContentError: see `ContentFormat.chunks`.
        """
        cipher = data_key.cipher()
        flow = Flow(read)
        while not flow.is_over():
            header = flow.take(HEADER_BYTES)
            length = _record_length(header)
            sealed = flow.take(length)
            if len(sealed) < length:
                raise _ends_inside()
            yield _opened(cipher, header[:NONCE_BYTES], sealed)

    def proves(self, data_key: DataKey, read: RangedRead) -> Proof:
        """Open the first record: one ranged read, and a second only if the record is longer."""
        first = read(0, FIRST_READ_BYTES)
        if not first:
            return Proof.EMPTY
        end = HEADER_BYTES + _record_length(memoryview(first))
        if len(first) == FIRST_READ_BYTES < end:
            first += read(FIRST_READ_BYTES, end - FIRST_READ_BYTES)
        if len(first) < end:
            raise _ends_inside()
        record = memoryview(first)[:end]
        _opened(data_key.cipher(), record[:NONCE_BYTES], record[HEADER_BYTES:])
        return Proof.OPENED


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


def _ends_inside() -> ContentError:
    return ContentError("the content ends inside a record", "content_truncated")


def _too_large() -> ContentError:
    return ContentError("one AES-GCM message has at most 2 GiB", "content_too_large")


_FORMATS: dict[str, ContentFormat] = {
    "stream-v1": StreamV1(),
    "gcm-v1": GcmV1(),
    "records-v1": RecordsV1(),
}

CONTENT_FORMATS = tuple(_FORMATS)
"""The names of all content formats."""


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
