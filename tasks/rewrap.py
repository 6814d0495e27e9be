"""Rewrapping the blobs of one shard."""

from uuid import UUID

from keywrap.rewrapping import Goal, Prove, Rewrapper, Selection
from ledger import shards
from ledger.campaigns import Campaign
from ledger.states import Kind, ShardKind
from tasks.leases import Work, under_lease
from tasks.marks import require_store
from tasks.runtime import Counts, Progress, Runtime
from tasks.tally import Tally


def goal_of(campaign: Campaign, *, keep_previous: bool) -> Goal:
    """Say what a campaign wants of each blob.

    Raises:
        ValueError: the campaign moves nothing.
    """
    if campaign.target is None:
        raise ValueError(f"a campaign of kind {campaign.kind} has no target")
    return Goal(
        campaign.target,
        Selection.LEGACY if campaign.kind is Kind.MIGRATE else Selection.MANAGED,
        campaign.prove or Prove.ALL,
        keep_previous=keep_previous,
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
        require_store(work)
        goal = goal_of(work.lease.campaign, keep_previous=runtime.keep_previous)
        rewrapper = Rewrapper(runtime.reader, runtime.keys, runtime.legacy_content, runtime.pool)
        with runtime.ledger.begin() as connection:
            blob_ids = shards.remaining(connection, work.lease)
        return Tally(work, progress).run(blob_ids, lambda ids: rewrapper.rewrap(ids, goal))

    return under_lease(runtime, shard_id, ShardKind.REWRAP, body)
