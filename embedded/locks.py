"""Locks that the kernel lets go of when their holder dies, however it dies.

A pid file cannot tell a live server from a recycled pid or a zombie that nobody reaps. A `flock`
can: a child inherits it and holds it, together with all of its own children, until the last one
is dead.
"""

import fcntl
import os
from pathlib import Path


def take(path: Path) -> int | None:
    """Take the lock on a file, making the file (mode 0600) if need be.

    Args:
        path: the lock file.

    Returns:
        A descriptor that holds the lock until it and all its inherited copies are closed, or None
        while someone else holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def is_held(path: Path) -> bool:
    """Tell whether anyone holds the lock, without making the file.

    Args:
        path: the lock file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        # Shared: two processes that only look must not take each other for the holder.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
