"""Blocked campaigns: they wait for a KEK or service, and go on by themselves when it is mended."""

from sqlalchemy import Connection, text

from ledger import campaigns
from ledger.states import RESUMABLE, State

_MAX_PROBE_DELAY_S = 30.0


def block(connection: Connection, campaign_id: int, reason_code: str, reason: str) -> None:
    """Make a campaign wait for a KEK or service; it goes on by itself when that is mended."""
    campaigns.step(
        connection,
        campaign_id,
        State.BLOCKED,
        sources=sorted(RESUMABLE - {State.PLANNED}),
        reason_code=reason_code,
        reason=reason,
    )
    connection.execute(
        text(
            "UPDATE campaign SET reason_code = :reason_code, reason = :reason"
            " WHERE id = :id AND state = 'blocked'"
        ),
        {"id": campaign_id, "reason_code": reason_code, "reason": reason},
    )


def probe_due(connection: Connection, campaign_id: int) -> bool:
    """Whether a blocked campaign is to be tried now; each time the next is twice as far away."""
    return bool(
        connection.execute(
            text(
                "UPDATE campaign"
                " SET probe_at = clock_timestamp() + make_interval(secs => probe_delay_s),"
                " probe_delay_s = least(probe_delay_s * 2, :most)"
                " WHERE id = :id AND state = 'blocked'"
                " AND (probe_at IS NULL OR probe_at <= clock_timestamp())"
            ),
            {"id": campaign_id, "most": _MAX_PROBE_DELAY_S},
        ).rowcount
    )


def unblock(connection: Connection, campaign_id: int) -> None:
    """Go on, since a shard made progress; what failed while blocked is no shard's fault."""
    unblocked = connection.execute(
        text(
            "UPDATE campaign SET state = resume_state, reason_code = NULL, reason = NULL,"
            " probe_at = NULL, probe_delay_s = 1 WHERE id = :id AND state = 'blocked'"
        ),
        {"id": campaign_id},
    )
    if unblocked.rowcount:
        connection.execute(
            text("UPDATE shard SET attempt = 0 WHERE campaign_id = :id AND state = 'waiting'"),
            {"id": campaign_id},
        )
