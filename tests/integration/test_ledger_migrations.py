"""Upgrading and downgrading a ledger with rows in place, on a real PostgreSQL."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from embedded import Postgres
from ledger import HEAD, schema
from ledger.connection import Ledger
from ledger.states import Kind, State
from tests.desks import TARGET, Desk, desk_of


def _go(ledger: Ledger, revision: str) -> None:
    config = schema._config()
    with ledger.begin() as connection:
        config.attributes["connection"] = connection
        move = command.downgrade if revision == "0001" else command.upgrade
        move(config, revision)


def _waits_for(desk: Desk, table: str) -> Callable[[], bool]:
    return lambda: bool(
        desk.rows(
            "SELECT 1 FROM pg_locks WHERE NOT granted AND relation = to_regclass(:t)", t=table
        )
    )


def _until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(500):
        if condition():
            return
        pause.wait(0.02)
    pytest.fail("it did not come to that within 10 s")


@pytest.fixture
def old(postgres: Postgres) -> Iterator[Desk]:
    """A ledger of schema 0001 with a campaign of each kind, as its code wrote them."""
    ledger = Ledger(postgres.url_of("migrated"))
    config = schema._config()
    with ledger.begin() as connection:
        connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    with ledger.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
    desk = desk_of(ledger)
    desk.run("INSERT INTO key_version (provider, key, version) VALUES ('env', 'env:K', '')")
    for number, kind in enumerate(("inventory", "migrate", "rotate", "verify"), start=1):
        desk.run(
            "INSERT INTO campaign (kind, state, prefix, target, store, requested_by)"
            " VALUES (:k, 'complete', '', :t, '', 'tests')",
            k=kind,
            t=str(TARGET),
        )
        for table in ("inventory", "outcome"):
            desk.run(f"CREATE TABLE {table}_{number} PARTITION OF {table} FOR VALUES IN ({number})")
        desk.run(
            "INSERT INTO inventory (campaign_id, blob_id, shard_no, key_version_id)"
            " VALUES (:c, 'a', 0, 1)",
            c=number,
        )
    desk.run("INSERT INTO kek_rotation (key, from_version) VALUES ('hcvault://transit/k', '1')")
    yield desk
    ledger.close()


def test_an_upgrade_keeps_every_row_and_takes_new_campaigns(old: Desk) -> None:
    schema.upgrade(old.ledger)
    schema.check(old.ledger)
    assert schema.is_current(old.ledger)
    assert [old.get(n).kind for n in range(1, 5)] == ["inventory", "migrate", "rotate", "verify"]
    assert all(old.get(n).plan_of is None for n in range(1, 5))
    assert old.rows("SELECT count(*), count(wrap_bytes) FROM inventory") == [(4, 0)]
    assert old.rows("SELECT from_version, begun_at FROM kek_rotation") == [("1", None)]
    plan = old.campaign(Kind.PLAN, plan_of=Kind.MIGRATE, target=TARGET, sample_size=5)
    assert old.get(plan).plan_of is Kind.MIGRATE


def test_a_downgrade_drops_plans_and_keeps_all_else(old: Desk) -> None:
    schema.upgrade(old.ledger)
    plan = old.campaign(Kind.PLAN, plan_of=Kind.ROTATE, target=TARGET, sample_size=5)
    old.shard(plan, blob_ids=["a", "b"])
    _go(old.ledger, "0001")
    assert old.rows("SELECT kind FROM campaign ORDER BY id") == [
        ("inventory",),
        ("migrate",),
        ("rotate",),
        ("verify",),
    ]
    assert old.rows("SELECT campaign_id, blob_id FROM inventory ORDER BY 1") == [
        (n, "a") for n in range(1, 5)
    ]
    assert old.rows("SELECT to_regclass(:t)", t=f"inventory_{plan}") == [(None,)]
    assert old.rows("SELECT count(*) FROM shard") == [(0,)]
    assert old.rows("SELECT from_version FROM kek_rotation") == [("1",)]
    with pytest.raises(Exception, match="campaign_kind_check"):
        old.run(
            "INSERT INTO campaign (kind, state, prefix, requested_by) VALUES"
            " ('plan', 'planned', '', 't')"
        )


def test_a_downgrade_drops_re_encryptions_and_no_other_campaign(old: Desk) -> None:
    schema.upgrade(old.ledger)
    campaign = old.campaign(Kind.REENCRYPT, target=TARGET)
    old.shard(campaign, blob_ids=["a", "b"])
    assert len({old.get(n).nonce for n in range(1, campaign + 1)}) == campaign
    _go(old.ledger, "0001")
    assert old.rows("SELECT count(*) FROM campaign") == [(4,)]
    assert old.rows("SELECT to_regclass(:t)", t=f"inventory_{campaign}") == [(None,)]


def test_a_ledger_goes_down_and_up_again(old: Desk) -> None:
    schema.upgrade(old.ledger)
    _go(old.ledger, "0001")
    assert not schema.is_current(old.ledger)
    _go(old.ledger, "head")
    schema.check(old.ledger)
    assert old.get(2).state is State.COMPLETE


def test_an_upgrade_waits_for_a_worker_and_holds_up_no_heartbeat(old: Desk) -> None:
    with ThreadPoolExecutor(1) as thread:
        with old.ledger.begin() as recording:
            recording.execute(text("UPDATE inventory SET shard_no = 1 WHERE campaign_id = 2"))
            upgraded = thread.submit(schema.upgrade, old.ledger)
            _until(_waits_for(old, "inventory"))
            with old.ledger.begin() as heartbeat:
                heartbeat.execute(text("SET LOCAL statement_timeout = '1s'"))
                heartbeat.execute(text("UPDATE campaign SET reason = NULL WHERE id = 1"))
            # In a deadlock PostgreSQL ends the worker or the migration: neither may be.
            recording.execute(text("UPDATE campaign SET reason = 'met' WHERE id = 2"))
        upgraded.result()
    assert schema.is_current(old.ledger)
    assert old.rows("SELECT reason FROM campaign WHERE id = 2") == [("met",)]
    assert old.rows("SELECT shard_no FROM inventory WHERE campaign_id = 2") == [(1,)]


@pytest.mark.parametrize("table", ["inventory", "inventory_2", "campaign", "kek_rotation"])
def test_an_upgrade_that_gets_no_lock_changes_nothing_and_says_so(
    old: Desk, monkeypatch: pytest.MonkeyPatch, table: str
) -> None:
    monkeypatch.setattr(schema, "_LOCK_TIMEOUT", "100ms")
    monkeypatch.setattr(schema, "_PAUSE_S", 0.01)
    with old.ledger.begin() as using:
        using.execute(text(f"SELECT count(*) FROM {table}"))  # noqa: S608 - a constant
        with pytest.raises(schema.LedgerBusyError, match="nothing was changed: run it again"):
            schema.upgrade(old.ledger)
        assert not schema.is_current(old.ledger)
        # What the migration wants first is free for whoever holds what it wants next.
        using.execute(text("UPDATE inventory SET shard_no = 1 WHERE campaign_id = 2"))
    schema.upgrade(old.ledger)
    schema.check(old.ledger)


def test_an_upgrade_that_gets_no_lock_at_first_lets_go_and_tries_again(
    old: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "_ATTEMPTS", 1000)
    monkeypatch.setattr(schema, "_PAUSE_S", 0.01)
    with ThreadPoolExecutor(1) as thread:
        with old.ledger.begin() as recording:
            recording.execute(text("SET LOCAL statement_timeout = '1s'"))
            recording.execute(text("SELECT count(*) FROM campaign"))
            upgraded = thread.submit(schema.upgrade, old.ledger)
            threading.Event().wait(0.5)  # in which it is refused `campaign`, again and again
            recording.execute(text("UPDATE inventory SET shard_no = 1 WHERE campaign_id = 2"))
            assert not upgraded.done()
        upgraded.result()
    assert schema.is_current(old.ledger)


def test_the_newest_migration_is_the_one_that_this_code_expects() -> None:
    assert ScriptDirectory.from_config(schema._config()).get_heads() == [HEAD]
