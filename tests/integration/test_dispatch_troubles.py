"""Whole campaigns under trouble: brokers, crashes, impatient operators, tasks that always fail."""

import threading

import pytest

from keywrap.rewrapping import READS, Outcome
from keywrap.stores import Stored
from ledger import wishes
from ledger.connection import Ledger
from ledger.shards import Offer
from ledger.states import Kind, ShardKind, State
from scheduler.dispatch import BrokerUnavailableError
from tests.worlds import FaultyStore, World, crash
from tests.yards import TASKS, Yard, only


@pytest.fixture
def yard(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 4)  # several shards of few blobs
    return Yard(ledger)


def _ask(yard: Yard, campaign: int, wish: object) -> None:
    with yard.ledger.begin() as connection:
        wish(connection, yard.desk.get(campaign))


def test_a_broker_that_is_away_loses_no_work(yard: Yard) -> None:
    yard.plant(10)
    refusals = 8

    def broker(offer: Offer) -> None:
        nonlocal refusals
        if refusals:
            refusals -= 1
            raise BrokerUnavailableError("no answer")
        yard.work(offer)

    yard.broker = broker
    campaign = yard.start(Kind.MIGRATE)
    yard.tick(3)
    assert yard.progress(campaign).unclaimed == 0
    assert refusals < 8, "it was tried"
    yard.let_time_pass()
    yard.tick()
    assert yard.progress(campaign).unclaimed > 0, "the operator is told that nobody takes shards"
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert refusals == 0
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 10)
    assert yard.desk.rows("SELECT max(attempt) FROM shard") == [(0,)]


def test_an_offer_that_nobody_takes_lapses_by_itself(yard: Yard) -> None:
    yard.plant(3)
    yard.set(claim_s=0.05)
    yard.broker = lambda _offer: None
    campaign = yard.start(Kind.MIGRATE)
    yard.tick()
    first = len(yard.sent)
    threading.Event().wait(0.06)
    yard.tick()
    assert len(yard.sent) == 2 * first > 0
    yard.broker = yard.work
    threading.Event().wait(0.06)
    yard.tick()
    yard.let_time_pass()  # ever longer between offers that nobody takes
    assert yard.run(campaign).state is State.COMPLETE


def test_messages_that_are_lost_are_sent_again(yard: Yard) -> None:
    yard.plant(10)
    count = 0

    def broker(offer: Offer) -> None:
        nonlocal count
        count += 1
        if count % 3 == 0:
            yard.work(offer)

    yard.broker = broker
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 10)
    yard.assert_moved()


def test_messages_that_are_repeated_or_of_another_kind_do_nothing(yard: Yard) -> None:
    yard.plant(10)
    idle: list[dict[str, int]] = []

    def broker(offer: Offer) -> None:
        idle.extend(yard.run_task(k, offer.shard_id) for k in TASKS if k is not offer.kind)
        assert yard.run_task(offer.kind, offer.shard_id)
        idle.extend(yard.run_task(kind, offer.shard_id) for kind in TASKS)
        idle.extend(yard.run_task(old.kind, old.shard_id) for old in yard.sent)  # replayed

    yard.set(window=1)
    yard.broker = broker
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 10)
    assert idle
    assert not any(idle)
    yard.assert_moved()


def test_a_scan_that_its_successor_has_overtaken_comes_back_and_changes_nothing(
    yard: Yard, caplog: pytest.LogCaptureFixture
) -> None:
    yard.plant(6)
    yard.set(scan_parts=1)
    campaign, held = yard.start(Kind.MIGRATE), list[Offer]()
    yard.broker = held.append
    yard.tick()

    def overtake() -> None:
        yard.let_time_pass()
        yard.broker = yard.work
        yard.tick(2)

    yard.world.store.before("read", overtake)
    yard.work(held[0])
    assert "its new owner goes on" in caplog.text
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 6)


