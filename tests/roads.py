"""A road to a server that a test can slow down or tear up: a TCP relay on the loopback."""

import contextlib
import socket
import threading
import time
from urllib.parse import urlsplit

_CHUNK = 65_536


class Road:
    """Relays a loopback port to a server.

    Args:
        address: the server's URL.

    Attributes:
        delay_s: how long each request is held up; may be changed at any time.
    """

    def __init__(self, address: str) -> None:
        self._server = ("127.0.0.1", urlsplit(address).port or 0)
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._port = 0
        self.delay_s = 0.0
        self.restore()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def restore(self) -> None:
        """Listen, on the same port as before."""
        if self._listener is not None:
            return
        listener = socket.create_server(("127.0.0.1", self._port), reuse_port=False)
        self._port = int(listener.getsockname()[1])
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def tear_up(self) -> None:
        """Refuse connections from now on, and break those that stand."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            for end in self._ends:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            with socket.create_connection(self._server) as server:
                with self._lock:
                    self._ends |= {client, server}
                back = threading.Thread(target=self._pump, args=(server, client))
                back.start()
                self._pump(client, server, slowed=True)
                back.join()
            with self._lock:
                self._ends -= {client, server}

    def _pump(self, source: socket.socket, sink: socket.socket, *, slowed: bool = False) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(_CHUNK):
                if slowed:
                    time.sleep(self.delay_s)
                sink.sendall(chunk)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
