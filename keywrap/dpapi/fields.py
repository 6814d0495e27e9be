"""Taking apart a binary record, field by field, never beyond its end."""

import uuid
from dataclasses import dataclass


class CutShortError(ValueError):
    """A field would reach beyond the end."""


@dataclass(slots=True)
class Fields:
    """The fields of a record, one after the other; integers are little-endian.

    Attributes:
        data: the record.
        place: where the next field begins.
    """

    data: bytes
    place: int = 0

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes.

        Raises:
            CutShortError: there are fewer.
        """
        end = self.place + count
        if end > len(self.data):
            raise CutShortError
        part = self.data[self.place : end]
        self.place = end
        return part

    def integer(self, size: int = 4) -> int:
        """Return an unsigned integer of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def counted(self) -> bytes:
        """Return the bytes that follow their own number."""
        return self.take(self.integer())

    def guid(self) -> str:
        """Return a GUID in its usual form, in lower case; its first three parts are turned."""
        return str(uuid.UUID(bytes_le=self.take(16)))

    @property
    def left(self) -> int:
        """How many bytes are left."""
        return len(self.data) - self.place
