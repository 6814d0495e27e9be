import threading
import time
from collections.abc import Sequence
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keywrap.folderlisting import Page, list_by_folder
from keywrap.stores import StoreUnavailableError

PAGE = 5


class Listing:
    """Pages of 5 entries, by the rules of Azure's List Blobs: an opaque marker, and no order."""

    def __init__(self, keys: Sequence[str], latency_s: float = 0.0) -> None:
        self.keys = list(keys)
        self.latency_s = latency_s
        self.requests = 0
        self.together = 0
        self._now = 0
        self._lock = threading.Lock()

    def page(self, prefix: str, marker: str, by_folder: bool) -> Page:  # noqa: FBT001
        with self._lock:
            self.requests += 1
            self._now += 1
            self.together = max(self.together, self._now)
        time.sleep(self.latency_s)
        with self._lock:
            self._now -= 1
        entries: dict[str, bool] = {}
        for key in self.keys:
            if key.startswith(prefix):
                head, slash, _ = key[len(prefix) :].partition("/")
                folder = by_folder and bool(slash)
                entries[prefix + head + "/" if folder else key] = folder
        start = int(marker.removeprefix("m") or 0)
        shown = list(entries)[start : start + PAGE]
        more = start + PAGE < len(entries)
        return Page(
            [name for name in shown if not entries[name]],
            [name for name in shown if entries[name]],
            f"m{start + PAGE}" if more else "",
            {name for name in shown if name.endswith("!")},
        )


@given(
    keys=st.lists(st.text("ab/", max_size=7), max_size=120, unique=True),
    prefix=st.text("ab/", max_size=2),
    threads=st.integers(1, 8),
)
def test_every_key_is_listed_once_in_whatever_order_it_comes(
    keys: list[str], prefix: str, threads: int
) -> None:
    listed = list(list_by_folder(Listing(keys).page, prefix, threads))
    assert sorted(listed) == sorted(key for key in keys if key.startswith(prefix))


def test_a_container_of_one_page_costs_one_request() -> None:
    listing = Listing(["a/1", "b/2", "c"])
    assert len(list(list_by_folder(listing.page, "", 8))) == 3
    assert listing.requests == 1


def test_folders_are_listed_side_by_side() -> None:
    listing = Listing([f"{folder}/{n}" for folder in "abcd" for n in range(40)], latency_s=0.01)
    assert len(set(list_by_folder(listing.page, "", 4))) == 160
    assert listing.together >= 3
    assert listing.requests <= 160 / PAGE + 12


def test_a_level_of_many_folders_costs_no_request_for_each() -> None:
    listing = Listing([f"{n}/x" for n in range(100)])
    assert len(set(list_by_folder(listing.page, "", 8))) == 100
    assert listing.requests == 100 / PAGE + 1


def test_markers_are_no_blobs() -> None:
    listing = Listing(["a", "b!", "c/d!", "c/e"])
    assert sorted(list_by_folder(listing.page, "", 2)) == ["a", "c/e"]


def test_a_failure_is_raised_and_ends_the_listing() -> None:
    def fail(_prefix: str, marker: str, _by_folder: bool) -> Page:  # noqa: FBT001
        if marker:
            raise StoreUnavailableError("away")
        return Page(["a"], [], "m")

    with pytest.raises(StoreUnavailableError, match="away"):
        list(list_by_folder(fail, "", 1))


def test_whoever_stops_early_waits_for_no_more_than_the_pages_under_way() -> None:
    listing = Listing([f"{n:03}" for n in range(500)])
    assert len(list(islice(list_by_folder(listing.page, "", 4), 7))) == 7
    asked = listing.requests
    time.sleep(0.1)
    assert listing.requests <= asked + 4
    assert listing.requests < 20
