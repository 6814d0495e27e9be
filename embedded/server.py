"""What the embedded servers have in common: each lives in a directory, and is found there again."""

import contextlib
import signal
from pathlib import Path
from typing import ClassVar, Self

from embedded.places import socket_directory
from embedded.processes import ServerProcess


class Server:
    """A server in a directory; `start` of its class starts one."""

    _NAME: ClassVar[str]
    _STOP_SIGNAL: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process = ServerProcess(directory, self._NAME, self._STOP_SIGNAL)

    @classmethod
    def running(cls, directory: Path) -> Self | None:
        """Attach to the server of a directory.

        Args:
            directory: where it keeps its data.

        Returns:
            The server, which `stop` then leaves alone; None when none answers.
        """
        server = cls(directory.resolve())
        return server if server._process.is_alive and server._answers() else None

    def stop(self) -> None:
        """Stop the server in good order, if we own it; again or otherwise, do nothing."""
        self._process.stop()

    def _answers(self) -> bool:
        """Whether it answers; asked only while it lives."""
        raise NotImplementedError


class SocketServer(Server):
    """A server that listens on a Unix socket and on no port."""

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self._sockets = socket_directory(directory)

    def stop(self) -> None:
        """Stop the server in good order, if we own it; again or otherwise, do nothing."""
        owned = self._process.is_owned
        super().stop()
        if owned and self._sockets != self._directory:
            with contextlib.suppress(OSError):  # a killed server leaves its socket there
                self._sockets.rmdir()
