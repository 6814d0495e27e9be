"""Removing the old contents of one shard's blobs."""

from collections.abc import Sequence
from datetime import timedelta

from keywrap.sweeping import CannotSweepError, Sweeper, take_bearings
from ledger import findings, progress
from tasks.leases import Work


def sweeper_of(work: Work, blob_ids: Sequence[str]) -> Sweeper:
    """Make what removes old contents, with what the scan found of these blobs.

    Raises:
        CannotSweepError: this worker's configuration lets nothing be removed, or its store does
            not say how old objects are.
        StoreUnavailableError: the store did not answer.
    """
    runtime, campaign = work.runtime, work.lease.campaign
    if runtime.grace_s is None:
        raise CannotSweepError(
            "the configuration of this worker lets nothing be removed: [reencrypt] sweep = true, "
            "and restart it",
            "sweep_not_allowed",
        )
    bearings = take_bearings(runtime.reader.store)
    with runtime.ledger.begin() as connection:
        # By the slower of two clocks: one that was set wrong ends no grace time.
        now = min(bearings.now, progress.now(connection))
        leftovers = findings.leftovers_of(connection, campaign.id, blob_ids)
    return Sweeper(
        runtime.reader,
        runtime.keys,
        runtime.legacy_content,
        runtime.pool,
        journal=work.journal,
        leftovers=leftovers,
        horizon=now - timedelta(seconds=runtime.grace_s),
        heeds=bearings.heeds,
        beat=work.moved,
    )
