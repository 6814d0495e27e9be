"""HTTP/1.1 as a server speaks it: keep-alive, pipelining, chunked bodies, `100-continue`.

RFC 9112; parsed by httptools.
"""

import asyncio
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import cast

import httptools

MAX_BODY_BYTES = 64 * 1024 * 1024
"""Above anything that tests send; a plain upload to S3 may have 5 GiB."""

_REASONS = {status.value: status.phrase.encode() for status in HTTPStatus}


@lru_cache(maxsize=1024)
def _name(name: bytes) -> str:
    return name.decode("latin-1").lower()


@dataclass(slots=True)
class Request:
    """A request that came in whole.

    Attributes:
        target: path and query as they came, such as `/bucket/key?x-id=GetObject`.
        headers: names in lower case.
        body: the whole body.
        method: of HTTP.
        keep_alive: whether the connection stays open after the answer.
    """

    target: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    method: str = ""
    keep_alive: bool = True


Response = tuple[int, Mapping[str, str], bytes]
"""Status, headers and body; status 0 closes the connection without an answer."""

CLOSED: Response = (0, {}, b"")
"""No answer at all."""

Answerer = Callable[[Request], Response | Awaitable[Response]]
"""Answers one request, now or later. Answers of a connection keep the order of its requests."""


class HttpConnection(asyncio.Protocol):
    """One connection.

    Args:
        answer: answers its requests.
    """

    def __init__(self, answer: Answerer) -> None:
        self._answer = answer
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._waiting: deque[Request] = deque()
        self._later: asyncio.Task[None] | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, _error: Exception | None) -> None:
        """Forget what nobody waits for any more."""
        self._transport = None
        if self._later is not None:
            self._later.cancel()

    def data_received(self, data: bytes) -> None:
        """Take what came in."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._send(Request(keep_alive=False), (HTTPStatus.BAD_REQUEST, {}, b""))

    # What httptools calls while it parses.

    def on_message_begin(self) -> None:
        """A request begins."""
        self._request = Request()
        self._body.clear()
        self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """Its target, perhaps in pieces."""
        self._request.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """One of its headers."""
        self._request.headers[_name(name)] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        """All of its headers."""
        if self._request.headers.get("expect", "").lower() == "100-continue" and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        """A piece of its body."""
        self._body_bytes += len(body)
        if self._body_bytes > MAX_BODY_BYTES:
            self._send(Request(keep_alive=False), (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, {}, b""))
            return
        self._body.append(body)

    def on_message_complete(self) -> None:
        """Its end: answer it, after those that came before it."""
        request = self._request
        request.body = b"".join(self._body)
        request.method = self._parser.get_method().decode("ascii")
        request.keep_alive = self._parser.should_keep_alive()
        if self._later is not None:
            self._waiting.append(request)
            return
        answer = self._answer(request)
        if isinstance(answer, tuple):
            self._send(request, answer)
        else:
            self._later = asyncio.ensure_future(self._answer_later(request, answer))

    async def _answer_later(self, request: Request, answer: Awaitable[Response]) -> None:
        with suppress(asyncio.CancelledError):
            self._send(request, await answer)
            while self._waiting:
                request = self._waiting.popleft()
                following = self._answer(request)
                self._send(request, following if isinstance(following, tuple) else await following)
            self._later = None

    def _send(self, request: Request, response: Response) -> None:
        if self._transport is None:
            return
        status, headers, body = response
        if not status:
            self._transport.close()
            self._transport = None
            return
        lines = [b"HTTP/1.1 %d %b\r\n" % (status, _REASONS.get(status, b""))]
        lines += [f"{name}: {value}\r\n".encode("latin-1") for name, value in headers.items()]
        if status != HTTPStatus.NO_CONTENT:
            lines.append(b"content-length: %d\r\n" % len(body))
        if not request.keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        if request.method != "HEAD":
            lines.append(body)
        self._transport.write(b"".join(lines))
        if not request.keep_alive:
            self._transport.close()
            self._transport = None


async def serve(answer: Answerer, port: int) -> None:
    """Serve on 127.0.0.1 until SIGTERM or SIGINT; print `READY` and the URL once it listens.

    Args:
        answer: answers every request.
        port: of 127.0.0.1; 0 for a free one.
    """
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await loop.create_server(
        lambda: HttpConnection(answer), "127.0.0.1", port, backlog=1024
    )
    bound = server.sockets[0].getsockname()[1]
    sys.stdout.write(f"READY http://127.0.0.1:{bound}\n")
    sys.stdout.flush()
    await stopped.wait()
    server.close()
