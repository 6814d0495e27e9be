"""How far a campaign is: read from its shards, so that it costs O(shards) whatever their size."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from keywrap.rewrapping import Outcome
from ledger.states import COUNTING, OPENING, Kind, ShardKind, ShardState

WORK_OF = {
    Kind.INVENTORY: ShardKind.INVENTORY,
    Kind.MIGRATE: ShardKind.REWRAP,
    Kind.ROTATE: ShardKind.REWRAP,
    Kind.REENCRYPT: ShardKind.REWRAP,
    Kind.VERIFY: ShardKind.VERIFY,
    Kind.PLAN: ShardKind.VERIFY,
    Kind.BACKUP: ShardKind.BACKUP,
    Kind.SEAL: ShardKind.REWRAP,
    Kind.UNDO: ShardKind.REWRAP,
    Kind.SWEEP: ShardKind.REWRAP,
}
"""The shards whose counters are the campaign's counts."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a campaign is.

    Attributes:
        scanned: how many blobs it has to decide.
        counts: how many have each outcome.
        kms_requests: requests sent to key services.
        shards: number of shards of each kind and state.
        unclaimed: shards whose offers lapsed, one after another, without a claim.
        rate_per_s: blobs decided a second since the first shard was claimed.
        verified: blobs of the sample that the verifying task opened.
        worked: from the first claim to the last end, or until now; None: nothing was claimed.
        content_bytes: of the contents that a plan measured, or that were removed.
        listed: how many blobs its inventory saw.
    """

    scanned: int
    counts: dict[Outcome, int]
    kms_requests: int
    shards: dict[tuple[ShardKind, ShardState], int]
    unclaimed: int
    rate_per_s: float | None
    verified: int
    worked: tuple[datetime, datetime] | None = None
    content_bytes: int = 0
    listed: int = 0

    @property
    def decided(self) -> int:
        """How many blobs have an outcome."""
        return sum(self.counts.values())

    @property
    def pending(self) -> int:
        """How many blobs have none yet."""
        return self.scanned - self.decided

    @property
    def exceptions(self) -> int:
        """How many blobs need a person or a retry."""
        return sum(self.counts[o] for o in (Outcome.QUARANTINED, Outcome.FAILED, Outcome.CONFLICT))

    def count(self, kind: ShardKind, *states: ShardState) -> int:
        """How many shards of a kind are in one of these states; in any where none is named."""
        return sum(
            n for (k, s), n in self.shards.items() if k is kind and (not states or s in states)
        )


@dataclass(frozen=True, slots=True)
class Decided:
    """One blob of a campaign, and what happened to it."""

    blob_id: str
    outcome: str
    reason_code: str
    detail: str
    key_id: str


def read(connection: Connection, campaign_id: int, kind: Kind) -> Progress:
    """Add up a campaign's shards, in one statement: states and counts are of one moment."""
    return every(connection, {campaign_id: kind})[campaign_id]


def every(connection: Connection, kinds: Mapping[int, Kind]) -> dict[int, Progress]:
    """Add up the shards of campaigns, in one statement.

    Args:
        connection: the transaction.
        kinds: the campaigns, and what each does.
    """
    sums = ", ".join(f"sum({o})::bigint AS {o}" for o in Outcome)
    rows = connection.execute(
        text(
            "SELECT campaign_id, kind, state, count(*) AS shards,"  # noqa: S608 - constants
            f" {sums},"
            " sum(total)::bigint AS total, sum(kms_requests)::bigint AS kms_requests,"
            " sum(content_bytes)::bigint AS content_bytes,"
            " sum(lapses)::bigint AS lapses, min(started_at) AS started_at,"
            " max(finished_at) AS finished_at, clock_timestamp() AS now"
            " FROM shard WHERE campaign_id = ANY(:campaigns) GROUP BY 1, 2, 3"
        ),
        {"campaigns": list(kinds)},
    ).all()
    groups: dict[int, list[Row[Any]]] = {campaign_id: [] for campaign_id in kinds}
    for row in rows:
        groups[row.campaign_id].append(row)
    return {
        campaign_id: _progress(groups[campaign_id], kind) for campaign_id, kind in kinds.items()
    }


