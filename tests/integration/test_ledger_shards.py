"""Shards on a real PostgreSQL: offers, leases, fences, outcomes and their balance."""

import threading
import time
from collections.abc import Callable
from itertools import pairwise
from uuid import uuid4

import pytest
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from keywrap.rewrapping import Outcome, Result
from ledger import exhaustion, shards
from ledger.connection import Ledger
from ledger.shards import Lease, LeaseLostError
from ledger.states import WORKING, Kind, ShardKind, ShardState, State
from tests.desks import Desk, desk_of

AWKWARD = ["a'b", 'a"b', "a%s%(x)s", "a:b", "a;--", "a{b}", "$1", "年/🗝", "a,b", "{a}", "NULL", " "]


@pytest.fixture
def desk(ledger: Ledger) -> Desk:
    return desk_of(ledger)


@pytest.fixture
def campaign(desk: Desk) -> int:
    campaign = desk.campaign()
    desk.force(campaign, State.RUNNING)
    return campaign


def _states(desk: Desk) -> list[str]:
    return [s for (s,) in desk.rows("SELECT state FROM shard ORDER BY shard_no")]


def _offer(desk: Desk, campaign: int, window: int = 100, claim_s: float = 60) -> list[shards.Offer]:
    with desk.ledger.begin() as connection:
        return shards.offer(connection, campaign, window, claim_s)


def _take_back(desk: Desk) -> int:
    with desk.ledger.begin() as connection:
        return shards.take_back(connection)


def test_no_more_shards_are_out_than_the_window(desk: Desk, campaign: int) -> None:
    numbers = [desk.shard(campaign) for _ in range(5)]
    first = _offer(desk, campaign, window=3)
    assert len({o.shard_no for o in first} & set(numbers)) == 3
    assert _offer(desk, campaign, window=3) == []
    lease = desk.take(first[0].shard_id, ShardKind.REWRAP)
    assert _offer(desk, campaign, window=3) == [], "what is leased is out too"
    with desk.ledger.begin() as connection:
        shards.finish(connection, lease)
    (one,) = _offer(desk, campaign, window=3)
    assert one.shard_no in set(numbers) - {o.shard_no for o in first}
    assert _offer(desk, campaign, window=0) == []


def test_shards_with_neighbouring_names_do_not_go_out_side_by_side(
    desk: Desk, campaign: int
) -> None:
    numbers = [desk.shard(campaign) for _ in range(200)]
    first = sorted(o.shard_no for o in _offer(desk, campaign, window=50))
    apart = [after - before for before, after in pairwise(first)]
    assert max(apart) > 1, first
    assert first[-1] > numbers[100], "they are from all over the store"


def test_a_window_is_of_one_campaign(desk: Desk, campaign: int) -> None:
    other = desk.campaign(Kind.INVENTORY)
    desk.shard(campaign)
    desk.shard(other, ShardKind.INVENTORY)
    assert len(_offer(desk, campaign, window=1)) == 1
    assert [o.campaign_id for o in _offer(desk, other, window=1)] == [other]


def test_two_schedulers_at_once_never_offer_one_shard_twice(desk: Desk, campaign: int) -> None:
    for _ in range(6):
        desk.shard(campaign)
    with desk.ledger.begin() as one, desk.ledger.begin() as other:
        first = shards.offer(one, campaign, 3, 60)
        second = shards.offer(other, campaign, 3, 60)  # and does not wait for the first
    ids = [o.shard_id for o in first + second]
    assert len(ids) == len(set(ids)) == 6


def test_a_shard_that_is_to_wait_is_offered_later(desk: Desk, campaign: int) -> None:
    desk.shard(campaign)
    lease = desk.claim(campaign)
    with desk.ledger.begin() as connection:
        shards.hand_back(connection, lease, delay_s=30)
    assert _offer(desk, campaign) == []
    assert desk.rows(
        "SELECT round(extract(epoch FROM not_before - clock_timestamp())), attempt FROM shard"
    ) == [(30, 0)]
    desk.run("UPDATE shard SET not_before = clock_timestamp()")
    assert len(_offer(desk, campaign)) == 1


