"""Alerts on a real ledger, told to a real HTTP server."""

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner, Result

from keywrap.rewrapping import Outcome
from ledger import alerts as stored
from ledger.connection import Ledger
from ledger.states import Kind, State
from scheduler import webhooks
from scheduler.alerting import Alerting
from scheduler.commands.alerts import alerts as command
from scheduler.headkeeper import HeadKeeper
from tests.desks import Desk, desk_of
from tests.hooks import Receiver, Reply, receiver
from tests.rotations import STORE, desk_at

CANARY = "canary-5d1b9be0a7f14c0e"
REFUSES = "the token may not do this"


@pytest.fixture
def hook() -> Iterator[Receiver]:
    with receiver() as there:
        yield there


class Office:
    """A ledger, a configuration with one webhook, and schedulers that raise alerts.

    Attributes:
        desk: short words for the ledger.
    """

    def __init__(self, ledger: Ledger, folder: Path, hook: Receiver) -> None:
        self.ledger, self.desk, self.hook, self.folder = ledger, desk_of(ledger), hook, folder
        (folder / "hook.url").write_text(f"{hook.url}\n")
        self.beat()

    def beat(self) -> None:
        self.desk.run(
            "INSERT INTO heartbeat VALUES ('scheduler', clock_timestamp())"
            " ON CONFLICT (name) DO UPDATE SET at = clock_timestamp()"
        )

    def config(self, more: str = "", rules: str = "", webhook: str = "") -> str:
        store = STORE.format(store=(self.folder / "blobs").as_uri())
        webhook = webhook or 'min_severity = "info"'
        return (
            f"{store}\n{more}\n[alerts]\n{rules}\n"
            f'[alerts.webhooks.ops]\nurl_file = "hook.url"\n{webhook}\n'
        )

    def scheduler(self, quiet_s: float = 0.0, **config: str) -> Alerting:
        """Return what a scheduler that has just been started has."""
        settings = desk_at(self.folder, self.ledger, self.config(**config)).settings
        return Alerting(settings, self.ledger, HeadKeeper(settings, self.ledger), quiet_s)

    def turn(self, scheduler: Alerting) -> list[dict[str, Any]]:
        """Let a scheduler look and send; return what came at the webhook since the last turn."""
        before = len(self.hook.got)
        scheduler.look()
        scheduler.send()
        return self.hook.got[before:]

    def block(self, campaign: int, reason: str = REFUSES) -> None:
        self.desk.run(
            "UPDATE campaign SET state = 'blocked', reason_code = 'permission_denied',"
            " reason = :why WHERE id = :id",
            why=reason,
            id=campaign,
        )

    def let_it_be_due(self) -> None:
        self.desk.run("UPDATE alert_delivery SET next_at = clock_timestamp()")

    def types(self, *words: str, **config: str) -> Result:
        desk = desk_at(self.folder, self.ledger, self.config(**config))
        return CliRunner().invoke(command, list(words), obj=desk)


@pytest.fixture
def office(ledger: Ledger, tmp_path: Path, hook: Receiver) -> Office:
    return Office(ledger, tmp_path, hook)


