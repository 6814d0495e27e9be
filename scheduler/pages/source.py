"""Reading the ledger beside Flower's event loop: cached, and with the last good data at hand."""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

from ledger.connection import LedgerNotReadyError, LedgerUnavailableError

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FRESH_S = 1.0
_PATIENCE_S = 0.15
"""So long a page waits for the ledger where it has something older to show; it asks again soon."""

_LATE_S = 4.0
"""What is older than that, with no answer yet, is told from what is just being read."""

_FIRST_PATIENCE_S = 4.0
_MOST_SHELVES = 200
_EASE = 3.0

AWAY = "PostgreSQL does not answer"
NOT_READY = "the database holds no ledger of this version; rewrap scheduler applies the migrations"
_UNREADABLE = "the ledger cannot be read; Flower's log says why"


@dataclass(frozen=True, slots=True)
class Seen(Generic[T]):
    """What the ledger said when it last answered.

    Attributes:
        value: what it said; None where it has never answered.
        age_s: how long ago, in seconds.
        trouble: why it was not now; empty where it was.
    """

    value: T | None
    age_s: float
    trouble: str


class _Shelf:
    """The last answer to one question."""

    def __init__(self) -> None:
        self.value: object = None
        self.good_at: float | None = None
        self.tried_at = float("-inf")
        self.took_s = 0.0
        self.trouble = ""
        self.task: asyncio.Task[None] | None = None


class Source:
    """Asks each question at most once at a time, in threads of its own. Of one event loop.

    Args:
        threads: how many questions are asked at once.
        fresh_s: for how long an answer is good, in seconds.
        ease: how much longer than an answer took to wait at least before the next question.
        clock: the monotonic clock.
    """

    def __init__(
        self,
        threads: int = 2,
        fresh_s: float = _FRESH_S,
        ease: float = _EASE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="ledger")
        self._fresh_s = fresh_s
        self._ease = ease
        self._clock = clock
        self._shelves: OrderedDict[Hashable, _Shelf] = OrderedDict()
        self._trouble = ""

    async def get(self, key: Hashable, read: Callable[[], T]) -> Seen[T]:
        """Return what the ledger says, or what it last said.

        Args:
            key: names the question.
            read: asks it; called in another thread.
        """
        shelf = self._shelf(key)
        self._renew(shelf, read)
        if shelf.task is not None:
            patience_s = _FIRST_PATIENCE_S if shelf.good_at is None else _PATIENCE_S
            await asyncio.wait({shelf.task}, timeout=patience_s)
        return self._seen(shelf)

    def peek(self, key: Hashable, read: Callable[[], T], *, lasts: bool) -> Seen[T]:
        """Return what the ledger last said without waiting, and ask again where that is old.

        Args:
            key: names the question.
            read: asks it; called in another thread.
            lasts: whether a good answer stays good.
        """
        shelf = self._shelf(key)
        if not (lasts and shelf.good_at is not None and not shelf.trouble):
            self._renew(shelf, read)
        return self._seen(shelf)

    def _shelf(self, key: Hashable) -> _Shelf:
        shelf = self._shelves.setdefault(key, _Shelf())
        self._shelves.move_to_end(key)
        while len(self._shelves) > _MOST_SHELVES:
            self._shelves.popitem(last=False)
        return shelf

    def _renew(self, shelf: _Shelf, read: Callable[[], object]) -> None:
        # Not for ever: what hung once may answer at once when it is back.
        pause_s = max(self._fresh_s, min(self._ease * shelf.took_s, 10 * self._fresh_s))
        if shelf.task is None and self._clock() - shelf.tried_at >= pause_s:
            shelf.task = asyncio.get_running_loop().create_task(self._ask(shelf, read))

    async def _ask(self, shelf: _Shelf, read: Callable[[], object]) -> None:
        begun = self._clock()
        try:
            shelf.value = await asyncio.get_running_loop().run_in_executor(self._pool, read)
            shelf.good_at, shelf.trouble = self._clock(), ""
        except LedgerUnavailableError as error:
            shelf.trouble = AWAY
            self._tell(str(error))
        except LedgerNotReadyError as error:
            shelf.trouble = NOT_READY
            self._tell(str(error))
        except Exception:  # a page that cannot be read must not take Flower with it
            shelf.trouble = _UNREADABLE
            logger.exception("a page cannot be read", extra={"event": "page_failed"})
        else:
            self._tell("")
        finally:
            shelf.tried_at = self._clock()
            shelf.took_s = shelf.tried_at - begun
            shelf.task = None

    def _tell(self, trouble: str) -> None:
        """Say once that the ledger is away, and once that it is back."""
        if trouble and not self._trouble:
            text = "ledger: %s; pages show what was last read"
            logger.warning(text, trouble, extra={"event": "ledger_away"})
        if self._trouble and not trouble:
            logger.info("ledger: it answers again", extra={"event": "ledger_back"})
        self._trouble = trouble

    def _seen(self, shelf: _Shelf) -> Seen[T]:
        value: T | None = shelf.value  # type: ignore[assignment]
        age_s = 0.0 if shelf.good_at is None else self._clock() - shelf.good_at
        late = shelf.task is not None
        is_old = shelf.good_at is None or age_s > self._fresh_s + _LATE_S
        trouble = shelf.trouble or (AWAY if late and is_old else "")
        return Seen(value, age_s, trouble)
