"""The naive way: a Celery task, two KMS calls and two commits of an ORM row for each blob.

It is no straw man: one connection to the KMS, to S3 and to PostgreSQL kept by each process, no
result backend, no autoflush or reload beyond what the ORM needs. It does as many legacy opens,
wraps, proofs and conditional writes as ours, and loses no task when a worker is killed.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Self, cast

from celery import Celery
from celery.signals import worker_process_init
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from bench.errors import BenchError
from bench.plain import BotoStore, wrapping
from keywrap.config import open_keys, open_reader
from keywrap.contents import content_format
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import WrappedKey
from keywrap.reading import Seen, SidecarReader
from keywrap.stores import Store
from workers.settings import load

DONE = "rewrapped"

app = Celery("naive", broker=os.environ.get("NAIVE_BROKER_URL", ""))
app.conf.update(
    # As durable as ours: by default Celery forgets a task when it hands it to a worker, and a
    # worker that is killed loses its own and those it has fetched (Celery: "Optimizing").
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)


class Base(DeclarativeBase):
    """The naive way's own schema."""


class Blob(Base):
    """One blob, and how far it is."""

    __tablename__ = "blob"

    blob_id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="pending")
    key_id: Mapped[str | None]


def connect(url: str) -> Engine:
    """Connect to the naive way's database."""
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))


@dataclass(frozen=True)
class Tools:
    """What a process keeps open between its tasks."""

    engine: Engine
    reader: SidecarReader
    keys: KeyRing
    wrap: Callable[..., WrappedKey]
    legacy_content: str

    @classmethod
    def open(cls) -> Self:
        """Open everything, once a process."""
        config = load().keywrap
        reader = open_reader(config)
        if config.store.url.startswith("s3:"):
            reader = replace(reader, store=cast("Store", BotoStore(config)))
        keys = open_keys(config, os.environ)
        if keys.primary is None:
            raise BenchError("the benchmark's configuration names no primary")
        wrap = wrapping(config, keys.primary)
        return cls(
            connect(os.environ["NAIVE_DATABASE_URL"]),
            reader,
            keys,
            wrap,
            config.store.legacy_content,
        )

    def move(self, blob_id: str) -> str:
        """Rewrap one blob, proved as ours is; return the id of its new key."""
        seen = self.reader.read(blob_id)
        key = self.keys.provider(seen.wrapped.key_version.key).unwrap(seen.wrapped, {})
        self._prove_on_content(blob_id, seen, key)
        new = self.wrap(key, {"blob_id": blob_id})
        self._write(blob_id, seen, new)
        return str(new.key_version)

    def _prove_on_content(self, blob_id: str, seen: Seen, key: DataKey) -> None:
        name = self.reader.layout.content_name(blob_id, seen.sidecar.object)
        content_format(seen.sidecar.content or self.legacy_content).proves(
            key, lambda start, length: self.reader.store.read_range(name, start, length)
        )

    def _write(self, blob_id: str, seen: Seen, new: WrappedKey) -> None:
        data = seen.sidecar.rewrapped(new, {"blob_id": blob_id}, seen.wrapped).to_bytes()
        name = self.reader.layout.sidecar_name(blob_id)
        if seen.stored is None:
            self.reader.store.create(name, data)
        else:
            self.reader.store.replace(name, data, seen.stored)


@cache
def tools() -> Tools:
    """Return this process's tools."""
    return Tools.open()


@worker_process_init.connect
def _begin(**_: object) -> None:
    tools()


@app.task(name="naive.rewrap")
def rewrap(blob_id: str) -> None:
    """Rewrap one blob, and keep its row up to date."""
    with Session(tools().engine, expire_on_commit=False) as session:
        row = session.get_one(Blob, blob_id)
        row.state = "working"
        session.commit()
        row.key_id = tools().move(blob_id)
        row.state = DONE
        session.commit()
