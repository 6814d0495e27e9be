"""`stream-v1`: a content of any size, encrypted in chunks that cannot be cut, moved or mixed.

AES-256-GCM in the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár: "Online
Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance", CRYPTO 2015, section 7), as Tink's
streaming AES-GCM-HKDF and age use it. `docs/stream-v1.md` gives it byte by byte, with a vector.

    header   "keywrap" 0x01 · salt (32) · commitment (32)
    chunks   each the AES-GCM ciphertext of 65,536 plaintext bytes and its 16-byte tag;
             the last of 1 to 65,536, or of none where the content is empty

    HKDF-SHA256 (RFC 5869) of the data key, with the salt and the info "keywrap stream-v1":
             key (32) · nonce prefix (7) · commitment (32)
    nonce    prefix (7) · number of the chunk from 0 (4, big-endian) · 1 for the last, else 0 (1)

Why it holds. A nonce is used for one chunk at one place of one stream, since every stream has a
key of its own by its random salt. A chunk that was dropped, doubled, moved, or taken from another
stream stands where its nonce or key is another. A content that was cut at the end of a chunk ends
in one that is not sealed as the last; with bytes appended, the last one is no longer at the end.
The header is bound: another salt gives other keys, and the commitment is compared.

The commitment is there because AES-GCM alone does not commit to its key: who knows two keys can
make a ciphertext that opens with both (Grubbs, Lu, Ristenpart: "Message Franking via Committing
Authenticated Encryption", CRYPTO 2017), and here a content is what proves whose a data key is.
"""

import hmac
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from keywrap.contentformat import (
    TAG_BYTES,
    ContentError,
    Flow,
    Proof,
    RangedRead,
    Readable,
)
from keywrap.datakey import DataKey

MAGIC = b"keywrap\x01"
SALT_BYTES = 32
HEADER_BYTES = len(MAGIC) + SALT_BYTES + 32
CHUNK_BYTES = 64 * 1024
SEALED_BYTES = CHUNK_BYTES + TAG_BYTES

MAX_CHUNKS = 2**32
"""The chunk's number has four bytes, so a content has 256 TiB at most."""

_INFO = b"keywrap stream-v1"
_KEY_BYTES = 32
_PREFIX_BYTES = 7
_COMMITMENT_BYTES = 32


@dataclass(frozen=True, slots=True)
class _Stream:
    """What the data key and one salt come to."""

    cipher: AESGCM
    prefix: bytes
    header: bytes

    @classmethod
    def of(cls, data_key: DataKey, salt: bytes) -> "_Stream":
        length = _KEY_BYTES + _PREFIX_BYTES + _COMMITMENT_BYTES
        derived = HKDF(SHA256(), length, salt, _INFO).derive(data_key.reveal())
        key, rest = derived[:_KEY_BYTES], derived[_KEY_BYTES:]
        header = MAGIC + salt + rest[_PREFIX_BYTES:]
        return cls(AESGCM(key), rest[:_PREFIX_BYTES], header)

    @classmethod
    def behind(cls, data_key: DataKey, header: bytes) -> "_Stream":
        """Read a header.

        Raises:
            ContentError: it is cut, none of `stream-v1`, or made with another data key.
        """
        if len(header) < HEADER_BYTES:
            raise ContentError("the content ends inside its header", "content_truncated")
        if not header.startswith(MAGIC):
            raise ContentError("the content does not begin as stream-v1 does", "content_malformed")
        stream = cls.of(data_key, header[len(MAGIC) : len(MAGIC) + SALT_BYTES])
        if not hmac.compare_digest(stream.header, header):
            raise ContentError(
                "the content does not open: it was made with another data key, or its header was "
                "altered",
                "content_does_not_open",
            )
        return stream

    def _nonce(self, number: int, *, is_last: bool) -> bytes:
        if number >= MAX_CHUNKS:
            raise ContentError("stream-v1 has at most 256 TiB", "content_too_large")
        return self.prefix + number.to_bytes(4) + bytes([is_last])

    def seal(self, number: int, plaintext: bytes, *, is_last: bool) -> bytes:
        return self.cipher.encrypt(self._nonce(number, is_last=is_last), plaintext, None)

    def open(self, number: int, sealed: memoryview, *, is_last: bool) -> bytes:
        """Open one chunk.

        Raises:
            ContentError: it is cut, altered, or not the one that belongs here.
        """
        if len(sealed) < TAG_BYTES:
            raise ContentError("the content ends inside a chunk", "content_truncated")
        try:
            plaintext = self.cipher.decrypt(self._nonce(number, is_last=is_last), sealed, None)
        except InvalidTag:
            raise ContentError(
                f"chunk {number} of the content does not open: it was altered or moved, or the "
                "content was cut or lengthened",
                "content_does_not_open",
            ) from None
        if number and not plaintext:
            # We write none such; one form for each content leaves nothing to be told apart.
            raise ContentError("the content ends in an empty chunk", "content_malformed")
        return plaintext


