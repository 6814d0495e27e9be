"""What works beside the ticks, in a thread of its own: it may hang, and no tick waits for it."""

import threading

STOP_WITHIN_S = 5.0
"""So long whoever stops waits for what hangs."""


class Beside:
    """Works in a thread until it is stopped.

    Args:
        name: the thread's name.
    """

    def __init__(self, name: str) -> None:
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name=name, daemon=True)

    def start(self) -> None:
        """Start working."""
        self._thread.start()

    def stop(self) -> None:
        """Stop; what hangs is not waited for."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(STOP_WITHIN_S)

    def _keep(self) -> None:
        """Work until `_ended` is set."""
        raise NotImplementedError
