"""Noticing, in the middle of a batch, that it is the store that is away and not an object."""

import threading
from collections.abc import Callable

from keywrap.stores import StoreUnavailableError

FAILURES = 10
"""So many requests in a row without an answer, and the store itself is asked."""


class StoreWatch:
    """Counts a batch's requests that fail in a row; may be used from many threads.

    A store that hangs answers each request with a timeout. Waiting for one after the other would
    take hours, in which nobody learns why.

    Args:
        check: asks the store itself; see `Store.check`.
    """

    def __init__(self, check: Callable[[], None]) -> None:
        self._check = check
        self._failures = 0
        self._cause: StoreUnavailableError | None = None
        self._lock = threading.Lock()

    @property
    def is_away(self) -> bool:
        """Whether the store was asked and did not answer: no more requests are worth a try."""
        return self._cause is not None

    def answered(self) -> None:
        """Note a request that was answered."""
        self._failures = 0

    def failed(self) -> None:
        """Note a request that was not, and ask the store itself where there were too many."""
        with self._lock:
            self._failures += 1
            if self._failures < FAILURES or self._cause:
                return
            try:
                self._check()
            except StoreUnavailableError as error:
                self._cause = error
            self._failures = 0

    def require_there(self) -> None:
        """See that the store was not found to be away.

        Raises:
            StoreUnavailableError: it was.
        """
        if self._cause is not None:
            raise self._cause
