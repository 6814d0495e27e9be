import threading
import time
from collections.abc import Sequence
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keywrap.objectlisting import Page, list_keys
from keywrap.stores import StoreUnavailableError

PAGE = 5


class Listing:
    """Pages of 5 keys, by the rules of ListObjectsV2 read off one key at a time."""

    def __init__(self, keys: Sequence[str], latency_s: float = 0.0) -> None:
        self.latency_s = latency_s
        self.keys = sorted(keys)
        self.requests = 0
        self.together = 0
        self._now = 0
        self._lock = threading.Lock()

    def page(self, prefix: str, after: str, by_folder: bool) -> Page:  # noqa: FBT001
        with self._lock:
            self.requests += 1
            self._now += 1
            self.together = max(self.together, self._now)
        try:
            time.sleep(self.latency_s)
            return self._page(prefix, after, by_folder)
        finally:
            with self._lock:
                self._now -= 1

    def _page(self, prefix: str, after: str, by_folder: bool) -> Page:  # noqa: FBT001
        keys: list[str] = []
        folders: list[str] = []
        for key in self.keys:
            if not key.startswith(prefix) or key <= after:
                continue
            rest = key[len(prefix) :]
            folder = prefix + rest.partition("/")[0] + "/" if by_folder and "/" in rest else ""
            if folder and folders and folders[-1] == folder:
                continue
            if len(keys) + len(folders) == PAGE:
                return Page(keys, folders, truncated=True)
            if folder:
                folders.append(folder)
            else:
                keys.append(key)
        return Page(keys, folders, truncated=False)


@given(
    keys=st.sets(st.text("ab/", max_size=7), max_size=120),
    prefix=st.text("ab/", max_size=2),
    threads=st.integers(1, 6),
)
def test_every_key_of_the_prefix_comes_once(keys: set[str], prefix: str, threads: int) -> None:
    listing = Listing([key for key in keys if key])
    found = sorted(list_keys(listing.page, prefix, threads))
    assert found == [key for key in listing.keys if key.startswith(prefix)]


def test_folders_are_listed_side_by_side_with_few_requests_more() -> None:
    listing = Listing([f"{folder:02}/{key:03}" for folder in range(30) for key in range(40)], 0.002)
    assert len(list(list_keys(listing.page, "", 8))) == 1200
    assert listing.together == 8
    assert listing.requests <= 1200 / PAGE * 1.5


def test_a_folder_inside_another_is_cut_as_well() -> None:
    listing = Listing(
        [f"a/b/{folder:02}/{key:03}" for folder in range(30) for key in range(40)], 0.002
    )
    assert len(list(list_keys(listing.page, "", 8))) == 1200
    assert listing.together == 8


def test_a_flat_bucket_is_read_in_its_order_with_few_requests_more() -> None:
    listing = Listing([f"{key:05}" for key in range(1000)], 0.001)
    assert list(list_keys(listing.page, "", 8)) == listing.keys
    assert listing.requests <= 1000 / PAGE + 12


def test_a_store_of_one_page_takes_one_request() -> None:
    listing = Listing(["a/1", "a/2", "b/1"])
    assert list(list_keys(listing.page, "", 8)) == listing.keys
    assert listing.requests == 1


def test_a_failed_page_ends_the_listing() -> None:
    listing = Listing([f"{folder:02}/{key:03}" for folder in range(9) for key in range(40)])

    def page(prefix: str, after: str, by_folder: bool) -> Page:  # noqa: FBT001
        if after.startswith("05/"):
            raise StoreUnavailableError("away")
        return listing.page(prefix, after, by_folder)

    with pytest.raises(StoreUnavailableError):
        list(list_keys(page, "", 4))


@pytest.mark.parametrize(
    "pages",
    [
        pytest.param([["a", "b"], ["a", "b"]], id="the same again"),
        pytest.param([["a", "b"], ["b", "c"]], id="the last one again"),
        pytest.param([["b", "a"]], id="not in order"),
        pytest.param([["a", "a"]], id="twice"),
        pytest.param([["a", "\\xff"], ["\\xff"]], id="a key shown otherwise than it is"),
    ],
)
def test_a_bucket_that_does_not_go_on_after_the_key_is_refused(pages: list[list[str]]) -> None:
    left = iter(pages)

    def page(_prefix: str, _after: str, _by_folder: bool) -> Page:  # noqa: FBT001
        return Page(next(left), (), truncated=True)

    with pytest.raises(StoreUnavailableError, match="not in order"):
        list(list_keys(page, "", 1))


def test_folders_that_come_again_are_refused_but_for_the_one_that_goes_on() -> None:
    asked: list[str] = []

    def page(_prefix: str, after: str, by_folder: bool) -> Page:  # noqa: FBT001
        asked.append(after)
        if by_folder:
            return Page((), ["b/", *folders], truncated=False)
        return Page([] if after else ["b/1", "b/2"], (), truncated=not after)

    folders: list[str] = []
    assert list(list_keys(page, "", 3)) == ["b/1", "b/2"]
    assert asked[:2] == ["", "b/2"]
    folders.append("a/")
    with pytest.raises(StoreUnavailableError, match="not in order: 'a/'"):
        list(list_keys(page, "", 3))


def test_who_stops_reading_stops_the_requests() -> None:
    listing = Listing([f"{folder:03}/{key:03}" for folder in range(200) for key in range(40)])
    names = list_keys(listing.page, "", 4)
    assert len(list(islice(names, 50))) == 50
    names.close()  # type: ignore[attr-defined]  # a generator
    assert listing.requests < 40
