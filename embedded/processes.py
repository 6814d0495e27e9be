"""Server processes: one per directory, found again by any process of ours."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from embedded import locks
from embedded.errors import EmbeddedError
from embedded.launching import Program, launch

POLL_S = 0.02
"""Seconds between two looks at a server that starts or stops."""

GRACE_S = 20.0
"""Seconds that a server has to shut down in good order before it is killed."""

_children: list[subprocess.Popen[bytes]] = []
"""Servers that this process started and has not reaped; they may outlive the object for them."""


class ServerProcess:
    """The one server of its kind in a directory, whoever started it.

    `NAME.lock` holds its pid, and the server and all of its children hold that file's lock.
    `NAME.owner` is locked by the process that may stop it. `NAME.log` is its output.

    Args:
        directory: where the server lives, private to it.
        name: what it is, such as `redis`.
        stop_signal: what asks it to shut down in good order.
    """

    def __init__(
        self, directory: Path, name: str, stop_signal: signal.Signals = signal.SIGTERM
    ) -> None:
        self._directory = directory
        self._name = name
        self._stop_signal = stop_signal
        self._log = directory / f"{name}.log"
        self._lock = directory / f"{name}.lock"
        self._owner = directory / f"{name}.owner"
        self._ownership: int | None = None

    @property
    def is_alive(self) -> bool:
        """Whether the server, or any child of it, lives."""
        return locks.is_held(self._lock)

    @property
    def is_owned(self) -> bool:
        """Whether it is for this object to stop the server."""
        return self._ownership is not None

    @property
    def last_pid(self) -> int | None:
        """The pid of the server that was started last, dead or alive; None before the first."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return int(self._lock.read_text(encoding="ascii"))
        return None

    def bring_up(
        self,
        prepare: Callable[[], Program],
        is_ready: Callable[[], bool],
        *,
        timeout_s: float,
        supervised: bool = False,
        attempts: int = 1,
    ) -> None:
        """Start the server unless it runs already, and wait until it answers.

        We become its owner, unless a living process is.

        Args:
            prepare: makes the program to start; called only while no server lives here.
            is_ready: whether the server answers; asked only while one lives here.
            timeout_s: seconds to wait for that.
            supervised: the server ends when the calling thread does, even by SIGKILL (Linux only).
            attempts: how often to start it when it ends at once.

        Raises:
            EmbeddedError: it ended, or did not answer in time.
        """
        if supervised and threading.current_thread() is not threading.main_thread():
            raise EmbeddedError(
                "A supervised server ends together with the thread that started it."
                " Start it from the main thread, or with supervised=False."
            )
        self._ownership = self._ownership or locks.take(self._owner)
        try:
            self._launch_until(is_ready, prepare, timeout_s, attempts, supervised=supervised)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server if it is for us to stop; when it is stopped already, do nothing."""
        if self._ownership is None:
            return
        self._end()
        os.close(self._ownership)
        self._ownership = None

    def _launch_until(
        self,
        is_ready: Callable[[], bool],
        prepare: Callable[[], Program],
        timeout_s: float,
        attempts: int,
        *,
        supervised: bool,
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not (self.is_alive and is_ready()):
            if time.monotonic() > deadline:
                self._give_up(f"did not answer within {timeout_s:.0f} s")
            lock = locks.take(self._lock)
            if lock is None:
                time.sleep(POLL_S)
                continue
            try:
                if attempts == 0:
                    self._give_up("ended while it started")
                attempts -= 1
                death_signal = self._stop_signal if supervised else None
                _children.append(launch(prepare(), self._log, lock, death_signal))
            finally:
                os.close(lock)

    def _give_up(self, what: str) -> NoReturn:
        tail = self._log.read_text(errors="replace").splitlines()[-5:] if self._log.exists() else []
        raise EmbeddedError(
            f"The embedded {self._name} in {self._directory} {what}. Read {self._log}, mend that"
            " and start again. Its last lines:" + "".join(f"\n  {line}" for line in tail)
        )

    def _end(self) -> None:
        deadline = time.monotonic() + GRACE_S
        self._signal(self._stop_signal)
        killed = False
        while self.is_alive:
            if not killed and time.monotonic() > deadline:
                self._signal(signal.SIGKILL)
                killed = True
            time.sleep(POLL_S)
        _reap(self.last_pid)

    def _signal(self, number: signal.Signals) -> None:
        pid = self.last_pid
        if pid is not None and self.is_alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def _reap(ended: int | None) -> None:
    """Forget the children that have ended; wait for the one that must have."""
    for child in tuple(_children):
        if child.pid == ended:
            child.wait()
        if child.poll() is not None:
            _children.remove(child)
