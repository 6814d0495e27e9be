"""Queues that nobody serves, and what becomes of the others meanwhile."""

import pytest

from keywrap.rewrapping import Outcome
from ledger import shards
from ledger.connection import Ledger
from ledger.queues import QUEUE
from ledger.shards import Offer
from ledger.states import Kind, ShardKind, State
from tests.hosts import BLOB_KEY, OLD, Hosts, at_first, lapse
from tests.yards import claimable, only


@pytest.fixture(autouse=True)
def _several_shards_of_few_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 4)


@pytest.fixture
def hosts(ledger: Ledger) -> Hosts:
    """Keys that one host has."""
    return Hosts(ledger, {OLD: "host-a"})


def test_a_queue_without_workers_starves_no_other_and_goes_on_when_one_comes(
    hosts: Hosts,
) -> None:
    hosts.plant(40, ("wrapped",))  # more shards than the window holds
    for n in range(12):
        hosts.world.plant("direct", f"z{n}")
    hosts.up = {QUEUE}
    campaign = hosts.start(Kind.MIGRATE)
    hosts.tick(8)
    assert hosts.counts(campaign) == {"rewrapped": 12, "pending": 40}
    lapse(hosts, 1)
    assert hosts.wait(campaign)[0] is None, "an offer may lapse anywhere"
    lapse(hosts, 5)
    assert hosts.desk.get(campaign).state is State.RUNNING
    code, command, reason = hosts.wait(campaign)
    assert (code, command) == ("no_worker_for_queue", "rewrap worker --queues host-a")
    assert "queue host-a" in (reason or "")
    hosts.up.add("host-a")
    hosts.let_time_pass()
    assert hosts.run(campaign).state is State.COMPLETE
    assert hosts.counts(campaign) == only(Outcome.REWRAPPED, 52)
    assert hosts.wait(campaign)[0] is None
    hosts.assert_moved()


def test_a_queue_without_workers_does_not_fill_the_broker(hosts: Hosts) -> None:
    hosts.plant(80, ("wrapped",))
    hosts.up = {QUEUE}
    campaign = hosts.start(Kind.MIGRATE)
    hosts.tick(3)
    sent = lapse(hosts, 8)
    assert sent == [2, 1, 1, 1, 1, 1, 1, 1], "after two windows in vain, one at a time"
    hosts.up.add("host-a")
    hosts.let_time_pass()
    hosts.tick()
    assert hosts.desk.rows("SELECT max(lapses) FROM shard") == [(0,)], "the first claim wakes all"
    hosts.up.clear()
    hosts.sent.clear()
    hosts.tick()
    assert len(hosts.sent) == 2, "the ramp's whole window again, at once"
    hosts.up |= {QUEUE, "host-a"}
    assert hosts.run(campaign, time_passes=True).state is State.COMPLETE


def test_every_queue_without_workers_is_named_the_default_one_first(ledger: Ledger) -> None:
    hosts = Hosts(ledger, {OLD: "host-a", BLOB_KEY: "host-b"})
    hosts.plant(10)
    hosts.up = set()
    campaign = hosts.start(Kind.MIGRATE)
    lapse(hosts, 4)
    assert hosts.wait(campaign)[:2] == ("no_worker", "rewrap worker")
    hosts.up = {QUEUE}
    hosts.let_time_pass()
    hosts.tick()
    lapse(hosts, 4)
    code, command, reason = hosts.wait(campaign)
    assert (code, command) == ("no_worker_for_queue", "rewrap worker --queues host-a")
    assert "queues host-a, host-b" in (reason or "")
    hosts.up = {QUEUE, "host-b"}
    lapse(hosts, 4)
    code, command, reason = hosts.wait(campaign)
    assert (code, command) == ("no_worker_for_queue", "rewrap worker --queues host-a")
    assert "host-b" not in (reason or "")


