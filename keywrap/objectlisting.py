"""Listing a bucket with several requests at once.

A bucket gives its keys in order, a page of 1,000 at a time, and each page's request needs the last
key of the page before: one after another. So the keys are cut into ranges that are listed side by
side. Where to cut is found by a listing of folders, asked for only while threads are idle: a
store of one page costs one request, a flat bucket is read in its order.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import pairwise

from keywrap.stores import StoreUnavailableError

_RANGES_A_THREAD = 4
"""More ranges than threads, so that one long range does not hold all up."""


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a bucket's listing.

    Attributes:
        keys: in the order of their UTF-8 bytes, which is that of `str`.
        folders: what keys have in common up to the next `/`, where that was asked for.
        truncated: whether there is more.
        markers: those of the keys that stand for a folder and are no object of anybody's.
        tags: the version tag of each key, where the answer has them.
    """

    keys: Sequence[str]
    folders: Sequence[str]
    truncated: bool
    markers: Collection[str] = ()
    tags: Mapping[str, str] = field(default_factory=dict)


ListPage = Callable[[str, str, bool], Page]
"""Asks for the keys that start with a prefix and come after a key, by folder or one by one."""


def list_keys(list_page: ListPage, prefix: str, threads: int) -> Iterator[str]:
    """Yield every key that starts with `prefix` once, but for markers, in no promised order.

    No more than a page for each thread is held, and no thread works while nobody iterates, but to
    finish its page.

    Args:
        list_page: asks the bucket; called from several threads.
        prefix: how keys start.
        threads: how many requests at once.

    Raises:
        StoreUnavailableError: a page is not in order, or begins before it should: the next one
            could come for ever, or leave keys out. What was yielded is incomplete.
        Exception: what `list_page` raised; likewise.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="listing")
    waiting: deque[_Step] = deque([_Keys(prefix)])
    running: dict[Future[Page], _Step] = {}

    def employ() -> None:
        while waiting and len(running) < threads:
            step = waiting.popleft()
            running[pool.submit(list_page, step.prefix, step.after, step.by_folder)] = step

    try:
        employ()
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                step, page = running.pop(future), future.result()
                _require_order(page, step.after)
                idle = threads - len(running) - len(waiting)
                waiting.extend(step.following(page, idle, threads * _RANGES_A_THREAD))
                employ()
                yield from (key for key in step.found(page) if key not in page.markers)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def list_tagged(list_page: ListPage, prefix: str, threads: int) -> Iterator[tuple[str, str]]:
    """Yield what `list_keys` does, each with its version tag; "" where no answer had one.

    A page that reaches beyond its range brings keys twice: the tag that is yielded is of one of
    the two answers.
    """
    tags: dict[str, str] = {}

    def noting(prefix: str, after: str, by_folder: bool) -> Page:  # noqa: FBT001 - a ListPage
        page = list_page(prefix, after, by_folder)
        tags.update(page.tags)
        return page

    for key in list_keys(noting, prefix, threads):
        yield key, tags.pop(key, "")


def _require_order(page: Page, after: str) -> None:
    strays = [key for before, key in pairwise([after, *page.keys]) if key <= before]
    # The folder in which the listing goes on comes again.
    strays += [name for name in page.folders if name <= after and not after.startswith(name)]
    if strays:
        raise StoreUnavailableError(
            f"the bucket's listing is not in order: {strays[0]!r} came after {after!r} was asked "
            "for, or after a later key"
        )


@dataclass(frozen=True, slots=True)
class _Keys:
    """A range of keys whose next page is to be listed.

    Attributes:
        prefix: how all keys of the listing start.
        after: the range begins behind this key.
        until: it ends with this key; empty: with the bucket.
        pages: how many pages were read since a cut was looked for.
        patience: how many there have to be before one is looked for again.
    """

    prefix: str
    after: str = ""
    until: str = ""
    pages: int = 0
    patience: int = 1
    by_folder = False

    def found(self, page: Page) -> Sequence[str]:
        if not self.until or not page.keys or page.keys[-1] <= self.until:
            return page.keys
        return [key for key in page.keys if key <= self.until]

    def following(self, page: Page, idle: int, _cuts: int) -> "list[_Step]":
        if not page.truncated or (self.until and page.keys[-1] >= self.until):
            return []
        rest = _Keys(self.prefix, page.keys[-1], self.until, self.pages + 1, self.patience)
        # One idle thread is the one that brought this page.
        return [_Folders(self.prefix, rest)] if idle > 1 and rest.pages >= rest.patience else [rest]


@dataclass(frozen=True, slots=True)
class _Folders:
    """A search for folders at whose names the rest of a range can be cut.

    Attributes:
        prefix: the folder in which they are looked for, or the listing's own prefix.
        rest: the range.
    """

    prefix: str
    rest: _Keys
    by_folder = True

    @property
    def after(self) -> str:
        return self.rest.after

    def found(self, _page: Page) -> Sequence[str]:
        return ()

    def following(self, page: Page, _idle: int, cuts: int) -> "list[_Step]":
        rest = self.rest
        inside = [
            name
            for name in page.folders
            if name > rest.after and (not rest.until or name < rest.until)
        ]
        if inside:
            every = -(-len(inside) // cuts)
            ends = [rest.after, *inside[every - 1 :: every], rest.until]
            return [_Keys(rest.prefix, after, until) for after, until in pairwise(ends)]
        deeper = rest.after.find("/", len(self.prefix))
        if deeper >= 0:
            return [_Folders(rest.after[: deeper + 1], rest)]
        return [_Keys(rest.prefix, rest.after, rest.until, patience=2 * rest.patience)]


_Step = _Keys | _Folders
