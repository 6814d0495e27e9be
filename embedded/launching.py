"""How one server program becomes a child process."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from embedded.account import Account

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True, slots=True)
class Program:
    """What to start.

    Attributes:
        argv: the command line; never a secret in it, since every user can list processes.
        environment: variables on top of a minimal environment; ours may hold keys.
        account: the account to run under, None for our own.
        keeps_stdout: False where stdout would bring a secret into the log.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    account: Account | None = None
    keeps_stdout: bool = True


def launch(
    program: Program, log: Path, lock: int, death_signal: signal.Signals | None
) -> subprocess.Popen[bytes]:
    """Start a program in the directory of its log.

    Args:
        program: what to start.
        log: the file that its output is appended to (mode 0600).
        lock: descriptor of its lock file, which gets its pid; it holds the lock from now on.
        death_signal: what it gets when the calling thread ends (Linux only), None for nothing.

    Returns:
        The child process.
    """
    account = program.account
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    with os.fdopen(os.open(log, flags, 0o600), "ab") as output:
        return subprocess.Popen(  # noqa: S603 - our own command line
            program.argv,
            stdin=subprocess.DEVNULL,
            stdout=output if program.keeps_stdout else subprocess.DEVNULL,
            stderr=output,
            cwd=log.parent,
            env=minimal_environment(log.parent) | dict(program.environment),
            pass_fds=(lock,),
            # A session of its own: Ctrl-C in the terminal reaches our process only.
            start_new_session=True,
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else (),
            preexec_fn=_in_child(lock, death_signal),  # noqa: PLW1509 - system calls only
        )


def minimal_environment(home: Path) -> dict[str, str]:
    """What a server sees of our environment: nothing, for that may hold keys and settings.

    Args:
        home: the server's directory.

    Returns:
        Variables for the child process.
    """
    path = f"{os.defpath}:/usr/sbin:/sbin"
    return {"PATH": path, "HOME": str(home), "LC_ALL": "C", "TZ": "UTC"}


def end_with_parent(death_signal: signal.Signals) -> Callable[[], None]:
    """Make a `preexec_fn` that lets a child end when the thread that starts it does.

    Even by SIGKILL, but on Linux only; elsewhere it does nothing.

    Args:
        death_signal: what the child gets then.
    """
    parent = os.getpid()

    def follow() -> None:
        if _libc is None:
            return
        _libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        # Had our parent died before the line above, no signal would ever come.
        if os.getppid() != parent:
            os._exit(1)

    return follow


def _in_child(lock: int, death_signal: signal.Signals | None) -> Callable[[], None]:
    """Make what the child does between fork and exec; no Python lock may be needed there."""
    follow = end_with_parent(death_signal) if death_signal is not None else None

    def prepare() -> None:
        # The child writes its own pid: at no moment does it live unnamed.
        os.ftruncate(lock, 0)
        os.pwrite(lock, b"%d\n" % os.getpid(), 0)
        if follow is not None:
            follow()

    return prepare
