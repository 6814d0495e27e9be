"""Blobs and sidecars as plain files under one folder (POSIX only).

Safety of a change rests on three things. A file is never written in place: its new bytes are
written beside it, flushed to the disk, and only then given its name, so a crash at any step
leaves the old bytes or the new ones, whole. Writers that use this class exclude each other by a
lock. A foreign writer, which ignores the lock, is found by inspection: where the file system can
exchange two names, whatever the exchange displaced is looked at before it is let go.

Limits. A foreign writer that writes *in place* (rather than beside and renaming) while we swap
can lose its write, and a reader can see half of it. One that renames within the microseconds of
a swap wins, but a power failure in just these leaves its bytes under a temporary name. Where
names cannot be exchanged (macOS, some network file systems) one that comes between our last look
and the rename loses. Access control lists and extended attributes come from the folder's
defaults, not from the file replaced; the mode is kept, the owner as far as our rights go.
"""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from keywrap import fileswap
from keywrap.filelocks import LOCKS_FOLDER, held, stripe_of
from keywrap.layout import RESERVED
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    NotAnObjectError,
    NotFoundError,
    Stored,
    StoreError,
    StoreUnavailableError,
    TooLargeError,
)

_NEW_FOLDER_MODE = 0o770

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

_UNCHANGED = "nothing was changed"
_UNKNOWN = "whether it was changed is not known; read it again"

# A link (ELOOP; ENOTDIR on the way), a folder, a socket or device, a name too long for the disk.
_NO_OBJECT = frozenset(
    {
        errno.ELOOP,
        errno.EISDIR,
        errno.ENOTDIR,
        errno.ENXIO,
        errno.ENODEV,
        errno.ENAMETOOLONG,
    }
)


