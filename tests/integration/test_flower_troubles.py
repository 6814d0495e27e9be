"""Flower's Campaigns pages when PostgreSQL is away or slow, and with many shards."""

import secrets
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import pytest
from sqlalchemy import text

from embedded import Postgres, Redis
from keywrap.keys import KeyVersion
from ledger import schema
from ledger.connection import Ledger
from ledger.states import Kind, State
from tests import clusters
from tests.desks import desk_of
from tests.flowers import Flower, until_document

CAMPAIGNS, SHARDS = 50, 2000


@pytest.fixture
def place(server_directory: Path) -> Path:
    """A folder for a PostgreSQL of the test's own, short enough for its socket."""
    return server_directory / f"away-{secrets.token_hex(3)}"


@pytest.fixture
def own(place: Path) -> Iterator[Postgres]:
    """A PostgreSQL that the test may stop."""
    clusters.place(place)
    server = Postgres.start(place, supervised=True)
    yield server
    server.stop()


def test_pages_outlive_postgresql_with_the_last_good_data_and_recover_alone(
    tmp_path: Path, own: Postgres, redis_server: Any, place: Path
) -> None:
    desk = desk_of(Ledger(own.url_of("rewrap")))
    campaign = desk.campaign(Kind.VERIFY)
    with Flower(tmp_path, own.url_of("rewrap"), redis_server.url).running() as flower:
        paths = ("/campaigns", f"/campaigns/{campaign}")
        for path in paths:
            assert "Campaign" in flower.get(path).text
        desk.ledger.close()
        own.stop()
        for path in paths:
            document = until_document(flower, f"{path}.json", lambda d: d["trouble"])
            assert "PostgreSQL does not answer. This is from" in document["trouble"]
            page = flower.get(path)
            assert page.status_code == 200, "what was last read is still good to look at"
            assert "PostgreSQL does not answer" in page.text
            assert "verify" in page.text
            machine = flower.get(f"/api{path}")
            assert machine.status_code == 503
            assert machine.json()["trouble"]
        unread = flower.get(f"/campaigns/{campaign}/shards")
        assert unread.status_code == 503
        assert "PostgreSQL does not answer." in unread.text
        assert flower.get("/workers").status_code == 200
        assert flower.log.read_text().count("pages show what was last read") == 1
        back = Postgres.start(place, supervised=True)
        try:
            for path in paths:
                until_document(flower, f"{path}.json", lambda d: not d["trouble"])
                assert flower.get(f"/api{path}").status_code == 200
            assert flower.get(f"/campaigns/{campaign}/shards").status_code == 200
        finally:
            back.stop()


def test_flower_starts_without_postgresql_and_shows_campaigns_when_it_comes(
    tmp_path: Path, own: Postgres, redis_server: Any, place: Path
) -> None:
    url = own.url_of("empty")
    own.stop()
    with Flower(tmp_path, url, redis_server.url).running() as flower:
        page = flower.get("/campaigns")
        assert page.status_code == 503
        assert "PostgreSQL does not answer." in page.text
        back = Postgres.start(place, supervised=True)
        try:
            with_none = until_document(
                flower, "/campaigns.json", lambda d: "no ledger" in (d["trouble"] or "")
            )
            assert "rewrap scheduler" in with_none["trouble"]
            desk = desk_of(Ledger(url))
            schema.upgrade(desk.ledger)
            desk.campaign(Kind.VERIFY)
            until_document(flower, "/campaigns.json", lambda d: d["campaigns"])
            desk.ledger.close()
        finally:
            back.stop()


def test_a_postgresql_that_hangs_holds_up_no_page_of_flower(
    tmp_path: Path, own: Postgres, redis_server: Any, place: Path
) -> None:
    desk = desk_of(Ledger(own.url_of("rewrap")))
    campaign = desk.campaign(Kind.VERIFY)
    with Flower(tmp_path, own.url_of("rewrap"), redis_server.url).running() as flower:
        flower.document("/campaigns.json")
        frozen = backends_of(place)
        for process in frozen:
            process.suspend()
        try:
            time.sleep(1.2)
            slow = min(seconds(flower, "/campaigns") for _ in range(2))
            assert slow < 2.5
            assert max(seconds(flower, "/healthcheck") for _ in range(5)) < 0.5
            until_document(flower, "/campaigns.json", lambda d: d["trouble"])
        finally:
            for process in frozen:
                process.resume()
        until_document(flower, "/campaigns.json", lambda d: not d["trouble"], 30)
        assert flower.document(f"/campaigns/{campaign}.json")["trouble"] is None
    desk.ledger.close()