def test_a_shard_is_claimed_once(desk: Desk, campaign: int) -> None:
    desk.shard(campaign)
    (offer,) = _offer(desk, campaign)
    desk.take(offer.shard_id, offer.kind)
    with desk.ledger.begin() as connection:
        assert shards.claim(connection, offer.shard_id, offer.kind, "second", 60) is None


def test_of_two_claims_at_once_one_has_the_shard(desk: Desk, campaign: int) -> None:
    desk.shard(campaign)
    (offer,) = _offer(desk, campaign)
    second: list[Lease | None] = []

    def claim_too() -> None:
        with desk.ledger.begin() as connection:
            second.append(shards.claim(connection, offer.shard_id, offer.kind, "second", 60))

    thread = threading.Thread(target=claim_too)
    with desk.ledger.begin() as connection:
        assert shards.claim(connection, offer.shard_id, offer.kind, "first", 60) is not None
        thread.start()
        waits = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        while desk.rows(waits) == [(0,)]:  # until the second stands at the first's row
            time.sleep(0.005)
    thread.join()
    assert second == [None]
    assert desk.rows("SELECT owner, fence FROM shard") == [("first", 1)]


def test_what_was_never_offered_or_is_no_shard_is_not_claimed(desk: Desk, campaign: int) -> None:
    desk.shard(campaign)
    ((shard_id,),) = desk.rows("SELECT id FROM shard")
    with desk.ledger.begin() as connection:
        assert shards.claim(connection, shard_id, ShardKind.REWRAP, "forger", 60) is None
        assert shards.claim(connection, uuid4(), ShardKind.REWRAP, "forger", 60) is None


@pytest.mark.parametrize("kind", sorted(set(ShardKind) - {ShardKind.REWRAP}))
def test_a_message_to_the_task_of_another_kind_claims_nothing(
    desk: Desk, campaign: int, kind: ShardKind
) -> None:
    desk.shard(campaign)
    (offer,) = _offer(desk, campaign)
    with desk.ledger.begin() as connection:
        assert shards.claim(connection, offer.shard_id, kind, "forger", 60) is None
    desk.take(offer.shard_id, ShardKind.REWRAP)


def test_a_shard_is_claimed_only_while_its_campaign_works(desk: Desk, campaign: int) -> None:
    desk.shard(campaign)
    (offer,) = _offer(desk, campaign)
    for state in State:
        desk.force(campaign, state)
        with desk.ledger.begin() as connection:
            lease = shards.claim(connection, offer.shard_id, offer.kind, "w", 60)
        assert (lease is not None) == (state in WORKING)
        desk.run("UPDATE shard SET state = 'offered'")


FENCED: dict[str, Callable[[Connection, Lease], object]] = {
    "record": lambda c, lease: shards.record(c, lease, [Result("a", Outcome.REWRAPPED)], 1),
    "record nothing": lambda c, lease: shards.record(c, lease, [], 1),
    "renew": lambda c, lease: shards.renew(c, lease, 1000),
    "finish": lambda c, lease: shards.finish(c, lease, total=9),
    "hand_back": lambda c, lease: shards.hand_back(c, lease, failed=True),
    "require": shards.require,
}


@pytest.mark.parametrize("word", FENCED)
@pytest.mark.parametrize("moment", ["taken back", "claimed anew", "done"])
def test_a_late_worker_writes_nothing(desk: Desk, campaign: int, word: str, moment: str) -> None:
    desk.shard(campaign, blob_ids=["a"])
    old = desk.claim(campaign, lease_s=0)
    assert _take_back(desk) == 1
    if moment != "taken back":
        new = desk.claim(campaign)
        assert new.fence == old.fence + 1
    if moment == "done":
        with desk.ledger.begin() as connection:
            shards.finish(connection, new)
    before = desk.rows("SELECT * FROM shard")
    with pytest.raises(LeaseLostError), desk.ledger.begin() as connection:
        FENCED[word](connection, old)
    assert desk.rows("SELECT * FROM shard") == before
    assert desk.rows("SELECT * FROM outcome") == []


