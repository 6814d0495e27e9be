"""Rewrapping the blobs of one shard."""

from collections.abc import Collection, Sequence
from uuid import UUID

from keywrap.reencrypting import Reencrypter
from keywrap.rewrapping import Goal, Prove, Rewrapper
from keywrap.unwinding import Sealer, Undoer
from ledger import shards
from ledger.campaigns import Campaign
from ledger.states import MOVING, Kind, ShardKind
from tasks.leases import Work, under_lease
from tasks.marks import require_store
from tasks.runtime import Counts, Progress, Runtime
from tasks.sweep import sweeper_of
from tasks.tally import Tally

_ENGINES: dict[Kind, type[Rewrapper]] = {Kind.SEAL: Sealer, Kind.UNDO: Undoer}


def goal_of(campaign: Campaign, *, keep_previous: bool, kinds: Collection[Kind] = MOVING) -> Goal:
    """Say what a campaign wants of each blob; of a plan, what its campaign would.

    Args:
        campaign: the campaign.
        keep_previous: whether the old wrap stays beside the new one.
        kinds: the kinds of which it must be, whatever the kind of its shard says.

    Raises:
        ValueError: it is of another kind, or has no target.
    """
    if campaign.kind not in kinds or campaign.target is None:
        raise ValueError(f"a campaign of kind {campaign.kind} wants nothing of these blobs")
    return Goal(
        campaign.target,
        campaign.selection,
        campaign.prove or Prove.ALL,
        keep_previous=keep_previous,
        mark=campaign.nonce.bytes,
    )


def rewrap_shard(runtime: Runtime, shard_id: UUID, progress: Progress) -> Counts:
    """Bring the blobs of a shard to the campaign's target.

    Args:
        runtime: what the task may use.
        shard_id: the shard.
        progress: told how far it is.

    Returns:
        How many blobs have each outcome; empty where there was nothing to do.
    """

    def body(work: Work) -> Counts:
        goal = goal_of(work.lease.campaign, keep_previous=runtime.keep_previous)
        require_store(work)
        with runtime.ledger.begin() as connection:
            blob_ids = shards.remaining(connection, work.lease)
        rewrapper = _engine(work, blob_ids)
        return Tally(work, progress).run(blob_ids, lambda ids: rewrapper.rewrap(ids, goal))

    return under_lease(runtime, shard_id, ShardKind.REWRAP, body)


def _engine(work: Work, blob_ids: Sequence[str]) -> Rewrapper:
    runtime, kind = work.runtime, work.lease.campaign.kind
    if kind is Kind.SWEEP:
        return sweeper_of(work, blob_ids)
    means = runtime.reader, runtime.keys, runtime.legacy_content, runtime.pool
    timed = runtime.meter.timed
    if kind is Kind.REENCRYPT:
        return Reencrypter(*means, journal=work.journal, timed=timed, beat=work.moved)
    return _ENGINES.get(kind, Rewrapper)(*means, journal=work.journal, timed=timed)
