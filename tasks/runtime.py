"""What a task needs to run: made once in each worker process, after the fork."""

from collections.abc import Callable, Collection
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from keywrap.backups.vault import Vault
from keywrap.keyring import KeyRing
from keywrap.keys import KeyVersion
from keywrap.reading import SidecarReader
from ledger import queues
from ledger.connection import Ledger
from ledger.queues import QueueOf
from tasks.metering import UNMETERED, Meter

Counts = dict[str, int]
"""What a task returns: counts, never names or keys."""

Progress = Callable[[int, int], None]
"""Told how many blobs of how many are decided."""


class Pacing:
    """Paces the requests to key services, over all workers. This one paces none."""

    def work_for(self, campaign_id: int, max_rate: float | None) -> None:
        """Let a campaign's own ceiling hold, in requests a second; None: it has none."""

    def batch(self, most: int) -> int:
        """Return how many blobs to read at once, so that what is read does not wait long."""
        return most


UNPACED = Pacing()


@dataclass(frozen=True, slots=True)
class Runtime:
    """Everything a task may use.

    Attributes:
        ledger: the ledger.
        reader: reads sidecars, and names the store and its layout.
        keys: the KEKs that this installation lists.
        legacy_content: the content format of blobs whose sidecar does not say.
        keep_previous: whether the old wrap stays beside the new one.
        pool: threads for store requests.
        owner: this process, as leases name it.
        lease_s: length of a lease in seconds; a worker that dies costs at most this.
        batch: how many blobs go through the steps at once.
        stopping: whether this process is to stop soon, so that shards are handed back.
        store: which store `reader` reads, as the configuration describes it.
        queue_of: names the queue of the hosts that can open the wraps of a KEK version.
        served: the queues whose shards this process takes; None for all. Wraps of the default
            queue any process can open.
        verify_queue: the queue of the workers that verify.
        audit: the folder of the audit trail; None: this process keeps none.
        vault: where backups go; None where the configuration names no recipient.
        grace_s: how old, in seconds, an old content must be before it is removed; None: this
            process removes none.
        pacing: paces the requests to key services.
        meter: counts what tasks do.
    """

    ledger: Ledger
    reader: SidecarReader
    keys: KeyRing
    legacy_content: str
    keep_previous: bool
    pool: Executor
    owner: str
    lease_s: float
    batch: int
    stopping: Callable[[], bool]
    store: str = ""
    queue_of: QueueOf = queues.everyone
    served: Collection[str] | None = None
    verify_queue: str = queues.QUEUE
    audit: Path | None = None
    vault: Vault | None = None
    grace_s: float | None = None
    pacing: Pacing = UNPACED
    meter: Meter = UNMETERED

    def serves(self, version: KeyVersion) -> bool:
        """Whether this process has what opens the wraps of a KEK version, by the configuration."""
        return self.served is None or self.queue_of(version) in {queues.QUEUE, *self.served}


_make: Callable[[], Runtime] | None = None
_made: Runtime | None = None


def install(make: Callable[[], Runtime]) -> None:
    """Say how a process makes its runtime; called by the composition root before any task."""
    global _make, _made
    _make, _made = make, None


def current() -> Runtime:
    """Return this process's runtime, made when it is first needed.

    Raises:
        RuntimeError: no composition root has installed one.
    """
    global _made
    if _made is None:
        if _make is None:
            raise RuntimeError("no runtime is installed: tasks run inside `rewrap worker`")
        _made = _make()
    return _made