def test_a_message_that_comes_after_the_end_does_nothing(yard: Yard) -> None:
    yard.plant(5)
    campaign = yard.start(Kind.MIGRATE)
    yard.run(campaign)
    before, writes = yard.desk.rows("SELECT * FROM shard"), yard.world.store.writes
    for offer in yard.sent:
        assert yard.run_task(offer.kind, offer.shard_id) == {}
    assert (yard.desk.rows("SELECT * FROM shard"), yard.world.store.writes) == (before, writes)


def test_two_schedulers_at_once_do_everything_once(yard: Yard) -> None:
    yard.plant(16)
    campaign = yard.start(Kind.MIGRATE)
    errors: list[BaseException] = []

    def schedule() -> None:
        try:
            yard.run(campaign, ticks=2000)
        except BaseException as error:  # noqa: BLE001 - told by the test's thread
            errors.append(error)

    threads = [threading.Thread(target=schedule) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert yard.desk.get(campaign).state is State.COMPLETE
    assert yard.desk.get(campaign).passes == 1
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 16)
    assert len({o.shard_id for o in yard.sent}) == len(yard.sent)
    inventories = yard.desk.rows("SELECT count(*) FROM shard WHERE kind = 'inventory'")
    assert inventories == [(yard.settings.scan_parts,)]


def test_only_one_scheduler_ticks_at_a_time(yard: Yard) -> None:
    yard.start(Kind.MIGRATE)
    inner: list[bool] = []
    yard.broker = lambda _offer: inner.append(yard.dispatcher().tick())
    assert yard.dispatcher().tick() is True
    assert inner
    assert not any(inner)


@pytest.mark.parametrize("operation", ["read", "read_range", "replace", "create"])
@pytest.mark.parametrize("after", [0, 3])
def test_a_worker_that_is_killed_costs_one_lease_and_no_blob(
    yard: Yard, operation: str, after: int
) -> None:
    yard.plant(12, kinds=("bare",) if operation == "create" else ("wrapped",))
    yard.set(scan_parts=1)

    def broker(offer: Offer) -> None:
        if offer.kind is ShardKind.REWRAP:
            for _ in range(after):
                yard.world.store.before(operation, lambda: None)
            yard.world.store.before(operation, crash)
            yard.broker = yard.work
        yard.work(offer)
        yard.world.store._callbacks.clear()

    yard.broker = broker
    campaign = yard.start(Kind.MIGRATE)
    yard.tick(3)
    leased = yard.desk.rows("SELECT kind, fence FROM shard WHERE state = 'leased'")
    assert leased == [("rewrap", 1)], "the lease of the dead worker stands"
    assert yard.world.wrong() == []
    yard.let_time_pass()
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign).keys() <= {"rewrapped", "current"}
    assert sum(yard.counts(campaign).values()) == 12
    yard.assert_moved()


@pytest.mark.parametrize("kind", [ShardKind.INVENTORY, ShardKind.STRAGGLERS])
def test_a_scan_that_is_killed_is_made_anew(yard: Yard, kind: ShardKind) -> None:
    yard.plant(10)

    def broker(offer: Offer) -> None:
        if offer.kind is kind:
            yard.broker = yard.work
            yard.world.store.before("read", lambda: None)
            yard.world.store.before("read", crash)
        yard.work(offer)

    yard.broker = broker
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 10)


def test_a_worker_that_lost_its_lease_records_nothing_and_its_successor_finishes(
    yard: Yard,
) -> None:
    yard.plant(4, kinds=("wrapped",))
    yard.set(scan_parts=1)
    campaign = yard.start(Kind.MIGRATE)

    def freeze() -> None:
        yard.let_time_pass()  # its lease lapses while it stands still
        yard.tick()  # another worker gets the shard, and does it

    def broker(offer: Offer) -> None:
        if offer.kind is ShardKind.REWRAP and not frozen:
            frozen.append(offer)
            held.append(offer)  # worked on outside the tick, as by another process
            return
        yard.work(offer)

    frozen: list[Offer] = []
    held: list[Offer] = []
    yard.broker = broker
    yard.tick(2)
    yard.world.store.before("replace", freeze)
    assert yard.run_task(held[0].kind, held[0].shard_id) == {}
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 4)
    marked = 1
    assert yard.world.store.writes == marked + 4, "the frozen worker came second each time"
    yard.assert_moved()


