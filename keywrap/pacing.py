"""Asking a key service for no more than its share: what paces the requests of a provider."""

import threading
from typing import Protocol, runtime_checkable


class Pacer(Protocol):
    """Says when a request to a key service may be sent; may be used from many threads."""

    def take(self, over: threading.Event | None = None) -> None:
        """Wait until one request may be sent.

        Args:
            over: set once the request is not wanted any more; then this returns at once.
        """

    def throttled(self) -> bool:
        """Hear that the service has asked for fewer requests; return whether this slows down."""


@runtime_checkable
class Paced(Protocol):
    """A provider whose requests can be paced."""

    def pace_by(self, pacer: Pacer) -> None:
        """Let a pacer decide when each request is sent, from now on."""


class NoPacer:
    """Lets every request go."""

    def take(self, over: threading.Event | None = None) -> None:
        """Wait for nothing."""

    def throttled(self) -> bool:
        """Change nothing."""
        return False


NO_PACER = NoPacer()
