"""How a file gets new bytes at once: written beside it, flushed, then given its name.

Renames that are conditional need `renameat2` (rename(2), Linux since 3.15; ext4, XFS, Btrfs,
tmpfs and others). Where the kernel or the file system lacks it, the older ways are taken.
"""

import ctypes
import errno
import os
import re
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Self

TEMPORARY = re.compile(r"\.rewrap-tmp-[0-9a-f]{32}")
"""Names of files that are not yet, or no longer, under the name of an object."""

READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
"""Flags to open what may be no plain file: no link is followed, no pipe waited for."""

_WRITE_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE_MODE = 0o640
_CHUNK = 65_537

_NOREPLACE = 1  # linux/fs.h
_EXCHANGE = 2

# EINVAL: this file system does not know the flag. ENOSYS: the kernel does not know the call.
_NOT_IMPLEMENTED = frozenset({errno.EINVAL, errno.ENOSYS, errno.ENOTSUP})

_renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)


@dataclass(slots=True)
class NewFile:
    """A file whose bytes are durable, still under a temporary name.

    As a context manager it clears that name away in the end.

    Attributes:
        folder: descriptor of the folder.
        name: the temporary name in it.
        file: descriptor of the file, open so that no other file can take its inode number.
        is_temporary: whether the file may still be under the temporary name.
    """

    folder: int
    name: str
    file: int
    is_temporary: bool = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Clear the temporary name away, unless something else has it, and close the file."""
        try:
            if self.is_temporary:
                self._remove_own()
        finally:
            os.close(self.file)

    def take_free_name(self, leaf: str) -> None:
        """Take a name that is still free, in one atomic step.

        Raises:
            FileExistsError: the name is taken; nothing happened.
            OSError: as rename(2) or link(2).
        """
        try:
            _rename(self.folder, self.name, leaf, _NOREPLACE)
        except NotImplementedError:
            # The file has both names for a moment, the temporary one until the end.
            folder = self.folder
            os.link(self.name, leaf, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
        else:
            self.is_temporary = False

    def adopt(self, like: os.stat_result) -> None:
        """Take over the owner and permissions of another file.

        Raises:
            OSError: as fchmod(2) or fchown(2).
        """
        _adopt(self.file, like)

    def take_name(self, leaf: str, expected: bytes) -> bool:
        """Take over a name from a file, if that has the bytes expected.

        Args:
            leaf: the name.
            expected: the bytes that may be displaced.

        Returns:
            Whether it was taken over; if not, what a foreign writer put there is there still.

        Raises:
            FileNotFoundError: nothing has the name any more.
            OSError: the outcome is not known.
        """
        try:
            # One atomic step. Crash before it: the old file has the name; after it: the new one,
            # whose bytes are on the disk already. The other is under the temporary name.
            exchange(self.folder, self.name, leaf)
        except NotImplementedError:
            return self._overwrite(leaf, expected)
        if matches(self.folder, self.name, expected) is not None:
            self.is_temporary = False
            return True
        self._give_back(leaf)
        return False

    def _overwrite(self, leaf: str, expected: bytes) -> bool:
        """The older way: a foreign writer between the last look and the rename loses."""
        seen = matches(self.folder, leaf, expected)
        if seen is None or not is_unchanged(
            os.stat(leaf, dir_fd=self.folder, follow_symlinks=False), seen
        ):
            return False
        # One atomic step. Crash before it: the old file has the name; after it: the new one.
        os.replace(self.name, leaf, src_dir_fd=self.folder, dst_dir_fd=self.folder)
        self.is_temporary = False
        return True

    def _give_back(self, leaf: str) -> None:
        """Put what a foreign writer wrote back under its name.

        Yet another one may have renamed its file over ours meanwhile. It then is displaced by
        this very step and found in our place: it came last, so it must win, and so on.
        """
        put = os.fstat(self.file)
        while True:
            newest = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
            with suppress(FileNotFoundError):  # a foreign writer removed the name: it came last
                exchange(self.folder, self.name, leaf)
            found = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
            if os.path.samestat(found, put) or os.path.samestat(found, newest):
                break
            put = newest
        os.fsync(self.folder)

    def remove_displaced(self) -> None:
        """Remove what `take_name` displaced."""
        with suppress(OSError):  # the change is made and durable; `sweep` takes what stays
            os.unlink(self.name, dir_fd=self.folder)

    def _remove_own(self) -> None:
        """Remove the temporary name, but only while it still is this very file.

        After an exchange something else has that name, perhaps a foreign writer's only copy.
        """
        with suppress(OSError):
            found = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
            if os.path.samestat(found, os.fstat(self.file)):
                os.unlink(self.name, dir_fd=self.folder)


def written(folder: int, chunks: Iterable[bytes], *, like: os.stat_result | None = None) -> NewFile:
    """Write a new file durably, under a temporary name.

    Args:
        folder: descriptor of the folder.
        chunks: its bytes, in pieces; what taking them raises goes out.
        like: whose owner and permissions it takes over, so that nobody loses access.

    Raises:
        OSError: it cannot be written; no other file was touched.
    """
    name = f".rewrap-tmp-{os.urandom(16).hex()}"
    file = os.open(name, _WRITE_NEW, _NEW_FILE_MODE if like is None else 0o600, dir_fd=folder)
    new = NewFile(folder, name, file)
    try:
        if like is not None:
            _adopt(file, like)
        for chunk in chunks:
            view = memoryview(chunk)
            while view:
                view = view[os.write(file, view) :]
        os.fsync(file)
    except BaseException:
        new.close()
        raise
    return new


def _adopt(file: int, like: os.stat_result) -> None:
    own = os.fstat(file)
    if (own.st_uid, own.st_gid) != (like.st_uid, like.st_gid):
        try:
            os.fchown(file, like.st_uid, like.st_gid)
        except PermissionError:
            # Only root gives files away; in a shared folder the group is what grants access.
            os.fchown(file, -1, like.st_gid)
    os.fchmod(file, stat.S_IMODE(like.st_mode))


def matches(folder: int, name: str, expected: bytes) -> os.stat_result | None:
    """Return the status of a plain file if it has exactly the bytes expected, None if not.

    Raises:
        OSError: it cannot be read.
    """
    try:
        file = os.open(name, READ, dir_fd=folder)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ELOOP, errno.ENXIO}:  # gone, a link, a socket
            return None
        raise
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode) or found.st_size != len(expected):
            return None
        data = read(file, 0, len(expected) + 1, found.st_size)
        return found if data == expected else None
    finally:
        os.close(file)


def is_unchanged(found: os.stat_result, before: os.stat_result) -> bool:
    """Whether a file's status says that it is the same file, with the same bytes and permissions.

    Clocks of file systems tick in milliseconds (`CONFIG_HZ`): a write in place within the same
    tick is not seen.
    """
    return (
        found.st_ino == before.st_ino
        and found.st_ctime_ns == before.st_ctime_ns
        and found.st_mtime_ns == before.st_mtime_ns
        and found.st_size == before.st_size
        and found.st_dev == before.st_dev
        and stat.S_ISREG(found.st_mode)
    )


def read(file: int, start: int, length: int | None, size: int) -> bytes:
    """Read a part of a file.

    Args:
        file: its descriptor.
        start: the first byte to read.
        length: the most bytes to read; None to read to the end.
        size: how long the file was a moment ago.
    """
    # One byte more than there should be: who asks for it and does not get it has seen the end.
    asked = max(size - start, 0) + 1
    data = os.pread(file, asked if length is None else min(length, asked), start)
    if len(data) in {length, asked - 1}:
        return data
    return data + _read_on(file, start + len(data), None if length is None else length - len(data))


def _read_on(file: int, start: int, length: int | None) -> bytes:
    """Read until the end is seen: a network file system may hand out less than was asked for."""
    parts = []
    left = length
    while part := os.pread(file, _CHUNK if left is None else min(left, _CHUNK), start):
        parts.append(part)
        start += len(part)
        left = None if left is None else left - len(part)
    return b"".join(parts)


def exchange(folder: int, one: str, other: str) -> None:
    """Let two names of a folder change places in one atomic step.

    Raises:
        NotImplementedError: the kernel or the file system cannot; nothing happened.
        OSError: as rename(2); `FileNotFoundError` where either name is not there.
    """
    _rename(folder, one, other, _EXCHANGE)


def _rename(folder: int, old: str, new: str, flags: int) -> None:
    if _renameat2 is None:
        raise NotImplementedError("this system has no renameat2")
    if _renameat2(folder, os.fsencode(old), folder, os.fsencode(new), flags) == 0:
        return
    code = ctypes.get_errno()
    if code in _NOT_IMPLEMENTED:
        raise NotImplementedError(f"renameat2: {os.strerror(code)}")
    raise OSError(code, os.strerror(code))
