"""The folder of a file store, and the way from it to an object, on which no link is followed."""

import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from keywrap.stores import StoreUnavailableError

_NEW_FOLDER_MODE = 0o770

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Root:
    """The folder of a store.

    It is opened anew for each operation. Keeping it open would save 1.5 µs of some 15, but hold
    its file system in place (umount(8) would call it busy), and go on with a dead one after
    another was mounted.

    Args:
        path: links on the way to it are followed.
    """

    def __init__(self, path: Path) -> None:
        self._path = os.path.abspath(path)  # noqa: PTH100  # `Path.resolve` follows links
        self._identity: os.stat_result | None = None

    def open(self) -> int:
        """Return a descriptor of it, making sure that it is still the same folder.

        A file system that went away leaves another folder there, or none. Taking that for a
        store without objects would count every blob as gone.

        Raises:
            StoreUnavailableError: it is away.
        """
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
        return root

    def _require_same(self, found: os.stat_result) -> None:
        if self._identity is None:
            self._identity = found
        elif not os.path.samestat(found, self._identity):
            raise StoreUnavailableError(
                f"{self._path!r} is another folder than at the start; is it mounted?"
            )

    def open_folder(self, folders: Sequence[str]) -> int:
        """Return a descriptor of a folder in it.

        Raises:
            OSError: there is none, or a link is on the way.
            StoreUnavailableError: the root is away.
        """
        return self.place(folders, "").only_folder()

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
            return Place(root, root, leaf)
        try:
            return Place(root, enter(root, folders, make=make), leaf)
        except BaseException:
            os.close(root)
            raise


@dataclass(slots=True)
class Place:
    """Where an object is, held open until the block ends.

    Attributes:
        root: descriptor of the store's root.
        folder: descriptor of the object's folder; the root's own one where it lies there.
        leaf: the object's name in it.
    """

    root: int
    folder: int
    leaf: str

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder != self.root:
            os.close(self.folder)
        os.close(self.root)

    def only_folder(self) -> int:
        """Let go of all but the folder, and return its descriptor."""
        if self.folder != self.root:
            os.close(self.root)
        return self.folder


class Closing:
    """Closes a descriptor when the block ends."""

    # No `contextlib.contextmanager`, here and beside: it takes as long as the system calls.
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
