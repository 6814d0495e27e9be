"""A proxy before a real server that keeps back the answers to some writes."""

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import urlsplit

import pytest

from embedded.azurite import Azurite


class CuttingProxy:
    """Passes bytes on; an answer to a PUT may be read, kept back and the connection closed.

    Args:
        target: the URL of the server behind.

    Attributes:
        address: the URL to ask instead.
        cuts: how many answers were kept back.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self.cuts = 0
        self._target = (parts.hostname, parts.port)
        self._every = 0
        self._puts = 0
        self._lock = threading.Lock()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}{parts.path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, *, every: int) -> None:
        """Keep back the answer to every so many PUT."""
        with self._lock:
            self._every, self._puts = every, 0

    def stop(self) -> None:
        """Take no more connections."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._socket.accept()
                threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        with suppress(OSError), near, socket.create_connection(self._target) as far:
            while request := near.recv(65536):
                # A client waits for each answer before its next request, so what comes now is
                # the beginning of a request or the rest of one.
                loses = request.startswith(b"PUT ") and self._is_due()
                far.sendall(request)
                while not _is_whole(request):
                    more = near.recv(65536)
                    far.sendall(more)
                    request += more
                answer = _answer(far, has_body=not request.startswith(b"HEAD "))
                if loses:
                    return
                near.sendall(answer)

    def _is_due(self) -> bool:
        with self._lock:
            self._puts += 1
            due = bool(self._every) and self._puts % self._every == 0
            self.cuts += due
            return due


def _is_whole(message: bytes) -> bool:
    head, blank, body = message.partition(b"\r\n\r\n")
    if not blank:
        return False
    lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
    if not lengths and b"\r\ntransfer-encoding: chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    return len(body) >= (int(lengths[0].partition(b":")[2]) if lengths else 0)


def _answer(far: socket.socket, *, has_body: bool) -> bytes:
    answer = b""
    while not (_is_whole(answer) if has_body else b"\r\n\r\n" in answer):
        more = far.recv(65536)
        if not more:
            break
        answer += more
    return answer


@pytest.fixture
def cutting(azurite: Azurite) -> Iterator[CuttingProxy]:
    """A proxy before Azurite that keeps nothing back yet."""
    proxy = CuttingProxy(azurite.address)
    yield proxy
    proxy.stop()
