"""What every kind of list has in common: its error, and the names that it yields."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum


class SourceError(Exception):
    """A list cannot be used; nothing was changed.

    Args:
        message: what is wrong, and where.
        reason_code: a short stable code, such as `source_truncated`.
        next_command: what to do next.
    """

    def __init__(self, message: str, *, reason_code: str, next_command: str = "") -> None:
        super().__init__(f"{message}; nothing was changed")
        self.reason_code = reason_code
        self.next_command = next_command


class SourceKind(Enum):
    """What a list names."""

    BLOB_IDS = "blob ids"
    OBJECT_NAMES = "object names"


@dataclass(frozen=True, slots=True)
class Source:
    """A list of names; iterating reads it from its begin, in memory that does not grow with it.

    What is wrong in the middle of a list is found when it is read, and raised as `SourceError`
    by the iterator: until it has ended, do nothing that cannot be taken back. A name may come more
    than once, and is not checked but for what no text of a database can hold (NUL, half a
    surrogate pair): `keywrap.layout` refuses those that name no blob, as it does after a listing.

    Attributes:
        place: the list, as it was given.
        kind: what it names. Names of objects are relative to the root of the store, as
            `keywrap.stores.Store.names` gives them.
        as_of: when the listing of the bucket began (S3 Inventory); None where it is not known.
        read: reads the list from its begin.
    """

    place: str
    kind: SourceKind
    as_of: datetime | None
    read: Callable[[], Iterator[str]] = field(repr=False, compare=False)

    def __iter__(self) -> Iterator[str]:
        return self.read()
