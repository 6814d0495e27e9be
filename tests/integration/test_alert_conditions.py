"""What is alerted, on a real ledger, told to a real HTTP server."""

import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keywrap.rewrapping import Outcome
from ledger.connection import Ledger
from ledger.states import Kind, State
from tests.alerting import Office, complete, kinds
from tests.desks import Desk
from tests.hooks import receiver


@pytest.fixture
def office(ledger: Ledger, tmp_path: Path) -> Iterator[Office]:
    with receiver() as hook:
        yield Office(ledger, tmp_path, hook)


def test_ends_are_told_once_and_have_no_end(office: Office) -> None:
    complete(office, kind=Kind.INVENTORY)  # as `retire` scans the store, again and again
    complete(office)
    complete(office, State.COMPLETE_WITH_EXCEPTIONS)
    complete(office, State.CANCELLED)
    scheduler = office.scheduler()
    told = office.turn(scheduler)
    assert [(one["kind"], one["severity"]) for one in told] == [
        ("campaign_complete", "info"),
        ("campaign_exceptions", "warning"),
    ]
    assert office.turn(office.scheduler()) == []
    office.desk.run("UPDATE campaign SET finished_at = finished_at - interval '8 days'")
    assert office.turn(scheduler) == []


def test_an_outage_that_holds_up_many_campaigns_is_one_alert(office: Office) -> None:
    held = [office.desk.campaign(Kind.ROTATE, prefix=f"p{n}/") for n in range(8)]
    for campaign in held:
        office.block(campaign, f"the token may not do this (request {campaign})")
    scheduler = office.scheduler()
    (told,) = office.turn(scheduler)
    assert told["text"] == (
        "campaign 1 (rotate) is blocked: permission_denied: the token may not do this (request 1);"
        " the same holds up campaign 2, 3, 4, 5, 6 and 2 more"
    )
    assert (told["campaign"], told["next_command"]) == (None, "rewrap status")
    office.desk.force(held[0], State.RUNNING)
    assert office.turn(scheduler) == [], "it lasts, and is the same"
    office.desk.run("UPDATE campaign SET reason_code = 'key_disabled' WHERE id = :id", id=held[1])
    (other,) = office.turn(scheduler)
    assert (other["kind"], other["campaign"]) == ("campaign_blocked", held[1])
    for campaign in held:
        office.desk.force(campaign, State.RUNNING)
    assert kinds(office.turn(scheduler)) == [("resolved", "campaign_blocked")] * 2


def running(office: Office, good: int = 0, bad: int = 0, **asked: Any) -> int:
    campaign = office.desk.campaign(Kind.ROTATE, **asked)
    blobs = [f"b{n}" for n in range(good + bad + 1)]
    number = office.desk.shard(campaign, blob_ids=blobs[:-1])
    office.desk.shard(campaign, blob_ids=blobs[-1:])  # one that waits
    outcomes = [Outcome.REWRAPPED] * good + [Outcome.QUARANTINED] * bad
    office.desk.force(campaign, State.RUNNING)
    office.desk.record(number, **dict(zip(blobs, outcomes, strict=False)))
    return campaign


def test_quarantined_blobs_and_too_many_of_them(office: Office) -> None:
    running(office, good=100, bad=1, prefix="p/")
    scheduler = office.scheduler()
    assert kinds(office.turn(scheduler)) == [("raised", "blobs_quarantined")]
    running(office, good=100, bad=2, prefix="q/")
    told = office.turn(scheduler)
    assert kinds(told) == [("raised", "blobs_quarantined"), ("raised", "unwrap_errors")]
    assert "cannot open 2 of 102 blobs (2.0%, at most 1% is usual)" in told[1]["text"]
    assert "2 quarantined of quarantined" in told[1]["text"]
    assert office.turn(scheduler) == []


def test_a_campaign_that_does_not_move_has_stalled_until_it_does(office: Office) -> None:
    campaign = running(office, good=5)
    scheduler = office.scheduler(rules="stalled_s = 600")
    assert office.turn(scheduler) == []
    still(office, 601)
    (told,) = office.turn(office.scheduler(rules="stalled_s = 600"))
    assert told["kind"] == "campaign_stalled"
    assert re.search(r"is running and has not moved for 6\d\d s", told["text"])
    office.desk.run("UPDATE shard SET kms_requests = kms_requests + 1 WHERE total > 1")
    assert kinds(office.turn(scheduler)) == [("resolved", "campaign_stalled")]
    office.desk.force(campaign, State.PAUSED)
    still(office, 601)
    assert office.turn(scheduler) == [], "one that is paused is not to move"
    office.desk.force(campaign, State.RUNNING)
    assert office.turn(scheduler) == [], "and begins to wait when it goes on"


