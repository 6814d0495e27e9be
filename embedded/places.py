"""Private directories, and addresses that stay the same from one start to the next."""

import hashlib
import os
import re
import socket
import stat
from pathlib import Path

from embedded.account import Account
from embedded.errors import EmbeddedError

MAX_SOCKET_PATH = 100
"""Bytes of a Unix socket's path that every system takes: 103 on macOS, 107 on Linux."""

_LONGEST_SOCKET_NAME = ".s.PGSQL.5432"
_PLAIN = re.compile(r"[A-Za-z0-9._/-]+")


def make_private(directory: Path, account: Account | None = None) -> Path:
    """Make a directory that only one account (and root) can enter, or check that it is one.

    Args:
        directory: the directory; its parents are made as well.
        account: whose it becomes; None for our own.

    Returns:
        The directory, absolute and without symbolic links.

    Raises:
        EmbeddedError: it exists and is someone else's, or others may enter it.
    """
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)
    status = directory.lstat()
    wanted = os.geteuid() if account is None else account.uid
    if not stat.S_ISDIR(status.st_mode) or status.st_uid not in (os.geteuid(), wanted):
        raise EmbeddedError(f"{directory} is not a directory of ours. Remove it or name another.")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise EmbeddedError(
            f"Others may enter {directory}, and its servers ask for no password."
            f" Run `chmod 700 {directory}`, or name another directory."
        )
    if account is not None:
        os.chown(directory, account.uid, account.gid)
    return directory.resolve()


def user_cache() -> Path:
    """Return the folder in this account's cache where programs are kept that were fetched.

    Raises:
        EmbeddedError: it is someone else's: what lies there would be run.
    """
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    directory = Path(base).expanduser() / "rewrap"
    if directory.is_dir() and directory.lstat().st_uid == os.geteuid():
        directory.chmod(0o700)  # whoever made it did not care
    return make_private(directory)


def socket_directory(directory: Path) -> Path:
    """Say where the Unix socket of a server in a directory belongs.

    That is the directory itself. Where its path is longer than a socket's may be, or has
    characters that would have to be quoted in a URL, it is a short one in /tmp, always the same.

    Args:
        directory: the server's directory, resolved.
    """
    path = str(directory)
    length = len(os.fsencode(directory / _LONGEST_SOCKET_NAME))
    if length <= MAX_SOCKET_PATH and _PLAIN.fullmatch(path):
        return directory
    digest = hashlib.sha256(f"{os.geteuid()}:{path}".encode()).hexdigest()[:16]
    # Not TMPDIR: processes that look for the same server may have different ones, or long ones.
    return Path("/tmp", f"rw-{digest}")  # noqa: S108 - make_private refuses a foreign one


def port_is_free(port: int) -> bool:
    """Tell whether a loopback port can be listened on.

    Args:
        port: the TCP port.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Find a free loopback port.

    Returns:
        A TCP port that nobody listened on a moment ago, nor on the one after it.
    """
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port_is_free(port + 1):
            return port


def write_private(path: Path, text: str) -> None:
    """Write a small file of mode 0600, whole or not at all.

    Args:
        path: the file.
        text: its new content.
    """
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(fresh, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    fresh.replace(path)
