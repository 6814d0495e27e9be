"""A worker keeps its shard for as long as it moves on, and gives it up in good order."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from keywrap.stores import StoreUnavailableError
from ledger import shards
from ledger.connection import Ledger, LedgerUnavailableError
from ledger.shards import Offer
from ledger.states import Kind
from tasks.leases import HandBackError, Work, under_lease
from tasks.metering import Meter
from tasks.runtime import Counts
from tests.nodes import until
from tests.yards import Yard

LEASE_S = 0.3


class Heard(Meter):
    lost = 0

    def lease_lost(self) -> None:
        self.lost += 1


@pytest.fixture
def yard(ledger: Ledger, tmp_path: Path) -> Yard:
    yard = Yard(ledger, audit=tmp_path)
    yard.runtime = replace(yard.runtime, lease_s=LEASE_S, meter=Heard())
    return yard


@pytest.fixture
def offer(yard: Yard) -> Offer:
    yard.plant(1)
    yard.broker = lambda _offer: None
    yard.start(Kind.INVENTORY)
    yard.tick(3)
    return yard.sent[0]


def work(yard: Yard, offer: Offer, body: Callable[[Work], Counts]) -> Counts:
    return under_lease(yard.runtime, offer.shard_id, offer.kind, body)


def renewed(yard: Yard, offer: Offer) -> Callable[[], bool]:
    """Return what tells whether the lease was renewed since."""

    def ends() -> Any:
        return yard.desk.rows("SELECT until FROM shard WHERE id = :id", id=offer.shard_id)

    before = ends()
    return lambda: bool(before < ends())


def row(yard: Yard, offer: Offer) -> tuple[str, int, bool]:
    """Return the shard's state, its attempts, and whether its lease is over."""
    (found,) = yard.desk.rows(
        "SELECT state, attempt, until < clock_timestamp() FROM shard WHERE id = :id",
        id=offer.shard_id,
    )
    return tuple(found)


def test_a_lease_is_kept_for_as_long_as_the_work_moves_on(yard: Yard, offer: Offer) -> None:
    def body(work: Work) -> Counts:
        until(renewed(yard, offer), "renewed")
        work.moved()
        work.check()
        return {"rewrapped": 1}

    assert work(yard, offer, body) == {"rewrapped": 1}


def test_the_lease_of_work_that_is_stuck_lapses(
    yard: Yard, offer: Offer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.leases._STUCK_AFTER_LEASES", 1)

    def body(_work: Work) -> Counts:
        until(lambda: row(yard, offer)[2], "lapsed")
        return {}

    with caplog.at_level(logging.ERROR):
        work(yard, offer, body)
    assert [r.getMessage() for r in caplog.records] == [
        f"shard {offer.shard_no} is stuck; its lease lapses"
    ]


def test_who_lost_the_lease_is_told_at_the_next_step_and_changes_nothing(
    yard: Yard, offer: Offer
) -> None:
    def taken() -> bool:
        yard.let_time_pass()  # the heart may beat right after this: then again
        yard.tick()  # takes it back, and offers it anew
        with yard.ledger.begin() as connection:
            return shards.claim(connection, offer.shard_id, offer.kind, "b", 60) is not None

    def body(work: Work) -> Counts:
        until(taken, "another one has it")
        until(lambda: work._lost, "noticed")
        work.check()
        raise AssertionError("it went on")

    assert work(yard, offer, body) == {}
    assert row(yard, offer) == ("leased", 1, False)  # the other's; the lapse counts
    assert isinstance(yard.runtime.meter, Heard)
    assert yard.runtime.meter.lost == 1


def test_a_heart_goes_on_beating_when_the_ledger_is_back(
    yard: Yard, offer: Offer, monkeypatch: pytest.MonkeyPatch
) -> None:
    renew, away = shards.renew, [True, True]

    def failing(*args: object) -> bool:
        if away:
            away.pop()
            raise LedgerUnavailableError("no answer")
        return renew(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("tasks.leases.shards.renew", failing)

    def body(work: Work) -> Counts:
        is_renewed = renewed(yard, offer)
        until(lambda: not away and is_renewed(), "renewed")
        work.check()
        return {"rewrapped": 1}

    assert work(yard, offer, body) == {"rewrapped": 1}


def test_work_that_is_given_back_counts_as_no_attempt_and_one_that_failed_does(
    yard: Yard, offer: Offer
) -> None:
    yard.runtime = replace(yard.runtime, audit=None)

    def give_back(_work: Work) -> Counts:
        raise HandBackError

    def fail(_work: Work) -> Counts:
        raise RuntimeError("a fault")

    assert work(yard, offer, give_back) == {}
    assert row(yard, offer)[:2] == ("waiting", 0)
    yard.tick()
    with pytest.raises(RuntimeError, match="a fault"):
        work(yard, offer, fail)
    assert row(yard, offer)[:2] == ("waiting", 1)


def test_a_worker_that_is_to_stop_is_told_between_two_batches(yard: Yard, offer: Offer) -> None:
    yard.runtime = replace(yard.runtime, stopping=lambda: True)

    def body(work: Work) -> Counts:
        work.check()
        raise AssertionError("it went on")

    assert work(yard, offer, body) == {}
    assert row(yard, offer)[:2] == ("waiting", 0)


def test_a_store_that_is_away_blocks_the_campaign_and_gives_the_shard_back(
    yard: Yard, offer: Offer
) -> None:
    def body(_work: Work) -> Counts:
        raise StoreUnavailableError("the store does not answer")

    assert work(yard, offer, body) == {}
    assert row(yard, offer)[0] == "waiting"
    assert yard.desk.rows("SELECT state, reason_code FROM campaign") == [
        ("blocked", "store_unavailable")
    ]


def test_a_worker_without_the_ledger_leaves_the_shard_to_its_lease(
    yard: Yard, offer: Offer
) -> None:
    def body(_work: Work) -> Counts:
        raise LedgerUnavailableError("no answer")

    with pytest.raises(LedgerUnavailableError):
        work(yard, offer, body)
    assert row(yard, offer)[0] == "leased"


def test_a_message_of_a_shard_that_somebody_has_does_nothing(yard: Yard, offer: Offer) -> None:
    with yard.ledger.begin() as connection:
        assert shards.claim(connection, offer.shard_id, offer.kind, "another", 60) is not None

    def body(_work: Work) -> Counts:
        raise AssertionError("it worked")

    assert work(yard, offer, body) == {}
