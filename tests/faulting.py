"""What is done to a running node, and a campaign in the middle of which it is done."""

import contextlib
import json
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
from redis import Redis as RedisClient

from tests.nodes import Node, assert_balanced, decided, until
from tests.readers import Watch
from tests.roads import Road

BLOBS = 750
SLOW_S = 0.24
"""Makes a batch of 20 blobs take 0.5 s, and a campaign of 750 some 10 s."""


class Campaign:
    """A slow campaign in the middle of which something is to happen."""

    def __init__(
        self, node: Node, road: Road, folder: str, kind: str = "migrate", blobs: int = BLOBS
    ) -> None:
        self.node = node
        self._kind = kind
        self._road = road
        self._folder = folder
        self.blob_ids = node.site.make(blobs, f"{folder}/")
        self.watch: Watch = node.site.watch(self.blob_ids)
        self.id = 0
        self._lost: list[int] = []

    def begin(self) -> None:
        """Open it and wait until some of its blobs are decided, and not all."""
        self._road.delay_s = SLOW_S
        self.id = self.node.site.campaign(self._kind, "--prefix", f"{self._folder}/")
        self.node.some_but_not_all(self.id)

    def hit_by(self, fault: Callable[[Node], None]) -> None:
        """Let a fault happen while it is under way, and wait until it goes on by itself."""

        def done() -> int:
            document = self.node.document(self.id)
            return decided(document) if document else 0

        before = done()
        fault(self.node)
        assert 0 < until(done, "the ledger answers") < len(self.blob_ids)
        until(lambda: done() > before, f"progress after {fault.__name__}", 30)

    def loses_the_ledger(self) -> None:
        """Let PostgreSQL be gone with its disk; rebuild it from the store, and migrate the rest."""
        self.node.kill_everything()
        shutil.rmtree(self.node.site.state / "postgres")
        self.node.start()
        assert self.node.document(self.id) == {}
        found = self.node.site.ask("ledger", "rebuild")
        assert found["scanned"] >= len(self.blob_ids)
        assert sum(made["rewrapped"] for made in found["campaigns"]) > 0
        self._lost.append(self.id)
        # One that had used no key yet is known of nowhere, and its number may come again.
        known = max(int(path.parent.name) for path in self._trail("*"))
        self.id = self.node.site.campaign(self._kind, "--prefix", f"{self._folder}/")
        assert self.id > known, "numbers of lost campaigns are not used again"

    def ends_well(self) -> None:
        """Wait for its end, with nobody's help, and see that nothing was lost."""
        self._road.delay_s = 0.0
        document = self.node.reach(self.id, "complete", 75)
        assert_moved(self.node, document, self.blob_ids)
        self._left_its_trace()

    def _left_its_trace(self) -> None:
        """See that the audit trail is whole, and that no blob was moved without a trace."""
        assert self.node.site.ask("audit", "verify")["faults"] == []
        wrapped = set()
        for number in (*self._lost, self.id):
            for path in self._trail(number):
                lines = path.read_bytes().rpartition(b"\n")[0].splitlines()
                events = [json.loads(line) for line in lines]
                wrapped |= {event["blob_id"] for event in events if event["event"] == "wrap"}
        assert wrapped == set(self.blob_ids)

    def _trail(self, campaign: int | str) -> Iterator[Path]:
        return (self.node.site.state / "audit").glob(f"{campaign}/*.jsonl")


def assert_moved(node: Node, document: dict[str, Any], blob_ids: Sequence[str]) -> None:
    """Every blob of a finished campaign is under the KEK, and is what it was."""
    assert_balanced(document, len(blob_ids))
    # A blob whose outcome was lost with its worker is found to be moved already.
    counts = document["counts"]
    assert counts["rewrapped"] + counts["current"] == len(blob_ids)
    assert node.site.wrong(blob_ids) == []
    assert node.site.key_ids(blob_ids) == {node.site.version(1)}


def kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def kill_a_worker(node: Node) -> None:
    kill(node.family("worker-1"))


def kill_only_the_pool_process_of_a_worker(node: Node) -> None:
    kill(node.family("worker-1")[1:])


def kill_the_scheduler(node: Node) -> None:
    kill(node.family("scheduler"))


def kill_redis_and_wipe_it(node: Node) -> None:
    kill(node.family("redis"))
    for file in (node.site.state / "redis").glob("*"):
        if file.suffix in {".aof", ".rdb"} or file.is_dir():
            shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)


def flush_redis(node: Node) -> None:
    socket = node.site.state / "redis" / "redis.sock"
    with RedisClient(unix_socket_path=str(socket)) as client:
        client.flushall()
        client.client_kill_filter(_type="normal", skipme=True)


def kill_the_postmaster(node: Node) -> None:
    kill([node.process("postgres")])


def restart_postgres_at_once(node: Node) -> None:
    """Shut it down as `pg_ctl stop -m immediate` does: by SIGQUIT, without a checkpoint."""
    node.process("postgres").send_signal(signal.SIGQUIT)
