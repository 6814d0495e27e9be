import contextlib
import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from keywrap import filelocks, fileswap
from keywrap.filestore import FileStore
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    NotAnObjectError,
    NotFoundError,
    StoreError,
    StoreUnavailableError,
)
from keywrap.testing.stores import StoreConformance


def no_conditional_rename(*_: object) -> None:
    raise NotImplementedError


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return FileStore(tmp_path)


@pytest.fixture
def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fileswap, "_rename", no_conditional_rename)


class TestFileStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> FileStore:
        return FileStore(tmp_path)


@pytest.mark.usefixtures("without_exchange")
class TestFileStoreWithoutExchange(TestFileStore):
    pass


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if fileswap.TEMPORARY.fullmatch(path.name)]


# What is no plain file


def take_name(path: Path, kind: str) -> None:
    if kind == "link":
        (path.parent / "target").write_bytes(b"target")
        path.symlink_to("target")
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        here = os.open(".", os.O_RDONLY)
        os.chdir(path.parent)  # a socket's path has 107 bytes at most
        try:
            with socket.socket(socket.AF_UNIX) as server:
                server.bind(path.name)
        finally:
            os.fchdir(here)
            os.close(here)
    else:
        path.mkdir()


@pytest.mark.parametrize("kind", ["link", "dangling link", "pipe", "socket", "folder"])
def test_what_is_no_plain_file_is_refused_and_left_alone(
    store: FileStore, tmp_path: Path, kind: str
) -> None:
    store.create("b", b"1")
    read = store.read("b")
    take_name(tmp_path / "a", kind)
    before = os.lstat(tmp_path / "a")
    with pytest.raises(NotAnObjectError):
        store.read("a", limit=10)
    with pytest.raises(NotAnObjectError):
        store.read_range("a", 0, 1)
    with pytest.raises(AlreadyExistsError):
        store.create("a", b"2")
    with pytest.raises(ChangedError):
        store.replace("a", b"2", read)
    with pytest.raises(NotAnObjectError):
        store.delete("a")
    after = os.lstat(tmp_path / "a")
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)
    assert ("a" in store.names()) == (kind != "folder")


def test_no_link_is_followed_on_the_way(store: FileStore, tmp_path: Path) -> None:
    outside = tmp_path.parent / f"{tmp_path.name}-outside"
    outside.mkdir()
    (outside / "a").write_bytes(b"secret")
    (tmp_path / "folder").symlink_to(outside)
    for call in (
        lambda: store.read("folder/a"),
        lambda: store.create("folder/b", b""),
        lambda: store.delete("folder/a"),
    ):
        with pytest.raises(NotAnObjectError):
            call()
    assert list(store.names()) == ["folder"]
    assert list(store.names("folder/")) == []
    assert [path.name for path in outside.iterdir()] == ["a"]


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/etc/passwd",
        "../a",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        ".",
        "a\0b",
        "a\\xff",
        "a\udcff",
        "x" * 256,
        ".rewrap/locks/00",
        f".rewrap-tmp-{'0' * 32}",
    ],
)
def test_a_name_that_names_no_file_here_is_never_called_missing(
    store: FileStore, tmp_path: Path, name: str
) -> None:
    (tmp_path / "b").write_bytes(b"")
    expected = store.read("b")
    with pytest.raises(NotAnObjectError):
        store.read(name)
    with pytest.raises(NotAnObjectError):
        store.create(name, b"")
    with pytest.raises(NotAnObjectError):
        store.replace(name, b"", expected)
    with pytest.raises(NotAnObjectError):
        store.delete(name)
    assert {path.name for path in tmp_path.iterdir()} <= {"b", ".rewrap"}


def test_names_that_are_not_unicode_are_listed_apart_and_never_opened(
    store: FileStore, tmp_path: Path
) -> None:
    for name in (b"a\xff", b"a\\xff", b"d\xfe/b"):
        path = os.path.join(os.fsencode(tmp_path), name)  # noqa: PTH118 - Path knows no bytes
        Path(os.fsdecode(path)).parent.mkdir(exist_ok=True)
        Path(os.fsdecode(path)).write_bytes(b"")
    listed = sorted(store.names())
    assert listed == ["a\\\\xff", "a\\xff", "d\\xfe/b"]
    for name in listed:
        with pytest.raises(NotAnObjectError):
            store.read(name)
    assert list(store.names("d\\xfe/")) == ["d\\xfe/b"]


