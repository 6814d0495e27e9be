"""Random samples of blobs for the verifying task to open."""

import math

from sqlalchemy import Connection, text

from ledger import shards
from ledger.campaigns import MIN_SAMPLE, Campaign
from ledger.states import Kind, ShardKind

SHARD_BLOBS = 1000
"""Blobs of one shard: large enough to make a task's own cost vanish, small enough to hand back."""


def cut(connection: Connection, campaign: Campaign) -> int:
    """Draw a campaign's sample and cut it into shards of the verifying task.

    Returns:
        How many blobs were drawn: for a verify campaign as many as asked for, otherwise the
        campaign's fraction of what it rewrapped or found current, and never under `MIN_SAMPLE`.
    """
    if campaign.kind is Kind.VERIFY:
        pool, wanted = "inventory", campaign.sample_size or 0
    else:
        # `current` too: a worker that died after a write left a wrap that nobody has proved.
        pool = "outcome WHERE outcome IN ('rewrapped', 'current') AND"
        rewrapped = connection.scalar(
            text(
                "SELECT coalesce(sum(rewrapped + current), 0) FROM shard"
                " WHERE campaign_id = :campaign AND kind = 'rewrap'"
            ),
            {"campaign": campaign.id},
        )
        wanted = max(MIN_SAMPLE, math.ceil((campaign.sample or 0.0) * int(rewrapped or 0)))
    pool = pool if "WHERE" in pool else f"{pool} WHERE"
    drawn = [
        row.blob_id
        for row in connection.execute(
            text(
                f"SELECT blob_id FROM {pool} campaign_id = :campaign"  # noqa: S608 - constants
                " ORDER BY random() LIMIT :wanted"
            ),
            {"campaign": campaign.id, "wanted": wanted},
        )
    ]
    for start in range(0, len(drawn), SHARD_BLOBS):
        blob_ids = drawn[start : start + SHARD_BLOBS]
        shard_no = shards.add(connection, campaign.id, ShardKind.VERIFY, total=len(blob_ids))
        connection.execute(
            text(
                "INSERT INTO sample (campaign_id, shard_no, blob_id)"
                " SELECT :campaign, :no, unnest(CAST(:ids AS text[]))"
            ),
            {"campaign": campaign.id, "no": shard_no, "ids": blob_ids},
        )
    return len(drawn)
