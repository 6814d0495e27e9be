"""The two sets of algorithms that DPAPI uses, with the oddities that are frozen in its format.

Windows 7 and later write AES-256 with SHA-512. XP and Vista wrote 3DES with SHA-1, and blobs of
that kind are still made today for master keys of that age. The format is not published; what is
here was proved on blobs and master key files made by Windows, which these functions reproduce
byte for byte (`keywrap.testing.dpapi`).
"""

import hashlib
import hmac
from dataclasses import dataclass
from typing import Literal

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

_SHA1_BLOCK_BYTES = 64
_INNER, _OUTER = 0x36, 0x5C  # the pads of HMAC (RFC 2104)


def sha1(data: bytes) -> bytes:
    """Return the SHA-1, which the format fixes."""
    return hashlib.sha1(data).digest()  # noqa: S324 - Windows' choice, not ours


@dataclass(frozen=True, slots=True)
class Suite:
    """A cipher and a hash that go together.

    Attributes:
        name: for people.
        cipher_id: its `ALG_ID` (wincrypt.h).
        key_bits: the key lengths that blobs state.
        key_bytes: length of the cipher's key.
        block_bytes: its block.
        hash_id: the `ALG_ID` of the hash.
        hash_name: its name to `hashlib`.
        digest_bytes: its length.
        salt_bytes: length of the salt and of the nonce of the MAC in a blob.
    """

    name: str
    cipher_id: int
    key_bits: tuple[int, ...]
    key_bytes: int
    block_bytes: int
    hash_id: int
    hash_name: Literal["sha1", "sha512"]
    digest_bytes: int
    salt_bytes: int

    def keyed_hash(self, key: bytes, head: bytes, tail: bytes) -> bytes:
        """Return DPAPI's keyed hash of a blob.

        Args:
            key: the SHA-1 of the master key.
            head: a salt or nonce.
            tail: what else goes in.
        """
        if self.hash_name == "sha512":
            return hmac.digest(key, head + tail, "sha512")
        # A mistake of Windows XP that every later Windows keeps: the tail belongs into the inner
        # hash and stands in the outer one. With an empty tail nobody notices.
        inner = sha1(_padded(key, _INNER) + head)
        return sha1(_padded(key, _OUTER) + inner + tail)

    def cipher_key(self, session: bytes) -> bytes:
        """Return the cipher's key, as `CryptDeriveKey` makes it (its documentation, "Remarks")."""
        if len(session) >= self.key_bytes:
            return session[: self.key_bytes]
        return (sha1(_padded(session, _INNER)) + sha1(_padded(session, _OUTER)))[: self.key_bytes]

    def cbc(self, key: bytes, iv: bytes = b"") -> Cipher[CBC]:
        """Return the cipher in CBC mode; without `iv`, with zeros, as in blobs."""
        algorithm = AES(key) if self.cipher_id == AES256_SHA512.cipher_id else TripleDES(key)
        return Cipher(algorithm, CBC(iv or bytes(self.block_bytes)))


AES256_SHA512 = Suite("AES-256/SHA-512", 0x6610, (256,), 32, 16, 0x800E, "sha512", 64, 32)
TDES_SHA1 = Suite("3DES/SHA-1", 0x6603, (192, 168), 24, 8, 0x8004, "sha1", 20, 16)

SUITES = (AES256_SHA512, TDES_SHA1)


def stretch(prekey: bytes, salt: bytes, rounds: int, size: int, hash_name: str) -> bytes:
    """Derive key and IV of a master key block.

    Like PBKDF2 (RFC 8018), but each round is fed the sum so far instead of the last result.
    `hashlib.pbkdf2_hmac` agrees for one and two rounds only.

    Args:
        prekey: what a credential gives.
        salt: 16 bytes.
        rounds: at least 1.
        size: how many bytes to derive.
        hash_name: `sha1` or `sha512`.
    """
    derived = b""
    number = 1
    while len(derived) < size:
        block = hmac.digest(prekey, salt + number.to_bytes(4, "big"), hash_name)
        total = int.from_bytes(block, "big")
        for _ in range(rounds - 1):
            fed = total.to_bytes(len(block), "big")
            total ^= int.from_bytes(hmac.digest(prekey, fed, hash_name), "big")
        derived += total.to_bytes(len(block), "big")
        number += 1
    return derived[:size]


def _padded(key: bytes, pad: int) -> bytes:
    return bytes(byte ^ pad for byte in key.ljust(_SHA1_BLOCK_BYTES, b"\0"))
