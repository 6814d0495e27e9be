"""What an attacker, a crash or a broken store may do to whole campaigns: proofs, races, stores."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from keywrap.rewrapping import Outcome, Prove
from keywrap.stores import StoreUnavailableError
from ledger import progress, wishes
from ledger.connection import Connection, Ledger
from ledger.shards import Offer
from ledger.states import Kind, ShardKind, State
from scheduler.advance import advance
from scheduler.rules import Rules
from tasks import tally
from tasks.scans import MAX_PASSES
from tests.worlds import KEK, SimulatedCrash, World
from tests.yards import Yard, only


@pytest.fixture
def yard(ledger: Ledger) -> Yard:
    return Yard(ledger)


def _rotation(yard: Yard) -> int:
    return yard.start(Kind.ROTATE, prove=Prove.SAMPLE, sample=0.01)


def _without(yard: Yard, *kinds: ShardKind) -> Callable[[Offer], None]:
    """Make a broker that loses the messages of some kinds."""
    return lambda offer: None if offer.kind in kinds else yard.work(offer)


def _go_on(yard: Yard, campaign: int, wish: object = wishes.resume) -> None:
    with yard.ledger.begin() as connection:
        wish(connection, yard.desk.get(campaign))


def _crash_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a worker be killed once, after it wrote and before it records what it did."""
    record, left = tally.shards.record, [SimulatedCrash]

    def die(*args: Any, **named: Any) -> Any:
        if left:
            raise left.pop()
        return record(*args, **named)

    monkeypatch.setattr(tally.shards, "record", die)


def test_what_a_cancelled_rotation_left_unproved_is_in_the_sample_of_the_next(yard: Yard) -> None:
    yard.plant(6, ("managed",))
    yard.world.kms.rotate(KEK)
    yard.world.kms.corrupt_next_wrap()
    first = _rotation(yard)
    yard.broker = _without(yard, ShardKind.VERIFY)
    yard.run(first, State.VERIFYING)
    _go_on(yard, first, wishes.cancel)
    yard.run(first, State.CANCELLED, time_passes=True)
    yard.broker = yard.work
    second = yard.run(_rotation(yard), State.STOPPED)
    assert (second.state, second.reason_code) == (State.STOPPED, "proof_failed")


