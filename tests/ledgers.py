"""Ledgers for tests: a template database, migrated once a run and cloned for each test."""

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from embedded import Postgres
from ledger import schema
from ledger.connection import Ledger

_TEMPLATE = "ledger_template"


@pytest.fixture(scope="session")
def ledger_template(postgres: Postgres) -> str:
    """The name of a database that holds the schema and nothing else."""
    ledger = Ledger(postgres.url_of(_TEMPLATE))
    schema.upgrade(ledger)
    ledger.close()
    return _TEMPLATE


def _clone(postgres: Postgres, template: str) -> Iterator[str]:
    name = f"ledger_{uuid.uuid4().hex[:12]}"
    create = sql.SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY FILE_COPY")
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(create.format(sql.Identifier(name), sql.Identifier(template)))
    yield postgres.url_of(name)
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def ledger_url(postgres: Postgres, ledger_template: str) -> Iterator[str]:
    """The URL of an empty ledger of the test's own."""
    yield from _clone(postgres, ledger_template)


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
def shared_ledger(postgres: Postgres, ledger_template: str) -> Iterator[Ledger]:
    """A ledger that the tests of a module share."""
    for url in _clone(postgres, ledger_template):
        ledger = Ledger(url)
        yield ledger
        ledger.close()
