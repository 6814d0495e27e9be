"""Keys that the configuration lists, but that only other hosts can open.

The shards of their blobs go to those hosts' queue. Should one come here all the same, its wraps
are refused one by one, with the queue that they belong to.
"""

from collections.abc import Callable
from typing import ClassVar

from keywrap.datakey import DataKey
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.kms import Context, DeniedError, RefusedError


class ElsewhereKeyProvider:
    """Stands for a key that this host cannot use.

    Args:
        key: URI of the KEK.
        queue: the queue of the hosts that can.
    """

    binds_context: ClassVar[bool] = False
    proves_wraps: ClassVar[bool] = False

    def __init__(self, key: str, queue: str) -> None:
        self.key = key
        self.requests = 0
        self._message = (
            f"{key}: only hosts of the queue {queue!r} can use it, and this process does not serve "
            "that queue; run a worker that does on such a host"
        )

    def current_version(self) -> KeyVersion:
        """Return the key itself: those that are bound to a host have no versions."""
        return KeyVersion(self.key)

    def wrap(self, _data_key: DataKey, _context: Context) -> WrappedKey:
        """Wrap nothing.

        Raises:
            DeniedError: always.
        """
        raise DeniedError(self._message, key=self.key, reason_code="key_elsewhere")

    def unwrap(self, _wrapped: WrappedKey, _context: Context) -> DataKey:
        """Open nothing.

        Raises:
            RefusedError: always.
        """
        raise RefusedError(self._message, key=self.key, reason_code="key_elsewhere")


class ElsewhereFamily:
    """Stands for a family of keys that this host cannot use.

    Args:
        claims: whether a key's URI is one of them.
        queue: the queue of the hosts that can use them.
    """

    def __init__(self, claims: Callable[[str], bool], queue: str) -> None:
        self._claims = claims
        self._queue = queue

    def __contains__(self, key: str) -> bool:
        """Whether a key is one of them."""
        return self._claims(key)

    def provider(self, key: str) -> ElsewhereKeyProvider:
        """Return what stands for one of them."""
        return ElsewhereKeyProvider(key, self._queue)
