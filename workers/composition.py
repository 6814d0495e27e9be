"""The composition root: the one place where a worker's runtime is put together."""

import logging
import os
import socket
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

from keywrap.backups.vault import Vault
from keywrap.config import ConfigError, open_keys, open_reader
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion
from keywrap.metering import CountedWraps, Metered
from keywrap.tables.store import StoreConfig, open_store
from keywrap.threads import StoreThreads
from ledger.connection import Ledger
from ledger.queues import QUEUE, QueueOf
from tasks import runtime
from tasks.metering import UNMETERED, Meter
from tasks.runtime import UNPACED, Runtime
from workers.settings import Settings

logger = logging.getLogger(__name__)


def ledger_of(settings: Settings, statement_s: float = 0.0) -> Ledger:
    """Make the connection to the configured ledger.

    Args:
        settings: the settings.
        statement_s: the longest that a statement may take, in seconds; 0: no limit of ours.

    Raises:
        ConfigError: none is configured.
    """
    if not settings.ledger.url:
        raise ConfigError(
            "[ledger] url",
            "no ledger is configured; set it here or in REWRAP_LEDGER_URL",
            next_command="rewrap up",
        )
    return Ledger(settings.ledger.url, statement_s=statement_s)


def queue_of(settings: Settings) -> QueueOf:
    """Make what names the queue of the hosts that can open the wraps of a KEK version."""
    keys = settings.keywrap.keys

    @lru_cache(maxsize=4096)  # asked for each blob; a sidecar may name any key
    def queue(version: KeyVersion) -> str:
        return keys.queue_of(version.key) or QUEUE

    return queue


def queues_of(settings: Settings) -> set[str]:
    """Return the queues that shards may go to."""
    keys = settings.keywrap.keys
    named = {QUEUE, *(table.queue for table in keys.dpapi.values())}
    named |= {table.queue for table in keys.env.values()} | {settings.gates.verify_queue}
    return named - {""}


def strange_queues(settings: Settings) -> list[str]:
    """Return the queues that a worker is to serve and that no key's table names."""
    named = queues_of(settings)
    return [queue for queue in settings.workers.queues if queue not in named]


def vault_of(settings: Settings) -> Vault:
    """Open the place of backups; the folder of `state_dir` is made if it is not there.

    Raises:
        ConfigError: it cannot be used.
        StoreUnavailableError: it is not there.
    """
    config = settings.backup.store
    if config is None:
        folder = Path(settings.state_dir) / "backups"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        config = StoreConfig(url=folder.as_uri())
    store = open_store(config, threads=settings.workers.threads)
    return Vault(store, config.url, settings.backup.recipients)


def _pacing(settings: Settings, keys: KeyRing) -> runtime.Pacing:
    if not settings.broker.url:  # no worker: whoever composes this asks for no more than it can
        return UNPACED
    from workers import pacing  # noqa: PLC0415 - most who compose a part of this use no Redis

    try:
        lend = pacing.lender(pacing.connect(settings.broker.url))
        return pacing.Pacing(settings.pace, keys, lend)
    except ValueError as error:
        if settings.pace.keys:
            raise ConfigError("[pace]", f"its buckets lie in the broker: {error}") from None
        logger.warning(
            "no pace holds over all workers, --max-rate neither: %s",
            error,
            extra={"event": "pace_off"},
        )
        return UNPACED


def compose(
    settings: Settings,
    stopping: Callable[[], bool],
    meter: Meter = UNMETERED,
) -> Runtime:
    """Make what the tasks of this process use. Call it after the fork, once a process.

    Raises:
        ConfigError: a setting or secret is missing or wrong.
        StoreUnavailableError: the store is not there.
    """
    keys = open_keys(settings.keywrap, os.environ, queues=settings.workers.queues)
    _measure(keys, meter)
    return Runtime(
        ledger=ledger_of(settings),
        reader=open_reader(settings.keywrap, threads=settings.workers.threads),
        keys=keys,
        legacy_content=settings.keywrap.store.legacy_content,
        keep_previous=settings.keywrap.store.keep_previous,
        pool=StoreThreads(settings.workers.threads),
        owner=f"{socket.gethostname()}:{os.getpid()}",
        lease_s=settings.workers.lease_s,
        batch=settings.workers.batch,
        stopping=stopping,
        store=settings.keywrap.store.place,
        queue_of=queue_of(settings),
        verify_queue=settings.gates.verify_queue,
        served=settings.workers.queues,
        audit=Path(settings.audit.directory),
        vault=vault_of(settings) if settings.backup.recipients else None,
        grace_s=settings.reencrypt.grace_s if settings.reencrypt.sweep else None,
        pacing=_pacing(settings, keys),
        meter=meter,
    )


def _measure(keys: KeyRing, meter: Meter) -> None:
    for key in keys.keys():  # noqa: SIM118 - a method of the ring
        provider = keys.provider(key)
        if isinstance(provider, Metered):
            provider.meter_by(meter.requests(KeyVersion(key).provider))
        if isinstance(provider, CountedWraps):
            meter.watch(key, provider)