def still(office: Office, seconds: float) -> None:
    office.desk.run(
        "UPDATE alert_pulse SET moved_at = moved_at - make_interval(secs => :s)", s=seconds
    )


def test_a_campaign_outside_its_window_has_not_stalled(office: Office) -> None:
    now = datetime.now(UTC)
    closed = f"{now + timedelta(hours=2):%H:%M}-{now + timedelta(hours=3):%H:%M} UTC"
    running(office, good=5, run_window=closed)
    scheduler = office.scheduler()
    office.turn(scheduler)
    still(office, 100_000)
    assert office.turn(scheduler) == []


def test_one_that_will_be_late_is_told(office: Office) -> None:
    running(office, good=5, finish_by=datetime.now(UTC) - timedelta(minutes=1))
    (told,) = office.turn(office.scheduler())
    assert told["kind"] == "campaign_late"
    assert "red: no time is left" in told["text"]


def test_shards_that_nobody_takes(office: Office) -> None:
    running(office, good=5)
    office.desk.run(
        "UPDATE shard SET started_at = started_at - interval '1 hour',"
        " finished_at = finished_at - interval '1 hour'"
    )
    office.desk.run("UPDATE shard SET lapses = 3 WHERE state = 'waiting'")
    (told,) = office.turn(office.scheduler())
    assert (told["kind"], told["severity"]) == ("no_workers", "critical")
    assert told["next_command"] == "rewrap worker"


def test_a_scheduler_that_lives_and_does_not_tick(office: Office) -> None:
    office.desk.run("UPDATE heartbeat SET at = at - interval '1 minute'")
    scheduler = office.scheduler()
    assert kinds(office.turn(scheduler)) == [("raised", "scheduler_silent")]
    office.beat()
    assert kinds(office.turn(scheduler)) == [("resolved", "scheduler_silent")]


def test_an_unusual_volume_is_told_against_the_busiest_hour_lately(office: Office) -> None:
    campaign = running(office, good=5)
    scheduler = office.scheduler(rules="unusual_factor = 2")
    assert office.turn(scheduler) == []

    def ask(requests: int) -> list[tuple[str, str]]:
        office.desk.run(
            "UPDATE shard SET kms_requests = kms_requests + :n"
            " WHERE campaign_id = :id AND total > 1",
            n=requests,
            id=campaign,
        )
        return kinds(office.turn(scheduler))

    assert ask(50_000) == [], "nothing before it was counted"
    office.desk.run("UPDATE request_hour SET hour = hour - interval '2 hours'")
    assert ask(90_000) == []
    assert ask(20_000) == [("raised", "unusual_volume")]
    office.desk.run("UPDATE request_hour SET hour = hour - interval '40 days'")
    assert ask(1) == [("resolved", "unusual_volume")]


def test_the_last_requests_of_a_campaign_count_when_it_has_ended(office: Office) -> None:
    campaign = running(office, good=5)
    office.desk.run("UPDATE shard SET kms_requests = 700 WHERE total > 1")
    office.desk.run(
        "UPDATE campaign SET state = 'cancelled', finished_at = clock_timestamp() WHERE id = :id",
        id=campaign,
    )
    scheduler = office.scheduler()
    for _ in range(3):
        office.turn(scheduler)
    assert office.desk.rows("SELECT requests FROM request_hour") == [(700,)]


def test_a_schedule_that_missed_its_time(office: Office) -> None:
    office.desk.run(
        "INSERT INTO schedule (name, kind, cron, zone, next_at, try_at, created_by, missed,"
        " reason_code, reason) VALUES ('nightly', 'verify', '0 3 * * *', 'UTC', now(), now(), 'x',"
        " 2, 'kms_unavailable', 'it does not answer')"
    )
    scheduler = office.scheduler()
    (told,) = office.turn(scheduler)
    assert told["kind"] == "schedule_missed"
    assert told["text"] == (
        "schedule nightly has missed 2 times: kms_unavailable: it does not answer"
    )
    office.desk.run("UPDATE schedule SET missed = 0, reason_code = NULL")
    assert kinds(office.turn(scheduler)) == [("resolved", "schedule_missed")]


