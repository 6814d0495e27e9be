import gc
import os
import sys
import threading
import time
import weakref

import pytest

from keywrap.datakey import DataKey
from keywrap.keycache import KeyCache
from keywrap.keys import KeyVersion, WrappedKey
from tests.forks import holds_in_fork

VERSION = KeyVersion("hcvault://memory/blob-kek", "1")
CONTEXT = {"blob_id": "a"}


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def wrap(number: int) -> WrappedKey:
    return WrappedKey(VERSION, b"wrap %d" % number)


def cache_of(clock: Clock, keys: int = 10, age: float = 60, uses: int = 100) -> KeyCache:
    return KeyCache(keys, age, uses, clock=clock)


def test_a_key_that_was_put_is_got_by_its_wrap_and_context(clock: Clock) -> None:
    cache, key = cache_of(clock), DataKey.generate()
    cache.put(wrap(1), CONTEXT, key)
    assert cache.get(wrap(1), {"blob_id": "a"}) is key


@pytest.mark.parametrize(
    ("wrapped", "context"),
    [
        (wrap(2), CONTEXT),
        (wrap(1), {"blob_id": "b"}),
        (wrap(1), {}),
        (wrap(1), CONTEXT | {"more": ""}),
        (WrappedKey(KeyVersion(VERSION.key, "2"), wrap(1).ciphertext), CONTEXT),
        (WrappedKey(KeyVersion("env:BLOB_KEY", "1"), wrap(1).ciphertext), CONTEXT),
    ],
)
def test_no_other_wrap_version_or_context_gets_it(
    clock: Clock, wrapped: WrappedKey, context: dict[str, str]
) -> None:
    cache = cache_of(clock)
    cache.put(wrap(1), CONTEXT, DataKey.generate())
    assert cache.get(wrapped, context) is None


def test_a_key_is_held_for_its_age_and_no_longer(clock: Clock) -> None:
    cache = cache_of(clock, age=60)
    cache.put(wrap(1), CONTEXT, DataKey.generate())
    clock.now += 59.9
    assert cache.get(wrap(1), CONTEXT)
    clock.now += 0.1
    assert cache.get(wrap(1), CONTEXT) is None
    assert len(cache) == 0


def test_using_a_key_makes_it_no_younger(clock: Clock) -> None:
    cache = cache_of(clock, age=60)
    cache.put(wrap(1), CONTEXT, DataKey.generate())
    for _ in range(6):
        clock.now += 10
        cache.get(wrap(1), CONTEXT)
    assert len(cache) == 0


def test_a_key_is_handed_out_so_often_and_no_more(clock: Clock) -> None:
    cache = cache_of(clock, uses=3)
    cache.put(wrap(1), CONTEXT, DataKey.generate())
    assert [cache.get(wrap(1), CONTEXT) is None for _ in range(4)] == [False, False, False, True]
    assert len(cache) == 0


def test_no_more_keys_are_held_than_may_be_and_the_oldest_goes_first(clock: Clock) -> None:
    cache = cache_of(clock, keys=2)
    for number in (1, 2, 1, 3):
        cache.put(wrap(number), CONTEXT, DataKey.generate())
        assert len(cache) <= 2
    assert cache.get(wrap(2), CONTEXT) is None, "the first was put anew, so this was the oldest"
    assert cache.get(wrap(1), CONTEXT)
    assert cache.get(wrap(3), CONTEXT)


def test_a_key_nobody_asks_for_again_is_let_go_of_at_its_age() -> None:
    cache = KeyCache(10, 0.05, 100)
    cache.put(wrap(1), CONTEXT, DataKey.generate())
    held = cache._held
    cache.put(wrap(2), CONTEXT, DataKey.generate())
    ends = time.monotonic() + 5
    while held and time.monotonic() < ends:
        time.sleep(0.01)
    assert not held, "and nobody called the cache meanwhile"


def test_a_younger_key_is_let_go_of_at_its_own_age() -> None:
    cache = KeyCache(10, 0.3, 100)
    cache.put(wrap(1), CONTEXT, DataKey.generate())
    time.sleep(0.2)
    cache.put(wrap(2), CONTEXT, DataKey.generate())
    put = time.monotonic()
    while cache._held and time.monotonic() < put + 5:
        time.sleep(0.01)
    assert 0.25 < time.monotonic() - put < 0.55


def test_a_cleared_cache_holds_nothing(clock: Clock) -> None:
    cache = cache_of(clock)
    cache.put(wrap(1), CONTEXT, DataKey.generate())
    cache.clear()
    assert cache.get(wrap(1), CONTEXT) is None


def test_a_cache_that_nobody_has_any_more_is_gone_with_its_keys() -> None:
    cache = KeyCache(10, 3600, 100)
    cache.put(wrap(1), CONTEXT, DataKey.generate())
    seen = weakref.ref(cache)
    del cache
    gc.collect()
    assert seen() is None


def test_a_cache_shows_no_key() -> None:
    cache = KeyCache(10, 60, 100)
    key = DataKey(b"k" * 32)
    cache.put(wrap(1), CONTEXT, key)
    assert repr(cache) == "KeyCache(1 of 10)"
    assert "kkkk" not in repr(cache._held)


@pytest.mark.parametrize("bounds", [(0, 1, 1), (1, 0, 1), (1, 1, 0), (-1, 1, 1)])
def test_a_bound_that_bounds_nothing_is_refused(bounds: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        KeyCache(*bounds)


def test_many_threads_get_no_more_uses_than_there_are() -> None:
    cache = KeyCache(4, 60, 500)
    got: list[int] = []
    keys = {number: DataKey.generate() for number in range(4)}
    for number, key in keys.items():
        cache.put(wrap(number), CONTEXT, key)

    def use() -> None:
        found = 0
        for turn in range(1000):
            key = cache.get(wrap(turn % 4), CONTEXT)
            assert key is None or key is keys[turn % 4]
            found += key is not None
        got.append(found)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=use) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    assert sum(got) == 4 * 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")
def test_a_forked_process_begins_empty_and_does_not_wait_for_its_parents_lock() -> None:
    cache = KeyCache(10, 60, 100)
    cache.put(wrap(1), CONTEXT, DataKey.generate())
    with cache._lock:
        assert holds_in_fork(lambda: len(cache) == 0 and cache.get(wrap(1), CONTEXT) is None)
    assert cache.get(wrap(1), CONTEXT)
