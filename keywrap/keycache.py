"""An application's cache of opened data keys, off unless configured.

It trades a promise for requests: a plaintext data key stays in memory beyond the moment of its
use, and a reader whose right was taken away goes on for up to the cache's age. So each of its
bounds is required.
"""

import os
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from keywrap.contexts import canonical_context
from keywrap.datakey import DataKey
from keywrap.keys import WrappedKey
from keywrap.kms import Context

_Name = tuple[WrappedKey, bytes]


@dataclass(slots=True)
class _Held:
    data_key: DataKey
    until: float
    uses_left: int


class KeyCache:
    """Data keys by their wrap and context. May be used from many threads.

    A key is let go of when the first of its bounds is met, its age by a timer also where nobody
    asks for it any more. Python cannot overwrite it: its memory is freed, not wiped. A process
    that is forked from this one begins with an empty cache.

    Args:
        max_keys: how many are held; the oldest goes first.
        max_age_s: how long one is held, in seconds.
        max_uses: how often one is handed out.
        clock: tells seconds, never backwards.

    Raises:
        ValueError: a bound is not positive.
    """

    def __init__(
        self,
        max_keys: int,
        max_age_s: float,
        max_uses: int,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if not (max_keys > 0 and max_age_s > 0 and max_uses > 0):
            raise ValueError("each bound of a key cache is a positive number")
        self._max_keys, self._max_age_s, self._max_uses = max_keys, max_age_s, max_uses
        self._clock = clock
        self._forget_everything()
        if hasattr(os, "register_at_fork"):
            us = weakref.ref(self)
            os.register_at_fork(after_in_child=lambda: _forget_in_child(us))

    def __repr__(self) -> str:
        return f"KeyCache({len(self)} of {self._max_keys})"

    def __len__(self) -> int:
        """Return how many keys are held."""
        with self._lock:
            return len(self._held)

    def get(self, wrapped: WrappedKey, context: Context) -> DataKey | None:
        """Return the data key of a wrap, if it is held and may still be used."""
        name = wrapped, canonical_context(context)
        with self._lock:
            self._drop_old()
            held = self._held.get(name)
            if held is None:
                return None
            held.uses_left -= 1
            if not held.uses_left:
                del self._held[name]
            return held.data_key

    def put(self, wrapped: WrappedKey, context: Context, data_key: DataKey) -> None:
        """Hold the data key of a wrap that was just opened with this context."""
        name = wrapped, canonical_context(context)
        with self._lock:
            self._drop_old()
            self._held.pop(name, None)  # what is put anew is the youngest
            self._held[name] = _Held(data_key, self._clock() + self._max_age_s, self._max_uses)
            while len(self._held) > self._max_keys:
                self._held.popitem(last=False)
            self._set_timer()

    def clear(self) -> None:
        """Let go of every key."""
        with self._lock:
            self._held.clear()

    def _forget_everything(self) -> None:
        self._held: OrderedDict[_Name, _Held] = OrderedDict()
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None

    def _drop_old(self) -> None:
        """Drop what is too old; the oldest come first."""
        now = self._clock()
        while self._held and next(iter(self._held.values())).until <= now:
            self._held.popitem(last=False)

    def _set_timer(self) -> None:
        """See that somebody looks again, even if no one asks for a key any more."""
        if self._timer is None and self._held:
            oldest = next(iter(self._held.values()))
            wait_s = max(oldest.until - self._clock(), 0.001)
            self._timer = threading.Timer(wait_s, _tidy, [weakref.ref(self)])
            self._timer.daemon = True
            self._timer.start()

    def _tidy(self) -> None:
        with self._lock:
            self._timer = None
            self._drop_old()
            self._set_timer()


def _tidy(cache: "weakref.ref[KeyCache]") -> None:
    # Weak, or its timer would keep a cache, and its keys, that nobody has any more.
    held = cache()
    if held is not None:
        held._tidy()  # noqa: SLF001 - the same class, one step aside


def _forget_in_child(cache: "weakref.ref[KeyCache]") -> None:
    # Its timer did not come along, and another thread may have held its lock.
    held = cache()
    if held is not None:  # its truth would be its length, which takes the lock
        held._forget_everything()  # noqa: SLF001 - the same