class PoisonedStore(FaultyStore):
    """A store on one of whose objects the client library trips over."""

    poison = ""

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        if name == self.poison:
            raise RuntimeError("a bug")
        super().replace(name, data, expected)


def test_a_task_that_always_raises_fails_its_own_blobs_and_no_others(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 4)
    store = PoisonedStore()
    yard = Yard(ledger, World(store))
    yard.plant(12, kinds=("wrapped",))
    store.poison = "005-wrapped.sidecar.json"
    campaign = yard.start(Kind.MIGRATE)
    yard.tick(4)
    attempts = yard.desk.rows(
        "SELECT attempt, not_before > clock_timestamp() FROM shard WHERE attempt > 0"
    )
    assert attempts == [(1, True)], "it waits before it is tried again"
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE_WITH_EXCEPTIONS
    counts = yard.counts(campaign)
    assert counts["failed"] + counts["rewrapped"] == 12
    assert 1 <= counts["failed"] <= 4
    assert set(yard.reasons(campaign).values()) == {"attempts_exhausted"}
    assert "005-wrapped" in yard.reasons(campaign)
    tried = [o for o in yard.sent if o.kind is ShardKind.REWRAP]
    assert max(tried.count(o) for o in tried) == yard.settings.max_attempts
    assert yard.world.wrong() == []
    store.poison = ""
    with yard.ledger.begin() as connection:
        wishes.retry(connection, yard.desk.get(campaign), quarantined=False)
    assert yard.run(campaign).state is State.COMPLETE
    yard.assert_moved()


def test_a_scan_that_always_fails_stops_the_campaign(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(3)

    def trip(*_: object, **__: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("tasks.scans.scan", trip)
    campaign = yard.start(Kind.MIGRATE)
    stopped = yard.run(campaign, State.STOPPED, time_passes=True)
    assert stopped.reason_code == "scan_keeps_failing"
    monkeypatch.undo()
    _ask(yard, campaign, wishes.resume)
    assert yard.run(campaign).state is State.COMPLETE
    yard.assert_moved()


def test_a_writer_that_comes_first_each_time_does_not_use_up_the_scans_for_stragglers(
    yard: Yard,
) -> None:
    yard.plant(4, kinds=("wrapped",))
    yard.set(scan_parts=1)
    turns = 0

    store = yard.world.store
    real = store.replace

    def replace_after_writer(name: str, data: bytes, expected: Stored) -> None:
        nonlocal turns
        if name == "000-wrapped.sidecar.json":
            turns += 1
            yard.world.edit("000-wrapped", turn=turns)
        real(name, data, expected)

    store.replace = replace_after_writer
    late: list[str] = []

    def broker(offer: Offer) -> None:
        if offer.kind is ShardKind.STRAGGLERS and not late:
            late.append(yard.world.plant("wrapped", "late"))
        yard.work(offer)

    yard.broker = broker
    campaign = yard.start(Kind.MIGRATE)
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE_WITH_EXCEPTIONS
    assert turns >= READS
    assert yard.counts(campaign) == {"rewrapped": 4, "conflict": 1}
    assert yard.reasons(campaign) == {"000-wrapped": "changed_by_writer"}


def test_one_campaigns_trouble_is_not_anothers(yard: Yard) -> None:
    for blob_id in ("a/1", "a/2", "b/1", "b/2"):
        yard.world.plant("wrapped", blob_id)
    yard.world.store.away = {"a/1.sidecar.json"}
    one = yard.start(Kind.MIGRATE, prefix="a/")
    other = yard.start(Kind.MIGRATE, prefix="b/")
    yard.run(one)
    assert yard.run(other).state is State.COMPLETE
    assert yard.desk.get(one).state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.counts(one) == {"rewrapped": 1, "failed": 1}