class FileStore:
    """A `keywrap.stores.Store` of local files.

    A name that cannot name a file of the store (with `..`, a backslash, raw bytes, or one that
    the store uses itself) raises `NotAnObjectError` and never `NotFoundError`: a missing sidecar
    may be made anew, and such a name must not be.

    Args:
        root: the store's folder; links on the way to it are followed, links inside it never.

    Raises:
        StoreUnavailableError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.path.abspath(root)  # noqa: PTH100  # `Path.resolve` follows links
        self._identity: os.stat_result | None = None
        os.close(self._open_root())

    def check(self) -> None:
        """Tell a store that is away from an object that is; see `Store.check`."""
        with _mapped(""):
            root = self._open_root()
            try:
                with os.scandir(root) as entries:
                    next(entries, None)  # a dead network file system often opens, but lists not
            finally:
                os.close(root)

    def read(self, name: str, *, limit: int | None = None) -> Stored:
        """Read an object whole; see `Store.read`."""
        with _mapped(name), self._object(name) as file:
            data = fileswap.read(file, None if limit is None else limit + 1)
        if limit is not None and len(data) > limit:
            raise TooLargeError(f"{name!r} has more than {limit} bytes", name=name)
        return Stored(data, hashlib.sha256(data).hexdigest())

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Read a part of an object; see `Store.read_range`.

        Raises:
            ValueError: `start` or `length` is negative.
        """
        if start < 0 or length < 0:
            raise ValueError("a range starts at 0 or later and has no negative length")
        with _mapped(name), self._object(name) as file:
            os.lseek(file, start, os.SEEK_SET)
            return fileswap.read(file, length)

    def create(self, name: str, data: bytes) -> None:
        """Create an object, durably and only if there is none; see `Store.create`."""
        with (
            _mapped(name),
            self._folder_of(name, make=True) as (folder, leaf),
            fileswap.written(folder, data) as new,
            _mapped(name, _UNKNOWN),
        ):
            try:
                # Crash before this: a temporary file is left, which `names` never shows.
                fileswap.move_if_absent(folder, new.name, leaf)
            except FileExistsError:
                raise AlreadyExistsError(f"{name!r} is there already", name=name) from None
            # Crash before this: the name may or may not be there, the bytes under it are whole.
            os.fsync(folder)

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        """Replace an object, durably and only if unchanged; see `Store.replace`."""
        try:
            with _mapped(name), self._folder_of(name) as (folder, leaf):
                like = os.stat(leaf, dir_fd=folder, follow_symlinks=False)
                with fileswap.written(folder, data, like=like) as new:
                    replaced = self._swap(name, folder, leaf, new, expected.data)
                    if replaced:
                        with _mapped(name, _UNKNOWN):
                            os.fsync(folder)
                        # Crash before this: the old bytes stay, under the temporary name. They
                        # go only now that the new ones are sure to be found under theirs.
                        new.remove_displaced()
        except NotFoundError:
            replaced = False
        if not replaced:
            raise ChangedError(f"{name!r} is no longer what was read", name=name)

    def _swap(
        self, name: str, folder: int, leaf: str, new: fileswap.NewFile, expected: bytes
    ) -> bool:
        # The slow flush of the new bytes is over, and the folder's comes after: the lock is held
        # for moments only, and the disk flushes for many writers at once.
        with self._locked(name):
            seen = fileswap.matches(folder, leaf, expected)
            if seen is None:
                return False
            with _mapped(name, _UNKNOWN):
                return new.take_name(leaf, expected, seen)

    def delete(self, name: str) -> None:
        """Remove an object, durably; see `Store.delete`."""
        with suppress(NotFoundError), _mapped(name), self._folder_of(name) as (folder, leaf):
            # Under the lock, since the older way of `replace` would bring the name back.
            with self._locked(name):
                found = os.stat(leaf, dir_fd=folder, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode):
                    raise _no_object(name)
                os.unlink(leaf, dir_fd=folder)
            with _mapped(name, _UNKNOWN):
                os.fsync(folder)

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the name of every object that starts with `prefix`; see `Store.names`.

        Links, pipes and the like are yielded too, so that nobody overlooks them; reading one
        raises `NotAnObjectError`. So are names that are not UTF-8 or have a backslash, spelled
        with backslash escapes; they cannot be read. The store's own corner is yielded only where
        the prefix lies in it.
        """
        with _mapped(prefix):
            for _, name, leaf in self._entries(prefix):
                if name.startswith(prefix) and not fileswap.TEMPORARY.fullmatch(leaf):
                    yield name

    def sweep(self, older_than_s: float = 3600.0) -> int:
        """Remove temporary files that a crash left.

        Args:
            older_than_s: leave those whose inode changed since; their writer may still live.

        Returns:
            How many were removed.
        """
        removed = 0
        with _mapped(""):
            for prefix in ("", RESERVED):
                for folder, _, leaf in self._entries(prefix):
                    if not fileswap.TEMPORARY.fullmatch(leaf):
                        continue
                    # Not by modification time: a displaced file keeps its old one.
                    with suppress(FileNotFoundError):
                        found = os.stat(leaf, dir_fd=folder, follow_symlinks=False)
                        if time.time() - found.st_ctime >= older_than_s:
                            os.unlink(leaf, dir_fd=folder)
                            removed += 1
        return removed

    def _open_root(self) -> int:
        """Open the root, making sure that it is still the same folder.

        A file system that went away leaves another folder there, or none. Taking that for a
        store without objects would count every blob as gone.
        """
        with _mapped(""):
            try:
                root = os.open(self._root, _FOLDER)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise StoreUnavailableError(f"there is no folder {self._root!r}") from error
            found = os.fstat(root)
        if self._identity is None:
            self._identity = found
        elif not os.path.samestat(found, self._identity):
            os.close(root)
            raise StoreUnavailableError(
                f"{self._root!r} is another folder than at the start; is it mounted?"
            )
        return root

    def _open_folder(self, folders: list[str], *, make: bool = False) -> int:
        """Open a folder of the store, following no link on the way."""
        folder = self._open_root()
        for name in folders:
            try:
                inner = _enter(folder, name, make=make)
            finally:
                os.close(folder)
            folder = inner
        return folder

    @contextmanager
    def _folder_of(self, name: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        *folders, leaf = _segments(name)
        folder = self._open_folder(folders, make=make)
        try:
            yield folder, leaf
        finally:
            os.close(folder)

    @contextmanager
    def _object(self, name: str) -> Iterator[int]:
        with self._folder_of(name) as (folder, leaf):
            file = os.open(leaf, fileswap.READ, dir_fd=folder)
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise _no_object(name)
            yield file
        finally:
            os.close(file)

    @contextmanager
    def _locked(self, name: str) -> Iterator[None]:
        with ExitStack() as stack:
            try:
                folder = self._open_folder(LOCKS_FOLDER.rstrip("/").split("/"), make=True)
                stack.callback(os.close, folder)
                stack.enter_context(held(folder, stripe_of(name)))
            except OSError as error:
                # Whatever is wrong with the locks, it is not this object that is wrong.
                raise StoreUnavailableError(
                    f"the store's locks: {error.strerror}; {_UNCHANGED}", name=name
                ) from error
            yield

    def _entries(self, prefix: str) -> Iterator[tuple[int, str, str]]:
        """Yield descriptor of the folder, name and leaf of all that is no folder."""
        folders = [_first_folder(prefix)]
        while folders:
            path = folders.pop()
            try:
                folder = self._open_folder(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it went away while we listed, or there is nothing with this prefix
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        inner = [*path, entry.name]
                        if not entry.is_dir(follow_symlinks=False):
                            yield folder, _shown(inner), entry.name
                        elif _may_hold(_shown(inner) + "/", prefix):
                            folders.append(inner)
            finally:
                os.close(folder)


@contextmanager
def _mapped(name: str, outcome: str = _UNCHANGED) -> Iterator[None]:
    """Turn errors of the operating system into those of a store."""
    try:
        yield
    except OSError as error:
        raise _store_error(error, name, outcome) from error


def _store_error(error: OSError, name: str, outcome: str) -> StoreError:
    if error.errno == errno.ENOENT:
        return NotFoundError(f"there is no {name!r}", name=name)
    if error.errno in _NO_OBJECT:
        return _no_object(name)
    return StoreUnavailableError(f"{name!r}: {error.strerror}; {outcome}", name=name)


def _no_object(name: str) -> NotAnObjectError:
    return NotAnObjectError(f"{name!r} names no plain file", name=name)


def _segments(name: str) -> list[str]:
    segments = name.split("/")
    if (
        not {"", ".", ".."}.isdisjoint(segments)
        or "\0" in name
        or "\\" in name  # how `names` spells what is not UTF-8: it would be another file
        or fileswap.TEMPORARY.fullmatch(segments[-1])
        or name.startswith(LOCKS_FOLDER)
        or any("\ud800" <= character <= "\udfff" for character in name)
    ):
        raise _no_object(name)
    return segments


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


def _first_folder(prefix: str) -> list[str]:
    """Return the deepest folder that has everything with this prefix."""
    try:
        return _segments(prefix)[:-1] if not prefix.endswith("/") else _segments(prefix[:-1])
    except NotAnObjectError:
        return []


def _may_hold(folder: str, prefix: str) -> bool:
    if folder == LOCKS_FOLDER or (folder == RESERVED and not prefix.startswith(RESERVED)):
        return False
    return folder.startswith(prefix) or prefix.startswith(folder)


def _shown(path: list[str]) -> str:
    """Spell a name so that it is Unicode and no two names are spelled alike."""
    name = "/".join(path)
    if name.isascii() and "\\" not in name:
        return name
    return os.fsencode(name).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
