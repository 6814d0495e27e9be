"""`stream-v1` from its page alone: nothing of `keywrap`, and another HKDF, for tests to compare.

Reads and writes whole contents in memory, as docs/stream-v1.md describes them.
"""

import hashlib
import hmac

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

MAGIC = b"keywrap\x01"
CHUNK = 65_536
TAG = 16


def derive(data_key: bytes, salt: bytes) -> tuple[bytes, bytes, bytes]:
    """Return key, nonce prefix and commitment, by HKDF-SHA256 as RFC 5869 writes it."""
    prk = hmac.digest(salt, data_key, "sha256")
    out, block = b"", b""
    for number in range(1, 4):
        block = hmac.digest(prk, block + b"keywrap stream-v1" + bytes([number]), hashlib.sha256)
        out += block
    return out[:32], out[32:39], out[39:71]


def chunk_of(data_key: bytes, salt: bytes, number: int, plaintext: bytes, *, last: bool) -> bytes:
    key, prefix, _ = derive(data_key, salt)
    return AESGCM(key).encrypt(prefix + number.to_bytes(4, "big") + bytes([last]), plaintext, None)


def header_of(data_key: bytes, salt: bytes) -> bytes:
    return MAGIC + salt + derive(data_key, salt)[2]


def seal(data_key: bytes, salt: bytes, plaintext: bytes) -> bytes:
    pieces = [plaintext[at : at + CHUNK] for at in range(0, len(plaintext), CHUNK)] or [b""]
    sealed = (
        chunk_of(data_key, salt, number, piece, last=number == len(pieces) - 1)
        for number, piece in enumerate(pieces)
    )
    return header_of(data_key, salt) + b"".join(sealed)


def open_whole(data_key: bytes, content: bytes) -> bytes:
    """Decrypt a content; fails an assertion or a tag where anything is wrong."""
    salt, chunks = content[8:40], content[72:]
    assert content[:72] == header_of(data_key, salt)
    key, prefix, _ = derive(data_key, salt)
    sealed = [chunks[at : at + CHUNK + TAG] for at in range(0, len(chunks), CHUNK + TAG)]
    assert sealed
    return b"".join(
        AESGCM(key).decrypt(
            prefix + number.to_bytes(4, "big") + bytes([number == len(sealed) - 1]), piece, None
        )
        for number, piece in enumerate(sealed)
    )
