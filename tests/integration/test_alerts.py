"""Alerts on a real ledger, told once to a real HTTP server."""

import json
import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests

from ledger import alerts as stored
from ledger.connection import Ledger
from ledger.states import Kind, State
from scheduler import webhooks
from scheduler.alerting import Alerting
from scheduler.headkeeper import HeadKeeper
from tests.alerting import REFUSES, Office, complete, kinds
from tests.hooks import Reply, receiver
from tests.rotations import desk_at

CANARY = "canary-5d1b9be0a7f14c0e"
HOSTILE = 'a <!channel> *bold* <http://x|click> & `code` @here\n\x1b[31m{"event": "forged"}'


@pytest.fixture
def office(ledger: Ledger, tmp_path: Path) -> Iterator[Office]:
    with receiver() as hook:
        yield Office(ledger, tmp_path, hook)


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
        "next_command": "rewrap preflight",
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
        complete(office)
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
    assert "next: rewrap preflight" in listed
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


def test_what_is_not_known_yet_is_not_called_ended(ledger: Ledger) -> None:
    condition = stored.Condition("audit", "audit_broken", "critical", "it is broken")

    def settle(*found: stored.Condition, unknown: tuple[str, ...] = ()) -> tuple[int, int]:
        with ledger.begin() as connection:
            raised, resolved = stored.settle(connection, found, lambda _: (), 0.0, unknown)
        return len(raised), len(resolved)

    assert settle(condition) == (1, 0)
    assert settle(unknown=("audit",)) == (0, 0)
    assert settle() == (0, 1)


def test_a_condition_that_lasts_uses_up_no_numbers(ledger: Ledger) -> None:
    first, second = (stored.Condition(key, "backup_old", "warning", "it is old") for key in "ab")
    ids = []
    for found in ((first,), (first,), (first,), (first, second)):
        with ledger.begin() as connection:
            raised, _ = stored.settle(connection, found, lambda _: (), 0.0)
        ids += [alert.id for alert in raised]
    assert ids[1] == ids[0] + 1


def test_a_webhook_that_was_slow_is_not_left_alone_for_long(office: Office) -> None:
    scheduler = office.scheduler()
    turns: list[float] = []

    def slow() -> None:
        turns.append(time.monotonic())
        time.sleep(0.2)

    thread = scheduler._thread("webhook", slow, 0.05)
    thread.start()
    time.sleep(1.5)
    scheduler._ended.set()
    thread.join(5)
    assert len(turns) >= 4, "it is asked again as soon as it may be"
