import contextlib
import errno
import fcntl
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keywrap import filelocks, fileswap
from keywrap.filestore import FileStore
from keywrap.stores import ChangedError, StoreError, StoreUnavailableError

FORK = multiprocessing.get_context("fork")

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").is_dir(), reason="counts descriptors in /proc"
)


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


def descriptors(root: Path) -> int:
    """Count this process's descriptors of files of a store; those of other tests come and go."""
    count = 0
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own is gone by now
            count += str(entry.readlink()).startswith(str(root))
    return count


# Forks


def count_up(store: FileStore, rounds: int) -> None:
    for _ in range(rounds):
        while True:
            read = store.read("counter")
            try:
                store.replace("counter", b"%d" % (int(read.data) + 1), read)
            except ChangedError:
                continue
            break


@pytest.mark.parametrize("exchange", [True, False])
def test_processes_forked_with_one_store_exclude_each_other(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, *, exchange: bool
) -> None:
    if not exchange:

        def no_conditional_rename(*_: object) -> None:
            raise NotImplementedError

        monkeypatch.setattr(fileswap, "_rename", no_conditional_rename)
    store.create("counter", b"0")
    count_up(store, 1)  # whatever a store keeps open, it has opened now
    processes = [FORK.Process(target=count_up, args=(store, 100)) for _ in range(2)]
    for process in processes:
        process.start()
    count_up(store, 100)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert store.read("counter").data == b"301"


def test_a_child_forked_while_a_lock_is_held_neither_has_it_nor_keeps_it(
    tmp_path: Path,
) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    ends, begins = FORK.Event(), FORK.Event()

    def live_on() -> None:
        begins.set()
        ends.wait(60)

    def take() -> None:
        with filelocks.hold(folder, 7):
            pass

    with filelocks.hold(folder, 7):
        child = FORK.Process(target=live_on)
        child.start()
        assert begins.wait(60)
        with (tmp_path / "07").open() as other, pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    try:
        taker = FORK.Process(target=take)
        taker.start()
        taker.join(10)
        assert taker.exitcode == 0
    finally:
        ends.set()
        child.join(60)
        os.close(folder)


# The root


def test_an_empty_folder_in_the_place_of_the_root_is_never_written_to(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    store = FileStore(root)
    store.create("a", b"1")
    read = store.read("a")
    root.rename(tmp_path / "unmounted")
    root.mkdir()
    for call in (
        lambda: store.create("b", b""),
        lambda: store.create("d/b", b""),
        lambda: store.replace("a", b"2", read),
        lambda: store.read_range("a", 0, 1),
    ):
        with pytest.raises(StoreUnavailableError, match="another folder"):
            call()
    assert list(root.iterdir()) == []
    root.rmdir()
    (tmp_path / "unmounted").rename(root)
    assert store.read("a").data == b"1"


def test_links_that_lead_nowhere_in_the_place_of_the_root_are_no_fault_of_an_object(
    tmp_path: Path,
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    store = FileStore(root)
    root.rmdir()
    root.symlink_to(root)
    with pytest.raises(StoreUnavailableError):
        store.read("a")


# Faults and short reads

CALLS = ["open", "fstat", "stat", "pread", "write", "fsync", "fchmod", "unlink", "scandir"]


@contextmanager
def failing_call(number: int) -> Iterator[Callable[[], bool]]:
    """Let the `number`-th call to the operating system fail; yield whether there was one."""
    calls = itertools.count(1)
    reached = False

    def failing(call: Callable[..., Any]) -> Callable[..., Any]:
        def fail(*args: Any, **kwargs: Any) -> Any:
            nonlocal reached
            if next(calls) == number:
                reached = True
                raise OSError(errno.EIO, "Input/output error")
            return call(*args, **kwargs)

        return fail

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, failing(getattr(os, name)))
        patch.setattr(fileswap, "_rename", failing(fileswap._rename))
        patch.setattr(fcntl, "flock", failing(fcntl.flock))
        yield lambda: reached


@pytest.mark.parametrize("operation", ["read", "create", "replace", "delete", "names", "check"])
@pytest.mark.parametrize("name", ["a", "d/a"])
def test_no_descriptor_and_no_lock_is_left_when_any_call_fails(
    store: FileStore, tmp_path: Path, operation: str, name: str
) -> None:
    store.create("d/other", b"")
    acts: dict[str, Callable[[], object]] = {
        "read": lambda: store.read(name),
        "create": lambda: store.create("new/" + name, b"2"),
        "replace": lambda: store.replace(name, b"2", read),
        "delete": lambda: store.delete(name),
        "names": lambda: list(store.names()),
        "check": store.check,
    }
    failures = 0
    for number in itertools.count(1):
        store.delete(name)
        store.create(name, b"1")
        store.delete("new/" + name)
        read = store.read(name)
        before = descriptors(tmp_path)
        with failing_call(number) as was_reached:
            try:
                acts[operation]()
            except StoreError:
                failures += 1
        assert descriptors(tmp_path) == before
        assert not any(lock.locked() for lock in filelocks._THREADS)
        if not was_reached():
            break
    assert failures > 0


def test_a_file_that_is_handed_out_in_pieces_is_read_whole(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, at: pread(file, min(length, 3), at))
    store.create("a", b"0123456789")
    assert store.read("a").data == b"0123456789"
    assert store.read("a", limit=10).data == b"0123456789"
    assert store.read_range("a", 1, 8) == b"12345678"
    assert store.read_range("a", 7, 8) == b"789"
    store.replace("a", b"new", store.read("a"))
    assert store.read("a").data == b"new"


def test_a_file_that_grew_since_its_status_was_read_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 200_000)
    with (tmp_path / "a").open("rb") as file:
        for size in (0, 1, 199_999, 200_000, 300_000):
            assert len(fileswap.read(file.fileno(), 0, None, size)) == 200_000
            assert len(fileswap.read(file.fileno(), 10, 150_000, size)) == 150_000
            assert fileswap.read(file.fileno(), 300_000, 5, size) == b""
            assert fileswap.read(file.fileno(), 0, 0, size) == b""
