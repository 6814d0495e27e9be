"""Google Cloud Storage from memory, in a thread on 127.0.0.1."""

import asyncio
import threading
from collections.abc import Awaitable
from typing import Self, cast

from keywrap.testing.gcs import MemoryGcs
from keywrap.testing.http_wire import Answerer, HttpConnection, Request, Response

STOP_S = 10.0


class _Connection(HttpConnection):
    """A connection that can be found while it is open."""

    def __init__(self, answer: Answerer, open_ones: set[asyncio.BaseTransport]) -> None:
        super().__init__(answer)
        self._open_ones = open_ones
        self._own: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._own = transport
        self._open_ones.add(transport)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self._own is not None:
            self._open_ones.discard(self._own)


class GcsServer:
    """A server; also a context manager that stops it.

    Args:
        gcs: answers.

    Attributes:
        gcs: the same.
        address: its URL, such as `http://127.0.0.1:40123`.
        read_latency_s: how long each read takes.
    """

    def __init__(self, gcs: MemoryGcs) -> None:
        self.gcs = gcs
        self.address = ""
        self.read_latency_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stopped = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="gcs", daemon=True)
        self._thread.start()
        if not self._ready.wait(STOP_S):
            raise RuntimeError("the server did not start")

    def stop(self) -> None:
        """Stop it; a second time, do nothing."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopped.set)
            self._thread.join(STOP_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        open_ones: set[asyncio.BaseTransport] = set()
        server = await self._loop.create_server(
            lambda: _Connection(self._answer, open_ones), "127.0.0.1", 0, backlog=1024
        )
        self.address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        self._ready.set()
        await self._stopped.wait()
        server.close()
        for transport in tuple(open_ones):
            cast("asyncio.Transport", transport).abort()
        await asyncio.sleep(0)  # the loop takes leave of each

    def _answer(self, request: Request) -> Response | Awaitable[Response]:
        if self.read_latency_s and request.method == "GET":
            return self._later(request)
        return self.gcs.handle(request)

    async def _later(self, request: Request) -> Response:
        await asyncio.sleep(self.read_latency_s)
        return self.gcs.handle(request)
