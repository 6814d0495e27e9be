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
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from keywrap import fileswap
from keywrap.filelocks import LOCKS_FOLDER, Held, hold, stripe_of
from keywrap.fileroot import Closing, OpenRoot, Place, Root
from keywrap.layout import RESERVED
from keywrap.stores import (
    AlreadyExistsError,
    ChangedError,
    Entry,
    NotAnObjectError,
    NotFoundError,
    Stored,
    StoreError,
    StoreUnavailableError,
    TooLargeError,
)

_LOCKS = tuple(LOCKS_FOLDER.rstrip("/").split("/"))
_OWN = (RESERVED.rstrip("/"),)

# NUL ends a path; half a surrogate pair is how Python spells a byte that is not UTF-8, and
# a backslash how `names` spells it, so that it would be another file.
_NOT_IN_NAMES = re.compile("[\0\\\\\ud800-\udfff]")
_NOT_A_SEGMENT = frozenset({"", ".", ".."})
_PLAIN_LEAF = re.compile("[A-Za-z0-9_-][A-Za-z0-9_.-]*")

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


@dataclass(frozen=True, slots=True)
class _StoredFile(Stored):
    """What one read of a file returned.

    Attributes:
        found: the file's status just before its bytes were read.
    """

    found: os.stat_result


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
        self._root = Root(root)
        self._root.open().leave()

    def check(self) -> None:
        """Tell a store that is away from an object that is; see `Store.check`."""
        with _Mapped(""), self._root.open() as root, os.scandir(root.file) as entries:
            next(entries, None)  # a dead network file system often opens, but lists not

    def held(self) -> AbstractContextManager[None]:
        """Keep the root and the locks' folder open for a batch; see `HoldingStore.held`."""
        return self._root.kept_open()

    def read(self, name: str, *, limit: int | None = None) -> Stored:
        """Read an object whole; see `Store.read`."""
        data, found = self._read(name, 0, None if limit is None else limit + 1)
        if limit is not None and len(data) > limit:
            raise TooLargeError(f"{name!r} has more than {limit} bytes", name=name)
        return _StoredFile(data, hashlib.sha256(data).hexdigest(), found)

    def read_range(self, name: str, start: int, length: int) -> bytes:
        """Read a part of an object; see `Store.read_range`.

        Raises:
            ValueError: `start` or `length` is negative.
        """
        if start < 0 or length < 0:
            raise ValueError("a range starts at 0 or later and has no negative length")
        return self._read(name, start, length)[0]

    def _read(self, name: str, start: int, length: int | None) -> tuple[bytes, os.stat_result]:
        with (
            _Mapped(name),
            self._place_of(name) as at,
            Closing(os.open(at.leaf, fileswap.READ, dir_fd=at.folder)) as file,
        ):
            found = os.fstat(file)  # first: what is written meanwhile is newer than this says
            if not stat.S_ISREG(found.st_mode):
                raise _no_object(name)
            return fileswap.read(file, start, length, found.st_size), found

    def create(self, name: str, data: bytes) -> None:
        """Create an object, durably and only if there is none; see `Store.create`."""
        self.create_from(name, (data,))

    def create_from(self, name: str, chunks: Iterable[bytes]) -> None:
        """Create an object of pieces as `create` does; see `StreamingStore.create_from`."""
        with (
            _Mapped(name),
            self._place_of(name, make=True) as at,
            fileswap.written(at.folder, chunks) as new,
            _Mapped(name, _UNKNOWN),
        ):
            try:
                # Crash before this: a temporary file is left, which `names` never shows.
                new.take_free_name(at.leaf)
            except FileExistsError:
                raise AlreadyExistsError(f"{name!r} is there already", name=name) from None
            # Crash before this: the name may or may not be there, the bytes under it are whole.
            os.fsync(at.folder)

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        """Replace an object, durably and only if unchanged; see `Store.replace`."""
        try:
            with _Mapped(name), self._place_of(name) as at:
                if isinstance(expected, _StoredFile):
                    like = expected.found
                else:
                    like = os.stat(at.leaf, dir_fd=at.folder, follow_symlinks=False)
                with fileswap.written(at.folder, (data,), like=like) as new:
                    replaced = self._swap(name, at, new, like, expected.data)
                    if replaced:
                        with _Mapped(name, _UNKNOWN):
                            os.fsync(at.folder)
                        # Crash before this: the old bytes stay, under the temporary name. They
                        # go only now that the new ones are sure to be found under theirs.
                        new.remove_displaced()
        except NotFoundError:
            replaced = False
        if not replaced:
            raise ChangedError(f"{name!r} is no longer what was read", name=name)

    def _swap(
        self,
        name: str,
        at: Place,
        new: fileswap.NewFile,
        like: os.stat_result,
        expected: bytes,
    ) -> bool:
        # The slow flush of the new bytes is over, and the folder's comes after: the lock is held
        # for moments only, and the disk flushes for many writers at once.
        with _locked(name, at.root):
            seen = os.stat(at.leaf, dir_fd=at.folder, follow_symlinks=False)
            if not fileswap.is_unchanged(seen, like):
                found = fileswap.matches(at.folder, at.leaf, expected)
                if found is None:
                    return False
                new.adopt(found)  # the bytes are the same, so it was touched or given away
            with _Mapped(name, _UNKNOWN):
                return new.take_name(at.leaf, expected)

    def delete(self, name: str) -> None:
        """Remove an object, durably; see `Store.delete`."""
        with suppress(NotFoundError), _Mapped(name), self._place_of(name) as at:
            # Under the lock, since the older way of `replace` would bring the name back.
            with _locked(name, at.root):
                found = os.stat(at.leaf, dir_fd=at.folder, follow_symlinks=False)
                if not stat.S_ISREG(found.st_mode):
                    raise _no_object(name)
                os.unlink(at.leaf, dir_fd=at.folder)
            with _Mapped(name, _UNKNOWN):
                os.fsync(at.folder)

    def look(self, name: str) -> Entry:
        """Say how large and old a file is; see `RemovingStore.look`.

        Its age is that of its inode's last change, which no program sets back, not that of its
        modification time, which copies and restores bring along.
        """
        with _Mapped(name), self._place_of(name) as at:
            return _entry(name, at)

    def remove(self, name: str, expected: Entry) -> bool:
        """Remove a file that is what was seen, durably; see `RemovingStore.remove`.

        A foreign writer that renames a file into its place within the microseconds between our
        last look and the removal loses it.
        """
        try:
            with _Mapped(name), self._place_of(name) as at:
                with _locked(name, at.root):
                    if _entry(name, at) != expected:
                        raise ChangedError(f"{name!r} is no longer what was seen", name=name)
                    os.unlink(at.leaf, dir_fd=at.folder)
                with _Mapped(name, _UNKNOWN):
                    os.fsync(at.folder)
        except NotFoundError:
            return False
        return True

    def names(self, prefix: str = "") -> Iterator[str]:
        """Yield the name of every object that starts with `prefix`; see `Store.names`.

        Links, pipes and the like are yielded too, so that nobody overlooks them; reading one
        raises `NotAnObjectError`. So are names that are not UTF-8 or have a backslash, spelled
        with backslash escapes; they cannot be read. The store's own corner is yielded only where
        the prefix lies in it.
        """
        with _Mapped(prefix):
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
        with _Mapped(""):
            now = self._now()
            for prefix in ("", RESERVED):
                for folder, _, leaf in self._entries(prefix):
                    if not fileswap.TEMPORARY.fullmatch(leaf):
                        continue
                    # Not by modification time: a displaced file keeps its old one.
                    with suppress(FileNotFoundError):
                        found = os.stat(leaf, dir_fd=folder, follow_symlinks=False)
                        if now - found.st_ctime >= older_than_s:
                            os.unlink(leaf, dir_fd=folder)
                            removed += 1
        return removed

    def _now(self) -> float:
        """Return the file system's time in seconds, of which all its files' ages are.

        That of a network file system is its server's. By our own clock, an hour ahead, the file
        of a live writer would look abandoned.
        """
        with self._root.open() as root, fileswap.written(root.inner(_OWN), ()) as new:
            return os.fstat(new.file).st_ctime

    def _place_of(self, name: str, *, make: bool = False) -> Place:
        *folders, leaf = _segments(name)
        return self._root.place(folders, leaf, make=make)

    def _entries(self, prefix: str) -> Iterator[tuple[int, str, str]]:
        """Yield descriptor of the folder, name and leaf of all that is no folder."""
        folders = [_first_folder(prefix)]
        while folders:
            path = folders.pop()
            try:
                folder = self._root.open_folder(path)
            except (FileNotFoundError, NotADirectoryError):
                continue  # it went away while we listed, or there is nothing with this prefix
            start = "".join(f"{_shown(inner)}/" for inner in path)
            with Closing(folder), os.scandir(folder) as entries:
                for entry in entries:
                    leaf = entry.name
                    name = start + _shown(leaf)
                    if not entry.is_dir(follow_symlinks=False):
                        yield folder, name, leaf
                    elif _may_hold(name + "/", prefix):
                        folders.append([*path, leaf])


