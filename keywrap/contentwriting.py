"""Writing a content: encrypted as `stream-v1` to an object that nobody names yet."""

from collections.abc import Iterator
from itertools import chain

from keywrap.contentformat import READ_BYTES, Readable
from keywrap.datakey import DataKey
from keywrap.stores import Store, StreamingStore
from keywrap.stream_v1 import StreamV1


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
