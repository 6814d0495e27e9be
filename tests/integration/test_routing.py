"""Whole campaigns over blobs whose keys are on certain hosts only."""

from collections import Counter
from collections.abc import Callable

import pytest

from keywrap.rewrapping import Outcome, Prove
from ledger import wishes
from ledger.connection import Ledger
from ledger.queues import QUEUE
from ledger.shards import Offer
from ledger.states import Kind, ShardKind, State
from tasks.scans import MAX_PASSES
from tests.hosts import BLOB_KEY, OLD, Hosts, ask, at_first, write_by_old_key
from tests.worlds import KEK
from tests.yards import only


@pytest.fixture(autouse=True)
def _several_shards_of_few_blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 4)


@pytest.fixture
def hosts(ledger: Ledger) -> Hosts:
    """Keys that one host has."""
    return Hosts(ledger, {OLD: "host-a"})


def test_shards_are_cut_by_what_can_open_them_and_by_key(ledger: Ledger) -> None:
    hosts = Hosts(ledger, {OLD: "host-a", BLOB_KEY: "host-a"})
    hosts.set(scan_parts=1)
    hosts.plant(10, ("wrapped", "direct"))
    hosts.plant(3, ("managed",))
    hosts.up = {QUEUE}
    hosts.start(Kind.MIGRATE)
    hosts.tick(2)
    cut = hosts.in_queue()
    assert Counter(str(*keys) for keys in cut.pop("host-a")) == {OLD: 2, BLOB_KEY: 2}
    assert cut == {QUEUE: [{KEK}]}


@pytest.fixture
def rerouted(caplog: pytest.LogCaptureFixture) -> Callable[[], bool]:
    """Tells whether a worker has sent a blob on to another queue."""
    caplog.set_level("INFO", "tasks.reroutes")
    return lambda: "go to the queue" in caplog.text


def test_a_migration_goes_through_every_queue_and_each_host_opens_its_own(
    hosts: Hosts, rerouted: Callable[[], bool]
) -> None:
    hosts.plant(20)
    campaign = hosts.start(Kind.MIGRATE)
    assert hosts.run(campaign).state is State.COMPLETE
    assert hosts.counts(campaign) == only(Outcome.REWRAPPED, 20)
    hosts.assert_moved()
    hosts.assert_each_in_one_shard(campaign)
    assert {o.queue for o in hosts.sent if o.kind is ShardKind.REWRAP} == {QUEUE, "host-a"}
    scans = {ShardKind.INVENTORY, ShardKind.STRAGGLERS}
    assert {o.queue for o in hosts.sent if o.kind in scans} == {QUEUE}
    assert not rerouted()


def test_a_rotation_waits_for_no_host_of_legacy_keys(hosts: Hosts) -> None:
    hosts.plant(6, ("managed", "wrapped"))
    hosts.world.kms.rotate(KEK)
    hosts.up = {QUEUE}
    campaign = hosts.start(Kind.ROTATE)
    assert hosts.run(campaign).state is State.COMPLETE
    assert hosts.counts(campaign) == {"rewrapped": 3, "excluded": 3}


@pytest.mark.parametrize("kind", [Kind.VERIFY, Kind.PLAN])
@pytest.mark.parametrize("sample_size", [None, 100])
def test_what_is_only_opened_is_cut_by_queue_too(
    hosts: Hosts, kind: Kind, sample_size: int | None, rerouted: Callable[[], bool]
) -> None:
    hosts.plant(9, ("managed", "direct", "wrapped"))
    before = hosts.world.snapshot()
    if kind is Kind.PLAN:
        asked = {"plan_of": Kind.MIGRATE, "target": hosts.world.target, "prove": Prove.ALL}
        campaign = hosts.start(kind, sample_size=100, **asked)
    else:
        campaign = hosts.start(kind, sample_size=sample_size)
    assert hosts.run(campaign).state is State.COMPLETE
    opened = {"rewrapped": 6} if kind is Kind.PLAN else {"current": 9}
    assert hosts.counts(campaign) == opened
    cut = hosts.in_queue(ShardKind.VERIFY)
    assert set().union(*cut.pop("host-a")) == {OLD}
    assert OLD not in set().union(*cut.pop(QUEUE))
    assert cut == {}
    assert not rerouted()
    assert hosts.world.snapshot() == before


