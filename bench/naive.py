"""The naive way: a Celery task, two KMS calls and two commits of an ORM row for each blob.

It is no straw man: Celery with its defaults and prefetching, one connection to OpenBao and one to
PostgreSQL kept by each process, no autoflush or reload beyond what the ORM needs. It reads, proves
and writes with the same code as ours, and does as many legacy opens, wraps and proofs.
"""

import base64
import os
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

import hvac
from celery import Celery
from celery.signals import worker_process_init
from sqlalchemy import Engine, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from bench.stage import KEK, BenchError
from keywrap.config import open_keys, open_reader
from keywrap.contents import content_format
from keywrap.datakey import DataKey
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion, WrappedKey
from keywrap.providers.vault import canonical_context
from keywrap.reading import Seen, SidecarReader
from workers.settings import load

DONE = "rewrapped"

app = Celery("naive", broker=os.environ.get("NAIVE_BROKER_URL", ""))
app.conf.update(task_ignore_result=True, broker_connection_retry_on_startup=True)


class Base(DeclarativeBase):
    """The naive way's own schema."""


class Blob(Base):
    """One blob, and how far it is."""

    __tablename__ = "blob"

    blob_id: Mapped[str] = mapped_column(primary_key=True)
    state: Mapped[str] = mapped_column(default="pending")
    key_id: Mapped[str | None]


def connect() -> Engine:
    """Connect to the naive way's database."""
    url = os.environ["NAIVE_DATABASE_URL"]
    return create_engine(url.replace("postgresql://", "postgresql+psycopg://", 1))


@dataclass(frozen=True)
class Tools:
    """What a process keeps open between its tasks."""

    engine: Engine
    reader: SidecarReader
    keys: KeyRing
    transit: Any
    legacy_content: str

    @classmethod
    def open(cls) -> Self:
        """Open everything, once a process."""
        settings = load()
        server = settings.keywrap.keys.vault[f"transit/{KEK}"]
        client = hvac.Client(url=server.address, token=os.environ["BAO_TOKEN"], timeout=10)
        client.adapter.session.trust_env = False  # as ours, which saves a look at the environment
        return cls(
            connect(),
            open_reader(settings.keywrap),
            open_keys(settings.keywrap, os.environ),
            client.secrets.transit,
            settings.keywrap.store.legacy_content,
        )

    def move(self, blob_id: str) -> str:
        """Rewrap one blob, proved as ours is; return the id of its new key."""
        seen = self.reader.read(blob_id)
        key = self.keys.provider(seen.wrapped.key_version.key).unwrap(seen.wrapped, {})
        self._prove_on_content(blob_id, seen, key)
        context = {"blob_id": blob_id}
        bound = base64.b64encode(canonical_context(context)).decode()
        plaintext = base64.b64encode(key.reveal()).decode()
        made = self.transit.encrypt_data(name=KEK, plaintext=plaintext, context=bound)["data"]
        text = made["ciphertext"]
        opened = self.transit.decrypt_data(name=KEK, ciphertext=text, context=bound)["data"]
        if opened["plaintext"] != plaintext:
            raise BenchError(f"the new wrap of {blob_id} does not open")
        version = KeyVersion(f"hcvault://transit/{KEK}", str(made["key_version"]))
        new = WrappedKey(version, base64.b64decode(text.rpartition(":")[2]))
        self._write(blob_id, seen, new)
        return str(version)

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