def backends_of(folder: Path) -> list[psutil.Process]:
    """Return all processes of a PostgreSQL, by the pid in its folder."""
    pid = (folder / "data" / "postmaster.pid").read_text(encoding="utf-8").split("\n", 1)[0]
    postmaster = psutil.Process(int(pid))
    return [postmaster, *postmaster.children(recursive=True)]


def seconds(flower: Flower, path: str) -> float:
    begun = time.monotonic()
    flower.get(path)
    return time.monotonic() - begun


def test_without_redis_only_the_pace_is_missing(
    tmp_path: Path, ledger_url: str, ledger: Ledger, place: Path
) -> None:
    desk = desk_of(ledger)
    campaign = desk.campaign(Kind.ROTATE, target=KeyVersion("local:blob-kek", "1"))
    desk.force(campaign, State.RUNNING)
    redis = Redis.start(place, supervised=True)
    paced = '[pace.keys."local:blob-kek"]\nrequests_per_s = 400'
    with Flower(tmp_path, ledger_url, redis.url, paced).running() as flower:
        path = f"/campaigns/{campaign}.json"
        assert flower.document(path)["shown"]["pace"] == "0 of 400 requests/s"
        redis.stop()
        without = until_document(flower, path, lambda d: d["pace"] is None)
        assert (without["shown"]["pace"], without["trouble"]) == ("—", None)
        assert max(seconds(flower, f"/campaigns/{campaign}") for _ in range(4)) < 1
        assert flower.get("/campaigns").status_code == 200


@pytest.fixture
def crowded(ledger: Ledger) -> None:
    """50 campaigns of 2,000 shards each, the newest of them running."""
    with ledger.begin() as connection:
        for number in range(1, CAMPAIGNS + 1):
            connection.execute(
                text(
                    "INSERT INTO campaign (kind, state, prefix, target, store, requested_by,"
                    " started_at, finished_at) VALUES ('migrate', :state, :prefix,"
                    " 'hcvault://transit/kek?version=1', '', 'tests', now() - interval '2 hours',"
                    " CASE WHEN :state <> 'running' THEN now() END)"
                ),
                {
                    "state": "running" if number == CAMPAIGNS else "complete_with_exceptions",
                    "prefix": f"p{number}/",
                },
            )
            for table in ("inventory", "outcome"):
                connection.exec_driver_sql(
                    f"CREATE TABLE {table}_{number} PARTITION OF {table} FOR VALUES IN ({number})"
                )
        connection.execute(
            text(
                "INSERT INTO shard (campaign_id, kind, queue, state, total, rewrapped, quarantined,"
                " started_at, finished_at)"
                " SELECT 1 + n / 2000, 'rewrap', 'rewrap',"
                "   CASE WHEN n / 2000 = 49 AND n % 2 = 0 THEN 'waiting' ELSE 'done' END, 500,"
                "   CASE WHEN n / 2000 = 49 AND n % 2 = 0 THEN 0 ELSE 499 END,"
                "   CASE WHEN n / 2000 = 49 AND n % 2 = 0 THEN 0 ELSE 1 END,"
                "   now() - interval '1 hour', now() - make_interval(secs => n % 3600)"
                " FROM generate_series(0, 99999) n"
            )
        )
        connection.execute(
            text(
                "INSERT INTO outcome (campaign_id, blob_id, shard_no, outcome, reason_code)"
                " SELECT c, 'blob-' || n, 1, 'quarantined', 'reason-' || n % 7"
                " FROM generate_series(1, 50) c, generate_series(1, 2000) n"
            )
        )


@pytest.mark.usefixtures("crowded")
def test_with_100000_shards_and_50_campaigns_every_page_answers_within_300_ms(
    tmp_path: Path, ledger_url: str, redis_url: str
) -> None:
    with Flower(tmp_path, ledger_url, redis_url).running() as flower:
        listed = flower.document("/campaigns.json")
        assert len(listed["campaigns"]) == CAMPAIGNS
        assert listed["shown"]["exceptions"] == f"{49 * SHARDS + SHARDS // 2:,}"
        newest = f"/campaigns/{CAMPAIGNS}"
        pages = ["/campaigns", newest, "/campaigns/1", f"{newest}/shards?state=waiting"]
        pages += [f"{newest}/blobs?outcome=quarantined&reason=reason-3"]
        times = defaultdict[str, list[float]](list)
        for paths in (pages, ["/campaigns.json", f"{newest}.json"]) * 5:
            time.sleep(1.05)  # each asks the ledger anew
            for path in paths:
                times[path].append(seconds(flower, path))
        assert {path: took for path, took in times.items() if median(took) >= 0.3} == {}
        assert flower.document(f"/campaigns/{CAMPAIGNS}.json")["percent"] == 50.0
