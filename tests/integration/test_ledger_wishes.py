"""What operators wish of campaigns, and KEK rotations, on a real PostgreSQL."""

import threading

import pytest

from keywrap.keys import KeyVersion
from keywrap.rewrapping import Outcome
from ledger import rotations, shards, wishes
from ledger.campaigns import Campaign, RequestRefusedError
from ledger.connection import Ledger
from ledger.states import FINISHED, Kind, ShardState, State
from tests.desks import Desk, desk_of

TARGET = KeyVersion("hcvault://memory/blob-kek", "1")


@pytest.fixture
def desk(ledger: Ledger) -> Desk:
    return desk_of(ledger)


@pytest.fixture(scope="module")
def shared_desk(shared_ledger: Ledger) -> Desk:
    return desk_of(shared_ledger)


@pytest.fixture(scope="module")
def shared_campaign(shared_desk: Desk) -> int:
    """One campaign for the many tests that put it into a state and ask one thing of it."""
    return shared_desk.campaign(Kind.INVENTORY)


WAYS = {
    State.PLANNED: (State.PAUSED, State.CANCELLED),
    State.AWAITING_APPROVAL: (None, State.CANCELLED),
    State.INVENTORY: (State.PAUSING, State.CANCELLING),
    State.BACKUP: (State.PAUSING, State.CANCELLING),
    State.CANARY: (State.PAUSING, State.CANCELLING),
    State.RUNNING: (State.PAUSING, State.CANCELLING),
    State.VERIFYING: (State.PAUSING, State.CANCELLING),
    State.BLOCKED: (State.PAUSING, State.CANCELLING),
    State.STOPPED: (None, State.CANCELLING),
    State.PAUSING: (State.PAUSING, State.CANCELLING),
    State.PAUSED: (State.PAUSED, State.CANCELLED),
    State.CANCELLING: (None, State.CANCELLING),
    State.CANCELLED: (None, State.CANCELLED),
    State.COMPLETE: (None, None),
    State.COMPLETE_WITH_EXCEPTIONS: (None, None),
}


@pytest.mark.parametrize("state", State)
def test_pausing_and_cancelling_go_where_they_should_or_are_refused(
    shared_desk: Desk, shared_campaign: int, state: State
) -> None:
    desk, campaign = shared_desk, shared_campaign
    for ask, expected in zip((wishes.pause, wishes.cancel), WAYS[state], strict=True):
        desk.force(campaign, state)
        with desk.ledger.begin() as connection:
            if expected is None:
                with pytest.raises(RequestRefusedError, match="nothing was changed"):
                    ask(connection, desk.get(campaign))
            else:
                assert ask(connection, desk.get(campaign)) is expected
        assert desk.get(campaign).state is (expected or state)


@pytest.mark.parametrize("left", [State.INVENTORY, State.RUNNING, State.VERIFYING])
@pytest.mark.parametrize("wait", ["paused", "stopped", "blocked then paused"])
def test_a_resumed_campaign_goes_back_to_where_it_was(
    shared_desk: Desk, shared_campaign: int, left: State, wait: str
) -> None:
    desk, campaign = shared_desk, shared_campaign
    desk.force(campaign, left)
    steps = {
        "paused": (State.PAUSING, State.PAUSED),
        "stopped": (State.STOPPED,),
        "blocked then paused": (State.BLOCKED, State.PAUSING, State.PAUSED),
    }
    for state in steps[wait]:
        desk.step(campaign, state)
    with desk.ledger.begin() as connection:
        assert wishes.resume(connection, desk.get(campaign)) is left
    with desk.ledger.begin() as connection, pytest.raises(RequestRefusedError):
        wishes.resume(connection, desk.get(campaign))


def test_a_resumed_campaign_waits_for_no_offer_that_nobody_took(desk: Desk) -> None:
    campaign = desk.campaign()
    desk.force(campaign, State.RUNNING)
    for _ in range(3):
        desk.shard(campaign)
    lease = desk.claim(campaign)
    desk.step(campaign, State.STOPPED)
    with desk.ledger.begin() as connection:
        wishes.resume(connection, desk.get(campaign))
        offered = shards.offer(connection, campaign, 3, 60.0)
    assert len(offered) == 2, "the offers of before are made again"
    assert lease.shard_no not in {o.shard_no for o in offered}, "one that is in work stays"


def test_a_campaign_that_was_paused_before_it_began_begins_when_resumed(desk: Desk) -> None:
    campaign = desk.campaign()
    with desk.ledger.begin() as connection:
        wishes.pause(connection, desk.get(campaign))
    with desk.ledger.begin() as connection:
        assert wishes.resume(connection, desk.get(campaign)) is State.PLANNED


def test_a_wish_on_a_campaign_that_moved_on_meanwhile_is_refused(desk: Desk) -> None:
    campaign = desk.campaign()
    seen = desk.get(campaign)
    desk.step(campaign, State.INVENTORY)
    with desk.ledger.begin() as connection, pytest.raises(RequestRefusedError):
        wishes.pause(connection, seen)
    assert desk.get(campaign).state is State.INVENTORY


def _with_exceptions(desk: Desk) -> Campaign:
    campaign = desk.campaign()
    desk.force(campaign, State.RUNNING)
    number = desk.shard(campaign, blob_ids=["ok", "quarantined", "failed", "conflict"])
    desk.record(
        number,
        ok=Outcome.REWRAPPED,
        quarantined=Outcome.QUARANTINED,
        failed=Outcome.FAILED,
        conflict=Outcome.CONFLICT,
    )
    desk.force(campaign, State.COMPLETE_WITH_EXCEPTIONS)
    return desk.get(campaign)


