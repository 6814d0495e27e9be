"""Threads for store requests."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

_Result = TypeVar("_Result")

_SLICES_A_THREAD = 4
"""More slices than threads, so that one slow answer does not hold a whole share up."""


class StoreThreads(ThreadPoolExecutor):
    """A thread pool whose `map` gives each thread a slice of the items.

    One future an item costs more than a read of a local file. With one thread nothing is handed
    over at all: for a store in memory that is the fastest, for a disk or a network it is not.

    Args:
        threads: how many.
    """

    def __init__(self, threads: int) -> None:
        super().__init__(threads, thread_name_prefix="store")
        self._count = threads

    def map(
        self,
        fn: Callable[..., _Result],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[_Result]:
        """Call `fn` on each item; results come in the order of the items."""
        items = list(zip(*iterables, strict=False))
        size = max(chunksize, -(-len(items) // (self._count * _SLICES_A_THREAD)))
        if self._count == 1:
            return (fn(*item) for item in items)
        slices = [items[start : start + size] for start in range(0, len(items), size)]
        done = super().map(lambda part: [fn(*item) for item in part], slices, timeout=timeout)
        return (result for results in done for result in results)
