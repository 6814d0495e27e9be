"""Writing a content: encrypted as `stream-v1` to an object that nobody names yet."""

import time
from collections.abc import Iterator
from itertools import chain

from keywrap.contentformat import READ_BYTES, Readable
from keywrap.datakey import DataKey
from keywrap.stores import Store, StreamingStore
from keywrap.stream_v1 import StreamV1

COMMIT_WITHIN_S = 6 * 3600.0
"""From the beginning of a new content until a sidecar may name it at the latest, in seconds.

A sweep removes contents that no sidecar names and that are older than a grace time, of a day at the
least. Whoever may still commit one has begun it much later than that."""


class TooSlowError(Exception):
    """A new content was begun too long ago to be named now; a sweep may be about to remove it."""


class Stopwatch:
    """Tells whether a new content may still be named by a sidecar.

    It goes by two clocks, and by whichever says that more time has passed: one that nobody sets
    but that may stand still while the machine does, and the time of day.
    """

    def __init__(self) -> None:
        self._begun = _clocks()

    def require_time(self) -> None:
        """See that the content is young enough.

        Raises:
            TooSlowError: it is not.
        """
        passed = max(now - then for now, then in zip(_clocks(), self._begun, strict=True))
        if passed > COMMIT_WITHIN_S:
            raise TooSlowError(
                f"its content was begun {passed / 3600:.1f} hours ago, more than "
                f"{COMMIT_WITHIN_S / 3600:.0f}; nothing of it is visible: write it again"
            )


def _clocks() -> tuple[float, float]:
    # Linux stops CLOCK_MONOTONIC while it sleeps, and not this one.
    clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.clock_gettime(clock), time.time()


def write_content(store: Store, name: str, data_key: DataKey, source: Readable) -> None:
    """Encrypt what a source holds into a new object, in memory that does not grow with it.

    A store that takes no streams (`keywrap.stores.StreamingStore`) gets it whole all the same.

    Args:
        store: where to write.
        name: a name that nobody else writes: one with a random generation.
        data_key: the key of this content alone.
        source: where the plaintext comes from; read to its end and not closed.

    Raises:
        AlreadyExistsError: there is an object of that name; it is unchanged.
        StoreUnavailableError: the outcome is not known, but there is all of it or nothing.
        ContentError: it is larger than the format holds.
        Exception: what `source.read` raises; nothing of the object is there then.
    """
    watched = _Source(source)
    try:
        _store(store, name, StreamV1().encrypt(data_key, watched))
    except BaseException:
        if watched.failure is not None:  # the store may have taken it for its own
            raise watched.failure from None
        raise


def _store(store: Store, name: str, chunks: Iterator[bytes]) -> None:
    """Create an object of chunks; a small one at once, which costs a bucket one request."""
    head: list[bytes] = []
    size = 0
    while size < READ_BYTES and (chunk := next(chunks, b"")):
        head.append(chunk)
        size += len(chunk)
    if size >= READ_BYTES and isinstance(store, StreamingStore):
        store.create_from(name, chain(head, chunks))
    else:
        store.create(name, b"".join(chain(head, chunks)))


class _Source:
    """A caller's source, which remembers that it failed: it was not the store then."""

    def __init__(self, source: Readable) -> None:
        self._source = source
        self.failure: BaseException | None = None

    def read(self, size: int, /) -> bytes:
        try:
            return self._source.read(size)
        except BaseException as error:
            self.failure = error
            raise