def test_what_a_killed_worker_wrote_and_did_not_record_is_in_the_sample(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(6, ("managed",))
    yard.world.kms.rotate(KEK)
    yard.world.kms.corrupt_next_wrap()
    _crash_once(monkeypatch)
    campaign = yard.run(_rotation(yard), State.STOPPED, time_passes=True)
    assert (campaign.state, campaign.reason_code) == (State.STOPPED, "proof_failed")
    assert yard.counts(campaign.id).keys() == {"rewrapped", "current"}


def test_a_sound_rotation_after_a_crash_is_proved_whole(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(6, ("managed",))
    yard.world.kms.rotate(KEK)
    _crash_once(monkeypatch)
    campaign = yard.run(_rotation(yard), time_passes=True)
    assert campaign.state is State.COMPLETE
    assert yard.progress(campaign.id).verified == 6
    yard.assert_moved()


@pytest.mark.parametrize("corrupt", [False, True])
def test_a_sample_that_is_away_blocks_and_proves_nothing_until_it_is_back(
    yard: Yard, *, corrupt: bool
) -> None:
    ids = yard.plant(6, ("managed",))
    yard.world.kms.rotate(KEK)
    if corrupt:
        yard.world.kms.corrupt_next_wrap()
    campaign = _rotation(yard)
    yard.broker = _without(yard, ShardKind.VERIFY)
    yard.run(campaign, State.VERIFYING)
    yard.world.store.away = {yard.world.layout.content_name(b) for b in ids}
    yard.broker = yard.work
    yard.let_time_pass()
    blocked = yard.run(campaign, State.BLOCKED, State.STOPPED)
    assert (blocked.state, blocked.reason_code) == (State.BLOCKED, "store_unavailable")
    assert yard.progress(campaign).verified == 0
    yard.world.store.away = set()
    end = yard.run(campaign, State.STOPPED, time_passes=True)
    assert end.state is (State.STOPPED if corrupt else State.COMPLETE)
    assert yard.progress(campaign).verified == (0 if corrupt else 6)


def test_a_sampled_blob_that_was_deleted_does_not_count_as_opened(yard: Yard) -> None:
    ids = yard.plant(6, ("managed",))
    yard.world.kms.rotate(KEK)
    campaign = _rotation(yard)

    def work(offer: Offer) -> None:
        if offer.kind is ShardKind.VERIFY:
            yard.world.delete(ids[0])
        yard.work(offer)

    yard.broker = work
    assert yard.run(campaign, State.STOPPED).state is State.COMPLETE
    assert yard.progress(campaign).verified == 5


def _lose(world: World, blob_id: str) -> None:
    del world.store._objects[world.layout.content_name(blob_id)]


def _damage(world: World, blob_id: str) -> None:
    name = world.layout.content_name(blob_id)
    world.store._objects[name] = world.store._objects[name][:-1] + b"\0\0"


@pytest.mark.parametrize("harm", [_lose, _damage])
def test_content_that_is_missing_or_damaged_does_not_stop_a_rotation_that_lost_no_key(
    yard: Yard, harm: Callable[[World, str], None]
) -> None:
    ids = yard.plant(6, ("managed",))
    harm(yard.world, ids[0])
    del yard.world.originals[ids[0]]
    yard.world.kms.rotate(KEK)
    campaign = yard.run(_rotation(yard), State.STOPPED)
    assert campaign.state is State.COMPLETE
    assert yard.counts(campaign.id) == only(Outcome.REWRAPPED, 6)
    assert yard.progress(campaign.id).verified == 5
    yard.assert_moved()


def test_an_orphan_sidecar_without_an_old_wrap_does_not_stop_a_rotation(yard: Yard) -> None:
    yard.plant(3, ("managed",))
    yard.world.kms.rotate(KEK)
    orphan = yard.world.plant("managed", "orphan")  # at the new version already
    _lose(yard.world, orphan)
    del yard.world.originals[orphan]
    assert yard.run(_rotation(yard), State.STOPPED).state is State.COMPLETE


def test_damaged_content_with_no_old_wrap_to_compare_stops_until_a_person_has_looked(
    yard: Yard,
) -> None:
    yard.world.kms.rotate(KEK)
    damaged = yard.plant(1, ("managed",))[0]
    _damage(yard.world, damaged)
    del yard.world.originals[damaged]
    campaign = yard.run(_rotation(yard), State.STOPPED)
    assert (campaign.state, campaign.reason_code) == (State.STOPPED, "proof_failed")
    with yard.ledger.begin() as connection:
        wishes.resume(connection, campaign)
    assert yard.run(campaign.id, State.STOPPED).state is State.COMPLETE


@pytest.mark.parametrize("harm", [_lose, _damage])
def test_missing_or_damaged_content_is_no_excuse_for_a_wrong_data_key(
    yard: Yard, harm: Callable[[World, str], None]
) -> None:
    ids = yard.plant(1, ("managed",))
    harm(yard.world, ids[0])
    yard.world.kms.rotate(KEK)
    yard.world.kms.corrupt_next_wrap()
    campaign = yard.run(_rotation(yard), State.STOPPED)
    assert (campaign.state, campaign.reason_code) == (State.STOPPED, "proof_failed")


class Interrupting:
    """A connection of a tick, at which something happens before each statement but the first."""

    def __init__(self, connection: Connection, act: Callable[[], None]) -> None:
        self._connection = connection
        self._act = act
        self._statements = 0

    def execute(self, *args: Any, **named: Any) -> Any:
        self._statements += 1
        if self._statements > 1:
            self._act()
        return self._connection.execute(*args, **named)


def _advance_while(
    yard: Yard, campaign: int, monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]
) -> None:
    """Advance a campaign while something happens in the middle of reading its progress."""
    read = progress.read

    def interrupted(connection: Connection, campaign_id: int, kind: Kind) -> progress.Progress:
        return read(Interrupting(connection, act), campaign_id, kind)

    monkeypatch.setattr(progress, "read", interrupted)
    with yard.ledger.begin() as connection:
        advance(connection, yard.desk.get(campaign), Rules(scan_parts=1))
    monkeypatch.setattr(progress, "read", read)


def _hold(yard: Yard, kind: ShardKind) -> list[Offer]:
    """Tick until shards of a kind are offered, and hold these."""
    held: list[Offer] = []
    yard.set(scan_parts=1)
    yard.broker = lambda offer: held.append(offer) if offer.kind is kind else yard.work(offer)
    for _ in range(20):
        yard.tick()
        if held:
            return held
    raise AssertionError(f"no {kind} was offered")


def test_a_straggler_that_a_worker_finds_during_a_tick_is_not_passed_over(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = yard.plant(4, ("wrapped",))
    campaign = yard.start(Kind.MIGRATE)
    held = _hold(yard, ShardKind.STRAGGLERS)
    yard.world.plant("wrapped", ids[0])  # an old application writes once more
    _advance_while(yard, campaign, monkeypatch, lambda: [yard.work(o) for o in held])
    assert yard.desk.get(campaign).state is State.VERIFYING
    yard.broker = yard.work
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    yard.assert_moved()


def test_a_straggler_of_the_last_pass_found_during_a_tick_is_not_called_complete(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = yard.plant(4, ("wrapped",))
    campaign = yard.start(Kind.MIGRATE)
    held = _hold(yard, ShardKind.STRAGGLERS)
    yard.desk.run("UPDATE campaign SET passes = :passes", passes=MAX_PASSES)
    yard.world.plant("wrapped", ids[0])
    _advance_while(yard, campaign, monkeypatch, lambda: [yard.work(o) for o in held])
    yard.broker = yard.work
    end = yard.run(campaign, time_passes=True)
    assert end.state is State.COMPLETE_WITH_EXCEPTIONS
    assert yard.reasons(campaign).keys() == {ids[0]}


def test_a_verify_whose_last_shard_ends_during_a_tick_is_not_said_to_be_out_of_balance(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(4, ("managed",))
    campaign = yard.start(Kind.VERIFY)
    held = _hold(yard, ShardKind.VERIFY)
    _advance_while(yard, campaign, monkeypatch, lambda: [yard.work(o) for o in held])
    assert yard.desk.get(campaign).state is not State.STOPPED
    yard.broker = yard.work
    assert yard.run(campaign, State.STOPPED, time_passes=True).state is State.COMPLETE


@pytest.mark.parametrize("state", [State.PLANNED, State.INVENTORY, State.RUNNING])
def test_a_late_tick_that_saw_an_older_state_adds_nothing(yard: Yard, state: State) -> None:
    yard.plant(6, ("managed",))
    yard.world.kms.rotate(KEK)
    campaign = _rotation(yard)
    yard.broker = _without(yard, ShardKind.STRAGGLERS, ShardKind.VERIFY)
    seen = yard.desk.get(campaign)
    while seen.state is not state:
        yard.tick()
        seen = yard.desk.get(campaign)
    while yard.desk.get(campaign).state is state:
        yard.tick()
    shards = yard.desk.rows("SELECT kind, part FROM shard ORDER BY shard_no")
    with yard.ledger.begin() as connection:
        assert not advance(connection, seen)
    assert yard.desk.rows("SELECT kind, part FROM shard ORDER BY shard_no") == shards
    yard.broker = yard.work
    assert yard.run(campaign, State.STOPPED, time_passes=True).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 6)


def test_a_full_disk_blocks_a_campaign_that_goes_on_when_there_is_room(yard: Yard) -> None:
    yard.plant(12, ("wrapped",))
    yard.runtime = replace(yard.runtime, batch=20)
    yard.set(scan_parts=1)
    yard.try_store()
    write = yard.world.store.replace

    def full(name: str, *_rest: object) -> None:
        raise StoreUnavailableError("no space left on device", name=name)

    yard.world.store.replace = full
    campaign = yard.start(Kind.MIGRATE)
    blocked = yard.run(campaign, State.BLOCKED)
    assert (blocked.state, blocked.reason_code) == (State.BLOCKED, "store_unavailable")
    assert yard.counts(campaign) == {"pending": 12}
    yard.world.store.replace = write
    assert yard.run(campaign, time_passes=True).state is State.COMPLETE
    yard.assert_moved()