def _progress(rows: Sequence[Row[Any]], kind: Kind) -> Progress:
    work = [row for row in rows if row.kind == WORK_OF[kind]]
    counts = {o: int(sum(getattr(row, o) for row in work)) for o in Outcome}
    scanned = int(sum(row.total for row in work))
    done = scanned if kind in COUNTING else sum(counts.values())
    worked = _worked(work)
    seconds = (worked[1] - worked[0]).total_seconds() if worked else 0.0
    proofs = [r for r in rows if r.kind == ShardKind.VERIFY and r.state == ShardState.DONE]
    return Progress(
        scanned=scanned,
        counts=counts,
        kms_requests=int(sum(row.kms_requests for row in rows)),
        shards={(ShardKind(row.kind), ShardState(row.state)): row.shards for row in rows},
        unclaimed=int(sum(row.lapses for row in rows if row.state != ShardState.DONE)),
        rate_per_s=done / seconds if seconds and done else None,
        # Of a proof, what was opened is what counts: a blob that is gone proves nothing.
        verified=int(sum(row.total if kind in OPENING else row.current for row in proofs)),
        worked=worked,
        content_bytes=int(sum(row.content_bytes for row in work)),
        listed=int(sum(row.total for row in rows if row.kind == ShardKind.INVENTORY)),
    )


def _worked(work: Sequence[Row[Any]]) -> tuple[datetime, datetime] | None:
    """Return from when to when the work was done: since its first shard was claimed."""
    started = [row.started_at for row in work if row.started_at]
    if not started:
        return None
    if all(row.state == ShardState.DONE for row in work):
        end = max(row.finished_at for row in work)
    else:
        end = work[0].now
    return min(started), end


def counts(connection: Connection, campaign_id: int, kind: ShardKind) -> dict[Outcome, int]:
    """Add up what the shards of a kind came to."""
    sums = ", ".join(f"coalesce(sum({o}), 0)::bigint AS {o}" for o in Outcome)
    row = connection.execute(
        text(
            f"SELECT {sums} FROM shard"  # noqa: S608 - constants
            " WHERE campaign_id = :campaign AND kind = :kind"
        ),
        {"campaign": campaign_id, "kind": kind},
    ).one()
    return {o: int(getattr(row, o)) for o in Outcome}


def finished(connection: Connection, campaign_id: int, kind: ShardKind) -> int:
    """Return how many shards of a kind are done."""
    return int(
        connection.scalar(
            text(
                "SELECT count(*) FROM shard"
                " WHERE campaign_id = :campaign AND kind = :kind AND state = 'done'"
            ),
            {"campaign": campaign_id, "kind": kind},
        )
        or 0
    )


def scan_seconds(connection: Connection, campaign_id: int) -> float:
    """Return how long a campaign's inventory took, in seconds; 0 before it is done."""
    seconds = connection.scalar(
        text(
            "SELECT extract(epoch FROM max(finished_at) - min(started_at)) FROM shard"
            " WHERE campaign_id = :campaign AND kind = 'inventory'"
        ),
        {"campaign": campaign_id},
    )
    return float(seconds or 0.0)


def failures(connection: Connection, campaign_id: int) -> dict[tuple[str, str], int]:
    """Count the exceptions of a campaign by outcome and reason code."""
    rows = connection.execute(
        text(
            "SELECT outcome, coalesce(reason_code, '') AS code, count(*) AS n FROM outcome"
            " WHERE campaign_id = :campaign AND outcome IN ('quarantined', 'failed', 'conflict')"
            " GROUP BY 1, 2 ORDER BY 3 DESC, 1, 2"
        ),
        {"campaign": campaign_id},
    )
    return {(row.outcome, row.code): row.n for row in rows}


def blobs(
    connection: Connection, campaign_id: int, outcome: Outcome | None = None
) -> Iterator[Decided]:
    """Yield the blobs of a campaign and what happened to each, streamed in order of ids."""
    rows = connection.execution_options(stream_results=True, yield_per=2000).execute(
        text(
            "SELECT i.blob_id, coalesce(o.outcome, 'pending') AS outcome,"
            " coalesce(o.reason_code, '') AS reason_code, coalesce(o.detail, '') AS detail,"
            " coalesce(k.key || CASE WHEN k.version <> '' THEN '?version=' || k.version"
            "   ELSE '' END, '') AS key_id"
            " FROM inventory i LEFT JOIN outcome o USING (campaign_id, blob_id)"
            " LEFT JOIN key_version k ON k.id = i.key_version_id"
            " WHERE i.campaign_id = :campaign"
            " AND (CAST(:outcome AS text) IS NULL OR o.outcome = :outcome) ORDER BY i.blob_id"
        ),
        {"campaign": campaign_id, "outcome": outcome},
    )
    for row in rows.mappings():
        yield Decided(**row)


def beat(connection: Connection) -> None:
    """Note that a scheduler is alive."""
    connection.execute(
        text(
            "INSERT INTO heartbeat (name, at) VALUES ('scheduler', clock_timestamp())"
            " ON CONFLICT (name) DO UPDATE SET at = excluded.at"
        )
    )


def last_beat(connection: Connection) -> datetime | None:
    """Return when a scheduler was last alive, by the database's clock."""
    at: datetime | None = connection.scalar(
        text("SELECT at FROM heartbeat WHERE name = 'scheduler'")
    )
    return at


def now(connection: Connection) -> datetime:
    """Return the database's time."""
    at: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return at
