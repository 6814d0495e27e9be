"""What a person looks at beside a campaign's status, a page at a time: shards, blobs, pace."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from keywrap.rewrapping import Outcome
from ledger import campaigns
from ledger.campaigns import Campaign
from ledger.states import OPEN, ShardKind, ShardState

_DECIDED = " + ".join(Outcome)


@dataclass(frozen=True, slots=True)
class ShardLine:
    """One shard, as a table shows it; `decided` counts its blobs that have an outcome."""

    shard_no: int
    kind: str
    queue: str
    state: str
    attempt: int
    owner: str | None
    total: int
    decided: int
    exceptions: int
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class BlobLine:
    """One decided blob, as a table shows it. Id and detail are whatever was in the store."""

    blob_id: str
    outcome: str
    reason_code: str
    detail: str


def newest(connection: Connection, before: int | None, limit: int) -> list[Campaign]:
    """Return campaigns, the newest first.

    Args:
        connection: the transaction.
        before: only those with lower ids; None: the newest, and all that are not finished.
        limit: how many, beside those that are not finished.
    """
    return campaigns.select(
        connection,
        "WHERE id IN (SELECT id FROM campaign WHERE CAST(:before AS int) IS NULL OR id < :before"
        "  ORDER BY id DESC LIMIT :limit)"
        " OR (CAST(:before AS int) IS NULL AND state = ANY(:open)) ORDER BY id DESC",
        before=before,
        limit=limit,
        open=list(OPEN),
    )


def mark(connection: Connection) -> tuple[object, ...]:
    """Return what changes whenever anything of a finished campaign's status does, but time."""
    row = connection.execute(
        text(
            "SELECT (SELECT max(finished_at) FROM campaign), (SELECT count(*) FROM campaign"
            "   WHERE state = ANY(:open)), max(id), count(used_at), count(approved_at)"
            " FROM approval"
        ),
        {"open": list(OPEN)},
    ).one()
    return tuple(row)


def shards(
    connection: Connection,
    campaign_id: int,
    kind: ShardKind | None,
    state: ShardState | None,
    after: int,
    limit: int,
) -> list[ShardLine]:
    """Return shards of a campaign in the order of their numbers, after a number."""
    rows = connection.execute(
        text(
            "SELECT shard_no, kind, queue, state, attempt, owner, total,"  # noqa: S608 - constants
            f" {_DECIDED} AS decided,"
            " quarantined + failed + conflict AS exceptions, started_at, finished_at"
            " FROM shard WHERE campaign_id = :campaign AND shard_no > :after"
            " AND (CAST(:kind AS text) IS NULL OR kind = :kind)"
            " AND (CAST(:state AS text) IS NULL OR state = :state)"
            " ORDER BY shard_no LIMIT :limit"
        ),
        {"campaign": campaign_id, "kind": kind, "state": state, "after": after, "limit": limit},
    ).mappings()
    return [ShardLine(**row) for row in rows]


def blobs(
    connection: Connection,
    campaign_id: int,
    outcome: Outcome,
    reason_code: str | None,
    after: str,
    limit: int,
) -> list[BlobLine]:
    """Return blobs of one outcome in the order of their ids, after an id.

    Args:
        connection: the transaction.
        campaign_id: the campaign.
        outcome: what happened to them.
        reason_code: only those for this reason; None: for any.
        after: the last id of the page before; empty for the first.
        limit: the most to return.
    """
    rows = connection.execute(
        text(
            "SELECT blob_id, outcome, coalesce(reason_code, '') AS reason_code,"
            " coalesce(detail, '') AS detail FROM outcome"
            " WHERE campaign_id = :campaign AND outcome = :outcome AND blob_id > :after"
            " AND (CAST(:reason AS text) IS NULL OR coalesce(reason_code, '') = :reason)"
            " ORDER BY blob_id LIMIT :limit"
        ),
        {
            "campaign": campaign_id,
            "outcome": outcome,
            "reason": reason_code,
            "after": after,
            "limit": limit,
        },
    ).mappings()
    return [BlobLine(**row) for row in rows]


def decided_over_time(
    connection: Connection,
    campaign_id: int,
    kind: ShardKind,
    period: tuple[datetime, datetime],
    steps: int,
) -> Sequence[float]:
    """Count the blobs decided in each of so many equal steps of a period.

    The ledger knows when a shard was begun and ended, and how many of its blobs are decided by now:
    these are spread evenly over that time.
    """
    start, end = period
    step = (
        "width_bucket(extract(epoch FROM {})::float8,"
        " CAST(:start AS float8), CAST(:end AS float8), CAST(:steps AS int))"
    )
    first, last = step.format("started_at"), step.format("coalesce(finished_at, now())")
    rows = connection.execute(
        text(
            "SELECT"  # noqa: S608 - constants
            f" least(greatest({first}, 1), CAST(:steps AS int)) AS first,"
            f" least(greatest({last}, 1), CAST(:steps AS int)) AS last,"
            " sum(CASE WHEN kind NOT IN ('inventory', 'backup')"
            f"   THEN {_DECIDED} WHEN state = 'done' THEN total ELSE 0 END)::bigint AS blobs"
            " FROM shard WHERE campaign_id = :campaign AND kind = :kind"
            "   AND started_at IS NOT NULL GROUP BY 1, 2"
        ),
        {
            "campaign": campaign_id,
            "kind": kind,
            "start": start.timestamp(),
            "end": max(end.timestamp(), start.timestamp() + 1e-3),
            "steps": steps,
        },
    )
    counted = [0.0] * steps
    for row in rows:
        took = range(row.first - 1, max(row.last, row.first))
        for at in took:
            counted[at] += row.blobs / len(took)
    return counted
