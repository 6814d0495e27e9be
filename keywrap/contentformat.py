"""What a content format must do, and how a content is read piece by piece."""

from collections.abc import Callable, Iterator
from enum import Enum, auto
from typing import Protocol

from keywrap.datakey import DataKey

TAG_BYTES = 16

READ_BYTES = 8 * 1024 * 1024
"""How much of a content is fetched at a time: some 250 requests to a bucket for 2 GiB, and what
a reader holds in memory."""

RangedRead = Callable[[int, int], bytes]
"""`read(start, length)`: up to `length` bytes from byte `start`, fewer where the content ends."""


class ContentError(ValueError):
    """A blob's content is not what its format says, or does not open with the data key.

    Args:
        message: a sentence for the operator; never key or content bytes.
        reason_code: `content_truncated`, `content_does_not_open`, `content_malformed`,
            `content_record_length`, `content_too_large`, `content_proves_nothing` or
            `content_format_unknown`.
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


class Readable(Protocol):
    """What a plaintext is read from: an open binary file, a socket's file, `io.BytesIO`."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes; none only at the end."""


class ContentFormat(Protocol):
    """One way in which a blob's content is encrypted."""

    def seal(self, data_key: DataKey, plaintext: bytes) -> bytes:
        """Encrypt a content under fresh nonces."""

    def open(self, data_key: DataKey, content: bytes) -> bytes:
        """Decrypt a content whole.

        Raises:
            ContentError: it is truncated, malformed or does not open.
        """

    def chunks(self, data_key: DataKey, read: RangedRead) -> Iterator[bytes]:
        """Yield a content's plaintext in order, each piece once its tag was found right.

        Raises:
            ContentError: as `open`, perhaps after some pieces: only the iterator's end says that
                the content is whole.
        """

    def proves(self, data_key: DataKey, read: RangedRead) -> Proof:
        """Open as little of a content as shows that the key belongs to it.

        Raises:
            ContentError: it is truncated, malformed or does not open with this key.
        """


class Flow:
    """A content from its first byte to its last, fetched in large ranged reads.

    Args:
        read: fetches a part of it.
        block: how many bytes to fetch at a time.
    """

    def __init__(self, read: RangedRead, block: int = READ_BYTES) -> None:
        self._read = read
        self._length = block
        self._block = memoryview(b"")
        self._fetched = 0
        self._is_last = False

    def take(self, length: int) -> memoryview:
        """Return the next `length` bytes; fewer only where the content ends."""
        if len(self._block) >= length:
            return self._cut(length)
        parts = bytearray()
        while len(parts) < length and not self.is_over():
            parts += self._cut(length - len(parts))
        return memoryview(parts)

    def is_over(self) -> bool:
        """Whether every byte was taken; fetches the next ones where none are at hand."""
        if not self._block and not self._is_last:
            self._block = memoryview(b"")  # lets go of the last one before the next comes
            part = self._read(self._fetched, self._length)
            self._fetched += len(part)
            self._is_last = len(part) < self._length
            self._block = memoryview(part)
        return not self._block

    def _cut(self, length: int) -> memoryview:
        taken, self._block = self._block[:length], self._block[length:]
        return taken
