"""Real nodes for tests: `rewrap up` as a child process, and what to do to its processes."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from embedded import OpenBao, Postgres
from embedded.launching import end_with_parent
from ledger import progress
from ledger.connection import Ledger, LedgerNotReadyError, LedgerUnavailableError
from scheduler import status
from tests import clusters
from tests.roads import Road
from tests.sites import Site, command

FINISHED = {"complete", "complete_with_exceptions", "cancelled", "stopped"}


def until(
    is_so: Callable[[], Any], what: str, timeout_s: float = 60.0, every_s: float = 0.05
) -> Any:
    """Wait until something is so, and return it.

    Raises:
        AssertionError: it did not become so.
    """
    deadline = time.monotonic() + timeout_s
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(every_s)
    return found


class Node:
    """One `rewrap up` in a session of its own.

    Args:
        site: its configuration, keys and blobs.
        workers: how many worker processes it starts.
    """

    def __init__(self, site: Site, workers: int = 1) -> None:
        self.site = site
        self.out = site.directory / "up.log"
        self._workers = workers
        self._up: subprocess.Popen[bytes] | None = None
        self._ledger: Ledger | None = None
        self._resting: psutil.Process | None = None

    @property
    def up(self) -> "subprocess.Popen[bytes]":
        assert self._up is not None
        return self._up

    def start(self) -> None:
        """Start it and wait until its scheduler and workers are ready."""
        self._resting = None
        if self._up is None:
            self.site.state.mkdir(mode=0o700, exist_ok=True)
            clusters.place(self.site.state / "postgres")
        names = ["scheduler", *(f"worker-{n}" for n in range(1, self._workers + 1))]
        seen = {name: len(self.log(name)) for name in names}
        with self.out.open("ab") as output:
            self._up = subprocess.Popen(
                command("up", "--workers", str(self._workers)),
                env=self.site.environment,
                cwd=self.site.directory,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=end_with_parent(signal.SIGTERM),  # noqa: PLW1509 - system calls only
            )
        for name in names:
            until(lambda name=name: self._is_ready(name, seen[name]), f"{name} ready")

    def ensure_up(self) -> None:
        """Start it unless it runs, and let it go on where it rests."""
        if self._up is None or self._up.poll() is not None:
            self.start()
        elif self._resting is not None:
            self._resting.resume()
            self._resting = None
            until(self._ticks, "the scheduler ticks")

    def rest(self) -> None:
        """Stop its scheduler until `ensure_up`: the ticks of a node that waits cost others time."""
        if self._up is not None and self._up.poll() is None:
            self._resting = self.process("scheduler")
            self._resting.suspend()

    def _ticks(self) -> bool:
        with self.ledger.begin() as connection:
            at = progress.last_beat(connection)
            return at is not None and progress.now(connection) - at < timedelta(seconds=1)

    def _is_ready(self, name: str, offset: int) -> bool:
        assert self.up.poll() is None, self.out.read_text()
        return " ready" in self.log(name)[offset:]

    def log(self, name: str) -> str:
        file = self.site.state / "logs" / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def logs(self) -> str:
        """Everything that the node's processes have written to their logs."""
        files = [self.out, *(self.site.state / "logs").glob("*.log")]
        files += (self.site.state / s / f"{s}.log" for s in ("redis", "postgres"))
        return "".join(file.read_text(errors="replace") for file in files if file.exists())

    def kill_everything(self) -> None:
        """SIGKILL the supervisor, all its processes and servers, at once."""
        self._forget_ledger()
        supervisor = psutil.Process(self.up.pid)
        for process in [supervisor, *supervisor.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.up.wait()
        until(lambda: not processes_of(self.site.directory), "all dead", 10)

    def close(self) -> None:
        """End it somehow; nothing of it may stay behind."""
        if self._up is not None and self._up.poll() is None:
            self.kill_everything()  # how a node ends well is a test of its own
        self._forget_ledger()
        for process in processes_of(self.site.directory):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        shutil.rmtree(self.site.state / "postgres", ignore_errors=True)  # most of what it takes

    def process(self, name: str) -> psutil.Process:
        """Return a process of the node: `scheduler`, `worker-1`, `flower`, `redis`, `postgres`."""
        return until(lambda: self._find(name), f"process {name}", 20)

    def _find(self, name: str) -> psutil.Process | None:
        for process in psutil.Process(self.up.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if name == name_of(process):
                    return process
        return None

    def family(self, name: str) -> list[psutil.Process]:
        """Return a process of the node with all its children."""
        process = self.process(name)
        return [process, *process.children(recursive=True)]

    def document(self, campaign_id: int) -> dict[str, Any]:
        """Return a campaign's status document, read by this process; empty while it cannot be."""
        try:
            found = status.read(self.ledger, campaign_id, keeps_previous=True)
        except (LedgerUnavailableError, LedgerNotReadyError):
            return {}
        return found.document() if found else {}

    @property
    def ledger(self) -> Ledger:
        if self._ledger is None:
            postgres = Postgres.running(self.site.state / "postgres")
            if postgres is None:
                raise LedgerUnavailableError("not running")
            self._ledger = Ledger(postgres.url_of("rewrap"), connections=1)
        return self._ledger

    def _forget_ledger(self) -> None:
        if self._ledger is not None:
            self._ledger.close()
            self._ledger = None

    def reach(self, campaign_id: int, state: str, timeout_s: float = 60) -> dict[str, Any]:
        """Wait until a campaign is in a state; return its document."""

        def is_there() -> dict[str, Any]:
            document = self.document(campaign_id)
            if document.get("state") == state:
                return document
            assert document.get("state") not in FINISHED, document
            return {}

        try:
            return until(is_there, f"campaign {campaign_id} {state}", timeout_s, every_s=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.document(campaign_id)}") from None

    def some_but_not_all(self, campaign_id: int, timeout_s: float = 30) -> dict[str, Any]:
        """Wait until a campaign has decided some of its blobs; it must not have decided all."""

        def is_under_way() -> dict[str, Any]:
            document = self.document(campaign_id)
            return document if document and decided(document) else {}

        document = until(is_under_way, f"campaign {campaign_id} under way", timeout_s)
        assert document["state"] == "running"
        assert 0 < decided(document) < document["counts"]["scanned"], document
        return document


def decided(document: dict[str, Any]) -> int:
    """How many blobs of a campaign have an outcome."""
    counts = document["counts"]
    return sum(n for name, n in counts.items() if name not in {"scanned", "pending"})


def assert_balanced(document: dict[str, Any], scanned: int) -> None:
    """Every blob scanned has exactly one outcome."""
    assert document["counts"]["scanned"] == scanned
    assert document["counts"]["pending"] == 0
    assert decided(document) == scanned


def name_of(process: psutil.Process) -> str:
    """Tell what a process is called, by its program and command line."""
    servers = {"redis-server": "redis", "postgres": "postgres"}
    if process.name() in servers:
        return servers[process.name()]
    argv = process.cmdline()
    for word in argv:
        if word.startswith("--hostname="):
            return word.removeprefix("--hostname=").partition("@")[0]
    return argv[-1] if argv[-1:] == ["scheduler"] else "flower" if "flower" in argv else ""


def processes_of(directory: Path) -> list[psutil.Process]:
    """Return every process that has to do with a directory."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, FileNotFoundError):
            if process.pid == os.getpid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            words = [process.cwd(), process.environ().get("REWRAP_CONFIG", ""), *process.cmdline()]
            if any(str(directory) in word for word in words):
                found.append(process)
    return found


@pytest.fixture(scope="session")
def new_site(server_directory: Path, openbao: OpenBao) -> Iterator[Callable[..., Site]]:
    """Make sites, each with a folder and a KEK of its own; removed at the end of the run."""
    made: list[Site] = []

    def make(name: str, **options: Any) -> Site:
        kek = f"{name}-kek"
        openbao.create_transit_key(kek)
        site = Site(server_directory / name, openbao, kek, **options)
        made.append(site)
        return site

    yield make
    for site in made:
        shutil.rmtree(site.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def road(openbao: OpenBao) -> Iterator[Road]:
    """A road to OpenBao that tests slow down or tear up."""
    road = Road(openbao.address)
    yield road
    road.tear_up()


@pytest.fixture(scope="session")
def _acceptance(new_site: Callable[..., Site], road: Road) -> Iterator[Node]:
    node = Node(new_site("accept", address=road.address, batch=50, has_flower=True), workers=2)
    yield node
    node.close()


@pytest.fixture(scope="module")
def _acceptance_of_a_file(_acceptance: Node) -> Iterator[Node]:
    yield _acceptance
    _acceptance.rest()


@pytest.fixture
def acceptance(_acceptance_of_a_file: Node, road: Road) -> Iterator[Node]:
    """The node that acceptance tests share: each uses blobs of its own folder, or the whole."""
    _acceptance_of_a_file.ensure_up()
    yield _acceptance_of_a_file
    road.delay_s = 0.0


@pytest.fixture(scope="session")
def _faulty(
    new_site: Callable[..., Site], server_directory: Path, road: Road, openbao: OpenBao
) -> Iterator[Node]:
    token = server_directory / "faulty.token"
    token.write_text(openbao.token)
    options = {"address": road.address, "batch": 20, "token": f'token_file = "{token}"'}
    site = new_site("faulty", **options)
    # On a slow road the canary of 500 blobs would take as long as what is to be disturbed.
    site.config.write_text(f"{site.config.read_text()}\n[gates]\ncanary = 20\n")
    node = Node(site, workers=2)
    yield node
    node.close()


@pytest.fixture(scope="module")
def _faulty_of_a_file(_faulty: Node) -> Iterator[Node]:
    yield _faulty
    _faulty.rest()


@pytest.fixture
def faulty(_faulty_of_a_file: Node, road: Road) -> Iterator[Node]:
    """The node that is killed, starved and blocked; whatever a test did to it is mended here."""
    _faulty_of_a_file.ensure_up()
    yield _faulty_of_a_file
    road.delay_s = 0.0
    road.restore()
