"""Real servers for tests, one of each per run, started when a test first asks for it."""

import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis as RedisClient

from embedded import OpenBao, Postgres, Redis
from tests import clusters


@pytest.fixture(scope="session")
def server_directory() -> Iterator[Path]:
    """A short directory: pytest's own are too long for sockets and closed to PostgreSQL's user."""
    directory = Path(tempfile.mkdtemp(prefix="rw-"))
    directory.chmod(0o711)
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres(server_directory: Path) -> Iterator[Postgres]:
    """An embedded PostgreSQL; make a database of your own with `postgres.url_of(name)`."""
    # Supervised: a killed test run leaves nothing behind.
    settings = {
        "synchronous_commit": "off",
        "wal_level": "minimal",  # a clone of a template database takes a fifth of the time
        "max_wal_senders": "0",
        "autovacuum": "off",
    }
    clusters.place(server_directory / "postgres")
    server = Postgres.start(server_directory / "postgres", supervised=True, settings=settings)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def redis_server(server_directory: Path) -> Iterator[Redis]:
    """An embedded Redis, shared by all tests; most want `redis_url`."""
    server = Redis.start(server_directory / "redis", supervised=True)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def redis_url(redis_server: Redis) -> str:
    """The URL of an empty broker."""
    with RedisClient(unix_socket_path=str(redis_server.socket_path)) as client:
        client.flushall()
    return redis_server.url


@pytest.fixture(scope="session")
def openbao(server_directory: Path) -> Iterator[OpenBao]:
    """An embedded OpenBao with its root token."""
    server = OpenBao.start(server_directory / "openbao", supervised=True)
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def transit_key(openbao: OpenBao) -> str:
    """The name of a new derived Transit key, under the mount `transit`."""
    name = f"kek-{uuid.uuid4().hex[:12]}"
    openbao.create_transit_key(name)
    return name
