"""Windows, deadlines and urgent campaigns, on a real ledger."""

from datetime import UTC, datetime, timedelta

import pytest
from kombu.utils.scheduling import round_robin_cycle

from keywrap.rewrapping import Outcome
from ledger import progress, queues
from ledger.connection import Ledger
from ledger.queues import QUEUE
from ledger.states import Kind, State
from scheduler import status, waits
from scheduler.status import Status
from scheduler.windows import forecast
from tests.yards import Yard, only
from workers.celery_settings import UrgentFirst
from workers.windows import Windows

NIGHT = "22:00-06:00 UTC"
NOON = datetime(2026, 12, 1, 12, tzinfo=UTC)


@pytest.fixture
def yard(ledger: Ledger) -> Yard:
    return Yard(ledger)


def at(monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    """Let the ledger's clock show a time."""
    monkeypatch.setattr(progress, "now", lambda _connection: now)
    monkeypatch.setattr(waits, "silence", lambda _connection: "")  # heartbeats are of another clock


def seen(yard: Yard, campaign: int) -> Status:
    found = status.read(yard.ledger, campaign, keeps_previous=True, windows=yard.windows)
    assert found is not None
    return found


@pytest.mark.parametrize("own", [True, False])
def test_nothing_runs_outside_its_window_and_all_goes_on_inside(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, *, own: bool
) -> None:
    yard.plant(6)
    if not own:
        yard.windows = Windows(default=NIGHT)
    campaign = yard.start(Kind.MIGRATE, run_window=NIGHT if own else "")
    at(monkeypatch, NOON)
    yard.tick(5)
    assert yard.sent == []
    wait = seen(yard, campaign).wait
    assert wait.reason_code == "outside_window"
    assert "it goes on at 2026-12-01T22:00+00:00" in str(wait.reason)
    at(monkeypatch, NOON.replace(hour=23))
    assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(campaign) == only(Outcome.REWRAPPED, 6)


def test_a_window_that_closes_in_mid_campaign_holds_the_rest_back(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(6)
    campaign = yard.start(Kind.MIGRATE, run_window=NIGHT)
    at(monkeypatch, NOON.replace(hour=23))
    yard.run(campaign, State.RUNNING)
    at(monkeypatch, NOON)
    sent = len(yard.sent)
    yard.tick(5)
    assert len(yard.sent) == sent
    at(monkeypatch, NOON.replace(hour=5))
    assert yard.run(campaign).state is State.COMPLETE


def test_an_urgent_campaign_ignores_windows_and_blackouts_and_has_a_queue_of_its_own(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.windows = Windows(NIGHT, ("2026-12-01T00:00/2026-12-02T00:00 UTC",))
    yard.plant(3)
    at(monkeypatch, NOON)
    other = yard.start(Kind.INVENTORY, run_window=NIGHT)
    campaign = yard.start(Kind.MIGRATE, urgent=True)
    assert yard.run(campaign).state is State.COMPLETE
    assert {offer.queue for offer in yard.sent} == {queues.urgent(QUEUE)}
    assert yard.desk.get(other).state is State.INVENTORY
    assert seen(yard, other).wait.reason_code == "outside_window"


def test_what_somebody_waits_for_and_a_rollback_are_held_up_by_no_configured_window(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = yard.plant(3, ("wrapped",))
    migrated = yard.start(Kind.MIGRATE)
    assert yard.run(migrated).state is State.COMPLETE
    yard.windows = Windows(NIGHT, ("2026-12-01T00:00/2026-12-02T00:00 UTC",))
    at(monkeypatch, NOON)
    undo = yard.start(Kind.UNDO, follows=migrated, target=yard.world.target)
    for campaign in (undo, yard.start(Kind.INVENTORY), yard.start(Kind.VERIFY)):
        assert yard.run(campaign).state is State.COMPLETE
    assert yard.counts(undo) == only(Outcome.REWRAPPED, len(ids))
    sealing = yard.start(Kind.ROTATE)
    yard.tick(5)
    assert seen(yard, sealing).wait.reason_code == "outside_window"


def test_urgent_campaigns_are_handed_out_first(yard: Yard) -> None:
    yard.plant(3)
    first, urgent = yard.start(Kind.INVENTORY), yard.start(Kind.INVENTORY, urgent=True)
    yard.tick(2)
    assert [offer.campaign_id for offer in yard.sent][:1] == [urgent]
    assert first in {offer.campaign_id for offer in yard.sent}


def test_a_worker_looks_into_urgent_queues_first_and_into_the_others_in_turn() -> None:
    cycle = UrgentFirst()
    cycle.update(["a", "!b", "b", "!a"])
    assert cycle.consume(4)[:2] == ["!b", "!a"]
    plain = round_robin_cycle(["a", "b"])
    cycle.rotate("a")
    plain.rotate("a")
    assert cycle.consume(4)[2:] == plain.consume(2) == ["b", "a"]


def test_a_deadline_is_judged_by_the_time_in_which_it_may_run(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(6)
    by = NOON + timedelta(days=1)  # one night: 8 hours
    campaign = yard.start(Kind.MIGRATE, run_window=NIGHT, finish_by=by)
    at(monkeypatch, NOON)
    said = seen(yard, campaign).document()["forecast"]
    assert said == {
        "finish_by": "2026-12-02T12:00:00+00:00",
        "needed_per_s": 0.0,
        "state": "unknown",
    }
    at(monkeypatch, NOON.replace(hour=23))
    assert yard.run(campaign).state is State.COMPLETE
    assert seen(yard, campaign).forecast is None


@pytest.mark.parametrize(
    ("rate", "by_hours", "state", "needed"),
    [
        (125.0, 1, "green", 100.0),
        (124.0, 1, "amber", 100.0),
        (100.0, 1, "amber", 100.0),
        (99.0, 1, "red", 100.0),
        (None, 1, "unknown", 100.0),
        (1e9, 0, "red", None),
        (1e9, -1, "red", None),
    ],
)
def test_red_amber_green(
    rate: float | None, by_hours: int, state: str, needed: float | None
) -> None:
    by = NOON + timedelta(hours=by_hours)
    found = forecast(Windows().calendar(""), by, NOON, 360_000, rate)
    assert (found.state, found.needed_per_s) == (state, needed)


def test_the_eta_counts_the_hours_in_which_it_may_not_run(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard.plant(6)
    campaign = yard.start(Kind.MIGRATE, run_window=NIGHT)
    at(monkeypatch, NOON.replace(hour=23))
    yard.run(campaign, State.RUNNING)
    yard.tick()
    at(monkeypatch, NOON)
    eta = seen(yard, campaign).eta_s
    assert eta is None or eta >= 10 * 3600  # it opens in ten hours
