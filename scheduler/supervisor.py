"""Keeping the processes of one node alive: what died is started again."""

import logging
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from embedded.launching import end_with_parent
from scheduler.stopping import Stop

logger = logging.getLogger(__name__)

_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_GRACE_S = 30.0
_POLL_S = 0.5
_STEADY_S = 20.0
_MAX_DELAY_S = 10.0


@dataclass(slots=True)
class Service:
    """One process of ours.

    Attributes:
        name: what it is called in messages and log files.
        argv: its command line; no secret in it.
        environment: its environment, secrets included.
        log: where its output goes.
    """

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restarts: int = 0
    start_after: float = 0.0

    def keep(self) -> None:
        """Start the process, unless it lives or died so soon that it has to wait a little."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            if now - self.started_at > _STEADY_S:
                self.restarts = 0
            return
        if self.process is not None:
            self._note_death(self.process.returncode, now)
        if now < self.start_after:
            return
        with os.fdopen(os.open(self.log, _APPEND, 0o600), "ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 - our own command line
                self.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(self.environment),
                start_new_session=True,  # Ctrl-C reaches the supervisor only
                preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - system calls only
            )
        self.started_at = now

    def _note_death(self, code: int, now: float) -> None:
        delay_s = min(_MAX_DELAY_S, 0.5 * 2**self.restarts) if self.restarts else 0.0
        logger.warning(
            "%s ended (%d); starting it again. Its log: %s",
            self.name,
            code,
            self.log,
            extra={"event": "process_ended"},
        )
        self.process = None
        self.restarts += 1
        self.start_after = now + delay_s

    def ask_to_end(self) -> None:
        """Send SIGTERM to a process that lives."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait(self, until: float) -> None:
        """Wait for the end, and kill the whole session of a process that does not end."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            logger.warning(
                "%s did not end in time and was killed",
                self.name,
                extra={"event": "process_killed"},
            )
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


Server = Callable[[], object]
"""Starts an embedded server unless it runs."""


def supervise(servers: Sequence[Server], services: Sequence[Service], stop: Stop) -> None:
    """Keep servers and services alive until `stop` is set, then end the services in good order.

    Call it from the main thread: the processes end with the thread that started them.

    Args:
        servers: what the services need.
        services: our processes, in the order in which they start and end.
        stop: set when it is time to end.
    """
    try:
        while not stop.is_set():
            for start in servers:
                start()
            for service in services:
                service.keep()
            stop.wait(_POLL_S)
    finally:
        for service in services:
            service.ask_to_end()
        until = time.monotonic() + _GRACE_S
        for service in services:
            service.wait(until)
