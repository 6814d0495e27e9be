"""Whole plans: the real scheduler and ledger, the real tasks, blobs and keys in memory."""

import contextlib

import pytest

from keywrap.datakey import DataKey
from keywrap.kms import DeniedError
from keywrap.rewrapping import Prove
from keywrap.stores import Stored
from ledger import campaigns, wishes
from ledger.campaigns import RequestRefusedError
from ledger.connection import Ledger
from ledger.shards import Offer
from ledger.states import Kind, ShardKind, State
from scheduler import estimates
from scheduler.estimates import Rate
from tests.worlds import KEK, KINDS, FaultyStore, World
from tests.yards import Yard, claimable


class WrittenError(AssertionError):
    """Somebody wrote."""


class GuardedStore(FaultyStore):
    """A store whose every write is noted and refused while it is guarded."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts: list[str] = []

    def create(self, name: str, data: bytes) -> None:
        self._refuse(f"create {name}, {len(data)} bytes")

    def replace(self, name: str, data: bytes, expected: Stored) -> None:
        self._refuse(f"replace {name}, {len(data)} bytes over {expected.tag}")

    def delete(self, name: str) -> None:
        self._refuse(f"delete {name}")

    def sweep(self, older_than_s: float) -> int:
        self._refuse(f"sweep what is older than {older_than_s} s")
        return 0

    def _refuse(self, what: str) -> None:
        self.attempts.append(what)
        raise WrittenError(what)


@pytest.fixture
def yard(ledger: Ledger) -> Yard:
    return Yard(ledger, World(GuardedStore()))


def _plan(yard: Yard, plan_of: Kind = Kind.MIGRATE, **asked: object) -> int:
    wanted = {"prove": Prove.ALL, "sample_size": 500, "target": yard.world.target} | asked
    return yard.start(Kind.PLAN, plan_of=plan_of, **wanted)


def test_a_plan_of_a_reencryption_measures_contents_and_changes_nothing(yard: Yard) -> None:
    ids = yard.plant(10, KINDS)
    yard.world.plant("direct", "torn", b"x" * 9000)
    name = yard.world.layout.content_name("torn")
    yard.world.store._objects[name] = yard.world.store._objects[name][:100]
    before = dict(yard.world.store._objects)
    plan = _plan(yard, Kind.REENCRYPT)
    assert yard.run(plan).state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.counts(plan) == {"rewrapped": 10, "quarantined": 1}
    assert yard.reasons(plan) == {"torn": "content_truncated"}
    assert yard.progress(plan).content_bytes == sum(len(before[b]) for b in ids)
    assert yard.world.store._objects == before
    assert _attempts(yard) == []
    # It opened each old wrap, made new ones and opened these.
    assert yard.progress(plan).kms_requests > 0


def _attempts(yard: Yard) -> list[str]:
    store = yard.world.store
    assert isinstance(store, GuardedStore)
    return store.attempts


def test_a_plan_opens_a_sample_and_changes_nothing(yard: Yard) -> None:
    yard.plant(12)
    yard.world.plant("managed", "managed")
    before = dict(yard.world.store._objects)
    plan = _plan(yard, sample_size=7)
    assert yard.run(plan).state is State.COMPLETE
    assert yard.counts(plan) == {"rewrapped": 7}
    assert yard.world.store._objects == before, "not even the store's mark"
    assert _attempts(yard) == []
    assert yard.desk.rows("SELECT * FROM store_mark") == []
    assert yard.progress(plan).kms_requests > 0
    yard.assert_idle()


@pytest.mark.parametrize("prove", Prove)
def test_a_plan_of_a_rotation_opens_managed_blobs_alone(yard: Yard, prove: Prove) -> None:
    yard.plant(6)
    for n in range(5):
        yard.world.plant("managed", f"m{n}")
    yard.world.kms.rotate(KEK)
    yard.world.plant("managed", "there")
    plan = _plan(yard, Kind.ROTATE, prove=prove)
    assert yard.run(plan).state is State.COMPLETE
    assert yard.counts(plan) == {"rewrapped": 5}
    assert _attempts(yard) == []


def test_a_plan_of_nothing_is_complete(yard: Yard) -> None:
    yard.world.plant("managed", "m")
    plan = _plan(yard)
    assert yard.run(plan).state is State.COMPLETE
    assert yard.counts(plan) == {}


def test_a_plan_tells_what_would_be_quarantined(yard: Yard) -> None:
    yard.plant(10)
    yard.world.edit("002-wrapped", wrapped_dek="A" * 80)
    yard.world.write_content("000-direct", b"of another", DataKey.generate(), "records-v1")
    plan = _plan(yard)
    assert yard.run(plan).state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.counts(plan) == {"rewrapped": 8, "quarantined": 2}
    assert set(yard.reasons(plan)) == {"000-direct", "002-wrapped"}


def test_a_blob_that_is_mended_is_opened_again_when_the_plan_is_retried(yard: Yard) -> None:
    yard.plant(5)
    sound = yard.world.sidecar("002-wrapped")["wrapped_dek"]
    yard.world.edit("002-wrapped", wrapped_dek="A" * 80)
    plan = _plan(yard)
    assert yard.run(plan).state is State.COMPLETE_WITH_EXCEPTIONS
    yard.world.edit("002-wrapped", wrapped_dek=sound)
    with yard.ledger.begin() as connection:
        assert wishes.retry(connection, yard.desk.get(plan), quarantined=True) == 1
    assert yard.run(plan).state is State.COMPLETE
    assert yard.counts(plan) == {"rewrapped": 5}
    assert _attempts(yard) == []


def test_a_plan_runs_beside_an_open_campaign_over_the_same_blobs(ledger: Ledger) -> None:
    yard = Yard(ledger)
    yard.plant(8)
    migration, plan = yard.start(Kind.MIGRATE), _plan(yard)
    with ledger.begin() as connection, pytest.raises(RequestRefusedError):
        campaigns.refuse_overlap(connection, "")
    assert yard.run(plan).is_finished
    assert yard.run(migration).state is State.COMPLETE
    yard.assert_moved()


def test_the_rate_is_that_of_the_newest_campaign_that_mostly_moved(ledger: Ledger) -> None:
    yard = Yard(ledger)
    yard.plant(8)
    plan = _plan(yard)
    with ledger.begin() as connection:
        assert estimates.rate(connection, yard.desk.get(plan), 7.0) == Rate(7.0, None)
        assert estimates.rate(connection, yard.desk.get(plan), None) is None
    moved = yard.start(Kind.MIGRATE)
    yard.run(moved)
    assert yard.run(yard.start(Kind.MIGRATE)).state is State.COMPLETE  # finds all in place
    with ledger.begin() as connection:
        rate = estimates.rate(connection, yard.desk.get(plan), 7.0)
    assert rate == Rate(yard.progress(moved).rate_per_s or 0.0, moved)


def test_a_right_that_is_missing_blocks_a_plan_until_it_is_given(yard: Yard) -> None:
    yard.plant(4)
    yard.world.kms.disable_version(yard.world.target)
    plan = _plan(yard)
    assert yard.run(plan, State.BLOCKED).reason_code == "version_disabled"
    yard.world.kms.enable_version(yard.world.target)
    assert yard.run(plan, time_passes=True).state is State.COMPLETE
    assert _attempts(yard) == []


def test_a_plan_that_is_blocked_can_be_cancelled(yard: Yard) -> None:
    yard.plant(4)
    denied = DeniedError("no permission", key=KEK, reason_code="permission_denied")
    yard.world.kms.fail_next(denied, times=100)
    plan = _plan(yard)
    yard.run(plan, State.BLOCKED)
    with yard.ledger.begin() as connection:
        wishes.cancel(connection, yard.desk.get(plan))
    assert yard.run(plan).state is State.CANCELLED


def test_a_wrap_that_fails_its_proof_stops_a_plan(yard: Yard) -> None:
    yard.plant(6)
    yard.world.kms.corrupt_next_wrap()
    plan = _plan(yard)
    stopped = yard.run(plan, State.STOPPED)
    assert (stopped.state, stopped.reason_code) == (State.STOPPED, "proof_failed")
    with yard.ledger.begin() as connection:
        wishes.resume(connection, yard.desk.get(plan))
    assert yard.run(plan).state is State.COMPLETE


@pytest.mark.parametrize("kind", [ShardKind.REWRAP, ShardKind.STRAGGLERS])
def test_no_message_makes_a_plan_write(yard: Yard, kind: ShardKind) -> None:
    yard.plant(6)
    messages: list[Offer] = []

    def forge(offer: Offer) -> None:
        messages.append(offer)
        assert yard.run_task(kind, offer.shard_id) == {}, "there is nothing to claim"
        yard.work(offer)

    yard.broker = forge
    plan = _plan(yard)
    assert yard.run(plan).state is State.COMPLETE
    assert {m.kind for m in messages} == {ShardKind.INVENTORY, ShardKind.VERIFY}
    assert _attempts(yard) == []


@pytest.mark.parametrize("state", [State.RUNNING, State.VERIFYING])
@pytest.mark.parametrize("kind", [ShardKind.REWRAP, ShardKind.STRAGGLERS])
def test_an_edited_shard_makes_no_plan_write(yard: Yard, kind: ShardKind, state: State) -> None:
    yard.plant(6)
    plan = _plan(yard)
    yard.broker = lambda offer: yard.work(offer) if offer.kind is ShardKind.INVENTORY else None
    yard.run(plan, State.VERIFYING)
    yard.tick()
    yard.desk.run(
        "UPDATE shard SET kind = :k, state = 'offered' WHERE kind = 'verify'", k=kind.value
    )
    yard.desk.force(plan, state)
    (offer,) = [o for o in yard.sent if o.kind is ShardKind.VERIFY]
    edited = Offer(offer.shard_id, kind, offer.queue, plan, offer.shard_no)
    assert claimable(yard, edited), "or this test shows nothing"
    with pytest.raises(ValueError, match="wants nothing of these blobs"):
        yard.run_task(kind, edited.shard_id)

    def work(offer: Offer) -> None:
        with contextlib.suppress(ValueError):  # as Celery logs it
            yard.work(offer)

    yard.broker = work
    states = set()
    for _ in range(30):
        yard.let_time_pass()
        yard.tick()
        states.add(yard.desk.get(plan).state)
    assert state is State.RUNNING or State.RUNNING not in states
    assert _attempts(yard) == []
    assert yard.desk.rows("SELECT * FROM store_mark") == []


def test_the_guard_of_these_tests_would_tell_of_a_write(yard: Yard) -> None:
    yard.plant(2)
    campaign = yard.start(Kind.MIGRATE)
    with pytest.raises(WrittenError):
        yard.run(campaign)
    assert _attempts(yard)
