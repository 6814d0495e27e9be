"""A store in memory, and the suite that every store must pass."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier, RLock
from typing import Literal

from keywrap.layout import RESERVED
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    Entry,
    NotFoundError,
    RemovingStore,
    Store,
    Stored,
    StoreError,
    StoreUnavailableError,
    TooLargeError,
)

Operation = Literal[
    "check", "read", "read_range", "create", "replace", "delete", "names", "look", "remove"
]


class MemoryStore:
    """A `keywrap.stores.Store` in memory, with ways to make it misbehave.

    Attributes:
        writes: how many times an object was created or replaced.
    """

    def __init__(self) -> None:
        self.writes = 0
        self._objects: dict[str, bytes] = {}
        self._written: dict[str, datetime] = {}
        self._lock = RLock()
        self._failures: dict[Operation, list[StoreError]] = defaultdict(list)
        self._callbacks: dict[Operation, list[Callable[[], None]]] = defaultdict(list)
        self._replies_to_lose = 0

    def fail_next(self, operation: Operation, error: StoreError) -> None:
        """Let the next such operation raise `error` and do nothing; call again for more."""
        self._failures[operation].append(error)

    def lose_next_reply(self) -> None:
        """Let the next replacement be made, but its caller be told that nobody answered."""
        self._replies_to_lose += 1

    def before(self, operation: Operation, callback: Callable[[], None]) -> None:
        """Call `callback` once, before the next such operation: a concurrent writer's chance."""
        self._callbacks[operation].append(callback)

    def let_time_pass(self, seconds: float) -> None:
        """Let all that is there have been written so much earlier."""
        with self._lock:
            for name in self._objects:
                self._written[name] = self._written_at(name) - timedelta(seconds=seconds)

    def stamp(self, name: str) -> None:
        """Note that an object was written now; what nobody stamped is as young."""
        self._written[name] = datetime.now(UTC)

    def share(self, other: "MemoryStore") -> None:
        """Hold the objects of another one."""
        self._objects, self._written = other._objects, other._written  # noqa: SLF001 - our own

    def _written_at(self, name: str) -> datetime:
        return self._written.get(name) or datetime.now(UTC)

    def check(self) -> None:
        """Tell a store that is away from an object that is; see `Store.check`."""
        self._begin("check")

    def read(self, name: str, *, limit: int | None = None) -> Stored:
        """Read an object whole; see `Store.read`."""
        self._begin("read")
        data = self._get(name)
        if limit is not None and len(data) > limit:
            raise TooLargeError(f"{name!r} has more than {limit} bytes", name=name)
        return Stored(data, hashlib.sha256(data).hexdigest())

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Read a part of an object; see `Store.read_range`."""
        self._begin("read_range")
        return self._get(name)[start : start + length]

    def create(self, name: str, data: bytes) -> None:
        """Create an object, only if there is none; see `Store.create`."""
        self._begin("create")
        with self._lock:
            if name in self._objects:
                raise AlreadyExistsError(f"{name!r} is there already", name=name)
            self._put(name, data)

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        """Replace an object, only if it is what was read; see `Store.replace`."""
        self._begin("replace")
        with self._lock:
            if self._objects.get(name) != expected.data:
                raise ChangedError(f"{name!r} is no longer what was read", name=name)
            self._put(name, data)
            if self._replies_to_lose:
                self._replies_to_lose -= 1
                raise StoreUnavailableError("the reply was lost", name=name)

    def delete(self, name: str) -> None:
        """Remove an object; see `Store.delete`."""
        self._begin("delete")
        with self._lock:
            self._objects.pop(name, None)

    def look(self, name: str) -> Entry:
        """Say how large and old an object is; see `RemovingStore.look`."""
        self._begin("look")
        return self._entry(name)

    def remove(self, name: str, expected: Entry) -> bool:
        """Remove an object that is what was seen; see `RemovingStore.remove`."""
        self._begin("remove")
        with self._lock:
            if name not in self._objects:
                return False
            if self._entry(name) != expected:
                raise ChangedError(f"{name!r} is no longer what was seen", name=name)
            del self._objects[name]
        return True

    def _entry(self, name: str) -> Entry:
        data = self._get(name)
        written_at = self._written_at(name)
        tag = f"{hashlib.sha256(data).hexdigest()}-{self._written.get(name)}"
        return Entry(len(data), tag, written_at)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield names; those of the store's own corner only where the prefix lies in it."""
        self._begin("names")
        with self._lock:
            names = [name for name in self._objects if name.startswith(prefix)]
        hide_own = not prefix.startswith(RESERVED)
        return (name for name in names if not (hide_own and name.startswith(RESERVED)))

    def _begin(self, operation: Operation) -> None:
        # Outside the lock: a callback may use this store, from this thread or another.
        if self._callbacks[operation]:
            self._callbacks[operation].pop(0)()
        if self._failures[operation]:
            raise self._failures[operation].pop(0)

    def _get(self, name: str) -> bytes:
        with self._lock:
            try:
                return self._objects[name]
            except KeyError:
                raise NotFoundError(f"there is no {name!r}", name=name) from None

    def _put(self, name: str, data: bytes) -> None:
        self._objects[name] = bytes(data)
        self.stamp(name)
        self.writes += 1


