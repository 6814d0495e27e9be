import errno
import fcntl
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keywrap import fileswap
from keywrap.filestore import FileStore
from keywrap.stores import ChangedError, StoreUnavailableError

FORK = multiprocessing.get_context("fork")


def no_conditional_rename(*_: object) -> None:
    raise NotImplementedError


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


@pytest.fixture
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fileswap, "_rename", no_conditional_rename)


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if fileswap.TEMPORARY.fullmatch(path.name)]


def foreign_write(path: Path, data: bytes) -> None:
    beside = path.with_name(f"foreign-{os.urandom(4).hex()}")
    beside.write_bytes(data)
    beside.rename(path)


def count_up(root: Path, rounds: int) -> None:
    store = FileStore(root)
    for _ in range(rounds):
        while True:
            read = store.read("counter")
            try:
                store.replace("counter", b"%d" % (int(read.data) + 1), read)
            except ChangedError:
                continue
            break


@pytest.mark.parametrize("exchange", [True, False])
def test_concurrent_processes_lose_no_increment(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(fileswap, "_rename", no_conditional_rename)
    store.create("counter", b"0")
    processes = [FORK.Process(target=count_up, args=(tmp_path, 100)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    assert store.read("counter").data == b"400"
    assert not leftovers(tmp_path)


# Foreign writers, which ignore the lock


def before_first_exchange(monkeypatch: pytest.MonkeyPatch, *acts: Callable[[], None]) -> None:
    """Let each act happen just before one exchange, in turn."""
    pending, exchange = list(acts), fileswap.exchange

    def exchange_after_act(folder: int, one: str, other: str) -> None:
        if pending:
            pending.pop(0)()
        exchange(folder, one, other)

    monkeypatch.setattr(fileswap, "exchange", exchange_after_act)


def test_a_foreign_writer_between_comparison_and_exchange_wins(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"old")
    read = store.read("a")
    before_first_exchange(monkeypatch, lambda: foreign_write(tmp_path / "a", b"theirs"))
    with pytest.raises(ChangedError):
        store.replace("a", b"ours", read)
    assert store.read("a").data == b"theirs"
    assert not leftovers(tmp_path)


def test_the_latest_of_several_foreign_writers_wins(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"old")
    read = store.read("a")
    before_first_exchange(
        monkeypatch,
        *(lambda n=n: foreign_write(tmp_path / "a", b"theirs %d" % n) for n in range(4)),
    )
    with pytest.raises(ChangedError):
        store.replace("a", b"ours", read)
    assert store.read("a").data == b"theirs 3"


def test_a_foreign_writer_of_the_same_bytes_is_no_conflict(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"old")
    read = store.read("a")
    before_first_exchange(monkeypatch, lambda: foreign_write(tmp_path / "a", b"old"))
    store.replace("a", b"ours", read)
    assert store.read("a").data == b"ours"
    assert not leftovers(tmp_path)


def test_a_foreign_deletion_between_comparison_and_exchange_wins(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"old")
    read = store.read("a")
    before_first_exchange(monkeypatch, (tmp_path / "a").unlink)
    with pytest.raises(ChangedError):
        store.replace("a", b"ours", read)
    assert list(store.names()) == []
    assert not leftovers(tmp_path)


def test_a_link_put_there_between_comparison_and_exchange_stays(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"old")
    read = store.read("a")

    def link() -> None:
        (tmp_path / "a").unlink()
        (tmp_path / "a").symlink_to("elsewhere")

    before_first_exchange(monkeypatch, link)
    with pytest.raises(ChangedError):
        store.replace("a", b"ours", read)
    assert (tmp_path / "a").readlink() == Path("elsewhere")


def test_a_foreign_write_that_cannot_be_given_back_is_not_removed(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"old")
    read = store.read("a")

    def fail() -> None:
        raise OSError(errno.EIO, "Input/output error")

    before_first_exchange(monkeypatch, lambda: foreign_write(tmp_path / "a", b"theirs"), fail)
    with pytest.raises(StoreUnavailableError, match="not known"):
        store.replace("a", b"ours", read)
    assert [path.read_bytes() for path in leftovers(tmp_path)] == [b"theirs"]


@pytest.mark.usefixtures("without_exchange")
def test_without_exchange_a_foreign_writer_is_seen_until_the_last_look(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"old")
    read = store.read("a")
    matches = fileswap.matches

    def matches_then_foreign(folder: int, name: str, expected: bytes) -> os.stat_result | None:
        seen = matches(folder, name, expected)
        foreign_write(tmp_path / "a", b"new")
        return seen

    monkeypatch.setattr(fileswap, "matches", matches_then_foreign)
    with pytest.raises(ChangedError):
        store.replace("a", b"ours", read)
    assert store.read("a").data == b"new"
    assert not leftovers(tmp_path)


# Crashes

BEFORE = ["open", "write", "fsync", "fchmod", "stat", "unlink", "replace", "link", "close"]


def crash_before_call(number: int) -> None:
    """End the process just before its `number`-th call that could touch the disk."""
    calls = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def count(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == number:
                os._exit(77)
            return call(*args, **kwargs)

        return count

    for name in BEFORE:
        setattr(os, name, counted(getattr(os, name)))
    fileswap._rename = counted(fileswap._rename)
    fcntl.flock = counted(fcntl.flock)


def crashed(number: int, act: Callable[[], None]) -> bool:
    child = os.fork()
    if child == 0:
        try:
            crash_before_call(number)
            act()
        except BaseException:  # noqa: BLE001 - the child must not go on as a test
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in {0, 77}
    return code == 77


@pytest.mark.parametrize("exchange", [True, False])
def test_a_crash_at_any_step_of_a_replacement_leaves_old_or_new(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(fileswap, "_rename", no_conditional_rename)
    old, new = b"old" * 1000, b"new" * 2000
    store.create("d/a", old)
    found = []
    for number in range(1, 1000):
        read = store.read("d/a")
        assert read.data == old
        went_on = not crashed(number, lambda read=read: store.replace("d/a", new, read))
        after = store.read("d/a")
        found.append(after.data)
        assert after.data in {old, new}
        assert list(store.names()) == ["d/a"]
        if went_on:
            break
        if after.data == new:
            store.replace("d/a", old, after)  # the lock of the dead is free
    # The harness did its work: crashes on both sides of the rename, then a clean run.
    assert found[0] == old
    assert found[-1] == new
    assert found.count(old) > 10
    assert found.count(new) > 3
    assert leftovers(tmp_path)
    assert store.sweep(older_than_s=0) > 0
    assert not leftovers(tmp_path)
    assert store.read("d/a").data == new


@pytest.mark.parametrize("exchange", [True, False])
def test_a_crash_at_any_step_of_a_creation_leaves_nothing_or_all(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, *, exchange: bool
) -> None:
    if not exchange:
        monkeypatch.setattr(fileswap, "_rename", no_conditional_rename)
    data, found = b"new" * 2000, []
    for number in range(1, 1000):
        went_on = not crashed(number, lambda: store.create("d/a", data))
        names = list(store.names())
        found.append(len(names))
        for name in names:
            assert store.read(name).data == data
        if went_on:
            break
        store.delete("d/a")
    assert found[0] == 0
    assert found[-1] == 1
    assert found.count(0) > 5
    assert found.count(1) > 2
