"""Whole campaigns that an operator or a deployment pauses, resumes, cancels or stops."""

import threading
from dataclasses import replace

import pytest

from keywrap.rewrapping import Outcome
from ledger import wishes
from ledger.connection import Ledger
from ledger.shards import Offer
from ledger.states import Kind, ShardKind, State
from tests.yards import Yard, claimable, only


@pytest.fixture
def yard(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setattr("tasks.scans.SHARD_BLOBS", 4)  # several shards of few blobs
    return Yard(ledger)


def _ask(yard: Yard, campaign: int, wish: object) -> None:
    with yard.ledger.begin() as connection:
        wish(connection, yard.desk.get(campaign))


def test_a_pause_hands_everything_back_and_a_resume_completes(yard: Yard) -> None:
    yard.plant(12)
    yard.set(window=1)
    campaign = yard.start(Kind.MIGRATE)

    def broker(offer: Offer) -> None:
        yard.work(offer)
        if offer.kind is ShardKind.REWRAP and yard.desk.get(campaign).state is not State.PAUSING:
            _ask(yard, campaign, wishes.pause)

    yard.broker = broker
    paused = yard.run(campaign, State.PAUSED)
    assert (paused.state, paused.reason_code) == (State.PAUSED, "paused_by_operator")
    yard.assert_idle()
    counts = yard.counts(campaign)
    assert counts["rewrapped"] + counts.get("pending", 0) <= 12
    assert yard.progress(campaign).decided < 12
    sent = len(yard.sent)
    yard.let_time_pass()
    yard.tick(3)
    assert len(yard.sent) == sent, "a paused campaign hands nothing out"
    yard.broker = yard.work
    _ask(yard, campaign, wishes.resume)
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 12)
    yard.assert_moved()


def test_a_worker_in_mid_shard_notices_the_pause_and_keeps_what_is_done(yard: Yard) -> None:
    yard.plant(4, kinds=("wrapped",))
    yard.set(scan_parts=1)
    yard.runtime = replace(yard.runtime, lease_s=0.6, batch=1)
    yard.try_store()
    campaign = yard.start(Kind.MIGRATE)

    def pause_and_let_the_heart_beat() -> None:
        _ask(yard, campaign, wishes.pause)
        for _ in range(2):  # what the first one was told is known when the second one is over
            until = yard.desk.rows("SELECT max(until) FROM shard")
            while yard.desk.rows("SELECT max(until) FROM shard") == until:
                threading.Event().wait(0.01)

    yard.world.store.before("replace", pause_and_let_the_heart_beat)
    yard.run(campaign, State.PAUSED)
    assert yard.counts(campaign) == {"rewrapped": 1, "pending": 3}
    yard.assert_idle()
    assert yard.desk.rows("SELECT max(attempt) FROM shard") == [(0,)]


def test_a_worker_that_is_to_stop_keeps_what_is_done_and_hands_the_rest_back(yard: Yard) -> None:
    yard.plant(4, kinds=("wrapped",))
    yard.set(scan_parts=1)
    stopping: list[bool] = []
    yard.runtime = replace(yard.runtime, batch=1, stopping=lambda: bool(stopping))
    yard.try_store()
    campaign = yard.start(Kind.MIGRATE)
    yard.world.store.before("replace", lambda: stopping.append(True))
    yard.tick(4)
    assert yard.counts(campaign) == {"rewrapped": 1, "pending": 3}
    yard.assert_idle()
    stopping.clear()
    assert yard.run(campaign).state is State.COMPLETE


def test_a_cancelled_campaign_rests_and_leaves_every_blob_readable(yard: Yard) -> None:
    yard.plant(12)
    yard.set(window=1)
    campaign = yard.start(Kind.MIGRATE)

    def broker(offer: Offer) -> None:
        yard.work(offer)
        if offer.kind is ShardKind.REWRAP:
            _ask(yard, campaign, wishes.cancel)

    yard.broker = broker
    assert yard.run(campaign).state is State.CANCELLED
    yard.assert_idle()
    assert 0 < yard.progress(campaign).decided < 12
    assert yard.world.wrong() == []
    sent = len(yard.sent)
    yard.tick(3)
    assert len(yard.sent) == sent
    again = yard.start(Kind.MIGRATE)
    yard.broker = yard.work
    assert yard.run(again).state is State.COMPLETE
    yard.assert_moved()


def test_a_message_of_a_campaign_that_rests_finds_nothing_to_claim(yard: Yard) -> None:
    yard.plant(4)
    held: list[Offer] = []
    yard.broker = held.append
    campaign = yard.start(Kind.MIGRATE)
    yard.tick()
    assert claimable(yard, held[0])
    _ask(yard, campaign, wishes.pause)
    assert not claimable(yard, held[0])
    yard.tick(2)
    assert yard.desk.get(campaign).state is State.PAUSED
    assert yard.run_task(held[0].kind, held[0].shard_id) == {}