def test_a_blob_that_a_writer_puts_under_another_hosts_key_is_sent_there(
    hosts: Hosts, rerouted: Callable[[], bool]
) -> None:
    hosts.plant(6, ("direct",))
    hosts.set(scan_parts=1)
    at_first(hosts, ShardKind.REWRAP, QUEUE, lambda: write_by_old_key(hosts, "001-direct"))
    campaign = hosts.start(Kind.MIGRATE)
    hosts.up = {QUEUE}
    hosts.tick(4)
    assert hosts.counts(campaign) == {"rewrapped": 5, "pending": 1}
    hosts.assert_each_in_one_shard(campaign)
    rows = hosts.desk.rows("SELECT total, attempt FROM shard WHERE queue = 'host-a'")
    assert rows == [(1, 1)]
    assert rerouted()
    hosts.up.add("host-a")
    assert hosts.run(campaign, time_passes=True).state is State.COMPLETE
    assert hosts.counts(campaign) == only(Outcome.REWRAPPED, 6)
    hosts.assert_moved()


def test_a_blob_that_leaves_the_key_of_a_host_is_moved_by_that_host(hosts: Hosts) -> None:
    hosts.plant(4, ("wrapped",))
    at_first(hosts, ShardKind.REWRAP, "host-a", lambda: hosts.world.plant("direct", "001-wrapped"))
    campaign = hosts.start(Kind.MIGRATE)
    assert hosts.run(campaign).state is State.COMPLETE
    assert hosts.counts(campaign) == only(Outcome.REWRAPPED, 4)
    hosts.assert_moved()


def test_a_blob_that_changes_again_while_it_is_sent_on_is_looked_at_by_any_host(
    hosts: Hosts,
) -> None:
    hosts.plant(3, ("direct",))
    hosts.set(scan_parts=1)
    hosts.try_store()
    campaign = hosts.start(Kind.MIGRATE)
    hosts.tick()

    def spoil() -> None:
        write_by_old_key(hosts, "001-direct")
        reads = iter(range(10))

        def at_the_second_read() -> None:
            if next(reads) == 1:
                hosts.world.write_sidecar("001-direct", b"{")

        hosts.on_read("001-direct.sidecar.json", at_the_second_read)

    at_first(hosts, ShardKind.REWRAP, QUEUE, spoil)
    assert hosts.run(campaign, time_passes=True).state is State.COMPLETE_WITH_EXCEPTIONS
    assert hosts.reasons(campaign) == {"001-direct": "sidecar_not_json"}
    assert hosts.counts(campaign) == {"rewrapped": 2, "quarantined": 1}
    hosts.assert_each_in_one_shard(campaign)


def test_hosts_that_send_a_blob_to_each_other_give_it_up_as_failed(ledger: Ledger) -> None:
    hosts = Hosts(ledger, {OLD: "host-a"})
    hosts.plant(4, ("wrapped",))
    hosts.set(scan_parts=1)
    hosts.up.add("host-b")
    hosts.believed = {"host-a": {OLD: "host-b"}, "host-b": {OLD: "host-a"}}
    campaign = hosts.start(Kind.MIGRATE)
    assert hosts.run(campaign, time_passes=True).state is State.COMPLETE_WITH_EXCEPTIONS
    assert hosts.counts(campaign) == only(Outcome.FAILED, 4)
    assert set(hosts.reasons(campaign).values()) == {"attempts_exhausted"}
    tried = [o for o in hosts.sent if o.kind is ShardKind.REWRAP]
    assert len(tried) == hosts.settings.max_attempts
    hosts.believed = {}  # the configurations are made one
    ask(hosts, campaign, wishes.retry, quarantined=False)
    assert hosts.run(campaign, time_passes=True).state is State.COMPLETE
    hosts.assert_moved()
    hosts.assert_each_in_one_shard(campaign)


def test_a_key_that_gets_a_queue_in_mid_campaign_sends_its_blobs_there(ledger: Ledger) -> None:
    hosts = Hosts(ledger, {})
    hosts.plant(6, ("wrapped", "direct"))
    hosts.up = set()
    campaign = hosts.start(Kind.MIGRATE)
    hosts.up = {QUEUE}
    hosts.broker = lambda o: hosts.work(o) if o.kind is ShardKind.INVENTORY else None
    hosts.tick(3)
    hosts.broker = hosts.work
    hosts.queues = {OLD: "host-a"}
    hosts.up = {QUEUE, "host-a"}
    assert hosts.run(campaign, time_passes=True).state is State.COMPLETE
    assert hosts.counts(campaign) == only(Outcome.REWRAPPED, 6)
    hosts.assert_each_in_one_shard(campaign)


