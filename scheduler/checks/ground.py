"""What the checks stand on: the settings, and whatever they name, opened once for all checks."""

import os
from collections.abc import Callable, Mapping

from keywrap.config import ConfigError, open_key, open_keys, open_store
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion
from keywrap.kms import KeyProvider
from keywrap.stores import Store, StoreError
from ledger import history
from ledger.campaigns import Campaign
from ledger.connection import Ledger
from ledger.states import Kind
from scheduler.checks.check import Needed
from scheduler.desk import UNREACHABLE, Desk, DeskError
from workers import broker
from workers.settings import Settings

SAMPLE = 20
"""Blobs that are opened where nobody says how many."""


class Ground:
    """What the checks of one installation stand on. Nothing is opened before it is asked for.

    Args:
        desk: the configuration and the connections.
        sample: how many blobs to open.

    Raises:
        ConfigError: the configuration cannot be read.
    """

    def __init__(self, desk: Desk, sample: int) -> None:
        self.sample = sample
        self.settings: Settings = desk.settings
        self.ledger: Needed[Ledger] = Needed("the ledger", lambda: desk.ledger)
        self.broker: Needed[str | None] = Needed("the broker", self._greet)
        self.workers: Needed[Mapping[str, list[str]]] = Needed("the workers", self._ask_workers)
        self.store: Needed[Store] = Needed("the store", self._open_store)
        self.keys: Needed[KeyRing] = Needed("the keys", self._open_keys)
        self._providers: dict[str, Needed[KeyProvider]] = {}

    def provider(self, key: str) -> Needed[KeyProvider]:
        """Return the provider of a listed KEK, by its URI without version."""
        config = self.settings.keywrap
        return self._providers.setdefault(
            key, Needed(f"the secret of {key}", lambda: open_key(config, key, os.environ))
        )

    def elsewhere(self, queue: str) -> str:
        """Return a key's queue where only other hosts can use the key; empty where this can."""
        return "" if not queue or queue in self.settings.workers.queues else queue

    def keys_of(self, *, legacy: bool) -> list[str]:
        """Return the URIs of the listed KEKs, of one of the two kinds."""
        uris = self.settings.keywrap.keys.uris()
        return [uri for uri in uris if KeyVersion.parse(uri).is_legacy is legacy]

    def last_inventory(self) -> Campaign | None:
        """Return the last inventory of this store; None where there is none.

        Raises:
            AbsentError, DeskError, LedgerUnavailableError: there is no ledger to look in.
        """
        place = self.settings.keywrap.store.place
        with self.ledger.get().begin() as connection:
            found = history.newest_finished(connection, Kind.INVENTORY, place, limit=1)
        return found[0] if found else None

    def _greet(self) -> str | None:
        url = self.settings.broker.url
        if not url:
            raise DeskError(
                "no broker is configured and no `rewrap up` is running here",
                exit_code=UNREACHABLE,
                reason_code="no_broker",
                next_command="rewrap up (it brings its own), or url = … in [broker]",
            )
        return broker.greet(url)

    def _ask_workers(self) -> Mapping[str, list[str]]:
        self.broker.get()
        from workers import inspection  # noqa: PLC0415 - Celery: no other check needs it

        return inspection.served_queues(self.settings.broker.url)

    def _open_store(self) -> Store:
        store = open_store(self.settings.keywrap, threads=self.settings.workers.threads)
        store.check()
        return store

    def _open_keys(self) -> KeyRing:
        served = self.settings.workers.queues
        return open_keys(self.settings.keywrap, os.environ, queues=served)

    def missing_secrets(self) -> list[ConfigError]:
        """Look for each secret that keys and store name, and return what is wrong with them."""
        keys = self.settings.keywrap.keys
        asked: list[Callable[[], object]] = [
            self.provider(key).get for key in keys.uris() if not self.elsewhere(keys.queue_of(key))
        ]
        asked.append(self.keys.get)  # and those that only a whole table names
        asked.append(lambda: open_store(self.settings.keywrap))
        missing: dict[str, ConfigError] = {}
        for ask in asked:
            try:
                ask()
            except ConfigError as error:
                missing.setdefault(str(error), error)
            except StoreError:  # as the store's line says
                pass
        return list(missing.values())
