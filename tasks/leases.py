"""Working on a shard under a lease, with a heartbeat beside the work."""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from uuid import UUID

from structlog.contextvars import bind_contextvars

from keywrap.journal import NO_JOURNAL, SegmentJournal
from keywrap.segments import Source
from keywrap.stores import StoreUnavailableError
from ledger import campaigns, shards
from ledger.connection import LedgerUnavailableError
from ledger.shards import Lease, LeaseLostError
from ledger.states import ShardKind
from tasks import traces
from tasks.interruptions import settle
from tasks.metering import MeteredJournal
from tasks.runtime import Counts, Runtime

logger = logging.getLogger(__name__)

_BEATS_A_LEASE = 6  # five may be lost before the lease is
_STUCK_AFTER_LEASES = 10
"""Lease lengths without a step after which work counts as stuck: its lease is let lapse."""

_FAILED_AGAIN_S = 5.0


class HandBackError(Exception):
    """The work is to stop here; what is not recorded yet is handed back."""


class Work:
    """A claimed shard, while it is being worked on.

    Attributes:
        journal: where each use of a key for it is noted.
    """

    def __init__(self, runtime: Runtime, lease: Lease) -> None:
        self.runtime = runtime
        self.lease = lease
        self.journal = _journal(runtime, lease)
        self._ended = threading.Event()
        self._go_on = True
        self._lost = False
        self._moved_at = time.monotonic()
        # What it logs is of the same shard.
        beat = partial(copy_context().run, self._beat)
        self._beats = threading.Thread(target=beat, name="lease-heartbeat", daemon=True)

    def check(self) -> None:
        """Ask whether to go on; called between batches.

        Raises:
            LeaseLostError: another worker may have the shard by now.
            HandBackError: the campaign is to pause or end, or this process is to stop.
        """
        self._moved_at = time.monotonic()
        if self._lost:
            raise LeaseLostError(f"shard {self.lease.shard_no} was taken back")
        if not self._go_on or self.runtime.stopping():
            raise HandBackError

    def moved(self) -> None:
        """Note that the work moves on, within a batch too; from any thread."""
        self._moved_at = time.monotonic()

    def _beat(self) -> None:
        stuck_after_s = self.runtime.lease_s * _STUCK_AFTER_LEASES
        while not self._ended.wait(self.runtime.lease_s / _BEATS_A_LEASE):
            if time.monotonic() - self._moved_at > stuck_after_s:
                logger.error(
                    "shard %d is stuck; its lease lapses",
                    self.lease.shard_no,
                    extra={"event": "shard_stuck"},
                )
                return
            try:
                with self.runtime.ledger.begin() as connection:
                    self._go_on = shards.renew(connection, self.lease, self.runtime.lease_s)
                    campaign_id = self.lease.campaign.id
                    self.runtime.pacing.work_for(
                        campaign_id, campaigns.max_rate(connection, campaign_id)
                    )
            except LeaseLostError:
                self._lost = True
                return
            except LedgerUnavailableError:
                continue  # the lease may last until PostgreSQL is back; the fence tells if not

    def start(self) -> None:
        """Start the heartbeat."""
        self._beats.start()

    def end(self) -> None:
        """End the heartbeat, and leave what the ledger does not know of the audit trail."""
        self._ended.set()
        self._beats.join()
        self.journal.abandon()


def _journal(runtime: Runtime, lease: Lease) -> MeteredJournal:
    source = Source(lease.campaign.id, lease.shard_no, lease.fence, runtime.owner)
    trail = SegmentJournal(runtime.audit, source) if runtime.audit else NO_JOURNAL
    return MeteredJournal(trail, runtime.meter)


def under_lease(
    runtime: Runtime, shard_id: UUID, kind: ShardKind, body: Callable[[Work], Counts]
) -> Counts:
    """Claim a shard and do its work while a heartbeat keeps the lease.

    The body finishes the shard or hands it back. Where it cannot, because the lease or the ledger
    is lost, nothing more is written: the lease lapses and another worker goes on. Any other error
    hands the shard back and counts as one of its attempts.

    Returns:
        What the body counted; empty where there was nothing to do: a late, repeated or forged
        message, or work that was handed back.
    """
    with runtime.ledger.begin() as connection:
        lease = shards.claim(
            connection, shard_id, kind, runtime.owner, runtime.lease_s, runtime.served
        )
    if lease is None:
        return {}
    bind_contextvars(campaign=lease.campaign.id, shard=lease.shard_no)
    work = Work(runtime, lease)
    runtime.pacing.work_for(lease.campaign.id, lease.campaign.max_rate)
    began = time.monotonic()
    work.start()
    try:
        with traces.shard(lease):
            return body(work)
    except LeaseLostError:
        runtime.meter.lease_lost()
        logger.warning(
            "lease of shard %d lost; its new owner goes on",
            lease.shard_no,
            extra={"event": "lease_lost"},
        )
    except HandBackError:
        _hand_back(work)
    except LedgerUnavailableError:
        raise
    except StoreUnavailableError as error:
        with suppress(LeaseLostError), runtime.ledger.begin() as connection:
            settle(connection, lease, error)
    except Exception:
        _hand_back(work, _FAILED_AGAIN_S, failed=True)
        raise
    finally:
        work.end()
        runtime.meter.worked(kind, time.monotonic() - began)
    return {}


def _hand_back(work: Work, delay_s: float = 0.0, *, failed: bool = False) -> None:
    # Where the lease is lost or the ledger away, the shard comes back by itself.
    with suppress(LeaseLostError), work.runtime.ledger.begin() as connection:
        shards.hand_back(connection, work.lease, delay_s, failed=failed)
