"""A request to KMS and its answer over one connection: HTTP/1.1, as RFC 9112 has it.

Answers are parsed by httptools (Node.js's llhttp); `http.client` connects. One request is one
write: head and body apart would be two packets, and wake KMS twice.
"""

import socket
import ssl
import time
from collections.abc import Mapping
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException, HTTPSConnection

import httptools
from urllib3.util.wait import wait_for_read

MAX_ANSWER_BYTES = 64 * 1024
"""Head and body; far above any answer: a plaintext has 4,096 bytes, a wrap 6,144."""

_IDLE_S = 4.0
"""A connection that was idle for longer is not used again: KMS may have closed it by now."""

_RECEIVE_BYTES = 16 * 1024


class Reply:
    """An answer, filled by httptools while it parses.

    Attributes:
        status: of HTTP.
        headers: names in lower case.
        is_whole: whether it has come to its end.
        is_last: whether the connection is closed after it.
    """

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.is_whole = False
        self.is_last = False
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take what came.

        Raises:
            http.client.HTTPException: it is not HTTP, or not one answer.
        """
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise HTTPException("the answer is not one of HTTP") from None

    @property
    def body(self) -> bytes:
        """The whole body."""
        return b"".join(self._body)

    # What httptools calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """Read the status; there is one answer to a request, and none before it."""
        self.status = self._parser.get_status_code()
        self.is_last = not self._parser.should_keep_alive()
        if self.is_whole or self.status < HTTPStatus.OK:
            raise HTTPException("there is more than one answer")

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        self._body.append(data)

    def on_message_complete(self) -> None:
        """Note that it is whole."""
        self.is_whole = True


class Connection:
    """Asks one host. For one thread.

    Args:
        host: with its port, where it is not the scheme's own.
        connect_s: how long connecting may take, in seconds.
        answer_s: how long each read of an answer may take, in seconds.
        tls: None sends in clear.
    """

    def __init__(
        self, host: str, connect_s: float, answer_s: float, tls: ssl.SSLContext | None
    ) -> None:
        self._answer_s = answer_s
        self._used_at = 0.0
        self._http = (
            HTTPConnection(host, timeout=connect_s)
            if tls is None
            else HTTPSConnection(host, timeout=connect_s, context=tls)
        )

    def __del__(self) -> None:
        self.close()  # the thread that had it is over

    def close(self) -> None:
        """Close it; the next request opens it again."""
        self._http.close()

    def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Send a request, once, and return its answer.

        Raises:
            OSError, http.client.HTTPException: there is no answer, or none that can be used.
        """
        try:
            self._open()
            self._http.sock.sendall(_request(path, headers, body))
            reply = self._receive()
        except BaseException:
            # What is left on the way would be taken for the answer to the next request. And after
            # a handshake that failed there is a socket yet: in clear, and to somebody else.
            self.close()
            raise
        self._used_at = time.monotonic()
        return reply

    def _open(self) -> None:
        if self._http.sock is not None and (
            time.monotonic() - self._used_at > _IDLE_S or _has_more(self._http.sock)
        ):
            self.close()
        if self._http.sock is None:
            self._connect()

    def _connect(self) -> None:
        self._http.connect()
        self._http.sock.settimeout(self._answer_s)

    def _receive(self) -> Reply:
        reply = Reply()
        received = 0
        while not reply.is_whole:
            data = self._http.sock.recv(_RECEIVE_BYTES)
            received += len(data)
            if not data:
                raise HTTPException("the connection ended before the answer did")
            if received > MAX_ANSWER_BYTES:
                raise HTTPException("the answer is longer than any of KMS")
            reply.feed(data)
        if reply.is_last:
            self.close()
        return reply


def _has_more(sock: socket.socket) -> bool:
    """Whether something came that nobody asked for, or the end of the connection."""
    pending = sock.pending() if isinstance(sock, ssl.SSLSocket) else 0
    return bool(pending) or wait_for_read(sock, timeout=0.0)


def _request(path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """Return a request as it is sent.

    Raises:
        http.client.HTTPException: a header would end before its end, such as a session token with
            a line break in the environment.
    """
    lines = [f"{name}: {text}" for name, text in headers.items()]
    if any("\n" in line or "\r" in line for line in lines):
        raise HTTPException("a header has a line break")
    head = "\r\n".join((f"POST {path} HTTP/1.1", *lines, f"Content-Length: {len(body)}", "", ""))
    return head.encode("latin-1") + body
