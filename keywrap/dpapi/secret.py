"""A master key, held so that it does not leak by accident."""

import hmac
from typing import NoReturn

from keywrap.dpapi.crypto import sha1

MASTER_KEY_BYTES = 64
SHA1_BYTES = 20


class MasterKey:
    """A DPAPI master key: as good as every data key that it wraps.

    It hides its value from `repr`, compares in constant time and refuses to be pickled.

    Args:
        key: the 64 bytes, or their SHA-1, which is all that opening a blob takes.

    Raises:
        ValueError: another length; the message never holds the value.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) not in {MASTER_KEY_BYTES, SHA1_BYTES}:
            raise ValueError(f"a master key has 64 bytes, or 20 as its SHA-1, not {len(key)}")
        self._key = bytes(key)

    def sha1(self) -> bytes:
        """Return its SHA-1, for the moment of opening a blob."""
        return self._key if len(self._key) == SHA1_BYTES else sha1(self._key)

    def reveal(self) -> bytes:
        """Return its bytes, for writing them into a ring and for nothing else."""
        return self._key

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, MasterKey):
            return NotImplemented
        return hmac.compare_digest(self.sha1(), other.sha1())

    __hash__ = None  # type: ignore[assignment]  # a hash of key bytes is a leak

    def __repr__(self) -> str:
        return "MasterKey(hidden)"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a master key is never serialised")
