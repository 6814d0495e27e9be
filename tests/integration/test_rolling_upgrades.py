"""Releases side by side, over the newest migration, on a real PostgreSQL."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import text

from keywrap.rewrapping import Outcome, Result
from ledger import HEAD, schema, shards
from ledger.connection import Ledger
from ledger.states import Kind
from tests.desks import TARGET, desk_of
from tests.sites import ROOT

_COLUMNS = text(
    "SELECT table_name || '.' || column_name, data_type, is_nullable, column_default"
    " FROM information_schema.columns"
    " WHERE table_schema = 'public' AND table_name <> 'alembic_version'"
)
_CHECKS = text(
    "SELECT conrelid::regclass || ': ' || conname, pg_get_constraintdef(oid)"
    " FROM pg_constraint WHERE connamespace = 'public'::regnamespace AND contype IN ('c', 'u', 'p')"
)


def _previous() -> str:
    newest = ScriptDirectory.from_config(schema._config()).get_revision(HEAD)
    assert newest is not None
    assert isinstance(newest.down_revision, str)
    return newest.down_revision


PREVIOUS = _previous()


def _move(ledger: Ledger, revision: str) -> None:
    config = schema._config()
    with ledger.begin() as connection:
        config.attributes["connection"] = connection
        move = command.downgrade if revision == PREVIOUS else command.upgrade
        move(config, revision)


def _columns(ledger: Ledger) -> dict[str, tuple[Any, ...]]:
    with ledger.begin() as connection:
        return {row[0]: tuple(row[1:]) for row in connection.execute(_COLUMNS)}


def _constraints(ledger: Ledger) -> dict[str, str]:
    with ledger.begin() as connection:
        return {row[0]: row[1] for row in connection.execute(_CHECKS)}


def test_a_worker_of_this_release_works_on_the_ledger_of_the_one_before(ledger: Ledger) -> None:
    desk = desk_of(ledger)
    campaign = desk.campaign(Kind.MIGRATE, target=TARGET)
    desk.run("UPDATE campaign SET state = 'running' WHERE id = :id", id=campaign)
    desk.shard(campaign, blob_ids=["a", "b"])
    _move(ledger, PREVIOUS)
    lease = desk.claim(campaign)
    assert desk.remaining(lease) == ["a", "b"]
    with ledger.begin() as connection:
        assert shards.renew(connection, lease, 60.0)
        shards.record(connection, lease, [Result("a", Outcome.REWRAPPED, "", "")], 3)
        shards.count(connection, lease, {"rewrapped": 1})
        shards.hand_back(connection, lease)
    again = desk.claim(campaign)
    assert desk.remaining(again) == ["b"]
    _move(ledger, "head")  # while the worker holds its lease
    with ledger.begin() as connection:
        assert shards.renew(connection, again, 60.0)
        shards.record(connection, again, [Result("b", Outcome.CURRENT, "", "")], 3)
        shards.finish(connection, again)
    counts = desk.progress(campaign).counts
    assert (counts[Outcome.REWRAPPED], counts[Outcome.CURRENT]) == (1, 1)
    schema.check(ledger)


def test_what_a_worker_of_the_release_before_writes_and_reads_is_still_there(
    ledger: Ledger,
) -> None:
    _move(ledger, PREVIOUS)
    before, had = _columns(ledger), _constraints(ledger)
    _move(ledger, "head")
    after = _columns(ledger)
    changed = {name for name, column in before.items() if after.get(name) != column}
    assert not changed, "an old worker reads or writes these columns as they were"
    tables = {name.partition(".")[0] for name in before}
    for name in after.keys() - before.keys():
        _type, is_nullable, default = after[name]
        is_new = name.partition(".")[0] not in tables
        assert is_new or is_nullable == "YES" or default is not None, name
    stricter = {
        name: rule
        for name, rule in _constraints(ledger).items()
        if had.get(name) != rule and name.partition(":")[0] in tables
    }
    assert not stricter, "an old worker may write what these refuse"


def _run(ledger_url: str, folder: Path, *words: str) -> tuple[int, str]:
    config = folder / "rewrap.toml"
    config.write_text(f'[store]\nurl = "file://{folder}"\nblob_suffix = ".blob"\n')
    done = subprocess.run(
        [sys.executable, "-P", "-m", "scheduler", "--config", config, *words],
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT), "REWRAP_LEDGER_URL": ledger_url},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_ledger_migrate_brings_an_old_ledger_up_to_date_and_leaves_a_current_one(
    ledger: Ledger, ledger_url: str, tmp_path: Path
) -> None:
    _move(ledger, PREVIOUS)
    assert _run(ledger_url, tmp_path, "healthz")[0] == 3
    for _ in range(2):
        said = f"the ledger's schema is {HEAD}\n"
        assert _run(ledger_url, tmp_path, "ledger", "migrate") == (0, said)
    assert _run(ledger_url, tmp_path, "healthz") == (0, "healthy\n")


@pytest.mark.parametrize("words", [("ledger", "migrate"), ("healthz",)])
def test_a_release_older_than_the_ledger_changes_nothing_and_says_what_to_use(
    ledger: Ledger, ledger_url: str, tmp_path: Path, words: tuple[str, ...]
) -> None:
    desk_of(ledger).run("UPDATE alembic_version SET version_num = '9999'")
    before = _columns(ledger)
    code, said = _run(ledger_url, tmp_path, *words)
    assert code == 3
    assert "9999, which is newer" in said
    assert "use the release that migrated it" in said
    assert _columns(ledger) == before