@pytest.mark.parametrize(
    "sign",
    ["state = 'leased'", "finished_at = clock_timestamp()", "started_at = clock_timestamp()"],
)
def test_a_worker_that_is_busy_with_another_campaign_is_not_called_absent(
    hosts: Hosts, sign: str
) -> None:
    hosts.plant(8, ("wrapped",))
    hosts.up = {QUEUE}
    campaign = hosts.start(Kind.MIGRATE)
    hosts.tick(3)
    lapse(hosts, 4)
    assert hosts.wait(campaign)[0] == "no_worker_for_queue"
    other = hosts.start(Kind.INVENTORY)
    with hosts.ledger.begin() as connection:
        shards.add(connection, other, ShardKind.VERIFY, queue="host-a")
    hosts.desk.run(f"UPDATE shard SET {sign} WHERE campaign_id = {other}")  # noqa: S608 - a test
    assert hosts.wait(campaign)[0] is None


def test_a_queue_that_is_renamed_in_mid_campaign_hands_its_shards_on(hosts: Hosts) -> None:
    hosts.plant(6, ("wrapped",))
    hosts.up = {QUEUE}
    campaign = hosts.start(Kind.MIGRATE)
    hosts.tick(3)
    hosts.queues = {OLD: "renamed"}
    hosts.up = {QUEUE, "renamed"}
    lapse(hosts, 4)
    assert hosts.wait(campaign)[1] == "rewrap worker --queues host-a"
    hosts.up.add("host-a")  # on any host: it only looks, and sends them on
    assert hosts.run(campaign, time_passes=True).state is State.COMPLETE
    assert hosts.counts(campaign) == only(Outcome.REWRAPPED, 6)
    hosts.assert_moved()


def test_a_worker_takes_no_shard_of_a_queue_that_it_does_not_serve(hosts: Hosts) -> None:
    hosts.plant(4, ("wrapped",))
    held: list[Offer] = []
    hosts.set(scan_parts=1)
    campaign = hosts.start(Kind.MIGRATE)
    hosts.tick()
    hosts.broker = held.append
    hosts.tick()
    (offer,) = held
    assert (offer.kind, offer.queue) == (ShardKind.REWRAP, "host-a")
    before = hosts.world.snapshot()
    hosts.become(QUEUE)
    assert hosts.run_task(offer.kind, offer.shard_id) == {}
    assert claimable(hosts, offer), "it is as it was"
    assert hosts.world.snapshot() == before
    assert hosts.counts(campaign) == {"pending": 4}
    hosts.become("host-a")
    assert hosts.run_task(offer.kind, offer.shard_id) == {"rewrapped": 4}


def test_a_blocked_campaign_is_tried_in_every_queue(hosts: Hosts) -> None:
    hosts.plant(40, ("wrapped",))
    for n in range(8):
        hosts.world.plant("direct", f"z{n}")
    hosts.up = {QUEUE}
    hosts.world.kms.disable_version(hosts.world.target)
    campaign = hosts.start(Kind.MIGRATE)
    assert hosts.run(campaign, State.BLOCKED).reason_code == "version_disabled"
    for _ in range(5):
        hosts.let_time_pass()
        hosts.sent.clear()
        hosts.tick()
        assert sorted(o.queue for o in hosts.sent) == ["host-a", QUEUE], "one of each"
    assert hosts.wait(campaign)[0] == "version_disabled"
    hosts.world.kms.enable_version(hosts.world.target)
    for _ in range(6):
        hosts.let_time_pass()
        hosts.tick()
    assert hosts.desk.get(campaign).state is State.RUNNING
    assert hosts.counts(campaign) == {"rewrapped": 8, "pending": 40}


def test_a_blocked_campaign_whose_last_shards_nobody_serves_says_so(hosts: Hosts) -> None:
    hosts.plant(8, ("wrapped",))
    campaign = hosts.start(Kind.MIGRATE)
    at_first(
        hosts,
        ShardKind.REWRAP,
        "host-a",
        lambda: hosts.world.kms.disable_version(hosts.world.target),
    )
    assert hosts.run(campaign, State.BLOCKED).reason_code == "version_disabled"
    hosts.up = {QUEUE}
    hosts.desk.run("UPDATE shard SET started_at = NULL, finished_at = NULL")  # an hour ago
    lapse(hosts, 8)
    assert hosts.wait(campaign)[:2] == (
        "no_worker_for_queue",
        "rewrap worker --queues host-a",
    )
    hosts.world.kms.enable_version(hosts.world.target)
    hosts.up.add("host-a")
    assert hosts.run(campaign, time_passes=True).state is State.COMPLETE