def kinds(messages: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return [(one["event"], one["kind"]) for one in messages]


def test_an_alert_is_told_once_and_its_end_once(office: Office) -> None:
    campaign = office.desk.campaign(Kind.ROTATE)
    office.block(campaign)
    scheduler = office.scheduler()
    (told,) = office.turn(scheduler)
    assert told.pop("raised_at")
    assert told.pop("id") == "1-raised"
    assert told == {
        "version": 1,
        "event": "raised",
        "kind": "campaign_blocked",
        "severity": "critical",
        "campaign": campaign,
        "text": f"campaign {campaign} (rotate) is blocked: permission_denied: {REFUSES}",
        "next_command": f"rewrap status {campaign} --watch",
        "store": (office.folder / "blobs").as_uri(),
        "resolved_at": None,
    }
    office.let_it_be_due()
    assert office.turn(scheduler) == [], "what was delivered is not sent again"
    office.desk.force(campaign, State.RUNNING)
    (ended,) = office.turn(scheduler)
    assert (ended["event"], ended["kind"]) == ("resolved", "campaign_blocked")
    assert ended["resolved_at"]
    assert office.turn(scheduler) == []
    office.block(campaign)
    assert kinds(office.turn(scheduler)) == [("raised", "campaign_blocked")], "it is a new one"


def test_what_comes_and_goes_is_told_once(office: Office) -> None:
    campaign = office.desk.campaign(Kind.ROTATE)
    scheduler = office.scheduler(quiet_s=60.0)
    told = []
    for _ in range(3):
        office.block(campaign)
        told += office.turn(scheduler)
        office.desk.force(campaign, State.RUNNING)
        told += office.turn(scheduler)
    assert kinds(told) == [("raised", "campaign_blocked")]
    office.block(campaign)
    office.desk.run("UPDATE alert SET seen_at = seen_at - interval '61 seconds'")
    office.turn(scheduler)
    office.desk.force(campaign, State.RUNNING)
    assert office.turn(scheduler) == [], "it was seen just now, however long it has lasted"
    office.desk.run("UPDATE alert SET seen_at = seen_at - interval '61 seconds'")
    assert kinds(office.turn(scheduler)) == [("resolved", "campaign_blocked")]


def test_a_restart_neither_loses_nor_repeats_one(office: Office) -> None:
    office.block(office.desk.campaign(Kind.ROTATE))
    office.scheduler().look()  # raised, and killed before it was sent
    assert kinds(office.turn(office.scheduler())) == [("raised", "campaign_blocked")]
    assert office.turn(office.scheduler()) == []
    # Killed while it was sending: another one takes the message up when the hold is over.
    office.block(office.desk.campaign(Kind.VERIFY))
    office.scheduler().look()
    with office.ledger.begin() as connection:
        assert stored.take(connection, "ops", 60.0)
    assert office.turn(office.scheduler()) == []
    office.let_it_be_due()
    assert kinds(office.turn(office.scheduler())) == [("raised", "campaign_blocked")]


def test_many_schedulers_tell_it_once(office: Office, ledger_url: str) -> None:
    for _ in range(5):
        office.block(office.desk.campaign(Kind.VERIFY))
    office.hook.replies = [Reply(delay_s=0.02) for _ in range(5)]
    ledgers = [Ledger(ledger_url) for _ in range(4)]
    settings = desk_at(office.folder, office.ledger, office.config()).settings
    together = threading.Barrier(len(ledgers))

    def run(ledger: Ledger) -> None:
        scheduler = Alerting(settings, ledger, HeadKeeper(settings, ledger), 0.0)
        together.wait()
        for _ in range(3):
            scheduler.look()
            scheduler.send()

    threads = [threading.Thread(target=run, args=(ledger,)) for ledger in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ledger in ledgers:
        ledger.close()
    assert sorted(one["campaign"] for one in office.hook.got) == [1, 2, 3, 4, 5]
    assert len(office.hook.asked) == 5


def test_a_message_that_is_being_taken_is_taken_by_nobody_else(office: Office) -> None:
    office.block(office.desk.campaign(Kind.VERIFY))
    office.scheduler().look()
    with office.ledger.begin() as one, office.ledger.begin() as other:
        assert stored.take(one, "ops", 60.0)
        other.exec_driver_sql("SET LOCAL lock_timeout = '2s'")
        assert stored.take(other, "ops", 60.0) is None, "and not waited for"


@pytest.mark.parametrize(
    ("reply", "says", "least_s"),
    [
        (Reply(500, body=b"broken\nforged"), "500: broken\\nforged", 1.0),
        (Reply(404, body=b""), "404", 1.0),
        (Reply(429, {"Retry-After": "120"}), "429: ok", 119.0),
        (Reply(503, {"Retry-After": "999999"}), "503: ok", 3599.0),
        (Reply(500, body=b"x" * 5000), f"500: {'x' * 1024}", 1.0),
    ],
)
def test_what_is_not_taken_is_sent_again_later(
    office: Office, reply: Reply, says: str, least_s: float
) -> None:
    office.block(office.desk.campaign(Kind.ROTATE))
    office.hook.replies = [reply]
    scheduler = office.scheduler()
    assert office.turn(scheduler) == []
    assert office.turn(scheduler) == [], "not at once"
    ((attempts, answer, wait_s),) = office.desk.rows(
        "SELECT attempts, answer, extract(epoch FROM next_at - clock_timestamp())::float8"
        " FROM alert_delivery"
    )
    assert (attempts, answer) == (1, says)
    assert least_s - 1 < wait_s < max(least_s, 2) + 1
    office.let_it_be_due()
    assert kinds(office.turn(scheduler)) == [("raised", "campaign_blocked")]
    first, second = office.hook.asked
    assert first[1]["Idempotency-Key"] == second[1]["Idempotency-Key"]


def test_a_pause_grows_and_is_drawn_at_random_and_bounded() -> None:
    no = webhooks.Answer(is_delivered=False, says="500")
    for attempts, longest in ((1, 2), (2, 4), (5, 32), (1000, 900)):
        drawn = {no.pause_s(attempts) for _ in range(200)}
        assert longest / 2 <= min(drawn) < max(drawn) <= longest
        assert len(drawn) > 100


def test_retry_after_may_be_a_date() -> None:
    later = datetime.now(UTC) + timedelta(seconds=90)
    found = webhooks._retry_after(f"{later:%a, %d %b %Y %H:%M:%S} GMT")
    assert found is not None
    assert 85 < found <= 90
    assert webhooks._retry_after("Fri, 28 Nov 2003 00:00:00 GMT") == 0
    assert webhooks._retry_after("soon") is None
    assert webhooks._retry_after("") is None
    assert webhooks._retry_after("-5") is None


def test_a_redirect_is_not_followed(office: Office) -> None:
    office.block(office.desk.campaign(Kind.ROTATE))
    with receiver() as elsewhere:
        office.hook.replies = [Reply(307, {"Location": elsewhere.url})]
        office.turn(office.scheduler())
        assert elsewhere.asked == []
    assert office.desk.rows("SELECT answer, ended_at FROM alert_delivery") == [
        ("307: redirects are not followed", None)
    ]


def test_one_that_never_answers_is_left_and_holds_up_no_other(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_TIMEOUT_S", (1.0, 0.3))
    office.block(office.desk.campaign(Kind.ROTATE))
    office.hook.replies = [Reply(delay_s=2.0)]
    with receiver() as other:
        (office.folder / "other.url").write_text(other.url)
        more = '[alerts.webhooks.other]\nurl_file = "other.url"'
        scheduler = office.scheduler(webhook=f'min_severity = "info"\n{more}')
        scheduler.look()
        began = time.monotonic()
        scheduler.start()
        while not other.got:
            assert time.monotonic() - began < 10
            time.sleep(0.05)
        scheduler.stop()
    answers = dict(office.desk.rows("SELECT webhook, answer FROM alert_delivery"))
    assert answers["ops"] in {"it did not answer in time", ""}


def test_it_is_given_up_after_a_day_and_listed_so(office: Office) -> None:
    office.block(office.desk.campaign(Kind.ROTATE))
    scheduler = office.scheduler()
    scheduler.look()
    office.desk.run("UPDATE alert_delivery SET created_at = created_at - interval '25 hours'")
    office.hook.replies = [Reply(500)]
    scheduler.send()
    office.let_it_be_due()
    assert scheduler.send() == 0
    assert "ops: raised given up: 500: ok" in office.types().output


def test_only_what_a_webhook_wants_is_sent(office: Office) -> None:
    office.block(office.desk.campaign(Kind.ROTATE))
    office.desk.force(office.desk.campaign(Kind.VERIFY), State.STOPPED)
    wants = 'kinds = ["campaign_stopped", "campaign_complete"]'
    assert kinds(office.turn(office.scheduler(webhook=wants))) == [("raised", "campaign_stopped")]
    complete(office)
    scheduler = office.scheduler(webhook=wants)
    assert office.turn(scheduler) == [], "what is complete is info, and warnings are the least"


def complete(office: Office, state: State = State.COMPLETE) -> int:
    campaign = office.desk.campaign(Kind.INVENTORY)
    office.desk.run(
        "UPDATE campaign SET state = :state, finished_at = clock_timestamp() WHERE id = :id",
        state=state,
        id=campaign,
    )
    return campaign


def test_ends_are_told_once_and_have_no_end(office: Office) -> None:
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
    assert "is running and has not moved for 601 s" in told["text"]
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


HOSTILE = 'a <!channel> *bold* <http://x|click> & `code` @here\n\x1b[31m{"event": "forged"}'


def test_slack_reads_no_formatting_link_or_mention_in_what_others_named(office: Office) -> None:
    office.block(office.desk.campaign(Kind.ROTATE), HOSTILE)
    office.scheduler().look()
    slack = office.scheduler(webhook='format = "slack"')
    slack.send()
    ((path, headers, told),) = office.hook.asked
    assert path.startswith("/services/")
    assert headers["Content-Type"] == "application/json"
    (block,) = told["blocks"]
    assert block["text"]["type"] == "plain_text"
    for text in (told["text"], block["text"]["text"]):
        assert "\x1b" not in text
        assert "rotate" in text
        assert [line.split(":")[0] for line in text.split("\n")] == ["!! critical", "next", "store"]
    for active in ("<", ">", "*bold", "`code", "@here"):
        assert active not in told["text"]
    assert "&lt;!channel&gt;" in told["text"]
    assert told["mrkdwn"] is False


def test_a_long_reason_is_cut(office: Office) -> None:
    office.block(office.desk.campaign(Kind.ROTATE), "x" * 100_000)
    (told,) = office.turn(office.scheduler())
    assert len(told["text"]) < 600


def test_no_url_of_a_webhook_is_in_the_ledger_the_log_or_what_is_printed(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    (office.folder / "hook.url").write_text(f"http://127.0.0.1:1/{CANARY}")
    office.block(office.desk.campaign(Kind.ROTATE))
    scheduler = office.scheduler()
    scheduler.look()
    scheduler.send()
    (office.folder / "hook.url").write_text(f"ftp://example.com/{CANARY}")
    office.let_it_be_due()
    scheduler.send()
    printed = office.types().output + office.types("test").output + office.types("--json").output
    rows = str(office.desk.rows("SELECT answer FROM alert_delivery"))
    assert "expected https" in rows
    assert "attempt 2" in caplog.text
    for text in (printed, rows, caplog.text):
        assert CANARY not in text


def test_the_list_says_what_lasts_what_was_and_who_was_told(office: Office) -> None:
    campaign = office.desk.campaign(Kind.ROTATE)
    office.block(campaign)
    scheduler = office.scheduler()
    assert "no alerts yet" in office.types().output
    office.turn(scheduler)
    listed = office.types().output
    assert listed.startswith("OPEN critical campaign_blocked since")
    assert "ops: raised delivered" in listed
    assert f"next: rewrap status {campaign} --watch" in listed
    office.desk.force(campaign, State.RUNNING)
    office.turn(scheduler)
    assert "OPEN" not in office.types().output
    (one,) = json.loads(office.types("--json").output)
    assert one["is_open"] is False
    assert one["resolved_at"]
    assert [(d["event"], d["is_delivered"]) for d in one["deliveries"]] == [
        ("raised", True),
        ("resolved", True),
    ]


def test_a_test_message_says_what_came_back(office: Office) -> None:
    ran = office.types("test")
    assert (ran.exit_code, ran.output) == (0, "ops: delivered: 200: ok\n")
    assert office.hook.got[0]["event"] == "test"
    office.hook.replies = [Reply(403, body=b"invalid_token")]
    ran = office.types("test", "--json")
    assert json.loads(ran.output) == [
        {"webhook": "ops", "is_delivered": False, "answer": "403: invalid_token"}
    ]


def test_credentials_of_the_home_are_not_sent(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = office.folder / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login me password {CANARY}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    assert requests.utils.get_netrc_auth(office.hook.url) == ("me", CANARY)
    assert office.types("test").exit_code == 0
    assert "Authorization" not in office.hook.asked[0][1]


def test_a_mistake_does_not_end_the_alerts(
    office: Office, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from scheduler import alerting, conditions  # noqa: PLC0415 - only here

    monkeypatch.setattr(alerting, "_LOOK_EVERY_S", 0.05)
    monkeypatch.setattr(alerting, "_SEND_EVERY_S", 0.05)
    real, calls = conditions.found, []

    def fails_once(*arguments: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise KeyError("a mistake")
        return real(*arguments)

    monkeypatch.setattr(conditions, "found", fails_once)
    office.block(office.desk.campaign(Kind.ROTATE))
    scheduler = office.scheduler()
    scheduler.start()
    until = time.monotonic() + 10
    while not office.hook.got:
        assert time.monotonic() < until
        time.sleep(0.02)
    scheduler.stop()
    assert "KeyError" in caplog.text


def test_the_end_is_not_told_before_the_beginning(office: Office) -> None:
    campaign = office.desk.campaign(Kind.ROTATE)
    office.block(campaign)
    office.hook.replies = [Reply(500)]
    scheduler = office.scheduler()
    office.turn(scheduler)
    office.desk.force(campaign, State.RUNNING)
    assert office.turn(scheduler) == []
    office.let_it_be_due()
    assert [event for event, _ in kinds(office.turn(scheduler))] == ["raised", "resolved"]


def test_a_webhook_that_cannot_be_used_is_told_at_the_start(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    (office.folder / "hook.url").write_text(f"http://example.com/{CANARY}")
    scheduler = office.scheduler()
    scheduler.start()
    scheduler.stop()
    assert "webhook ops: " in caplog.text
    assert "expected https" in caplog.text
    assert CANARY not in caplog.text
