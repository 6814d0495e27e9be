"""How fast one process asks a key service, once the service has asked for less."""

import random
import threading
import time

_FIRST_GAP_S = 0.005
_MOST_GAP_S = 1.0
_NO_GAP_S = 0.0005
_HALVED_IN_S = 1.0
"""A throttled answer doubles the gap and a second without one halves it, so that the rate swings
around the quota and asks for too much about once a second."""


class Pace:
    """Gaps between requests, shared by all threads, so that they go on at the quota together.

    It takes the edge off: what the fleet as a whole may ask for is decided elsewhere.
    """

    def __init__(self) -> None:
        self._gap_s = 0.0
        self._next_at = 0.0
        self._eased_at = 0.0
        self._slowed_at = 0.0
        self._lock = threading.Lock()

    def wait(self, over: threading.Event) -> float:
        """Wait for this thread's turn, or until it is no longer wanted.

        Args:
            over: set once the request is not to be sent any more.

        Returns:
            When the turn was given, by the monotonic clock.
        """
        now = time.monotonic()
        if not self._gap_s and now >= self._next_at:
            return now
        with self._lock:
            self._gap_s *= 0.5 ** ((now - self._eased_at) / _HALVED_IN_S)
            self._eased_at = now
            if self._gap_s < _NO_GAP_S:
                self._gap_s = 0.0
            turn = max(now, self._next_at)
            # Jitter: other processes met the same quota at the same moment.
            self._next_at = turn + self._gap_s * random.uniform(0.5, 1.5)  # noqa: S311
        if turn > now and over.wait(turn - now):
            with self._lock:  # a turn that nobody takes holds up no other
                self._next_at = min(self._next_at, turn)
        return now

    def throttled(self, turn_given_at: float, rest_s: float = 0.0) -> None:
        """Slow down, unless that turn was given before the last time that this was done.

        Args:
            turn_given_at: what `wait` returned.
            rest_s: how long the service asked not to be asked at all.
        """
        with self._lock:
            now = time.monotonic()
            if turn_given_at >= self._slowed_at:
                self._gap_s = min(max(2 * self._gap_s, _FIRST_GAP_S), _MOST_GAP_S)
                self._slowed_at = self._eased_at = now
                self._next_at = max(self._next_at, now + self._gap_s)
            self._next_at = max(self._next_at, now + rest_s)
