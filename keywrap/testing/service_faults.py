"""What can go wrong at a reference service, asked for by a test; the service says how it fails."""

import random
import threading
import time
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

_Failure = TypeVar("_Failure", bound=Hashable)

_LOST = "lost"


class LostReplyError(Exception):
    """The operation is done, and its caller gets no answer: close the connection."""


@dataclass(slots=True)
class _Planned:
    """A fault for the next requests of one operation, or of any."""

    kind: str
    what: Hashable
    times: int
    operation: str


class ServiceFaults(Generic[_Failure]):
    """The faults that are planned; may be used from many threads.

    Args:
        throttled: the failure of a request above the rate.
        limited: the operations that share the rate.
        affects: the operations whose answers a corruption can concern; all where it says nothing.
    """

    def __init__(
        self,
        throttled: _Failure,
        limited: frozenset[str],
        affects: Mapping[Any, frozenset[str]] | None = None,
    ) -> None:
        self._throttled = throttled
        self._limited = limited
        self._affects = affects or {}
        self._planned: list[_Planned] = []
        self._latency_s: dict[str, float] = {}
        self._per_s = 0.0
        self._tokens = 0.0
        self._filled_at = 0.0
        self._share = 0.0
        self._random = random.Random(7)  # noqa: S311 - alike in every run
        self._lock = threading.Lock()

    def fail_next(self, failure: _Failure, *, times: int = 1, operation: str = "") -> None:
        """Answer the next requests with a failure, before anything is done.

        Args:
            failure: as the service takes it.
            times: how many requests.
            operation: the only operation that is meant; any if empty.
        """
        self._plan("failure", failure, times, operation)

    def lose_next_reply(self, *, times: int = 1, operation: str = "") -> None:
        """Do the next requests, and give no answer; arguments as above."""
        self._plan(_LOST, _LOST, times, operation)

    def corrupt_next(self, what: Hashable, *, times: int = 1, operation: str = "") -> None:
        """Corrupt the next answers of an operation, or of any that it concerns; as above.

        Raises:
            ValueError: it does not concern that operation.
        """
        if operation not in self._affects.get(what, {operation}) | {""}:
            raise ValueError(f"{operation} gives no answer with {what}")
        self._plan("corruption", what, times, operation)

    def delay(self, seconds: float, *, operation: str = "") -> None:
        """Let every request, or those of one operation, take so long from now on."""
        with self._lock:
            self._latency_s[operation] = seconds

    def latency_s(self, operation: str) -> float:
        """Return how long a request is to take."""
        with self._lock:
            return self._latency_s.get(operation, self._latency_s.get("", 0.0))

    def wait(self, operation: str) -> None:
        """Let a request take its time; one that takes none gives nobody else the processor."""
        if latency_s := self.latency_s(operation):
            time.sleep(latency_s)

    def set(
        self,
        *,
        latency_ms: Mapping[str, float] | None = None,
        quota: float | None = None,
        lose_replies: int = 0,
        clear: bool = False,
    ) -> None:
        """Set what the control of a server is asked for.

        Args:
            latency_ms: see `delay`, by operation, in milliseconds.
            quota: see `limit_rate`.
            lose_replies: how many of the next replies are lost.
            clear: whether to forget what was planned before.
        """
        if clear:
            self.clear()
        for operation, latency in (latency_ms or {}).items():
            self.delay(latency / 1000, operation=operation)
        if quota is not None:
            self.limit_rate(quota)
        if lose_replies:
            self.lose_next_reply(times=lose_replies)

    def limit_rate(self, per_s: float) -> None:
        """Throttle above a rate in requests a second; 0 for no limit.

        A tenth of a second's worth may come at once.
        """
        with self._lock:
            self._per_s, self._tokens, self._filled_at = per_s, per_s / 10, time.monotonic()

    def throttle(self, share: float) -> None:
        """Throttle a share of all requests, from 0 to 1, at random and whatever their rate."""
        with self._lock:
            self._share = share

    def clear(self) -> None:
        """Forget every fault that is planned."""
        with self._lock:
            self._planned.clear()
            self._latency_s.clear()
            self._per_s = self._share = 0.0

    def failure(self, operation: str) -> _Failure | None:
        """Return how a request that begins now is to fail; None where it is not."""
        with self._lock:
            planned = self._take("failure", operation)
            if planned is not None:
                return planned.what  # type: ignore[return-value] # `fail_next` took it
            if operation in self._limited and self._is_too_much():
                return self._throttled
        return None

    def corruption(self, operation: str) -> object | None:
        """Take the corruption that is planned for this answer."""
        with self._lock:
            planned = self._take("corruption", operation)
            return planned.what if planned else None

    def loses_reply(self, operation: str) -> bool:
        """Whether the reply of a request that was done is to be lost."""
        with self._lock:
            return self._take(_LOST, operation) is not None

    def _plan(self, kind: str, what: Hashable, times: int, operation: str) -> None:
        with self._lock:
            self._planned.append(_Planned(kind, what, times, operation))

    def _take(self, kind: str, operation: str) -> _Planned | None:
        for planned in self._planned:
            concerned = self._affects.get(planned.what, {operation})
            meant = planned.operation in {"", operation} and operation in concerned
            if planned.kind == kind and meant:
                planned.times -= 1
                if not planned.times:
                    self._planned.remove(planned)
                return planned
        return None

    def _is_too_much(self) -> bool:
        by_chance = bool(self._share) and self._random.random() < self._share
        return by_chance or (bool(self._per_s) and not self._spend_token())

    def _spend_token(self) -> bool:
        now = time.monotonic()
        most = max(1.0, self._per_s / 10)
        self._tokens = min(most, self._tokens + (now - self._filled_at) * self._per_s)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
