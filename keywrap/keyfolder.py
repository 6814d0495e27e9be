"""Where a file of local keys lies: reading it, and changing it under a lock.

A change writes a new file durably and renames it over the old one, so a crash leaves the one or
the other, whole. All writers hold a lock file beside it. For a local file system: on NFS, a
reader may see a change seconds late.
"""

import errno
import fcntl
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from keywrap.filelocks import take
from keywrap.fileswap import READ, NewFile
from keywrap.keyfile import MAX_FILE_BYTES, BadKeyFileError, KeyFile
from keywrap.keys import KeyVersion
from keywrap.kms import DeniedError, KmsError, UnavailableError

WAIT_S = 30.0
"""Longest wait for the lock. It is held for moments; its holder is stopped."""

_LOCK = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MODE = 0o600

Stamp = tuple[int, ...]
"""What differs between two states of the file: device, inode, size, times."""


class KeyFolder:
    """The folder that a key file lies in.

    Args:
        path: the key file.
        key: URI of its KEK, for errors.
    """

    def __init__(self, path: Path | str, key: str) -> None:
        self._path = os.path.abspath(path)  # noqa: PTH100 - `Path.resolve` follows links
        self._file = Path(self._path)
        self._folder, self._leaf = os.path.split(self._path)
        self._key = key

    def stamp(self) -> Stamp:
        """Return the file's stamp now.

        Raises:
            DeniedError, UnavailableError: there is no file that can be used.
        """
        try:
            return _stamp(self._file.stat(follow_symlinks=False))
        except OSError as error:
            raise self._error(error, "read") from error

    def read(self) -> tuple[KeyFile, Stamp]:
        """Read the file, with the stamp of exactly what was read.

        Raises:
            DeniedError: it is missing, malformed, of another key, or others could read it.
            UnavailableError: it cannot be read now.
        """
        try:
            file = os.open(self._path, READ)
        except OSError as error:
            raise self._error(error, "read") from error
        try:
            found = os.fstat(file)
            self._check(found)
            data = _read(file)
        except OSError as error:
            raise self._error(error, "read") from error
        finally:
            os.close(file)
        return self._parse(data), _stamp(found)

    def _check(self, found: os.stat_result) -> None:
        """See that nobody else could have read or written the keys."""
        if not stat.S_ISREG(found.st_mode):
            raise self._insecure("is no regular file")
        if found.st_uid not in {0, os.geteuid()}:
            raise self._insecure(
                f"belongs to user {found.st_uid}, and this process is user {os.geteuid()}: "
                "a key file belongs to the user that uses it, or to root"
            )
        if stat.S_IMODE(found.st_mode) & 0o077:
            raise self._insecure(
                f"has mode {stat.S_IMODE(found.st_mode):04o}, so others have access to the keys: "
                f"chmod 600 {self._path}"
            )

    def _parse(self, data: bytes) -> KeyFile:
        try:
            file = KeyFile.parse(data)
        except BadKeyFileError as error:
            raise self._denied(f"is malformed: {error}", "key_file_malformed") from None
        if f"local:{file.key}" != self._key:
            raise self._denied(f"holds the key {file.key!r}", "key_file_of_another_key")
        return file

    def change(self, edit: Callable[[KeyFile], KeyFile]) -> tuple[KeyFile, Stamp]:
        """Replace the file by an edited one, under the lock.

        Args:
            edit: makes the new file from the one that is there now; what it raises goes out, and
                then nothing is written.

        Raises:
            DeniedError: as `read`, or it cannot be written.
            UnavailableError: it cannot be written now; the old file or the new one is there.
        """
        with self._locked() as folder:
            file, stamp = self.read()
            edited = edit(file)
            try:
                with self._written(folder, edited) as new:
                    # Strictly growing, or a file of the same size that took a freed inode number
                    # within one tick of the clock could be taken for the one before the last.
                    now = max(time.time_ns(), stamp[3] + 1)
                    os.utime(new.file, ns=(now, now))
                    # One atomic step. Crash before it: the old file; after it: the new one, whose
                    # bytes are on the disk already.
                    os.replace(new.name, self._leaf, src_dir_fd=folder, dst_dir_fd=folder)
                    new.is_temporary = False
                    os.fsync(folder)
                    return edited, _stamp(os.fstat(new.file))
            except OSError as error:
                raise self._error(error, "written") from error

    def create(self, file: KeyFile) -> None:
        """Write a new key file.

        Raises:
            FileExistsError: there is a file already; it is unchanged.
            DeniedError, UnavailableError: it cannot be written.
        """
        with self._locked() as folder:
            try:
                with self._written(folder, file) as new:
                    new.take_free_name(self._leaf)
                    os.fsync(folder)
            except FileExistsError:
                raise FileExistsError(errno.EEXIST, "there is a file already", self._path) from None
            except OSError as error:
                raise self._error(error, "written") from error

    def _written(self, folder: int, content: KeyFile) -> NewFile:
        """Write a file durably, under the one temporary name that the lock guards."""
        name, data = f".{self._leaf}.new", content.to_bytes()
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)  # a crash left it
        new = NewFile(folder, name, os.open(name, _NEW, _MODE, dir_fd=folder))
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(new.file, view) :]
            os.fsync(new.file)
        except BaseException:
            new.close()
            raise
        return new

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Hold the lock; yields a descriptor of the folder."""
        try:
            folder = os.open(self._folder, _FOLDER)
        except OSError as error:
            raise self._error(error, "written") from error
        try:
            lock = self._lock(folder)
            try:
                yield folder
            finally:
                # Not left to close: a child forked meanwhile has a copy of the descriptor.
                fcntl.flock(lock, fcntl.LOCK_UN)
                os.close(lock)
        finally:
            os.close(folder)

    def _lock(self, folder: int) -> int:
        try:
            lock = os.open(f".{self._leaf}.lock", _LOCK, _MODE, dir_fd=folder)
        except OSError as error:
            raise self._error(error, "written") from error
        try:
            held = f"is locked for over {WAIT_S:g} s"
            take(lock, time.monotonic() + WAIT_S, held)
        except BaseException as error:
            os.close(lock)
            if isinstance(error, TimeoutError):
                raise self._unavailable(held, "key_file_locked") from None
            if isinstance(error, OSError):  # a network file system without locks
                raise self._error(error, "written") from error
            raise
        return lock

    def _error(self, error: OSError, done: str) -> KmsError:
        """Map what the operating system says; `done` is what cannot be done: read or written."""
        why = error.strerror or "input/output error"
        if error.errno == errno.ENOENT:
            missing = "is not there" if done == "read" else "has no folder to lie in"
            return self._denied(missing, "key_file_missing")
        if error.errno == errno.ELOOP:
            return self._insecure("is a link: name the file itself")
        if done == "written" and error.errno in {errno.EROFS, errno.EACCES, errno.EPERM}:
            return self._denied(
                f"cannot be written ({why}): it opens wraps, but a new wrap is counted in it, so "
                "this process needs to write to it and its folder",
                "key_file_read_only",
            )
        if error.errno in {errno.EACCES, errno.EPERM}:
            return self._denied(f"cannot be read: {why}", "permission_denied")
        return self._unavailable(f"cannot be {done}: {why}", "key_file_unavailable")

    def _insecure(self, what: str) -> DeniedError:
        return self._denied(what, "key_file_insecure")

    def _denied(self, what: str, reason_code: str) -> DeniedError:
        return DeniedError.about(self._key, f"the key file {self._path} {what}", reason_code)

    def _unavailable(self, what: str, reason_code: str) -> UnavailableError:
        return UnavailableError.about(self._key, f"the key file {self._path} {what}", reason_code)


def create_key_file(path: Path | str, name: str) -> KeyVersion:
    """Make a KEK in a new file, and return its first version.

    Args:
        path: where; the folder must be there.
        name: the key's name; its URI is `local:<name>`.

    Raises:
        ValueError: the key cannot have that name.
        FileExistsError: there is a file already; it is unchanged.
        DeniedError, UnavailableError: it cannot be written.
    """
    file = KeyFile.new(name)
    KeyFolder(path, f"local:{name}").create(file)
    return file.name_of(file.newest)


def _stamp(found: os.stat_result) -> Stamp:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _read(file: int) -> bytes:
    parts = []
    left = MAX_FILE_BYTES + 1  # a byte too many is no JSON of ours and is refused as malformed
    while left and (part := os.read(file, left)):
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
