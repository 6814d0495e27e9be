"""Objects larger than memory, written to a bucket in parts.

S3, Google and Azure show nothing of an object before its last part is there and the whole is
committed, so a crash leaves parts that nobody sees; let the bucket's life cycle end such uploads
after some days. obstore ends one itself where its pieces cannot be had.

A write in parts replaces what is there: obstore 0.12 sends a condition with whole objects only
(its `mode` other than `overwrite` turns parts off). For contents that is sound. Each has a random
name of 128 bits, which nobody else writes and no sidecar names until the upload has succeeded. For
the same reason a request may be sent again here, as it may not for sidecars: a part that comes
twice is the same part, and an upload whose last answer is lost leaves an object that is whole or
not there, and that nobody names.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from keywrap.stores import AlreadyExistsError, TooLargeError

try:
    import obstore
except ImportError as error:
    raise ImportError("a store in a bucket needs: pip install 'keywrap[s3]'") from error

if TYPE_CHECKING:
    from obstore.store import ObjectStore as ObstoreStore

PART_BYTES = 8 * 1024 * 1024
"""S3 takes parts of 5 MiB to 5 GiB (S3 User Guide, "Amazon S3 multipart upload limits")."""

MAX_PARTS = 10_000
"""The same page, and Google's; Azure takes 50,000 blocks."""

MAX_UPLOAD_BYTES = PART_BYTES * MAX_PARTS
"""About 78 GiB."""

PARTS_AT_ONCE = 2
"""What is on its way is held in memory."""


def upload(client: "ObstoreStore", key: str, chunks: Iterable[bytes]) -> None:
    """Write an object in parts, in memory that does not grow with it.

    Args:
        client: an obstore store; one that retries, see above.
        key: the object's key, which nobody else writes.
        chunks: its bytes, in pieces; what taking them raises goes out, and the upload is ended.

    Raises:
        AlreadyExistsError: there is such an object; it is unchanged.
        TooLargeError: it has more than `MAX_UPLOAD_BYTES`; nothing was made.
        obstore.exceptions.BaseError: it could not be written, or that is not known.
    """
    if _is_there(client, key):
        raise AlreadyExistsError(f"{key!r} is there already", name=key)
    taken = _Taken(key, chunks)
    try:
        obstore.put(
            client,
            key,
            iter(taken),
            use_multipart=True,
            chunk_size=PART_BYTES,
            max_concurrency=PARTS_AT_ONCE,
        )
    except obstore.exceptions.BaseError as error:
        # The store may refuse to end the upload, too: why it is ended matters more.
        if taken.broke is not None:
            raise taken.broke from error
        raise


def _is_there(client: "ObstoreStore", key: str) -> bool:
    try:
        obstore.head(client, key)
    except FileNotFoundError:
        return False
    return True


class _Taken:
    """The pieces of an object, counted.

    Attributes:
        broke: what taking them raised.
    """

    def __init__(self, key: str, chunks: Iterable[bytes]) -> None:
        self.broke: Exception | None = None
        self._key = key
        self._chunks = chunks

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._counted()
        except Exception as error:
            self.broke = error
            raise

    def _counted(self) -> Iterator[bytes]:
        size = 0
        for chunk in self._chunks:
            size += len(chunk)
            if size > MAX_UPLOAD_BYTES:
                raise TooLargeError(
                    f"{self._key!r} has more than the {MAX_UPLOAD_BYTES} bytes that one upload "
                    "takes; nothing of it is in the store",
                    name=self._key,
                )
            yield chunk