class _Mapped:
    """Turns errors of the operating system into those of a store."""

    __slots__ = ("_name", "_outcome")

    def __init__(self, name: str, outcome: str = _UNCHANGED) -> None:
        self._name = name
        self._outcome = outcome

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            raise _store_error(error, self._name, self._outcome) from error


def _locked(name: str, root: OpenRoot) -> Held:
    try:
        return hold(root.inner(_LOCKS), stripe_of(name))
    except OSError as error:
        # Whatever is wrong with the locks, it is not this object that is wrong.
        raise StoreUnavailableError(
            f"the store's locks: {error.strerror}; {_UNCHANGED}", name=name
        ) from error


def _store_error(error: OSError, name: str, outcome: str) -> StoreError:
    if error.errno == errno.ENOENT:
        return NotFoundError(f"there is no {name!r}", name=name)
    if error.errno in _NO_OBJECT:
        return _no_object(name)
    return StoreUnavailableError(f"{name!r}: {error.strerror}; {outcome}", name=name)


def _entry(name: str, at: Place) -> Entry:
    found = os.stat(at.leaf, dir_fd=at.folder, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise _no_object(name)
    tag = f"{found.st_ino}-{found.st_mtime_ns}-{found.st_ctime_ns}"
    return Entry(found.st_size, tag, datetime.fromtimestamp(found.st_ctime, UTC))


def _no_object(name: str) -> NotAnObjectError:
    return NotAnObjectError(f"{name!r} names no plain file", name=name)


def _segments(name: str) -> list[str]:
    if _PLAIN_LEAF.fullmatch(name):
        return [name]  # nearly always so in one flat folder, and nothing that is refused below
    segments = name.split("/")
    if (
        not _NOT_A_SEGMENT.isdisjoint(segments)
        or _NOT_IN_NAMES.search(name)
        or fileswap.TEMPORARY.fullmatch(segments[-1])
        or name.startswith(LOCKS_FOLDER)
    ):
        raise _no_object(name)
    return segments


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


def _shown(name: str) -> str:
    """Spell a segment so that it is Unicode and no two segments are spelled alike."""
    if name.isascii() and "\\" not in name:
        return name
    return os.fsencode(name).replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")