def test_a_straggler_goes_to_the_queue_of_what_wraps_it_now(
    hosts: Hosts, rerouted: Callable[[], bool]
) -> None:
    hosts.plant(8, ("direct", "wrapped"))

    def legacy_application_writes() -> None:
        write_by_old_key(hosts, "000-direct")
        hosts.world.plant("direct", "001-wrapped")
        hosts.world.plant("wrapped", "003-wrapped", b"again")
        write_by_old_key(hosts, "new-a")
        hosts.world.plant("direct", "new-b")

    at_first(hosts, ShardKind.STRAGGLERS, QUEUE, legacy_application_writes)
    campaign = hosts.start(Kind.MIGRATE)
    done = hosts.run(campaign)
    assert (done.state, done.passes) == (State.COMPLETE, 2)
    assert hosts.counts(campaign) == only(Outcome.REWRAPPED, 10)
    hosts.assert_moved()
    hosts.assert_each_in_one_shard(campaign)
    assert not rerouted(), "cut rightly at once"
    cut = hosts.in_queue()
    assert set().union(*cut.pop("host-a")) == {OLD}
    assert set().union(*cut.pop(QUEUE)) == {BLOB_KEY}


def test_a_writer_that_always_brings_a_blob_back_under_a_hosts_key_is_a_conflict(
    hosts: Hosts,
) -> None:
    hosts.plant(6, ("direct",))

    def broker(offer: Offer) -> None:
        if offer.kind is ShardKind.STRAGGLERS:
            write_by_old_key(hosts, "000-direct")
        hosts.work(offer)

    hosts.broker = broker
    campaign = hosts.start(Kind.MIGRATE)
    done = hosts.run(campaign)
    assert (done.state, done.passes) == (State.COMPLETE_WITH_EXCEPTIONS, MAX_PASSES)
    assert hosts.counts(campaign) == {"rewrapped": 5, "conflict": 1}
    assert hosts.reasons(campaign) == {"000-direct": "writer_brings_it_back"}
    hosts.assert_each_in_one_shard(campaign)
    hosts.broker = hosts.work
    ask(hosts, campaign, wishes.retry, quarantined=False)
    assert hosts.run(campaign).state is State.COMPLETE
    hosts.assert_moved()


def test_what_was_quarantined_is_retried_by_the_host_that_can_open_it_by_then(
    hosts: Hosts,
) -> None:
    hosts.plant(4, ("direct",))
    hosts.world.write_sidecar("001-direct", b"{")
    campaign = hosts.start(Kind.MIGRATE)
    assert hosts.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    write_by_old_key(hosts, "001-direct")
    ask(hosts, campaign, wishes.retry, quarantined=True)
    assert hosts.run(campaign).state is State.COMPLETE
    hosts.assert_moved()


def _prove_by_sample(hosts: Hosts) -> int:
    hosts.plant(6, ("managed",))
    hosts.world.kms.rotate(KEK)
    return hosts.start(Kind.ROTATE, prove=Prove.SAMPLE, sample=0.0)


def test_a_blob_that_a_legacy_writer_takes_back_before_its_proof_does_not_stop_the_campaign(
    hosts: Hosts,
) -> None:
    campaign = _prove_by_sample(hosts)
    at_first(hosts, ShardKind.VERIFY, QUEUE, lambda: write_by_old_key(hosts, "002-managed"))
    assert hosts.run(campaign).state is State.COMPLETE
    assert hosts.progress(campaign).verified == 6
    rows = hosts.desk.rows("SELECT total FROM shard WHERE queue = 'host-a' AND kind = 'verify'")
    assert rows == [(1,)], "the host that can opened it"


def test_damaged_content_whose_previous_wrap_is_anothers_stops_until_a_person_has_looked(
    hosts: Hosts,
) -> None:
    hosts.plant(4, ("wrapped",))
    assert hosts.run(hosts.start(Kind.MIGRATE)).state is State.COMPLETE
    content = hosts.world.layout.content_name("002-wrapped")
    hosts.world.store._objects[content] = b"damaged" * 10
    campaign = hosts.start(Kind.MIGRATE, prove=Prove.SAMPLE, sample=0.0)
    stopped = hosts.run(campaign, State.STOPPED)
    assert (stopped.state, stopped.reason_code) == (State.STOPPED, "proof_failed")
    ask(hosts, campaign, wishes.resume)
    assert hosts.run(campaign).state is State.COMPLETE


def test_a_sidecar_that_names_a_key_of_no_table_goes_to_no_queue_of_its_own(
    hosts: Hosts,
) -> None:
    hosts.plant(2, ("wrapped",))
    hosts.world.plant("wrapped", "odd")
    hosts.world.edit("odd", key_id="env:NOBODYS")
    campaign = hosts.start(Kind.MIGRATE)
    assert hosts.run(campaign).state is State.COMPLETE_WITH_EXCEPTIONS
    assert hosts.reasons(campaign) == {"odd": "key_not_listed"}
    assert "env:NOBODYS" in set().union(*hosts.in_queue()[QUEUE])
