"""A receiver of webhooks: a real HTTP server that answers as a test tells it."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """How one request is answered.

    Attributes:
        status: of the answer.
        headers: of the answer.
        body: of the answer.
        delay_s: seconds before it.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"ok"
    delay_s: float = 0.0


class Receiver:
    """What it got, and what it is to answer.

    Attributes:
        got: the messages that were taken, in order.
        asked: all requests, with their headers, those that were not taken too.
        replies: the answers to come; when they are used up, all is taken.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.got: list[dict[str, Any]] = []
        self.asked: list[tuple[str, Mapping[str, str], dict[str, Any]]] = []
        self.replies: list[Reply] = []
        self._lock = threading.Lock()

    def take(self, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        with self._lock:
            message = json.loads(body)
            self.asked.append((path, headers, message))
            reply = self.replies.pop(0) if self.replies else Reply()
            if 200 <= reply.status < 300:
                self.got.append(message)
            return reply


@contextmanager
def receiver() -> Iterator[Receiver]:
    """Run a receiver on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            reply = there.take(self.path, dict(self.headers.items()), body)
            time.sleep(reply.delay_s)
            with suppress(BrokenPipeError):  # whoever asked has gone
                self.answer(reply)

        def answer(self, reply: Reply) -> None:
            self.send_response(reply.status)
            for name, value in {"Content-Length": str(len(reply.body)), **reply.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    there = Receiver(f"http://127.0.0.1:{server.server_port}/services/T0/B0/secret-of-the-hook")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield there
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