def test_young_leftovers_are_left_to_their_writers(store: FileStore, tmp_path: Path) -> None:
    leftover = tmp_path / "d" / f".rewrap-tmp-{'0' * 32}"
    leftover.parent.mkdir()
    leftover.write_bytes(b"displaced")
    os.utime(leftover, (0, 0))  # a displaced file has the modification time of its last writer
    store.create("d/a", b"")
    assert list(store.names()) == ["d/a"]
    assert store.sweep() == 0
    assert leftover.exists()
    assert store.sweep(older_than_s=0) == 1
    assert [path.name for path in leftover.parent.iterdir()] == ["a"]


@pytest.mark.parametrize("days", [-2, 2])
def test_leftovers_are_as_old_as_the_file_system_says_whatever_our_clock_does(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, days: int
) -> None:
    store.create("d/a", b"")
    leftover = tmp_path / "d" / f".rewrap-tmp-{'0' * 32}"
    leftover.write_bytes(b"of a writer that lives")
    now = time.time() + days * 86_400
    monkeypatch.setattr(time, "time", lambda: now)
    assert store.sweep() == 0
    assert store.sweep(older_than_s=0) == 1
    assert leftovers(tmp_path) == []


def test_reading_and_listing_write_nothing(store: FileStore, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    store.check()
    store.read("a")
    store.read_range("a", 0, 1)
    assert list(store.names()) == ["a"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_stores_own_corner_is_listed_only_when_asked_for(store: FileStore) -> None:
    store.create(".rewrap/control.json", b"{}")
    store.replace(".rewrap/control.json", b"[]", store.read(".rewrap/control.json"))
    store.create("a", b"")
    assert list(store.names()) == ["a"]
    assert list(store.names(".rewrap/")) == [".rewrap/control.json"]


def test_a_lock_that_stays_taken_is_an_unavailable_store(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filelocks, "WAIT_S", 0.1)
    store.create("a", b"1")
    store.replace("a", b"2", store.read("a"))
    lock = tmp_path / ".rewrap" / "locks" / f"{filelocks.stripe_of('a'):02d}"
    with lock.open() as taken:
        fcntl.flock(taken, fcntl.LOCK_EX)
        with pytest.raises(StoreUnavailableError, match="nothing was changed"):
            store.replace("a", b"3", store.read("a"))
    assert store.read("a").data == b"2"
    store.replace("a", b"3", store.read("a"))
    assert not leftovers(tmp_path)


def test_locks_that_cannot_be_used_are_no_fault_of_the_object(
    store: FileStore, tmp_path: Path
) -> None:
    store.create("a", b"1")
    (tmp_path / ".rewrap").write_bytes(b"in the way")
    with pytest.raises(StoreUnavailableError, match="locks"):
        store.replace("a", b"2", store.read("a"))
    assert store.read("a").data == b"1"


def test_a_replaced_file_keeps_its_permissions(store: FileStore, tmp_path: Path) -> None:
    for mode in (0o600, 0o644, 0o666, 0o2660):
        path = tmp_path / f"{mode:o}"
        path.write_bytes(b"1")
        path.chmod(mode)
        store.replace(path.name, b"2", store.read(path.name))
        assert path.read_bytes() == b"2"
        assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_replaced_file_keeps_its_owner(store: FileStore, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    os.chown(path, 1234, 2345)
    store.replace("a", b"2", store.read("a"))
    assert (path.stat().st_uid, path.stat().st_gid) == (1234, 2345)


def test_a_group_that_cannot_be_kept_refuses_the_replacement(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"1")
    real = os.fstat

    def of_another_group(file: int) -> os.stat_result:
        fields = list(real(file))
        fields[stat.ST_GID] += 1
        return os.stat_result(fields)

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    read = store.read("a")
    monkeypatch.setattr(fileswap.os, "fchown", refuse)
    monkeypatch.setattr(fileswap, "_adopt", _adopt_with(of_another_group))
    with pytest.raises(StoreUnavailableError, match="nothing was changed"):
        store.replace("a", b"2", read)
    assert store.read("a").data == b"1"


def _adopt_with(fstat: Callable[[int], os.stat_result]) -> Callable[[int, os.stat_result], None]:
    adopt = fileswap._adopt
    return lambda file, _like: adopt(file, fstat(file))


def test_a_new_file_is_not_for_everyone(store: FileStore, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store.create("d/a", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "d" / "a").stat().st_mode) == 0o640
    assert stat.S_IMODE((tmp_path / "d").stat().st_mode) == 0o770


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_a_disk_that_fails_before_the_rename_changes_nothing(
    store: FileStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    store.create("a", b"1")
    read = store.read("a")

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(fileswap.os, "write", fail)
        with pytest.raises(StoreUnavailableError, match="nothing was changed"):
            store.replace("a", b"2", read)
        with pytest.raises(StoreUnavailableError, match="nothing was changed"):
            store.create("b", b"2")
    assert store.read("a").data == b"1"
    assert list(store.names()) == ["a"]
    assert not leftovers(tmp_path)


def test_a_disk_that_fails_after_the_rename_leaves_the_outcome_open(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"1")
    store.replace("a", b"2", store.read("a"))  # makes the folder of locks
    read = store.read("a")
    flush = os.fsync

    def fail_on_folders(file: int) -> None:
        if stat.S_ISDIR(os.fstat(file).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        flush(file)

    with monkeypatch.context() as patch:
        patch.setattr(fileswap.os, "fsync", fail_on_folders)
        with pytest.raises(StoreUnavailableError, match="not known"):
            store.replace("a", b"3", read)
        with pytest.raises(StoreUnavailableError, match="not known"):
            store.create("b", b"3")
    assert store.read("a").data == b"3"
    assert store.read("b").data == b"3"


def test_data_is_flushed_before_the_name_and_the_folder_after_it(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.create("a", b"1")
    store.replace("a", b"2", store.read("a"))
    steps: list[str] = []
    flush, rename, unlink = os.fsync, fileswap._rename, os.unlink

    def flushed(file: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(file).st_mode) else "data")
        flush(file)

    def renamed(*args: Any) -> None:
        steps.append("rename")
        rename(*args)

    def unlinked(*args: Any, **kwargs: Any) -> None:
        steps.append("unlink")
        unlink(*args, **kwargs)

    monkeypatch.setattr(fileswap.os, "fsync", flushed)
    monkeypatch.setattr(fileswap, "_rename", renamed)
    monkeypatch.setattr(fileswap.os, "unlink", unlinked)
    store.replace("a", b"3", store.read("a"))
    store.create("b", b"3")
    assert steps == ["data", "rename", "folder", "unlink", "data", "rename", "folder"]


def test_a_root_that_is_not_there_is_no_empty_store(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailableError):
        FileStore(tmp_path / "nowhere")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreUnavailableError):
        FileStore(tmp_path / "file")


def test_a_root_that_went_away_is_no_empty_store(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    store = FileStore(root)
    store.create("a", b"1")
    root.rename(tmp_path / "unmounted")
    for _ in range(2):
        for call in (store.check, lambda: store.read("a"), lambda: list(store.names())):
            with pytest.raises(StoreUnavailableError):
                call()
        root.mkdir(exist_ok=True)  # an empty mount point is no store either
    with pytest.raises(StoreUnavailableError):
        store.delete("a")


def _open_files_of(root: Path) -> list[str]:
    """List this process's open files of a store; those of other tests come and go."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the listing's own is gone by now
            found.append(str(entry.readlink()))
    return [path for path in found if path.startswith(str(root))]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="looks in /proc")
def test_no_descriptor_is_left_open(store: FileStore, tmp_path: Path) -> None:
    store.create("d/a", b"1")
    take_name(tmp_path / "pipe", "pipe")
    old = store.read("d/a")
    store.replace("d/a", b"2", old)
    for call in (
        lambda: store.replace("d/a", b"3", old),
        lambda: store.create("d/a", b"3"),
        lambda: store.read("d/a", limit=0),
        lambda: store.read("pipe"),
        lambda: store.read("none/there"),
        lambda: store.delete("pipe"),
    ):
        with pytest.raises(StoreError):
            call()
    next(store.names())
    list(store.names())
    with pytest.raises(NotFoundError):
        store.read("none")
    assert _open_files_of(tmp_path) == []
