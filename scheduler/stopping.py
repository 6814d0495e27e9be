"""Being asked to stop, by SIGTERM or SIGINT."""

import signal
import time
from types import FrameType

_LOOK_EVERY_S = 0.1


class Stop:
    """Whether this process was asked to stop.

    A flag and short sleeps, and nothing with a lock in it: a signal that comes while the main
    thread is inside `threading.Event.wait` finds the event's lock taken, by the very thread that
    it interrupts, and `set` never returns. `queue.SimpleQueue` hung the same way, once in about
    70,000 signals.
    """

    def __init__(self) -> None:
        self._asked = False

    def on_signals(self) -> None:
        """Take SIGTERM and SIGINT for the question; call it from the main thread."""
        signal.signal(signal.SIGTERM, self.ask)
        signal.signal(signal.SIGINT, self.ask)

    def ask(self, _signal: int = 0, _frame: FrameType | None = None) -> None:
        """Ask it to stop."""
        self._asked = True

    def is_set(self) -> bool:
        """Whether it was asked."""
        return self._asked

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it is asked."""
        end = time.monotonic() + seconds
        while not self._asked and (left := end - time.monotonic()) > 0:
            time.sleep(min(left, _LOOK_EVERY_S))
