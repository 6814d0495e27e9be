"""Clouds on the loopback: S3 and KMS from memory, and moto's S3 beside them."""

import re
import secrets
import signal
import socket
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
from moto.server import ThreadedMotoServer

from embedded.launching import end_with_parent
from keywrap.s3store import S3ObjectStore, open_s3
from keywrap.testing.aws_server import AwsServer

REGION = "eu-central-1"

_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


class CannedServer:
    """A server that says what it is told to, byte by byte.

    Args:
        reply: gets the head of each request; returns all bytes of the answer, None for none:
            the connection is closed.
    """

    def __init__(self, reply: Callable[[bytes], bytes | None]) -> None:
        self.heads: list[bytes] = []
        self._reply = reply
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self.connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                self.connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as requests:
            while True:
                head = b""
                while not head.endswith(b"\r\n\r\n"):
                    line = requests.readline()
                    if not line:
                        return
                    head += line
                found = _LENGTH.search(head)
                requests.read(int(found.group(1)) if found else 0)
                self.heads.append(head)
                answer = self._reply(head)
                if answer is None:
                    return
                connection.sendall(answer)

    def stop(self) -> None:
        """Close it with all connections."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def canned() -> Iterator[Callable[[Callable[[bytes], bytes | None]], CannedServer]]:
    """Starts servers that answer as they are told; all are stopped at the end."""
    servers: list[CannedServer] = []

    def start(reply: Callable[[bytes], bytes | None]) -> CannedServer:
        servers.append(CannedServer(reply))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def aws_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that no account knows, and nothing else of AWS in the environment."""
    for name in ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"AKIA{secrets.token_hex(8).upper()}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", secrets.token_urlsafe(30))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture(scope="session")
def aws_server_process() -> Iterator[AwsServer]:
    """S3 and KMS in a process of their own; most tests want `aws_server`."""
    with AwsServer.start(preexec_fn=end_with_parent(signal.SIGKILL)) as server:
        yield server


@pytest.fixture
def aws_server(aws_server_process: AwsServer, aws_credentials: None) -> Iterator[AwsServer]:  # noqa: ARG001
    """S3 and KMS with nothing wrong at the start."""
    yield aws_server_process
    aws_server_process.control(
        conflicts=0,
        slow_down=0,
        errors=0,
        lose_requests=0,
        lose_replies=0,
        lose_probability=0.0,
        slow_reads=0,
        deny=[],
        latency_ms={"get": 0, "put": 0, "kms": 0},
        kms_quota=0,
    )


@pytest.fixture
def s3_bucket(aws_server: AwsServer) -> Iterator[str]:
    """The name of a new bucket of `aws_server`."""
    name = f"blobs-{uuid.uuid4().hex[:12]}"
    aws_server.control(create_buckets=[name])
    yield name
    aws_server.control(delete_buckets=[name])


@pytest.fixture
def s3_store(aws_server: AwsServer, s3_bucket: str) -> S3ObjectStore:
    """An empty store, in a folder of `s3_bucket`."""
    return open_s3(s3_bucket, "tenant", region=REGION, endpoint=aws_server.address, allow_http=True)


@pytest.fixture(scope="session")
def moto_address() -> Iterator[str]:
    """The URL of moto's server, in a thread."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield f"http://{host}:{port}"
    finally:
        server.stop()