def test_an_approval_that_waits(office: Office) -> None:
    office.desk.run(
        "INSERT INTO approval (nonce, action, plan, requested_by, account, expires_at,"
        " request_signature) VALUES (gen_random_uuid(), 'sweep', '{}', 'ann', 'ann@host',"
        " clock_timestamp() + interval '1 hour', '')"
    )
    scheduler = office.scheduler()
    (told,) = office.turn(scheduler)
    assert (told["kind"], told["next_command"]) == ("approval_waiting", "rewrap approve 1")
    office.desk.run("UPDATE approval SET approved_by = 'bob'")
    assert kinds(office.turn(scheduler)) == [("resolved", "approval_waiting")]


def test_a_backup_that_is_too_old(office: Office) -> None:
    campaign = complete(office)
    office.desk.run(
        "INSERT INTO backup (campaign_id, serial, place, manifest, sha256, blobs, recipients,"
        " created_at) VALUES (:id, 1, 'p', 'm', 's', 1, 'age1',"
        " clock_timestamp() - interval '31 days')",
        id=campaign,
    )
    told = office.turn(office.scheduler(webhook='kinds = ["backup_old"]'))
    assert [one["text"] for one in told] == [
        f"the newest backup, of campaign {campaign}, is 31 days old"
    ]


def test_a_head_that_must_not_be_signed(office: Office) -> None:
    scheduler = office.scheduler()
    scheduler._witness._head.refused = "the store has it no more"
    (told,) = office.turn(scheduler)
    assert (told["kind"], told["severity"]) == ("audit_broken", "critical")
    assert "the store has it no more" in told["text"]


def test_a_chain_that_was_changed(office: Office, chain: Callable[[Desk], None]) -> None:
    chain(office.desk)
    scheduler = office.scheduler()
    for _ in range(3):
        assert office.turn(scheduler) == []
    office.desk.run("UPDATE audit_segment SET events = events + 1 WHERE place = 2")
    for _ in range(3):
        office.turn(scheduler)
    (told,) = office.hook.got
    assert (told["kind"], told["severity"]) == ("audit_broken", "critical")
    assert "entry 2 is not what was chained" in told["text"]
    office.desk.run("UPDATE audit_segment SET events = events - 1 WHERE place = 2")
    for _ in range(4):
        office.turn(scheduler)
    assert kinds(office.hook.got)[1:] == [("resolved", "audit_broken")]


@pytest.fixture
def chain() -> Callable[[Desk], None]:
    from keywrap.segments import Segment, Source  # noqa: PLC0415 - only here
    from ledger import audit  # noqa: PLC0415

    def make(desk: Desk) -> None:
        with desk.ledger.begin() as connection:
            for number in range(1, 4):
                source = Source(1, number, 1, "tests")
                at = datetime.now(UTC)
                audit.note(connection, Segment(f"s{number}", source, 1, 10, bytes(32), at))
            audit.chain_new(connection)

    return make


def test_a_key_service_that_throttles(office: Office, redis_url: str) -> None:
    key = "hcvault://transit/blob-kek"
    more = (
        f'[broker]\nurl = "{redis_url}"\n[keys]\nprimary = "{key}"\n'
        '[keys.vault."transit/blob-kek"]\naddress = "http://127.0.0.1:1"\ntoken_env = "T"\n'
        f'[pace.keys."{key}"]\nrequests_per_s = 100'
    )
    from workers import pacing  # noqa: PLC0415 - only here

    with pacing.connect(redis_url) as client:
        client.hset(f"{pacing._PREFIX}{key}", "throttled", 7)
        scheduler = office.scheduler(more=more)
        assert office.turn(scheduler) == [], "what was before it began is old"
        client.hset(f"{pacing._PREFIX}{key}", "throttled", 12)
        (told,) = office.turn(scheduler)
    assert told["kind"] == "live_throttled"
    assert f"the service of {key} throttles, 5 times lately" in told["text"]
