"""The folder of a file store, and the way from it to an object, on which no link is followed."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import Self

from keywrap.stores import StoreUnavailableError

_NEW_FOLDER_MODE = 0o770

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Root:
    """The folder of a store.

    It is opened anew for each operation, or for each batch (`kept_open`). Keeping it open for
    good would hold its file system in place (umount(8) would call it busy), and go on with a dead
    one after another was mounted.

    Args:
        path: links on the way to it are followed.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.path.abspath(path)  # noqa: PTH100  # `Path.resolve` follows links
        self._identity: os.stat_result | None = None
        self._kept: OpenRoot | None = None

    def open(self) -> "OpenRoot":
        """Return it, open, making sure that it is still the same folder.

        A file system that went away leaves another folder there, or none. Taking that for a
        store without objects would count every blob as gone.

        Raises:
            StoreUnavailableError: it is away.
        """
        kept = self._kept
        if kept is not None and kept.share():
            return kept
        try:
            root = os.open(self._path, _FOLDER)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise StoreUnavailableError(f"there is no folder {self._path!r}") from error
        except OSError as error:
            raise StoreUnavailableError(f"the folder {self._path!r}: {error.strerror}") from error
        try:
            self._require_same(os.fstat(root))
        except BaseException:
            os.close(root)
            raise
        return OpenRoot(root)

    @contextmanager
    def kept_open(self) -> Iterator[None]:
        """Open it once for all operations of the block, in all threads.

        Raises:
            StoreUnavailableError: it is away.
        """
        with self.open() as kept:
            before, self._kept = self._kept, kept
            try:
                yield
            finally:
                self._kept = before

    def _require_same(self, found: os.stat_result) -> None:
        if self._identity is None:
            self._identity = found
        elif not os.path.samestat(found, self._identity):
            raise StoreUnavailableError(
                f"{self._path!r} is another folder than at the start; is it mounted?"
            )

    def open_folder(self, folders: Sequence[str]) -> int:
        """Return a descriptor of a folder in it, which the caller closes.

        Raises:
            OSError: there is none, or a link is on the way.
            StoreUnavailableError: the root is away.
        """
        with self.open() as root:
            return enter(root.file, folders) if folders else os.dup(root.file)

    def place(self, folders: Sequence[str], leaf: str, *, make: bool = False) -> "Place":
        """Open the place of an object.

        Args:
            folders: the names of the folders on the way.
            leaf: the name in the last one.
            make: whether to make folders that are not there.

        Raises:
            OSError: a folder is not there, or a link is on the way.
            StoreUnavailableError: the root is away.
        """
        root = self.open()
        if not folders:
            return Place(root, root.file, leaf)
        try:
            return Place(root, enter(root.file, folders, make=make), leaf)
        except BaseException:
            root.leave()
            raise


class OpenRoot:
    """The root's folder, open until the last of its users has left.

    A thread of a batch may still be at work when the batch is given up: a descriptor that was
    closed under it could by then be of another folder.

    Attributes:
        file: descriptor of the folder.
    """

    __slots__ = ("_inner", "_lock", "_users", "file")

    def __init__(self, file: int) -> None:
        self.file = file
        self._inner: dict[tuple[str, ...], int] = {}
        self._users = 1
        self._lock = Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def share(self) -> bool:
        """Become one more user; False where the last one has left."""
        with self._lock:
            if self._users:
                self._users += 1
            return self._users > 0

    def leave(self) -> None:
        """Be a user no more; the last one closes it."""
        with self._lock:
            self._users -= 1
            if self._users:
                return
        for file in (self.file, *self._inner.values()):
            os.close(file)

    def inner(self, folders: tuple[str, ...]) -> int:
        """Return a descriptor of a folder in it, made if need be and kept as long as this one.

        Raises:
            OSError: it cannot be made, or a link is on the way.
        """
        with self._lock:
            inner = self._inner.get(folders)
            if inner is not None:
                if os.fstat(inner).st_nlink:
                    return inner
                # Removed while we held it open: others meet in the one that took its place.
                os.close(self._inner.pop(folders))
            self._inner[folders] = inner = enter(self.file, folders, make=True)
            return inner


class Place:
    """Where an object is, held open until the block ends.

    Attributes:
        root: the store's root.
        folder: descriptor of the object's folder; the root's own one where it lies there.
        leaf: the object's name in it.
    """

    __slots__ = ("folder", "leaf", "root")

    def __init__(self, root: OpenRoot, folder: int, leaf: str) -> None:
        self.root = root
        self.folder = folder
        self.leaf = leaf

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder != self.root.file:
            os.close(self.folder)
        self.root.leave()


class Closing:
    """Closes a descriptor when the block ends."""

    # No `contextlib.contextmanager`, as above for a batch: it takes as long as the system calls.
    __slots__ = ("_file",)

    def __init__(self, file: int) -> None:
        self._file = file

    def __enter__(self) -> int:
        return self._file

    def __exit__(self, *_: object) -> None:
        os.close(self._file)


def enter(start: int, folders: Sequence[str], *, make: bool = False) -> int:
    """Return a descriptor of a folder, following no link on the way.

    Args:
        start: descriptor of the folder to start from; it stays open.
        folders: the names on the way, at least one.
        make: whether to make what is not there.

    Raises:
        OSError: it is not there, or a link is on the way.
    """
    folder = start
    for name in folders:
        try:
            inner = _enter(folder, name, make=make)
        finally:
            if folder != start:
                os.close(folder)
        folder = inner
    return folder


def _enter(parent: int, name: str, *, make: bool) -> int:
    flags = _FOLDER | os.O_NOFOLLOW
    try:
        return os.open(name, flags, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, _NEW_FOLDER_MODE, dir_fd=parent)
    os.fsync(parent)  # a file must not be durable in a folder that is not
    return os.open(name, flags, dir_fd=parent)
