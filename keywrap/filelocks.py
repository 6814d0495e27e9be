"""Locks that writers of a file store hold against each other, between threads and processes."""

import errno
import fcntl
import os
import time
import zlib
from dataclasses import dataclass
from threading import Lock
from typing import Self

LOCKS_FOLDER = ".rewrap/locks/"
"""Where the lock files lie, in the store itself, so that all its writers meet there."""

STRIPES = 64
"""How many locks share the names: a lock file for each blob would double the files."""

WAIT_S = 30.0
"""Longest wait. A lock is held for moments; its holder is stopped or its server is gone."""

_LOCK_FILE = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
_BUSY = frozenset({errno.EAGAIN, errno.EACCES})

# Beside flock, since NFS emulates that by locks that a process holds as a whole (flock(2)).
_THREADS = tuple(Lock() for _ in range(STRIPES))


def stripe_of(name: str) -> int:
    """Return the lock that guards a name."""
    return zlib.crc32(name.encode()) % STRIPES


@dataclass(frozen=True, slots=True)
class Held:
    """A lock that is held until the block ends that has this as its context manager.

    Attributes:
        stripe: which lock.
        file: descriptor of the lock file.
    """

    stripe: int
    file: int

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            # Not left to close: a child forked meanwhile has a copy of the descriptor.
            fcntl.flock(self.file, fcntl.LOCK_UN)
        finally:
            _let_go(self.stripe, self.file)


def hold(folder: int, stripe: int) -> Held:
    """Take a lock.

    Args:
        folder: descriptor of the folder of lock files.
        stripe: which lock.

    Raises:
        TimeoutError: another writer holds it for longer than `WAIT_S`.
        OSError: the lock file cannot be used.
    """
    until = time.monotonic() + WAIT_S
    if not _THREADS[stripe].acquire(timeout=WAIT_S):
        raise TimeoutError(errno.ETIMEDOUT, _held())
    file = None
    try:
        # Opened anew each time, for 7 of some 60 µs. A descriptor that is kept would be shared
        # over a fork: parent and child would both hold the lock, and the child's copy would keep
        # it for a parent that was killed. Nor would it follow a folder of locks made anew.
        file = os.open(f"{stripe:02d}", _LOCK_FILE, 0o660, dir_fd=folder)
        take(file, until, _held())
    except BaseException:
        _let_go(stripe, file)
        raise
    return Held(stripe, file)


def _let_go(stripe: int, file: int | None) -> None:
    try:
        if file is not None:
            os.close(file)
    finally:
        _THREADS[stripe].release()


def take(file: int, until: float, held: str) -> None:
    """Take the exclusive lock (flock) of an open file.

    Args:
        file: its descriptor.
        until: when to give up, by `time.monotonic`; it is tried once in any case.
        held: the message of the error where another one holds it.

    Raises:
        TimeoutError: another one held it until then.
        OSError: it cannot be locked.
    """
    pause = 0.0002
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in _BUSY:
                raise
        else:
            return
        if time.monotonic() > until:
            raise TimeoutError(errno.ETIMEDOUT, held)
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def _held() -> str:
    return f"another writer holds the store's lock for {WAIT_S:g} s"
