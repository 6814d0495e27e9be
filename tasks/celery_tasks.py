"""The Celery shells: a message is an untrusted wake-up that holds one shard id.

What to do stands in the ledger. A message that is late, repeated, forged or sent to the task of
another kind finds nothing to claim. Results are counts.
"""

import logging
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

from celery import shared_task

from keywrap.config import ConfigError
from keywrap.stores import StoreUnavailableError
from ledger.states import ShardKind
from tasks.backup import backup_shard, manifest_shard
from tasks.rewrap import rewrap_shard
from tasks.runtime import Counts, Progress, Runtime, current
from tasks.scans import inventory_shard, straggler_shard
from tasks.verify import verify_shard

Shell = Any  # Celery is not typed

NAMES = {
    ShardKind.INVENTORY: "rewrap.inventory_shard",
    ShardKind.REWRAP: "rewrap.rewrap_shard",
    ShardKind.STRAGGLERS: "rewrap.straggler_shard",
    ShardKind.VERIFY: "rewrap.verify_shard",
    ShardKind.BACKUP: "rewrap.backup_shard",
    ShardKind.MANIFEST: "rewrap.manifest_shard",
}
"""The stable name of the task for each kind of shard."""

WORK: dict[ShardKind, Callable[[Runtime, UUID, Progress], Counts]] = {
    ShardKind.INVENTORY: inventory_shard,
    ShardKind.REWRAP: rewrap_shard,
    ShardKind.STRAGGLERS: straggler_shard,
    ShardKind.VERIFY: verify_shard,
    ShardKind.BACKUP: backup_shard,
    ShardKind.MANIFEST: manifest_shard,
}
"""What each does."""

logger = logging.getLogger(__name__)

_EVENT_EVERY_S = 2.0
_UUID_CHARS = 36


def _run(task: Shell, work: Callable[[Runtime, UUID, Progress], Counts], shard_id: str) -> Counts:
    try:
        runtime = current()
    except (ConfigError, StoreUnavailableError) as error:
        # Nobody claims the shard: its offer lapses, and status says that no worker takes it.
        logger.error(  # noqa: TRY400 - a person's to mend
            "this worker takes no shard: %s", error, extra={"event": "worker_unusable"}
        )
        return {}
    return work(runtime, _opaque(shard_id), _flower_progress(task))


def _opaque(shard_id: object) -> UUID:
    if not isinstance(shard_id, str) or len(shard_id) != _UUID_CHARS:
        raise ValueError("a shard id is a UUID")
    return UUID(shard_id)


def _flower_progress(task: Shell) -> Progress:
    """Show progress in Flower's State and Result columns, at a bounded rate."""
    told_at = float("-inf")

    def tell(done: int, total: int) -> None:
        nonlocal told_at
        if time.monotonic() - told_at < _EVENT_EVERY_S:
            return
        told_at = time.monotonic()
        percent = 100 * done // total if total else 100
        task.send_event("task-progress", result=f"{done}/{total} blobs ({percent}%)")

    return tell


def _shell(kind: ShardKind) -> Shell:
    @shared_task(bind=True, name=NAMES[kind])
    def run(self: Shell, shard_id: str) -> Counts:
        return _run(self, WORK[kind], shard_id)

    return run


SHELLS: dict[ShardKind, Shell] = {kind: _shell(kind) for kind in NAMES}
"""The task for each kind of shard."""