@pytest.mark.parametrize("quarantined", [False, True])
def test_retry_makes_what_failed_pending_again_and_keeps_the_balance(
    desk: Desk, *, quarantined: bool
) -> None:
    campaign = _with_exceptions(desk)
    with desk.ledger.begin() as connection:
        assert wishes.retry(connection, campaign, quarantined=quarantined) == 2 + quarantined
    progress = desk.progress(campaign.id)
    assert progress.pending == 2 + quarantined
    assert progress.counts[Outcome.REWRAPPED] == 1
    assert progress.counts[Outcome.QUARANTINED] == 1 - quarantined
    assert desk.get(campaign.id).state is State.RUNNING
    lease = desk.claim(campaign.id)
    again = {"failed", "conflict", "quarantined"} if quarantined else {"failed", "conflict"}
    assert set(desk.remaining(lease)) == again


def test_there_is_nothing_to_retry_twice(desk: Desk) -> None:
    campaign = _with_exceptions(desk)
    with desk.ledger.begin() as connection:
        wishes.retry(connection, campaign, quarantined=True)
    desk.force(campaign.id, State.COMPLETE_WITH_EXCEPTIONS)
    with desk.ledger.begin() as connection, pytest.raises(RequestRefusedError) as refused:
        wishes.retry(connection, desk.get(campaign.id), quarantined=True)
    assert refused.value.reason_code == "nothing_to_retry"


@pytest.mark.parametrize("state", sorted(set(State) - {State.COMPLETE_WITH_EXCEPTIONS}))
def test_only_a_campaign_with_exceptions_is_retried(
    shared_desk: Desk, shared_campaign: int, state: State
) -> None:
    desk, campaign = shared_desk, shared_campaign
    desk.run("UPDATE campaign SET kind = 'verify'")  # so that its kind is no reason
    desk.force(campaign, state)
    with desk.ledger.begin() as connection, pytest.raises(RequestRefusedError):
        wishes.retry(connection, desk.get(campaign), quarantined=True)


def test_a_retry_is_refused_while_another_campaign_moves_the_same_blobs(desk: Desk) -> None:
    campaign = _with_exceptions(desk)
    other = desk.campaign(Kind.ROTATE)
    with desk.ledger.begin() as connection, pytest.raises(RequestRefusedError) as refused:
        wishes.retry(connection, campaign, quarantined=True)
    assert refused.value.reason_code == "already_open"
    assert desk.get(campaign.id).state is State.COMPLETE_WITH_EXCEPTIONS
    desk.force(other, State.CANCELLED)
    with desk.ledger.begin() as connection:
        assert wishes.retry(connection, campaign, quarantined=True) == 3


def test_retry_opens_only_the_shards_that_have_something_to_retry(desk: Desk) -> None:
    campaign = _with_exceptions(desk)
    number = desk.shard(campaign.id, blob_ids=["fine"])
    desk.force(campaign.id, State.RUNNING)
    desk.record(number, fine=Outcome.REWRAPPED)
    desk.force(campaign.id, State.COMPLETE_WITH_EXCEPTIONS)
    with desk.ledger.begin() as connection:
        wishes.retry(connection, desk.get(campaign.id), quarantined=False)
    states = dict(tuple(row) for row in desk.rows("SELECT shard_no, state FROM shard"))
    assert states[number] == ShardState.DONE
    assert sorted(states.values()) == [ShardState.DONE, ShardState.WAITING]


def test_a_rotation_begun_twice_is_one(desk: Desk) -> None:
    with desk.ledger.begin() as connection:
        first = rotations.begin(connection, TARGET)
        rotations.minted(connection, first, KeyVersion(TARGET.key, "2"))
    with desk.ledger.begin() as connection:
        again = rotations.begin(connection, KeyVersion(TARGET.key, "2"))
    assert again.id == first.id
    assert (again.base, again.new) == (TARGET, KeyVersion(TARGET.key, "2"))


def test_rotations_begun_at_once_are_one(desk: Desk) -> None:
    barrier, ids = threading.Barrier(2), []

    def begin() -> None:
        barrier.wait()
        with desk.ledger.begin() as connection:
            ids.append(rotations.begin(connection, TARGET).id)

    threads = [threading.Thread(target=begin) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ids) == 2
    assert len(set(ids)) == 1


@pytest.mark.parametrize("state", State)
def test_a_rotation_is_closed_when_its_campaign_is_over(
    shared_desk: Desk, shared_campaign: int, state: State
) -> None:
    desk, campaign = shared_desk, shared_campaign
    current = KeyVersion(f"hcvault://memory/{state}", "1")
    with desk.ledger.begin() as connection:
        rotation = rotations.begin(connection, current)
        rotations.opened(connection, rotation, campaign)
    desk.force(campaign, state)
    with desk.ledger.begin() as connection:
        rotations.close_finished(connection)
        again = rotations.begin(connection, current)
    assert (again.id != rotation.id) == (state in FINISHED)


def test_a_rotation_without_a_campaign_stays_open(desk: Desk) -> None:
    with desk.ledger.begin() as connection:
        first = rotations.begin(connection, TARGET)
        rotations.close_finished(connection)
        assert rotations.begin(connection, TARGET).id == first.id
