"""Listing a container folder by folder, with several requests at once.

For stores whose pages go on from an opaque marker only, so that no range can be cut at a key
(Azure: "List Blobs"). A container of one page costs one request. A larger one is listed by the
folders of its first level side by side, and each of these likewise, while threads are idle.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Page:
    """One answer of a container's listing.

    Attributes:
        keys: names of objects.
        folders: what names have in common up to the next `/`, where that was asked for.
        marker: where the next page begins; empty: this is the last.
        markers: those of the keys that stand for a folder and are no object of anybody's.
    """

    keys: Sequence[str]
    folders: Sequence[str]
    marker: str
    markers: Collection[str] = ()


ListPage = Callable[[str, str, bool], Page]
"""Asks for the keys that start with a prefix, from a marker on, by folder or one by one."""


def list_by_folder(list_page: ListPage, prefix: str, threads: int) -> Iterator[str]:
    """Yield every key that starts with `prefix` once, but for markers, in no promised order.

    No order of the pages is relied on: a folder's keys are all those that start with its name.
    A level with more entries than one page has is listed in sequence.

    Args:
        list_page: asks the container; called from several threads.
        prefix: how keys start.
        threads: how many requests at once.

    Raises:
        Exception: what `list_page` raised; what was yielded is incomplete.
    """
    pool = ThreadPoolExecutor(threads, thread_name_prefix="listing")
    waiting: list[_Step] = [_Keys(prefix)]
    running: dict[Future[Page], _Step] = {}

    def employ() -> None:
        while waiting and len(running) < threads:
            step = waiting.pop()  # the newest first: so few wait, however deep the folders are
            running[pool.submit(list_page, step.prefix, step.after, step.by_folder)] = step

    try:
        employ()
        while running:
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                step, page = running.pop(future), future.result()
                idle = threads - len(running) - len(waiting)
                found, following = step.taken(page, idle)
                waiting.extend(following)
                employ()
                for one in found:
                    yield from (key for key in one.keys if key not in one.markers)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, slots=True)
class _Keys:
    """All keys of a prefix, from a marker on."""

    prefix: str
    after: str = ""
    by_folder = False

    def taken(self, page: Page, idle: int) -> "tuple[list[Page], list[_Step]]":
        if not page.marker:
            return [page], []
        # One idle thread is the one that brought this page.
        if not self.after and idle > 1:
            return [], [_Folders(self.prefix, page)]
        return [page], [_Keys(self.prefix, page.marker)]


@dataclass(frozen=True, slots=True)
class _Folders:
    """The folders of a prefix, each of which can be listed by itself.

    Attributes:
        prefix: it has more than one page.
        first: the first of them, which counts only if there are no folders.
    """

    prefix: str
    first: Page
    after = ""
    by_folder = True

    def taken(self, page: Page, _idle: int) -> "tuple[list[Page], list[_Step]]":
        if page.marker or not page.folders:
            return [self.first], [_Keys(self.prefix, self.first.marker)]
        return [page], [_Keys(folder) for folder in page.folders]


_Step = _Keys | _Folders
