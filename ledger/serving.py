"""Who serves the queues: what the ledger knows of the hosts behind each."""

from sqlalchemy import Connection, text

_LAPSES = 2
_LATELY_S = 60
"""A worker of several queues is at work in one of them: it comes back to the others so soon."""


def unserved(connection: Connection, campaign_id: int) -> dict[str, bool]:
    """Tell which queues of a campaign nobody serves.

    Returns:
        The queues that have shards to do, and whether an offer lapses there again and again while
        no worker has begun or ended a shard lately, nor is at one, in whatever campaign.
    """
    rows = connection.execute(
        text(
            "SELECT queue, max(lapses) >= :lapses AND NOT EXISTS (SELECT 1 FROM shard busy"
            "   WHERE busy.queue = shard.queue AND (busy.state = 'leased'"
            "     OR greatest(busy.started_at, busy.finished_at)"
            "       > clock_timestamp() - make_interval(secs => :lately_s))) AS is_idle"
            " FROM shard WHERE campaign_id = :campaign AND state <> 'done'"
            " GROUP BY queue ORDER BY queue"
        ),
        {"campaign": campaign_id, "lapses": _LAPSES, "lately_s": _LATELY_S},
    )
    return {row.queue: row.is_idle for row in rows}


def any_canary_is_back(connection: Connection, campaign_id: int) -> bool:
    """Whether the hosts of some queue have opened all of a campaign's canary that is theirs."""
    return bool(
        connection.scalar(
            text(
                "SELECT EXISTS (SELECT 1 FROM shard WHERE campaign_id = :campaign"
                " AND kind = 'verify' GROUP BY queue HAVING bool_and(state = 'done'))"
            ),
            {"campaign": campaign_id},
        )
    )


def wake(connection: Connection, campaign_id: int, queue: str) -> None:
    """Note that a worker serves a queue again: what was offered in vain is to wait no longer."""
    connection.execute(
        text(
            "UPDATE shard SET lapses = 0, not_before = NULL WHERE id IN"
            " (SELECT id FROM shard WHERE campaign_id = :campaign AND queue = :queue"
            "   AND state = 'waiting' AND lapses > 0"
            # Whoever holds one of these rows is not waited for: two that claim cannot deadlock.
            "   FOR UPDATE SKIP LOCKED)"
        ),
        {"campaign": campaign_id, "queue": queue},
    )