class StoreConformance:
    """What every store must do. Subclass it in a test module that has a `store` fixture.

    ```python
    class TestMyStore(StoreConformance):
        @pytest.fixture
        def store(self) -> MyStore:
            return MyStore(...)
    ```

    Attributes:
        increments: how often each of 8 threads counts up; less for a slow store.
    """

    increments = 200

    def test_what_was_created_is_read(self, store: Store) -> None:
        """An object is read whole, whatever its bytes are."""
        for name, data in (("all", bytes(range(256))), ("empty", b""), ("long", b"x" * 200_001)):
            store.create(name, data)
            _same(store.read(name).data, data)

    def test_a_store_that_is_there_passes_its_check(self, store: Store) -> None:
        """`check` raises nothing."""
        store.check()

    def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        """Neither `read` nor `read_range` makes anything up."""
        _raises(NotFoundError, lambda: store.read("nothing"))
        _raises(NotFoundError, lambda: store.read("no/folder/either"))
        _raises(NotFoundError, lambda: store.read_range("nothing", 0, 1))

    def test_no_more_than_the_limit_is_read(self, store: Store) -> None:
        """An object of exactly the limit is read, a longer one is refused."""
        store.create("a", b"12345")
        _same(store.read("a", limit=5).data, b"12345")
        _raises(TooLargeError, lambda: store.read("a", limit=4))
        _raises(TooLargeError, lambda: store.read("a", limit=0))

    def test_a_range_ends_where_the_object_ends(self, store: Store) -> None:
        """A range may reach beyond the end, or lie beyond it."""
        store.create("a", b"0123456789")
        _same(store.read_range("a", 0, 3), b"012")
        _same(store.read_range("a", 7, 3), b"789")
        _same(store.read_range("a", 8, 100), b"89")
        _same(store.read_range("a", 10, 4), b"")
        _same(store.read_range("a", 50, 4), b"")

    def test_an_object_is_created_only_if_absent(self, store: Store) -> None:
        """The one that is there is left as it is."""
        store.create("a", b"first")
        _raises(AlreadyExistsError, lambda: store.create("a", b"second"))
        _same(store.read("a").data, b"first")

    def test_of_concurrent_creators_one_wins(self, store: Store) -> None:
        """Its bytes are the ones that are read afterwards."""
        for attempt in range(10):
            name = f"race/{attempt}"
            barrier = Barrier(8)

            def create(number: int, name: str = name, barrier: Barrier = barrier) -> bool:
                barrier.wait()
                return _wins(lambda: store.create(name, b"%d" % number), AlreadyExistsError)

            won = [number for number, wins in enumerate(_together(create, 8)) if wins]
            _same(len(won), 1)
            _same(store.read(name).data, b"%d" % won[0])

    def test_an_object_is_replaced_only_if_unchanged(self, store: Store) -> None:
        """A writer that read an older state is refused; the newer one stays."""
        store.create("a/b", b"1")
        first = store.read("a/b")
        store.replace("a/b", b"2", first)
        _raises(ChangedError, lambda: store.replace("a/b", b"3", first))
        _same(store.read("a/b").data, b"2")

    def test_a_replacement_may_have_another_length(self, store: Store) -> None:
        """Shorter, longer and empty."""
        store.create("a", b"12345")
        for data in (b"1", b"123456789", b""):
            store.replace("a", data, store.read("a"))
            _same(store.read("a").data, data)

    def test_an_object_is_removed_only_if_it_is_what_was_seen(self, store: Store) -> None:
        """One that was written since stays; what is gone already is no error."""
        if not isinstance(store, RemovingStore):
            return
        _raises(NotFoundError, lambda: store.look("nothing"))
        store.create("a/b c+d", b"12345")
        seen = store.look("a/b c+d")
        _same(seen.size, 5)
        _same(store.look("a/b c+d"), seen)
        store.replace("a/b c+d", b"123456", store.read("a/b c+d"))
        _raises(ChangedError, lambda: store.remove("a/b c+d", seen))
        _same(store.read("a/b c+d").data, b"123456")
        seen = store.look("a/b c+d")
        _remove(store, "a/b c+d", seen)
        _raises(NotFoundError, lambda: store.read("a/b c+d"))
        _remove(store, "a/b c+d", seen)

    def test_what_was_written_later_is_no_older(self, store: Store) -> None:
        """By the store's own clock, whatever ours says."""
        if not isinstance(store, RemovingStore):
            return
        store.create("older", b"1")
        store.create("newer", b"2")
        first, second = store.look("older").written_at, store.look("newer").written_at
        _same(first.utcoffset(), timedelta())
        _same(min(first, second), first)

    def test_what_was_deleted_is_not_replaced(self, store: Store) -> None:
        """Otherwise a deleted blob would come back to life."""
        store.create("a", b"1")
        read = store.read("a")
        store.delete("a")
        _raises(ChangedError, lambda: store.replace("a", b"2", read))
        _raises(NotFoundError, lambda: store.read("a"))

    def test_what_was_made_anew_is_not_replaced(self, store: Store) -> None:
        """Another object under the same name is another object."""
        store.create("a", b"1")
        read = store.read("a")
        store.delete("a")
        store.create("a", b"other")
        _raises(ChangedError, lambda: store.replace("a", b"2", read))
        _same(store.read("a").data, b"other")

    def test_concurrent_increments_lose_nothing(self, store: Store) -> None:
        """8 threads add 1 to a number many times each, by compare-and-set."""
        store.create("counter", b"0")

        def increment(_number: int) -> bool:
            for _ in range(self.increments):
                while not _wins(lambda: _add_one(store, "counter"), ChangedError):
                    pass
            return True

        _together(increment, 8)
        _same(store.read("counter").data, b"%d" % (8 * self.increments))

    def test_names_of_every_script_survive(self, store: Store) -> None:
        """Spaces, signs and letters of other scripts come back from a listing as they are."""
        names = {
            "with space/and more.pdf",
            "größe/ÄÖÜ",
            "e\u0301 is not \u00e9",
            "\u00e9 is not e\u0301",
            "文書/契約.json",
            "עברית",
            "emoji 🗝",
            "per%20cent+plus&and=is?#~",
            "'quoted' \"twice\"",
            ".hidden",
            "trailing.",
        }
        for name in names:
            store.create(name, name.encode())
        _same(set(store.names()), names)
        for name in names:
            read = store.read(name)
            _same(read.data, name.encode())
            store.replace(name, b"new", read)
            _same(store.read(name).data, b"new")
        _same(set(store.names()), names)

    def test_a_listing_has_what_starts_with_the_prefix(self, store: Store) -> None:
        """A prefix is text: it may end within a name, at a folder or beyond everything."""
        names = {"aa", "ab", "a/1", "a/2/3", "abc/4", "b/a/5"}
        for name in names:
            store.create(name, b"")
        for prefix in ("", "a", "a/", "ab", "a/2", "a/2/", "a/2/3", "b/a/5", "c", "a/2/3/4", "/"):
            listed = sorted(store.names(prefix))
            _same(listed, sorted(name for name in names if name.startswith(prefix)))

    def test_deleting_twice_is_the_same_as_once(self, store: Store) -> None:
        """What is not there is not missed."""
        store.create("a/b", b"1")
        store.delete("a/b")
        store.delete("a/b")
        store.delete("never/there")
        _raises(NotFoundError, lambda: store.read("a/b"))
        _same(list(store.names()), [])


def _same(found: object, expected: object) -> None:
    # No assert statement: pytest rewrites these in test modules only, and -O drops them.
    if found != expected:
        raise AssertionError(f"{_short(found)}, not {_short(expected)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:400]}…"  # noqa: PLR2004 - enough to see


def _raises(kind: type[StoreError], call: Callable[[], object]) -> None:
    try:
        result = call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised, but {_short(result)} returned")


def _remove(store: RemovingStore, name: str, seen: Entry) -> None:
    """Remove an object from a store that may lose requests and replies."""
    for _ in range(20):
        try:
            store.remove(name, seen)
        except StoreUnavailableError:
            continue
        return
    raise AssertionError("it was not answered")


def _wins(call: Callable[[], object], loss: type[StoreError]) -> bool:
    try:
        call()
    except loss:
        return False
    return True


def _add_one(store: Store, name: str) -> None:
    read = store.read(name)
    store.replace(name, b"%d" % (int(read.data) + 1), read)


def _together(call: Callable[[int], bool], threads: int) -> list[bool]:
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(call, range(threads)))