def test_results_recorded_in_a_transaction_that_loses_its_lease_do_not_count(
    desk: Desk, campaign: int
) -> None:
    desk.shard(campaign, blob_ids=["a", "b"])
    lease = desk.claim(campaign)

    def record_and_lose_the_lease() -> None:
        with desk.ledger.begin() as connection:
            shards.record(connection, lease, [Result("a", Outcome.REWRAPPED)], 1)
            shards.finish(connection, lease)
            shards.finish(connection, lease)

    with pytest.raises(LeaseLostError):
        record_and_lose_the_lease()
    assert desk.rows("SELECT * FROM outcome") == []
    assert desk.progress(campaign).decided == 0


def test_a_lease_lasts_by_the_clock_of_the_database(
    desk: Desk, campaign: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.time", lambda: 0.0)  # a worker whose clock stands in 1970
    desk.shard(campaign)
    lease = desk.claim(campaign, lease_s=60)
    left = "SELECT round(extract(epoch FROM until - clock_timestamp())) FROM shard"
    assert desk.rows(left) == [(60,)]
    assert _take_back(desk) == 0
    with desk.ledger.begin() as connection:
        assert shards.renew(connection, lease, 90)
    assert desk.rows(left) == [(90,)]
    desk.run("UPDATE shard SET until = clock_timestamp() - interval '1 second'")
    assert _take_back(desk) == 1
    assert _states(desk) == [ShardState.WAITING]


def test_a_lease_that_lapsed_counts_as_an_attempt_and_an_offer_does_not(
    desk: Desk, campaign: int
) -> None:
    desk.shard(campaign)
    _offer(desk, campaign, claim_s=0)
    assert _take_back(desk) == 1
    assert desk.rows("SELECT attempt, lapses FROM shard") == [(0, 1)]
    assert desk.progress(campaign).unclaimed == 1
    desk.claim(campaign, lease_s=0)
    assert desk.rows("SELECT attempt, lapses FROM shard") == [(0, 0)], "a claim ends the lapses"
    _take_back(desk)
    assert desk.rows("SELECT attempt, lapses, owner, until FROM shard") == [(1, 0, None, None)]


def test_a_heartbeat_is_told_whether_to_go_on(desk: Desk, campaign: int) -> None:
    desk.shard(campaign)
    lease = desk.claim(campaign)
    for state in State:
        desk.force(campaign, state)
        with desk.ledger.begin() as connection:
            assert shards.renew(connection, lease, 60) == (state in WORKING), state


def test_every_outcome_is_recorded_with_its_reason_and_counted(desk: Desk, campaign: int) -> None:
    outcomes = {f"blob-{o}": o for o in Outcome}
    number = desk.shard(campaign, blob_ids=list(outcomes))
    desk.record(number, **outcomes)
    rows = desk.rows("SELECT blob_id, outcome, reason_code, detail, shard_no FROM outcome")
    assert sorted(rows) == sorted((b, o, o, f"it is {o}", number) for b, o in outcomes.items())
    progress = desk.progress(campaign)
    assert progress.counts == dict.fromkeys(Outcome, 1)
    assert (progress.scanned, progress.pending, progress.exceptions) == (7, 0, 3)
    assert progress.kms_requests == 3
    assert progress.rate_per_s is not None
    assert progress.count(ShardKind.REWRAP, ShardState.DONE) == progress.count(ShardKind.REWRAP)


def test_blob_ids_are_never_part_of_a_statement(desk: Desk, campaign: int) -> None:
    desk.shard(campaign, blob_ids=AWKWARD)
    lease = desk.claim(campaign)
    assert sorted(desk.remaining(lease)) == sorted(AWKWARD)
    results = [Result(b, Outcome.QUARANTINED, "'; DROP TABLE shard; --", b) for b in AWKWARD]
    with desk.ledger.begin() as connection:
        shards.record(connection, lease, results, 0)
    assert desk.remaining(lease) == []
    rows = desk.rows("SELECT blob_id, detail, reason_code FROM outcome")
    assert sorted(rows) == sorted((b, b, "'; DROP TABLE shard; --") for b in AWKWARD)


def test_a_blob_has_one_outcome(desk: Desk, campaign: int) -> None:
    desk.shard(campaign, blob_ids=["a", "b"])
    lease = desk.claim(campaign)
    with desk.ledger.begin() as connection:
        shards.record(connection, lease, [Result("a", Outcome.REWRAPPED)], 0)
    with pytest.raises(IntegrityError), desk.ledger.begin() as connection:
        shards.record(connection, lease, [Result("a", Outcome.QUARANTINED)], 0)
    assert desk.rows("SELECT outcome FROM outcome") == [("rewrapped",)]
    assert desk.progress(campaign).decided == 1


def test_the_database_refuses_counts_that_do_not_balance(desk: Desk, campaign: int) -> None:
    desk.shard(campaign, blob_ids=["a"])
    lease = desk.claim(campaign)
    with pytest.raises(IntegrityError, match="shard_balance_check"), desk.ledger.begin() as c:
        shards.record(c, lease, [Result(b, Outcome.REWRAPPED) for b in "ab"], 0)
    assert desk.progress(campaign).decided == 0


def test_only_what_has_no_outcome_remains(desk: Desk, campaign: int) -> None:
    desk.shard(campaign, blob_ids=["c", "a", "b"])
    desk.shard(campaign, blob_ids=["of another shard"])
    lease = desk.claim(campaign)
    assert desk.remaining(lease) == ["a", "b", "c"]
    with desk.ledger.begin() as connection:
        shards.record(connection, lease, [Result("b", Outcome.CURRENT)], 0)
    assert desk.remaining(lease) == ["a", "c"]
    with desk.ledger.begin() as connection:
        shards.hand_back(connection, lease)
    assert desk.remaining(desk.claim(campaign)) == ["a", "c"]


def test_progress_wipes_the_attempts_and_unblocks_the_campaign(desk: Desk, campaign: int) -> None:
    desk.shard(campaign, blob_ids=["a", "b"])
    desk.run("UPDATE shard SET attempt = 3")
    lease = desk.claim(campaign)
    desk.step(campaign, State.BLOCKED)
    with desk.ledger.begin() as connection:
        shards.record(connection, lease, [], 1)
    assert desk.rows("SELECT attempt FROM shard") == [(3,)]
    assert desk.get(campaign).state is State.BLOCKED
    with desk.ledger.begin() as connection:
        shards.record(connection, lease, [Result("a", Outcome.CURRENT)], 1)
    assert desk.rows("SELECT attempt FROM shard") == [(0,)]
    assert desk.get(campaign).state is State.RUNNING


def test_a_failed_attempt_is_counted_and_a_hand_back_is_not(desk: Desk, campaign: int) -> None:
    desk.shard(campaign)
    for failed, attempts in ((False, 0), (True, 1), (True, 2), (False, 2)):
        desk.run("UPDATE shard SET not_before = NULL")
        lease = desk.claim(campaign)
        with desk.ledger.begin() as connection:
            shards.hand_back(connection, lease, failed=failed)
        assert desk.rows("SELECT attempt, owner, until FROM shard") == [(attempts, None, None)]


def _give_up(desk: Desk) -> list[int]:
    with desk.ledger.begin() as connection:
        return exhaustion.give_up(connection, 3)


def test_a_shard_whose_workers_die_again_and_again_fails_what_is_left(
    desk: Desk, campaign: int
) -> None:
    desk.shard(campaign, blob_ids=["a", "b", "c"])
    lease = desk.claim(campaign)
    with desk.ledger.begin() as connection:
        shards.record(connection, lease, [Result("b", Outcome.REWRAPPED)], 0)
        shards.hand_back(connection, lease)
    desk.run("UPDATE shard SET attempt = 2")
    assert _give_up(desk) == []
    assert _states(desk) == [ShardState.WAITING]
    desk.run("UPDATE shard SET attempt = 3")
    assert _give_up(desk) == []
    assert _states(desk) == [ShardState.DONE]
    assert sorted(desk.rows("SELECT blob_id, outcome, reason_code FROM outcome")) == [
        ("a", "failed", "attempts_exhausted"),
        ("b", "rewrapped", None),
        ("c", "failed", "attempts_exhausted"),
    ]
    progress = desk.progress(campaign)
    assert progress.counts[Outcome.FAILED] == 2
    assert progress.pending == 0
    assert _give_up(desk) == []


@pytest.mark.parametrize("kind", [ShardKind.INVENTORY, ShardKind.STRAGGLERS, ShardKind.VERIFY])
def test_a_scan_or_proof_that_cannot_be_finished_names_its_campaign(
    desk: Desk, campaign: int, kind: ShardKind
) -> None:
    desk.shard(campaign, kind)
    desk.run("UPDATE shard SET attempt = 3")
    assert _give_up(desk) == [campaign]
    assert _states(desk) == [ShardState.WAITING]


def test_a_verify_campaign_gives_up_blobs_and_not_itself(desk: Desk) -> None:
    campaign = desk.campaign(Kind.VERIFY)
    desk.force(campaign, State.VERIFYING)
    desk.shard(campaign, ShardKind.VERIFY, blob_ids=["a", "b"])
    desk.run("UPDATE shard SET attempt = 3")
    assert _give_up(desk) == []
    assert desk.progress(campaign).counts[Outcome.FAILED] == 2


@pytest.mark.parametrize("state", [State.PAUSED, State.STOPPED, State.CANCELLED])
def test_nothing_is_given_up_while_a_campaign_rests(
    desk: Desk, campaign: int, state: State
) -> None:
    desk.shard(campaign, blob_ids=["a"])
    desk.run("UPDATE shard SET attempt = 3")
    desk.force(campaign, state)
    assert _give_up(desk) == []
    assert desk.progress(campaign).decided == 0


def test_a_withdrawn_offer_cannot_be_claimed_and_a_lease_stays(desk: Desk, campaign: int) -> None:
    desk.shard(campaign)
    desk.shard(campaign)
    lease, offer = desk.claim(campaign), None
    ((offer,),) = desk.rows("SELECT id FROM shard WHERE state = 'offered'")
    with desk.ledger.begin() as connection:
        shards.withdraw_offers(connection, campaign)
        assert shards.claim(connection, offer, ShardKind.REWRAP, "late", 60) is None
        shards.finish(connection, lease)
    assert sorted(_states(desk)) == [ShardState.DONE, ShardState.WAITING]


def test_a_sample_is_of_blobs_that_have_their_outcomes_and_is_counted_as_a_whole(
    desk: Desk, campaign: int
) -> None:
    moved = desk.shard(campaign, blob_ids=["a", "b"])
    desk.record(moved, a=Outcome.REWRAPPED, b=Outcome.REWRAPPED)
    desk.run("UPDATE shard SET kind = 'verify', state = 'waiting' WHERE shard_no = :no", no=moved)
    lease = desk.claim(campaign)
    assert lease.kind is ShardKind.VERIFY
    assert desk.remaining(lease) == ["a", "b"]
    with desk.ledger.begin() as connection:
        shards.count(connection, lease, {Outcome.CURRENT: 2})
    counted = desk.rows(
        "SELECT rewrapped, current, failed FROM shard WHERE shard_no = :no", no=moved
    )
    assert counted == [(0, 2, 0)]


def test_who_has_a_shard_yet_is_let_go_on(desk: Desk, campaign: int) -> None:
    desk.shard(campaign, blob_ids=["a"])
    lease = desk.claim(campaign)
    with desk.ledger.begin() as connection:
        shards.require(connection, lease)
        shards.finish(connection, lease)
