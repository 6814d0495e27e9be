"""What buckets in memory have in common, whosever protocol they are asked by."""

import random
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from email.utils import formatdate
from functools import lru_cache
from typing import Any, Generic, TypeVar

_Object = TypeVar("_Object")


@lru_cache(maxsize=1024)
def http_date(seconds: int) -> str:
    """Write seconds since 1970 as RFC 9110 wants a date."""
    return formatdate(seconds, usegmt=True)


@dataclass(slots=True)
class BucketFaults:
    """What goes wrong next; each number counts down to 0.

    Attributes:
        errors: conditional writes answered 500 InternalError, yet made.
        lose_requests: conditional writes that are neither made nor answered.
        lose_replies: conditional writes that are made and not answered.
        lose_probability: that of losing a conditional write's reply besides, 0 to 1.
        slow_reads: reads and listings that are answered as too many.
        deny: what is answered as forbidden, by the name that `operations` has for it. Without the
            right to list, what is not there is denied as well, as these services do.
    """

    errors: int = 0
    lose_requests: int = 0
    lose_replies: int = 0
    lose_probability: float = 0.0
    slow_reads: int = 0
    deny: list[str] = field(default_factory=list)

    def takes(self, name: str) -> bool:
        """Whether this fault is due now; counts it down."""
        left: int = getattr(self, name)
        if left:
            setattr(self, name, left - 1)
        return left > 0


_Faults = TypeVar("_Faults", bound=BucketFaults)


class MemoryBuckets(Generic[_Object, _Faults]):
    """Buckets and their objects, thread-safe.

    Args:
        buckets: those that there are.
        seed: of the random that loses replies.
        faults: what goes wrong next.

    Attributes:
        operations: how often each operation was asked for.
        writes: how many times an object was created or replaced.
        faults: as above.
    """

    def __init__(self, buckets: Iterable[str], seed: int, faults: _Faults) -> None:
        self.operations: Counter[str] = Counter()
        self.writes = 0
        self.faults = faults
        self._buckets: dict[str, dict[str, _Object]] = {name: {} for name in buckets}
        self._sorted: dict[str, list[str]] = {}
        self._random = random.Random(seed)  # noqa: S311 - replies are lost alike in every run
        self._lock = threading.RLock()

    def create_bucket(self, name: str) -> None:
        """Create a bucket; one that is there stays as it is."""
        with self._lock:
            self._buckets.setdefault(name, {})

    def delete_bucket(self, name: str) -> None:
        """Delete a bucket with all that is in it."""
        with self._lock:
            self._buckets.pop(name, None)
            self._sorted.pop(name, None)

    def break_down(self, **faults: Any) -> None:  # noqa: ANN401 - numbers and a list of names
        """Set some of the faults by name.

        Raises:
            ValueError: there is no such fault.
        """
        if unknown := faults.keys() - {one.name for one in fields(self.faults)}:
            raise ValueError(f"no such fault: {', '.join(sorted(unknown))}")
        with self._lock:
            for name, value in faults.items():
                setattr(self.faults, name, value)

    def _names(self, bucket: str) -> list[str]:
        """Return the names of a bucket's objects, sorted; whoever adds or removes one forgets."""
        names = self._sorted.get(bucket)
        if names is None:
            names = self._sorted[bucket] = sorted(self._buckets[bucket])
        return names

    def _loses_reply(self) -> bool:
        chance = self.faults.lose_probability
        return self.faults.takes("lose_replies") or bool(chance and self._random.random() < chance)
