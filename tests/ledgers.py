"""Ledgers for tests: clones of an empty one, emptied after a test and used again."""

import uuid
from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest
from psycopg import sql

from embedded import Postgres
from ledger.connection import Ledger
from scheduler.desk import DATABASE

_SCHEMA = """
SELECT md5(string_agg(line, '|' ORDER BY line)) FROM (
    SELECT concat(c.relname, a.attnum, a.attname, a.atttypid, a.attnotnull,
        pg_get_expr(d.adbin, d.adrelid)) line
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
    WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT tgname FROM pg_trigger
    UNION ALL SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
    UNION ALL SELECT setconfig::text FROM pg_db_role_setting
) lines
"""
"""Tells whether a test has changed more than rows."""

_END_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""
_PARTITIONS = "SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'"
_FILLED = """
SELECT relname FROM pg_class WHERE relkind = 'r' AND relname <> 'alembic_version'
AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0
"""
_REWIND = """
SELECT setval(format('%I.%I', schemaname, sequencename), start_value, false) FROM pg_sequences
WHERE last_value IS NOT NULL
"""


class Pool:
    """Databases of one server, each an empty ledger.

    Args:
        postgres: the server.
    """

    def __init__(self, postgres: Postgres) -> None:
        self._postgres = postgres
        self._free: list[str] = []
        with psycopg.connect(postgres.url_of(DATABASE)) as connection:
            self._schema = _schema_of(connection)

    def take(self) -> str:
        """Return the name of an empty one."""
        if self._free:
            return self._free.pop()
        name = f"ledger_{uuid.uuid4().hex[:12]}"
        clone(self._postgres, name)
        return name

    def give_back(self, name: str) -> None:
        """Empty one, or drop it where a test has left it another schema."""
        with psycopg.connect(self._postgres.url_of(name), autocommit=True) as connection:
            connection.execute(_END_OTHERS)
            _empty(connection)
            if _schema_of(connection) == self._schema:
                self._free.append(name)
                return
        with psycopg.connect(self._postgres.url, autocommit=True) as connection:
            connection.execute(sql.SQL("DROP DATABASE {} (FORCE)").format(sql.Identifier(name)))


def _empty(connection: psycopg.Connection) -> None:
    """Leave no row and no page; a clone or `TRUNCATE` would take twenty times as long."""
    run = connection.execute
    for name in _names(connection, _PARTITIONS):
        run(sql.SQL("DROP TABLE {}").format(name))
    run("SET session_replication_role = replica")  # in whatever order
    for name in _names(connection, _FILLED):
        run(sql.SQL("DELETE FROM {}").format(name))
        run(sql.SQL("VACUUM {}").format(name))
    run(_REWIND)


def _names(connection: psycopg.Connection, query: LiteralString) -> list[sql.Identifier]:
    return [sql.Identifier(name) for (name,) in connection.execute(query)]


def _schema_of(connection: psycopg.Connection) -> str:
    (found,) = connection.execute(_SCHEMA).fetchone() or ("",)
    try:
        applied = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except psycopg.errors.UndefinedTable:
        applied = None
    return f"{found} {applied}"


def clone(postgres: Postgres, name: str) -> None:
    """Make a database that is an empty ledger."""
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(DATABASE)))


@pytest.fixture(scope="session")
def ledger_pool(postgres: Postgres) -> Pool:
    """The ledgers of this run."""
    return Pool(postgres)


@pytest.fixture
def ledger_url(postgres: Postgres, ledger_pool: Pool) -> Iterator[str]:
    """The URL of an empty ledger of the test's own."""
    name = ledger_pool.take()
    yield postgres.url_of(name)
    ledger_pool.give_back(name)


@pytest.fixture
def ledger(ledger_url: str) -> Iterator[Ledger]:
    """An empty ledger of the test's own."""
    ledger = Ledger(ledger_url)
    yield ledger
    ledger.close()


@pytest.fixture(scope="module")
def shared_ledger_url(postgres: Postgres, shared_ledger: Ledger) -> str:
    """The URL of the ledger that the tests of a module share."""
    with shared_ledger.begin() as connection:
        name = connection.exec_driver_sql("SELECT current_database()").scalar_one()
    return postgres.url_of(name)


@pytest.fixture(scope="module")
def shared_ledger(postgres: Postgres, ledger_pool: Pool) -> Iterator[Ledger]:
    """A ledger that the tests of a module share."""
    name = ledger_pool.take()
    ledger = Ledger(postgres.url_of(name))
    yield ledger
    ledger.close()
    ledger_pool.give_back(name)
