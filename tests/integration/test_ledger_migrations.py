"""Upgrading and downgrading a ledger with rows in place, on a real PostgreSQL."""

from collections.abc import Iterator

import pytest
from alembic import command

from embedded import Postgres
from ledger import schema
from ledger.connection import Ledger
from ledger.states import Kind, State
from tests.desks import TARGET, Desk, desk_of


def _go(ledger: Ledger, revision: str) -> None:
    config = schema._config()
    with ledger.begin() as connection:
        config.attributes["connection"] = connection
        move = command.downgrade if revision == "0001" else command.upgrade
        move(config, revision)


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


def test_a_ledger_goes_down_and_up_again(old: Desk) -> None:
    schema.upgrade(old.ledger)
    _go(old.ledger, "0001")
    assert not schema.is_current(old.ledger)
    _go(old.ledger, "head")
    schema.check(old.ledger)
    assert old.get(2).state is State.COMPLETE
