"""A node that has not DPAPI's master keys, and two hosts that have those of one account each."""

import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from keywrap.testing.dpapi import Account, WrappingDpapiProvider
from tests.desks import desk_of
from tests.nodes import Node, assert_balanced, until
from tests.sites import Site

TABLE = """
[keys.dpapi.{host}]
mode = "ring"
ring = "{ring}"
master_keys = ["{guid}"]
queue = "dpapi-{host}"
"""


class Estate:
    """The node, and its two hosts.

    Attributes:
        node: serves the default queue.
        site: its configuration, which all hosts share, and its blobs.
        accounts: the Windows account of each host.
        workers: the workers that run on the hosts.
    """

    def __init__(self, site: Site) -> None:
        self.node = Node(site, workers=1)
        self.site = site
        self.accounts = {host: Account() for host in ("hostA", "hostB")}
        self.workers: dict[str, subprocess.Popen[str]] = {}
        tables = [
            TABLE.format(host=host, ring=self.ring(host), guid=account.guid)
            for host, account in self.accounts.items()
        ]
        site.config.write_text(site.config.read_text() + "".join(tables))
        kinds = {f"dpapi-{h}": WrappingDpapiProvider(a) for h, a in self.accounts.items()}
        site._legacy = replace(site._legacy, more=kinds)

    def ring(self, host: str) -> Path:
        return self.site.directory / f"{host}.ring.json"

    def type_on(self, host: str, command: str) -> None:
        """Type a command on a host, which alone holds its master keys."""
        self.accounts[host].ring().write(self.ring(host))
        program, *arguments = shlex.split(command)
        assert program == "rewrap"
        self.workers[host] = self.site.start(*arguments, "--name", host, "--processes", "1")

    def processes(self, host: str) -> set[int]:
        """Return the process ids of a host's worker."""
        worker = psutil.Process(self.workers[host].pid)
        return {worker.pid, *(child.pid for child in worker.children(recursive=True))}

    def owners(self, queue: str) -> set[int]:
        """Return the ids of the processes that worked on the shards of a queue."""
        rows = desk_of(self.node.ledger).rows(
            "SELECT DISTINCT owner FROM shard WHERE queue = :q AND state = 'done'", q=queue
        )
        return {int(owner.rpartition(":")[2]) for (owner,) in rows}

    def close(self) -> None:
        for worker in self.workers.values():
            worker.send_signal(signal.SIGTERM)
            worker.communicate(timeout=30)
        self.node.close()


@pytest.fixture(scope="module")
def estate(new_site: Callable[..., Site]) -> Iterator[Estate]:
    """Its hosts get their master keys in the last test."""
    estate = Estate(new_site("queues", batch=20))
    estate.node.start()
    yield estate
    estate.close()


def _waits_for(estate: Estate, campaign: int, queue: str, *, pending: int) -> dict[str, Any]:
    """Wait until the status names a queue that nobody serves, and the command that mends it."""
    command = f"rewrap worker --queues {queue}"

    def says_so() -> dict[str, Any]:
        document = estate.node.document(campaign)
        says = document.get("next_command") == command
        return document if says and document["counts"]["pending"] == pending else {}

    document: dict[str, Any] = until(says_so, f"asks for {command}")
    assert document["reason_code"] == "no_worker_for_queue"
    assert queue in document["reason"]
    assert document["state"] == "running"
    assert document["counts"]["rewrapped"] == document["counts"]["scanned"] - pending
    return document


def test_a_worker_refuses_to_start_for_a_queue_whose_keys_it_has_not(estate: Estate) -> None:
    ran = estate.site.rewrap("worker", "--queues", "rewrap,dpapi-hostA")
    assert ran.code == 2, ran
    assert str(estate.ring("hostA")) in ran.err
    assert "next: rewrap dpapi-ring --out" in ran.err


@pytest.mark.parametrize("queues", ["rewrap,", "a b", "--pool=solo", ""])
def test_a_worker_refuses_a_queue_that_is_none(estate: Estate, queues: str) -> None:
    ran = estate.site.rewrap("worker", f"--queues={queues}")
    assert ran.code == 2, ran
    assert "[workers] (with queues from REWRAP_…)" in ran.err


def test_a_worker_says_so_where_no_key_names_its_queue(estate: Estate) -> None:
    with estate.site.start("worker", "--queues=dpapi-hosta") as worker:
        assert worker.stderr is not None
        lines = iter(worker.stderr.readline, "")
        assert any("no table of [keys] names the queue 'dpapi-hosta'" in line for line in lines)
        worker.terminate()
        worker.communicate(timeout=30)


def test_a_migration_goes_on_with_each_host_that_starts_the_worker_it_asks_for(
    estate: Estate,
) -> None:
    ids = estate.site.make(140)
    of = {kind: [b for b in ids if b.startswith(kind)] for kind in ("dpapi-hostA", "dpapi-hostB")}
    assert all(len(blobs) == 20 for blobs in of.values())
    sealed = estate.site.fingerprint()
    campaign = estate.site.campaign("migrate")

    document = _waits_for(estate, campaign, "dpapi-hostA", pending=40)
    assert "dpapi-hostB" in document["reason"]
    untouched = {
        path: found for path, found in estate.site.fingerprint().items() if "dpapi-" in path
    }
    assert untouched.items() <= sealed.items()

    estate.type_on("hostA", document["next_command"])
    document = _waits_for(estate, campaign, "dpapi-hostB", pending=20)
    assert "hostA" not in document["reason"]
    assert estate.site.key_ids(of["dpapi-hostA"]) == {estate.site.version(1)}

    estate.type_on("hostB", document["next_command"])
    document = estate.node.reach(campaign, "complete")
    assert document["counts"]["rewrapped"] == len(ids)
    assert_balanced(document, len(ids))
    assert estate.site.wrong(ids) == []
    for host in estate.accounts:
        assert estate.owners(f"dpapi-{host}") <= estate.processes(host)
        assert not estate.owners("rewrap") & estate.processes(host), "it serves its own queue only"

    estate.site.make(7, "late/")
    ran = estate.site.rewrap("verify", "--sample", "500")
    assert ran.code == 0, ran
    assert "go to the queue" not in estate.node.log("worker-1"), "the scheduler cuts samples too"
