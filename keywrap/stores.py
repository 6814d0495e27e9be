"""Where blobs and sidecars lie: what a store must do.

Names are `/`-separated and relative to the store's root. Every change is conditional: an object
is created only if absent and replaced only if it is still exactly what was read.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable


class StoreError(Exception):
    """An object of the store could not be used.

    Args:
        message: a sentence for the operator.
        name: the object's name.
    """

    reason_code: str = "store_error"

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class NotFoundError(StoreError):
    """There is no object of that name."""

    reason_code = "not_found"


class AlreadyExistsError(StoreError):
    """An object of that name is already there."""

    reason_code = "already_exists"


class ChangedError(StoreError):
    """The object is no longer what was read: another writer came first, and won."""

    reason_code = "changed"


class TooLargeError(StoreError):
    """The object is larger than the caller was ready to read."""

    reason_code = "too_large"


class NotAnObjectError(StoreError):
    """The name is taken by something that is no plain object: a link, a folder, a pipe."""

    reason_code = "not_an_object"


class StoreUnavailableError(StoreError):
    """The store did not answer, or answered with an error; the change may or may not be made."""

    reason_code = "store_unavailable"


class VersionsUnseenError(StoreError):
    """Whether the store keeps old versions of its objects, or which, cannot be told from here."""

    reason_code = "versions_unseen"


@dataclass(frozen=True, slots=True)
class Stored:
    """What one read returned.

    Attributes:
        data: the object's bytes.
        tag: the store's version tag of exactly these bytes, from the same read.
    """

    data: bytes
    tag: str


@dataclass(frozen=True, slots=True)
class Entry:
    """What a store says of an object without reading it.

    Attributes:
        size: of its data, in bytes.
        tag: the store's version tag of the object; another one after every write.
        written_at: when it was last written, by the store's own clock.
    """

    size: int
    tag: str
    written_at: datetime


class Store(Protocol):
    """A place of named objects with compare-and-set."""

    def check(self) -> None:
        """Tell a store that is away from an object that is.

        Raises:
            StoreUnavailableError: the store as a whole cannot be used now.
        """

    def read(self, name: str, *, limit: int | None = None) -> Stored:
        """Read an object whole.

        Args:
            name: the object's name.
            limit: the most bytes to read; None for no limit.

        Raises:
            NotFoundError: there is none.
            TooLargeError: it has more bytes than `limit`; no more than `limit` were read.
            NotAnObjectError: the name is no plain object.
            StoreUnavailableError: the store did not answer.
        """

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Read up to `length` bytes from byte `start`; fewer where the object ends."""

    def create(self, name: str, data: bytes) -> None:
        """Create an object, durably and only if there is none.

        Raises:
            AlreadyExistsError: there is one already; it is unchanged.
        """

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        """Replace an object, durably and only if it still is exactly what was read.

        Raises:
            ChangedError: it changed or went away; what is there now is left as it is.
            StoreUnavailableError: the outcome is not known; read again and compare.
        """

    def delete(self, name: str) -> None:
        """Remove an object; nothing happens where there is none."""

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the name of every object that starts with `prefix`, in no promised order."""


@runtime_checkable
class HoldingStore(Protocol):
    """A store that can keep open for a batch what it opens for each request otherwise."""

    def held(self) -> AbstractContextManager[None]:
        """Keep it open for the length of the block, for every thread.

        Raises:
            StoreUnavailableError: the store as a whole cannot be used now.
        """


@runtime_checkable
class StreamingStore(Protocol):
    """A store that takes an object piece by piece, in memory that does not grow with it."""

    def create_from(self, name: str, chunks: Iterable[bytes]) -> None:
        """Create an object, durably, from the pieces of its data.

        Nothing of it is visible before all of it is, nor where `chunks` raises.

        Args:
            name: a name that nobody else writes, such as one with a random generation: a store
                that cannot make a large object only if absent may replace what is there.
            chunks: the pieces in order; taken once.

        Raises:
            AlreadyExistsError: there is one already; it is unchanged.
            StoreUnavailableError: the outcome is not known, but there is all of it or nothing.
        """


@runtime_checkable
class SweepingStore(Protocol):
    """A store in which a crash may leave temporary files behind."""

    def sweep(self, older_than_s: float) -> int:
        """Remove what crashes left more than `older_than_s` seconds ago; return how many."""


@runtime_checkable
class RemovingStore(Protocol):
    """A store that says how old an object is, and removes it only if it still is what was seen."""

    def look(self, name: str) -> Entry:
        """Return what the store says of an object.

        Raises:
            NotFoundError: there is none.
            NotAnObjectError: the name is no plain object.
            StoreUnavailableError: the store did not answer.
        """

    def remove(self, name: str, expected: Entry) -> bool:
        """Remove an object, durably and only if it still is what `look` saw.

        Asked for once: a second request could meet what was made anew in between.

        Returns:
            Whether it was removed; False where there was none any more.

        Raises:
            ChangedError: it was written since; it is left as it is.
            StoreUnavailableError: the outcome is not known; look again.
        """


@runtime_checkable
class VersionedStore(Protocol):
    """A store that may keep what was replaced or removed."""

    def old_versions(
        self, wanted: Callable[[str], bool], limit: int
    ) -> Iterator[tuple[str, bytes | None]]:
        """Yield what is kept of objects and is not the newest, in no promised order.

        Args:
            wanted: whether the versions of an object of some name are asked for.
            limit: the most bytes of a version that is read.

        Returns:
            For each version its object's name, and its bytes; None where there are more than
            `limit`.

        Raises:
            VersionsUnseenError: whether there are any cannot be told.
            StoreUnavailableError: the store did not answer, or refuses; the message says why.
        """


@runtime_checkable
class TaggedStore(Protocol):
    """A store whose listing says the version tag of each object, so that none is read for it."""

    def tagged(self, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield what `Store.names` does, and the tag as a read returns it; "" where it is not said.

        Raises:
            StoreUnavailableError: the store stopped answering; what was yielded is incomplete.
        """
