"""The plaintext data key, held so that it does not leak by accident."""

import hmac
import os
from typing import NoReturn, Self

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = (16, 24, 32)
"""Lengths of an AES key (FIPS 197)."""


class DataKey:
    """A plaintext AES data key.

    It hides its value from `repr`, compares in constant time and refuses to be pickled, so that
    it cannot reach a log line, a task message or a result by accident. Python cannot wipe it
    from memory: let go of it as soon as it has been used.

    Args:
        key: 16, 24 or 32 bytes.

    Raises:
        ValueError: another length; the message never holds the value.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) not in KEY_BYTES:
            raise ValueError(f"an AES key has 16, 24 or 32 bytes, not {len(key)}")
        self._key = bytes(key)

    @classmethod
    def generate(cls) -> Self:
        """Draw a new AES-256 data key from the operating system."""
        return cls(os.urandom(32))

    def reveal(self) -> bytes:
        """Return the key's bytes, for the moment of wrapping them and for nothing else."""
        return self._key

    def cipher(self) -> AESGCM:
        """Return AES-GCM (SP 800-38D) under this key."""
        return AESGCM(self._key)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DataKey):
            return NotImplemented
        return hmac.compare_digest(self._key, other._key)

    __hash__ = None  # type: ignore[assignment]  # a hash of key bytes is a leak

    def __repr__(self) -> str:
        return "DataKey(hidden)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a plaintext data key is never serialised")
