"""Pulses: when campaigns moved last, and how much key services were asked in each hour."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from ledger import campaigns
from ledger.campaigns import Campaign
from ledger.states import State

_KEPT_DAYS = 92


@dataclass(frozen=True, slots=True)
class Volume:
    """Requests to key services in an hour.

    Attributes:
        requests: of the hour that runs.
        busiest: of the busiest hour before it; None: no hour before it was counted.
    """

    requests: int
    busiest: int | None


def beat(
    connection: Connection, campaign_id: int, counted: int, requests: int, *, may_move: bool
) -> float:
    """Note how far a campaign is; return for how many seconds it has not moved.

    Args:
        connection: the transaction; one process at a time notes.
        campaign_id: the campaign.
        counted: anything that grows or changes while it moves.
        requests: requests to key services so far; what is new counts for the hour that runs.
        may_move: whether it is to move now: while it may not, it does not stand still either.
    """
    before = connection.scalar(
        text("SELECT requests FROM alert_pulse WHERE campaign_id = :id"), {"id": campaign_id}
    )
    if new := requests - (before or 0):
        _count(connection, new)
    still: object = connection.execute(
        text(
            "INSERT INTO alert_pulse AS p (campaign_id, counted, requests)"
            " VALUES (:id, :counted, :requests) ON CONFLICT (campaign_id) DO UPDATE"
            " SET counted = excluded.counted, requests = excluded.requests,"
            " moved_at = CASE WHEN p.counted <> excluded.counted OR NOT :may_move"
            "  THEN clock_timestamp() ELSE p.moved_at END"
            " RETURNING extract(epoch FROM clock_timestamp() - moved_at)::float8"
        ),
        {"id": campaign_id, "counted": counted, "requests": requests, "may_move": may_move},
    ).scalar_one()
    assert isinstance(still, float)  # noqa: S101 - as the statement casts it
    return still


def _count(connection: Connection, new: int) -> None:
    connection.execute(
        text(
            "INSERT INTO request_hour (hour, requests)"
            " VALUES (date_trunc('hour', clock_timestamp()), :new)"
            " ON CONFLICT (hour) DO UPDATE SET requests = request_hour.requests + excluded.requests"
        ),
        {"new": max(new, 0)},
    )
    connection.execute(
        text("DELETE FROM request_hour WHERE hour < clock_timestamp() - make_interval(days => :d)"),
        {"d": _KEPT_DAYS},
    )


def ended(connection: Connection) -> list[int]:
    """Return the campaigns that ended lately and whose last requests are not counted yet."""
    return list(
        connection.scalars(
            text(
                "SELECT c.id FROM campaign c LEFT JOIN alert_pulse p ON p.campaign_id = c.id"
                " WHERE c.finished_at > clock_timestamp() - interval '1 hour'"
                " AND (p.moved_at IS NULL OR p.moved_at < c.finished_at)"
            )
        )
    )


def told_since(connection: Connection, since: datetime) -> list[Campaign]:
    """Return the campaigns that came to their end since, the oldest first; not cancelled ones."""
    return campaigns.select(
        connection,
        "WHERE finished_at > :since AND state = ANY(:done) ORDER BY finished_at",
        since=since,
        done=[State.COMPLETE, State.COMPLETE_WITH_EXCEPTIONS],
    )


def volume(connection: Connection, days: int) -> Volume:
    """Return the requests of the hour that runs, and of the busiest one in some days before it."""
    row = connection.execute(
        text(
            "WITH now AS (SELECT date_trunc('hour', clock_timestamp()) AS hour)"
            " SELECT coalesce(sum(requests) FILTER (WHERE r.hour = now.hour), 0)::bigint AS now,"
            " max(requests) FILTER (WHERE r.hour < now.hour"
            "  AND r.hour >= now.hour - make_interval(days => :days)) AS busiest"
            " FROM request_hour r CROSS JOIN now"
        ),
        {"days": days},
    ).one()
    return Volume(int(row.now), row.busiest)
