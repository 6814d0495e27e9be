"""Being asked to stop, by SIGTERM or SIGINT."""

import signal
from contextlib import suppress
from queue import Empty, SimpleQueue
from types import FrameType


class Stop:
    """Whether this process was asked to stop.

    No `threading.Event`: a signal that comes while the main thread is inside the event's `wait`
    finds the event's lock taken, by the very thread that it interrupts, and `set` never returns.
    `SimpleQueue.put` is made to be called from signal handlers.
    """

    def __init__(self) -> None:
        self._asked = False
        self._wake: SimpleQueue[None] = SimpleQueue()

    def on_signals(self) -> None:
        """Take SIGTERM and SIGINT for the question; call it from the main thread."""
        signal.signal(signal.SIGTERM, self.ask)
        signal.signal(signal.SIGINT, self.ask)

    def ask(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Ask it to stop."""
        self._asked = True
        self._wake.put(None)

    def is_set(self) -> bool:
        """Whether it was asked."""
        return self._asked

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it is asked."""
        if not self._asked:
            with suppress(Empty):
                self._wake.get(timeout=seconds)