class StreamV1:
    """Encrypts and decrypts `stream-v1`, in memory that does not grow with the content."""

    def seal(self, data_key: DataKey, plaintext: bytes) -> bytes:
        """Encrypt a content that is in memory."""
        return b"".join(self.encrypt(data_key, io.BytesIO(plaintext)))

    def encrypt(self, data_key: DataKey, source: Readable) -> Iterator[bytes]:
        """Yield a content's bytes: the header, then chunk by chunk.

        A source that is empty makes one last chunk of nothing, so every content proves its key.

        Args:
            data_key: the blob's data key.
            source: where the plaintext comes from, read to its end.

        Raises:
            ContentError: `content_too_large` beyond 256 TiB.
        """
        stream = _Stream.of(data_key, os.urandom(SALT_BYTES))
        yield stream.header
        number = 0
        chunk = _filled(source)
        while following := _filled(source) if len(chunk) == CHUNK_BYTES else b"":
            yield stream.seal(number, chunk, is_last=False)
            number, chunk = number + 1, following
        yield stream.seal(number, chunk, is_last=True)

    def open(self, data_key: DataKey, content: bytes) -> bytes:
        """Decrypt a content that is in memory; see `ContentFormat.open`."""
        return b"".join(
            self.chunks(data_key, lambda start, length: content[start : start + length])
        )

    def chunks(self, data_key: DataKey, read: RangedRead) -> Iterator[bytes]:
        """Yield the plaintext of each chunk; see `ContentFormat.chunks`."""
        flow = Flow(read)
        stream = _Stream.behind(data_key, bytes(flow.take(HEADER_BYTES)))
        number, is_last = 0, False
        while not is_last:
            sealed = flow.take(SEALED_BYTES)
            is_last = flow.is_over()
            yield stream.open(number, sealed, is_last=is_last)
            number += 1

    def proves(self, data_key: DataKey, read: RangedRead) -> Proof:
        """Open the first chunk, by one ranged read."""
        # One byte more tells whether it is the last chunk too.
        first = memoryview(read(0, HEADER_BYTES + SEALED_BYTES + 1))
        stream = _Stream.behind(data_key, bytes(first[:HEADER_BYTES]))
        rest = first[HEADER_BYTES:]
        stream.open(0, rest[:SEALED_BYTES], is_last=len(rest) <= SEALED_BYTES)
        return Proof.OPENED


def _filled(source: Readable) -> bytes:
    """Read a whole chunk, since a socket or a pipe may hand out less than was asked for.

    Raises:
        ValueError: it handed out more, which would be lost.
    """
    chunk = bytearray()
    while len(chunk) < CHUNK_BYTES and (part := source.read(CHUNK_BYTES - len(chunk))):
        chunk += part
    if len(chunk) > CHUNK_BYTES:
        raise ValueError("the source's `read` returned more bytes than it was asked for")
    return bytes(chunk)
