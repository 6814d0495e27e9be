"""Random samples of blobs for the verifying task to open."""

import math

from sqlalchemy import Connection, text

from keywrap.keys import KeyVersion
from ledger import shards
from ledger.campaigns import MIN_SAMPLE, Campaign
from ledger.states import OPENING, Kind, ShardKind

SHARD_BLOBS = 1000
"""Blobs of one shard: large enough to make a task's own cost vanish, small enough to hand back."""


def cut(connection: Connection, campaign: Campaign) -> int:
    """Draw a campaign's sample and cut it into shards of the verifying task.

    Returns:
        How many blobs were drawn: for a verify campaign as many as asked for; for a plan as many,
        of those that would move; otherwise the campaign's fraction of what it rewrapped or found
        current, and never under `MIN_SAMPLE`.
    """
    if campaign.kind in OPENING:
        pool, wanted = "inventory WHERE", campaign.sample_size or 0
    else:
        # `current` too: a worker that died after a write left a wrap that nobody has proved.
        pool = "outcome WHERE outcome IN ('rewrapped', 'current') AND"
        wanted = proof_size(campaign.sample, _rewrapped(connection, campaign))
    values: dict[str, object] = {"campaign": campaign.id, "wanted": wanted}
    if campaign.kind is Kind.PLAN:
        pool += " key_version_id = ANY(:moving) AND"
        values["moving"] = _moving(connection, campaign)
    drawn = [
        row.blob_id
        for row in connection.execute(
            text(
                f"SELECT blob_id FROM {pool} campaign_id = :campaign"  # noqa: S608 - constants
                " ORDER BY random() LIMIT :wanted"
            ),
            values,
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


def proof_size(fraction: float | None, rewrapped: int) -> int:
    """Return how many blobs prove a campaign's wraps, if there are as many."""
    return max(MIN_SAMPLE, math.ceil((fraction or 0.0) * rewrapped))


def _rewrapped(connection: Connection, campaign: Campaign) -> int:
    return int(
        connection.execute(
            text(
                "SELECT coalesce(sum(rewrapped + current), 0) FROM shard"
                " WHERE campaign_id = :campaign AND kind = 'rewrap'"
            ),
            {"campaign": campaign.id},
        ).scalar_one()
    )


def _moving(connection: Connection, plan: Campaign) -> list[int]:
    """Return the KEK versions of a plan's inventory whose wraps the planned campaign would move."""
    rows = connection.execute(
        text(
            "SELECT id, key, version FROM key_version WHERE id IN"
            " (SELECT key_version_id FROM inventory WHERE campaign_id = :campaign)"
        ),
        {"campaign": plan.id},
    )
    return [row.id for row in rows if plan.moves(KeyVersion(row.key, row.version))]
