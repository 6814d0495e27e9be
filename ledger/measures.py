"""What is watched of the ledger all the time: read often, so by indexes or small tables alone."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from ledger.states import OPEN, State


@dataclass(frozen=True, slots=True)
class Trail:
    """How the audit trail stands.

    Attributes:
        entries: of its chain.
        closed_at: when the segment of the last one was closed, by its writer's clock; None: there
            is none.
        unchained: segments that no tick has chained yet.
    """

    entries: int
    closed_at: datetime | None
    unchained: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """What waits for a second person.

    Attributes:
        approvals: how many there are.
        since: when the first of them was asked for; None: there is none.
    """

    approvals: int
    since: datetime | None


def open_ids(connection: Connection) -> list[int]:
    """Return the numbers of the campaigns that are open, the newest first."""
    return list(
        connection.scalars(
            text("SELECT id FROM campaign WHERE state = ANY(:open) ORDER BY id DESC"),
            {"open": [state.value for state in OPEN]},
        )
    )


def last_moved(connection: Connection, campaign_id: int) -> datetime | None:
    """Return when a shard of a campaign was begun or ended last; None: none was."""
    at: datetime | None = connection.scalar(
        text(
            "SELECT greatest(max(started_at), max(finished_at)) FROM shard"
            " WHERE campaign_id = :campaign"
        ),
        {"campaign": campaign_id},
    )
    return at


def newest_full_inventory(connection: Connection, store: str) -> tuple[int, datetime] | None:
    """Return the newest finished inventory of a whole store whose lists are kept, and its end."""
    row = connection.execute(
        text(
            "SELECT id, finished_at FROM campaign WHERE kind = 'inventory' AND state = :complete"
            " AND store = :store AND prefix = '' AND list_id IS NULL AND lists_dropped_at IS NULL"
            " ORDER BY id DESC LIMIT 1"
        ),
        {"store": store, "complete": State.COMPLETE},
    ).one_or_none()
    return (row.id, row.finished_at) if row else None


def trail(connection: Connection) -> Trail:
    """Return how the audit trail stands."""
    last = connection.execute(
        text(
            "SELECT place, closed_at FROM audit_segment WHERE place IS NOT NULL"
            " ORDER BY place DESC LIMIT 1"
        )
    ).one_or_none()
    unchained = connection.scalar(text("SELECT count(*) FROM audit_segment WHERE place IS NULL"))
    return Trail(last.place if last else 0, last.closed_at if last else None, int(unchained or 0))


def waiting(connection: Connection) -> Waiting:
    """Return what waits for a second person."""
    row = connection.execute(
        text(
            "SELECT count(*) AS approvals, min(created_at) AS since FROM approval"
            " WHERE approved_by = '' AND reason = '' AND used_at IS NULL"
            " AND expires_at > clock_timestamp()"
        )
    ).one()
    return Waiting(row.approvals, row.since)
