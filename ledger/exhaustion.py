"""Shards whose workers die or fail again and again: given up, so that they hold up no others."""

from uuid import UUID

from sqlalchemy import Connection, text

from ledger import campaigns
from ledger.states import OPENING, WORKING, ShardKind, State


def give_up(connection: Connection, max_attempts: int) -> list[int]:
    """Give up shards whose workers die or fail again and again.

    Blobs without an outcome become `failed`, so that the others are not held up for ever and
    `retry` takes these again. A scan that cannot be finished stops its campaign.

    Returns:
        The ids of the campaigns whose scan cannot be finished.
    """
    worn_out = connection.execute(
        text(
            "SELECT shard.id, campaign_id, shard_no, shard.kind FROM shard"
            " JOIN campaign ON campaign.id = campaign_id AND campaign.state = ANY(:working)"
            " WHERE shard.state = 'waiting' AND attempt >= :most FOR UPDATE OF shard SKIP LOCKED"
        ),
        {"most": max_attempts, "working": list(WORKING - {State.BLOCKED})},
    ).all()
    stuck = []
    for shard in worn_out:
        campaign = campaigns.get(connection, shard.campaign_id)
        opens = shard.kind == ShardKind.REWRAP or (campaign and campaign.kind in OPENING)
        if opens and shard.kind in {ShardKind.REWRAP, ShardKind.VERIFY}:
            _fail_remaining(connection, shard.id, shard.campaign_id, shard.shard_no)
        else:
            stuck.append(shard.campaign_id)
    return stuck


def _fail_remaining(
    connection: Connection, shard_id: UUID, campaign_id: int, shard_no: int
) -> None:
    failed = connection.execute(
        text(
            "INSERT INTO outcome (campaign_id, shard_no, blob_id, outcome, reason_code, detail)"
            " SELECT :campaign, :no, b.blob_id, 'failed', 'attempts_exhausted',"
            "   'the workers of its shard died or failed again and again'"
            " FROM (SELECT blob_id FROM inventory WHERE campaign_id = :campaign"
            "   AND shard_no = :no UNION ALL SELECT blob_id FROM sample"
            "   WHERE campaign_id = :campaign AND shard_no = :no) b"
            " WHERE NOT EXISTS (SELECT 1 FROM outcome o"
            "   WHERE o.campaign_id = :campaign AND o.blob_id = b.blob_id)"
        ),
        {"campaign": campaign_id, "no": shard_no},
    ).rowcount
    connection.execute(
        text(
            "UPDATE shard SET failed = failed + :failed, state = 'done',"
            " finished_at = clock_timestamp() WHERE id = :id"
        ),
        {"id": shard_id, "failed": failed},
    )
