"""Windows, urgent campaigns, deadlines and schedules, typed on real services."""

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from tests.nodes import Node, until
from tests.sites import campaign_in


def hours(*from_now: int) -> str:
    """Return a window of UTC that begins and ends so many hours from now."""
    now = datetime.now(UTC)
    begin, end = (f"{(now + timedelta(hours=h)):%H}:00" for h in from_now)
    return f"{begin}-{end} UTC"


@pytest.mark.timeout(180)
def test_a_schedule_opens_a_campaign_at_its_time(acceptance: Node) -> None:
    site = acceptance.site
    added = site.rewrap("schedule", "add", "nightly", "inventory", "--cron", "0 3 * * *")
    assert (added.code, "first at" in added.out) == (0, True), added
    with acceptance.ledger.begin() as connection:  # nobody waits for the night
        connection.execute(text("UPDATE schedule SET next_at = now(), try_at = now()"))

    def opened() -> int | None:
        (one,) = site.ask("schedule", "list")
        last: int | None = one["last_campaign"]
        return last

    campaign = until(opened, "the first campaign of the schedule")
    assert acceptance.reach(campaign, "complete")["kind"] == "inventory"
    assert site.rewrap("schedule", "pause", "nightly").code == 0
    assert site.rewrap("schedule", "remove", "nightly").code == 0


@pytest.mark.timeout(120)
def test_one_outside_of_its_window_waits_and_an_urgent_one_passes_it(acceptance: Node) -> None:
    site = acceptance.site
    site.make(20, "slow/")
    ids = site.make(20, "now/")
    asked = site.rewrap(
        "start", "migrate", "--prefix", "slow/", "--window", hours(3, 5), "--yes",
        "--finish-by", "2099-01-01T00:00 Europe/Berlin",
    )  # fmt: skip
    assert asked.code == 0, asked
    assert "when   " in asked.out
    slow = campaign_in(asked.out)
    until(lambda: site.ask("status", str(slow))["reason_code"] == "outside_window", "it waits")
    urgent = site.rewrap("start", "migrate", "--prefix", "now/", "--urgent", "--yes", "--wait")
    assert urgent.code == 0, urgent
    assert site.wrong(ids) == []
    document = site.ask("status", str(slow))
    assert (document["state"], document["counts"]["scanned"]) == ("inventory", 0)
    assert document["forecast"]["finish_by"].startswith("2098-12-31T23:00")
    plain = site.rewrap("status", str(slow))
    assert "it goes on at" in plain.out.replace("\n", " ")
    assert site.rewrap("cancel", str(slow)).code == 0
    assert "!rewrap" in acceptance.log("worker-1"), "the worker takes urgent messages first"
    site.remove("slow")
    site.remove("now")


@pytest.mark.parametrize(
    "words",
    [
        ("--window", ""),
        ("--window", "always"),
        ("--window", "22:00-06:00"),
        ("--finish-by", "tomorrow"),
        ("--finish-by", "2099-01-01T00:00"),
        ("--break-glass", "no reason"),
    ],
)
def test_words_that_say_no_time_are_told(acceptance: Node, words: tuple[str, ...]) -> None:
    before = [document["campaign"] for document in acceptance.site.ask("status")]
    ran = acceptance.site.rewrap("start", "migrate", *words, "--yes")
    assert (ran.code, "Traceback" in ran.err) == (2, False), ran
    assert [document["campaign"] for document in acceptance.site.ask("status")] == before
