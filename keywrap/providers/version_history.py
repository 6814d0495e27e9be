"""The versions of one KEK whose names tell no order, in the order in which they came."""

import threading
import time
from collections.abc import Callable, Mapping

from keywrap.providers.calls import PerProcess

ASK_AGAIN_S = 30.0
"""An unknown name comes from a sidecar's text: it must not cost a request each time."""


class VersionHistory:
    """Which versions a KEK has had, remembered.

    Args:
        read: asks the service for all of them; a higher rank came later, an equal one may have.
        read_current: asks the service for the current one.
    """

    def __init__(
        self, read: Callable[[], Mapping[str, int]], read_current: Callable[[], str]
    ) -> None:
        self._read = read
        self._read_current = read_current
        self._order: Mapping[str, int] = {}
        self._seen: frozenset[str] = frozenset()
        self._read_at: float | None = None
        self._lock = PerProcess(threading.Lock)

    def is_newer(self, version: str, than: str) -> bool:
        """Whether both are the key's, and the first came later."""
        wanted = {version, than}
        if not wanted <= self._order.keys():
            with self._lock.get():
                if not wanted <= self._order.keys() and self._may_ask():
                    self._ask()
        order = self._order
        return wanted <= order.keys() and order[version] > order[than]

    def has(self, version: str) -> bool:
        """Whether a name that the service itself gave is the key's; asks until it is known."""
        if version not in self._seen:
            with self._lock.get():  # so that the threads of a batch ask once
                if version not in self._seen and self.saw(self._read_current()) != version:
                    self._ask()
        return version in self._seen

    def had(self, version: str) -> bool:
        """Whether a name that a sidecar gave is the key's; asks once in `ASK_AGAIN_S`."""
        if version not in self._order:
            with self._lock.get():
                if version not in self._order and self._may_ask():
                    self._ask()
        return version in self._order

    def saw(self, version: str) -> str:
        """Take note of the current version, and return it."""
        if version not in self._seen:
            self._seen |= {version}
            self._read_at = None  # there is news: the order may be asked for again
        return version

    def _may_ask(self) -> bool:
        return self._read_at is None or time.monotonic() - self._read_at >= ASK_AGAIN_S

    def _ask(self) -> None:
        self._order = self._read()
        self._seen |= self._order.keys()
        self._read_at = time.monotonic()
