"""Locks that writers of a file store hold against each other, between threads and processes."""

import errno
import fcntl
import os
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock

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


@contextmanager
def held(folder: int, stripe: int) -> Iterator[None]:
    """Hold a lock for as long as the block runs.

    Args:
        folder: descriptor of the folder of lock files.
        stripe: which lock.

    Raises:
        TimeoutError: another writer holds it for longer than `WAIT_S`.
        OSError: the lock file cannot be used.
    """
    until = time.monotonic() + WAIT_S
    if not _THREADS[stripe].acquire(timeout=WAIT_S):
        raise _timeout()
    try:
        # Opened anew each time: a descriptor inherited over a fork would share the lock.
        file = os.open(f"{stripe:02d}", _LOCK_FILE, 0o660, dir_fd=folder)
        try:
            _wait(file, until)
            try:
                yield
            finally:
                # Not left to close: a child forked meanwhile has a copy of the descriptor.
                fcntl.flock(file, fcntl.LOCK_UN)
        finally:
            os.close(file)
    finally:
        _THREADS[stripe].release()


def _wait(file: int, until: float) -> None:
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
            raise _timeout()
        time.sleep(pause)
        pause = min(pause * 2, 0.02)


def _timeout() -> TimeoutError:
    return TimeoutError(errno.ETIMEDOUT, f"another writer holds the store's lock for {WAIT_S:g} s")
