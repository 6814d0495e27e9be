"""Random samples of blobs for the verifying task to open."""

import math
from collections.abc import Sequence

from sqlalchemy import Connection, text

from keywrap.keys import KeyVersion
from ledger import queues, shards
from ledger.campaigns import MIN_SAMPLE, Campaign
from ledger.queues import QueueOf
from ledger.states import OPENING, Kind, ShardKind

SHARD_BLOBS = 1000
"""Blobs of one shard: large enough to make a task's own cost vanish, small enough to hand back."""


def cut(connection: Connection, campaign: Campaign, queue_of: QueueOf = queues.everyone) -> int:
    """Draw a campaign's sample and cut it into shards of the verifying task.

    Args:
        connection: the transaction.
        campaign: the campaign.
        queue_of: names the queue of the hosts that can open the wraps of a KEK version.

    Returns:
        How many blobs were drawn: for a verify campaign as many as asked for; for a plan as many,
        of those that would move; otherwise the campaign's fraction of what it rewrapped or found
        current, and never under `MIN_SAMPLE`.
    """
    return _cut(connection, campaign, _draw(connection, campaign), queue_of)


def cut_canary(
    connection: Connection, campaign: Campaign, wanted: int, queue_of: QueueOf = queues.everyone
) -> int:
    """Draw blobs that a campaign is about to move, and cut them into shards of the verifying task.

    Args:
        connection: the transaction.
        campaign: the campaign; its inventory is complete.
        wanted: how many to draw, if there are as many.
        queue_of: names the queue of the hosts that can open the wraps of a KEK version.

    Returns:
        How many blobs were drawn.
    """
    versions = _versions(connection, campaign)
    drawn = connection.execute(
        text(
            "SELECT blob_id, key_version_id AS key FROM inventory WHERE campaign_id = :campaign"
            " AND key_version_id = ANY(:moving) ORDER BY random() LIMIT :wanted"
        ),
        {
            "campaign": campaign.id,
            "moving": [i for i, version in versions.items() if campaign.moves(version)],
            "wanted": wanted,
        },
    )
    found = [(row.blob_id, versions.get(row.key)) for row in drawn]
    return _cut(connection, campaign, found, queue_of)


def _cut(
    connection: Connection,
    campaign: Campaign,
    drawn: Sequence[tuple[str, KeyVersion | None]],
    queue_of: QueueOf,
) -> int:
    for queue, group in queues.by_host(drawn, queue_of):
        for start in range(0, len(group), SHARD_BLOBS):
            _add_shard(connection, campaign, queue, group[start : start + SHARD_BLOBS])
    return len(drawn)


def _draw(connection: Connection, campaign: Campaign) -> list[tuple[str, KeyVersion | None]]:
    """Draw blobs, each with the KEK version that wraps it."""
    if campaign.kind in OPENING:
        pool, key, wanted = "inventory WHERE", "key_version_id", campaign.sample_size or 0
    else:
        # `current` too: a worker that died after a write left a wrap that nobody has proved.
        pool, key = "outcome WHERE outcome IN ('rewrapped', 'current') AND", "NULL"
        wanted = proof_size(campaign.sample, _rewrapped(connection, campaign))
    values: dict[str, object] = {"campaign": campaign.id, "wanted": wanted}
    versions = _versions(connection, campaign) if campaign.kind in OPENING else {}
    if campaign.kind is Kind.PLAN:
        pool += " key_version_id = ANY(:moving) AND"
        values["moving"] = [i for i, version in versions.items() if campaign.moves(version)]
    rows = connection.execute(
        text(
            f"SELECT blob_id, {key} AS key FROM {pool} campaign_id = :campaign"  # noqa: S608
            " ORDER BY random() LIMIT :wanted"
        ),
        values,
    )
    return [(row.blob_id, versions.get(row.key, campaign.target)) for row in rows]


def _versions(connection: Connection, campaign: Campaign) -> dict[int, KeyVersion]:
    """Return the KEK versions of a campaign's inventory by their ids."""
    rows = connection.execute(
        text(
            "SELECT id, key, version FROM key_version WHERE id IN"
            " (SELECT key_version_id FROM inventory WHERE campaign_id = :campaign)"
        ),
        {"campaign": campaign.id},
    )
    return {row.id: KeyVersion(row.key, row.version) for row in rows}


def _add_shard(
    connection: Connection, campaign: Campaign, queue: str, blob_ids: Sequence[str]
) -> None:
    shard_no = shards.add(
        connection, campaign.id, ShardKind.VERIFY, total=len(blob_ids), queue=queue
    )
    connection.execute(
        text(
            "INSERT INTO sample (campaign_id, shard_no, blob_id)"
            " SELECT :campaign, :no, unnest(CAST(:ids AS text[]))"
        ),
        {"campaign": campaign.id, "no": shard_no, "ids": list(blob_ids)},
    )


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


def of_each_key(
    connection: Connection, campaign_id: int, most: int
) -> list[tuple[str, KeyVersion]]:
    """Return some blobs of each KEK version of an inventory: any, so that it costs one scan.

    Args:
        connection: the transaction.
        campaign_id: whose inventory.
        most: how many blobs of each version.

    Returns:
        Blob ids, each with the KEK version that wrapped it then.
    """
    rows = connection.execute(
        text(
            "SELECT k.key, k.version, few.blob_id FROM key_version k CROSS JOIN LATERAL"
            " (SELECT blob_id FROM inventory"
            "   WHERE campaign_id = :campaign AND key_version_id = k.id LIMIT :most) few"
            " WHERE k.id IN (SELECT key_version_id FROM inventory WHERE campaign_id = :campaign)"
            " ORDER BY k.id, few.blob_id"
        ),
        {"campaign": campaign_id, "most": most},
    )
    return [(row.blob_id, KeyVersion(row.key, row.version)) for row in rows]
