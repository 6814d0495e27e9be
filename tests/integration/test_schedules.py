"""Recurring campaigns, on a real ledger: when they are due, missed, skipped, and never two."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from keywrap.kms import UnavailableError
from ledger import schedules
from ledger.connection import Ledger
from ledger.schedules import Schedule
from ledger.states import Kind, State
from scheduler import recurring
from scheduler.commands.schedule import schedule as command
from scheduler.desk import Desk, DeskError
from scheduler.recurring import CronError, Recurring, following, missed_until
from tests.desks import desk_of
from tests.rotations import STORE, desk_at
from tests.yards import Yard


@pytest.fixture
def desk(ledger: Ledger, tmp_path: Path) -> Desk:
    return desk_at(tmp_path, ledger, STORE.format(store=(tmp_path / "blobs").as_uri()))


@pytest.fixture
def keeper(desk: Desk, ledger: Ledger) -> Recurring:
    return Recurring(desk.settings, ledger)


def types(desk: Desk, *words: str) -> Result:
    return CliRunner().invoke(command, list(words), obj=desk)


def listed(desk: Desk) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(types(desk, "list", "--json").output)
    return found


def let_it_be_due(ledger: Ledger, **since: float) -> None:
    """Let the next time of every schedule have come some time ago."""
    desk_of(ledger).run(
        "UPDATE schedule SET next_at = clock_timestamp() - make_interval(secs => :s),"
        " try_at = clock_timestamp() - make_interval(secs => :s)",
        s=timedelta(**since).total_seconds(),
    )


def campaigns_of(ledger: Ledger) -> list[tuple[Any, ...]]:
    return desk_of(ledger).rows("SELECT kind, requested_by FROM campaign ORDER BY id")


def test_a_schedule_that_nobody_foresaw_holds_up_no_other(
    desk: Desk, keeper: Recurring, ledger: Ledger
) -> None:
    for name in ("bad", "good"):
        types(desk, "add", name, "inventory", "--cron", "0 3 * * *")
    desk_of(ledger).run("UPDATE schedule SET zone = 'Gone/Nowhere' WHERE name = 'bad'")
    let_it_be_due(ledger, seconds=1)
    assert keeper.look() == 1
    assert campaigns_of(ledger) == [("inventory", "schedule good")]
    assert {one["name"]: one["reason_code"] for one in listed(desk)} == {
        "bad": "internal_error",
        "good": None,
    }


def test_what_is_due_is_opened_once_and_the_next_time_is_set(
    desk: Desk, keeper: Recurring, ledger: Ledger
) -> None:
    added = types(desk, "add", "nightly", "inventory", "--cron", "0 3 * * *", "--prefix", "p/")
    assert added.exit_code == 0, added.output
    assert keeper.look() == 0, "it is not due"
    let_it_be_due(ledger, seconds=1)
    assert keeper.look() == 1
    assert keeper.look() == 0
    assert campaigns_of(ledger) == [("inventory", "schedule nightly")]
    (one,) = listed(desk)
    assert (one["last_campaign"], one["missed"], one["reason_code"]) == (1, 0, None)
    next_at = datetime.fromisoformat(one["next_at"])
    assert (next_at.hour, next_at.minute) == (3, 0)
    assert next_at > datetime.now(UTC)


def test_what_was_missed_is_made_good_by_one_campaign_and_said(
    desk: Desk, keeper: Recurring, ledger: Ledger
) -> None:
    types(desk, "add", "hourly", "verify", "--cron", "0 * * * *", "--sample", "10")
    let_it_be_due(ledger, hours=5)
    assert keeper.look() == 1
    (one,) = listed(desk)
    assert one["missed"] in {4, 5}
    assert campaigns_of(ledger) == [("verify", "schedule hourly")]
    assert "times were missed" in types(desk, "list").output


def test_while_the_one_before_runs_the_next_is_skipped(
    desk: Desk, keeper: Recurring, ledger: Ledger
) -> None:
    types(desk, "add", "often", "inventory", "--cron", "* * * * *")
    for _ in range(3):
        let_it_be_due(ledger, seconds=1)
        keeper.look()
    assert len(campaigns_of(ledger)) == 1
    (one,) = listed(desk)
    assert (one["missed"], one["reason_code"]) == (2, "still_running")
    desk_of(ledger).force(1, State.COMPLETE)
    let_it_be_due(ledger, seconds=1)
    assert keeper.look() == 1
    assert listed(desk)[0]["reason_code"] is None


def test_two_schedulers_open_one(desk: Desk, keeper: Recurring, ledger: Ledger) -> None:
    types(desk, "add", "nightly", "inventory", "--cron", "0 3 * * *")
    let_it_be_due(ledger, seconds=1)
    with ledger.exclusively(recurring._LOCK) as ours:
        assert ours
        assert keeper.look() == 0
    # And one that has read what was due, and is slow.
    with ledger.begin() as connection:
        (seen,) = schedules.due(connection)
    assert keeper.look() == 1
    assert not keeper._take(Schedule(**{**_fields(seen), "last_campaign": None}))
    assert len(campaigns_of(ledger)) == 1


def _fields(one: Schedule) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}


def test_a_key_service_that_is_away_is_asked_again_and_said_once(
    desk: Desk,
    keeper: Recurring,
    ledger: Ledger,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    yard = Yard(ledger)
    new = Schedule("weekly", Kind.ROTATE, "0 2 * * 6", "Europe/Berlin", "t", next_at=_soon())
    with ledger.begin() as connection:
        assert schedules.add(connection, new)
        assert not schedules.add(connection, new), "there is one of that name"

    asked = []

    def away(key: str | None) -> Any:
        asked.append(key)
        raise UnavailableError("it does not answer")

    monkeypatch.setattr(keeper._desk, "kek", away, raising=False)
    for _ in range(2):
        let_it_be_due(ledger, seconds=1)
        assert keeper.look() == 0
    assert caplog.text.count("it does not answer") == 1
    (one,) = listed(desk)
    assert one["reason_code"] == "kms_unavailable"
    assert keeper.look() == 0
    assert len(asked) == 2, "not before a minute is over"
    monkeypatch.setattr(keeper._desk, "kek", lambda _key: yard.world.kek)
    let_it_be_due(ledger, seconds=1)
    assert keeper.look() == 1
    ((target,),) = desk_of(ledger).rows("SELECT target FROM campaign")
    assert target == str(yard.world.target), "of the time when it is due"


def _soon() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def test_an_overlap_with_what_a_person_started_is_skipped(
    desk: Desk, keeper: Recurring, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    yard = Yard(ledger)
    yard.start(Kind.MIGRATE)
    monkeypatch.setattr(keeper._desk, "kek", lambda _key: yard.world.kek, raising=False)
    new = Schedule("weekly", Kind.ROTATE, "0 2 * * 6", "UTC", "t", next_at=_soon())
    with ledger.begin() as connection:
        schedules.add(connection, new)
    let_it_be_due(ledger, seconds=1)
    assert keeper.look() == 0
    (one,) = listed(desk)
    assert (one["reason_code"], one["missed"]) == ("already_open", 1)


def test_a_paused_one_opens_nothing_and_makes_nothing_good(
    desk: Desk, keeper: Recurring, ledger: Ledger
) -> None:
    types(desk, "add", "nightly", "inventory", "--cron", "0 3 * * *")
    assert types(desk, "pause", "nightly").exit_code == 0
    let_it_be_due(ledger, days=3)
    assert keeper.look() == 0
    assert "goes on, next at" in types(desk, "resume", "nightly").output
    assert keeper.look() == 0
    assert listed(desk)[0]["missed"] == 0
    assert types(desk, "remove", "nightly").exit_code == 0
    assert listed(desk) == []


@pytest.mark.parametrize(
    "words",
    [
        ("add", "n", "inventory", "--cron", "bad"),
        ("add", "n", "inventory", "--cron", "0 0 31 2 *"),
        ("add", "n", "inventory", "--cron", "* * * * * *"),
        ("add", "n", "inventory", "--cron", "0 3 * * *", "--zone", "Mars/Base"),
        ("add", "n", "inventory", "--cron", "0 3 * * *", "--sample", "3"),
        ("add", "n", "inventory", "--cron", "0 3 * * *", "--to", "hcvault://x/y"),
        ("add", "../n", "inventory", "--cron", "0 3 * * *"),
        ("add", "n", "reencrypt", "--cron", "0 3 * * *"),
        ("add", "n", "undo", "--cron", "0 3 * * *"),
        ("add", "n", "rotate", "--cron", "0 3 * * *"),
        ("add", "n", "backup", "--cron", "0 3 * * *"),
        ("add", "n", "inventory", "--cron", "0 3 * * *", "--window", "soon"),
        ("add", "n", "inventory"),
        ("pause", "nobody"),
        ("resume", "nobody"),
        ("remove", "nobody\n"),
    ],
)
def test_what_cannot_be_scheduled_is_refused_and_nothing_is_added(
    desk: Desk, words: tuple[str, ...]
) -> None:
    ran = types(desk, *words)
    assert ran.exit_code == 2 or isinstance(ran.exception, DeskError), ran.output
    assert listed(desk) == []


def test_times_of_a_place_over_daylight_saving() -> None:
    half_past_two = "30 2 * * *"
    spring = datetime(2026, 3, 28, 12, tzinfo=UTC)
    assert following(half_past_two, "Europe/Berlin", spring) == datetime(2026, 3, 29, 1, tzinfo=UTC)
    autumn = datetime(2026, 10, 24, 12, tzinfo=UTC)
    first = following(half_past_two, "Europe/Berlin", autumn)
    second = following(half_past_two, "Europe/Berlin", first)
    assert second - first == timedelta(hours=25), "one that comes twice counts once"
    with pytest.raises(CronError):
        following("0 0 30 2 *", "UTC", spring)


def test_as_many_are_missed_as_have_gone_by() -> None:
    due = datetime(2026, 1, 1, tzinfo=UTC)
    one = Schedule("n", Kind.INVENTORY, "0 0 * * *", "UTC", "t", next_at=due)
    assert missed_until(one, due) == 0
    assert missed_until(one, due + timedelta(days=3)) == 3
    assert missed_until(one, due + timedelta(days=30_000)) == 1000
