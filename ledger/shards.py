"""Shards: offered by the scheduler, claimed under a lease, recorded behind a fence.

All times are the database's (`clock_timestamp()`): a worker whose clock is wrong can neither keep
nor lose a lease by it.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

from keywrap.rewrapping import Outcome, Result
from ledger import blocking, campaigns, serving
from ledger.campaigns import Campaign
from ledger.queues import QUEUE
from ledger.states import OPENING, WORKING, ShardKind

_MOST_BETWEEN_OFFERS_S = 10


class LeaseLostError(Exception):
    """Another worker may have the shard by now. Stop; nothing of this transaction counts."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A shard that workers may claim: what a message of the broker is made from."""

    shard_id: UUID
    kind: ShardKind
    queue: str
    campaign_id: int
    shard_no: int


@dataclass(frozen=True, slots=True)
class Lease:
    """A claimed shard.

    Attributes:
        shard_id: the shard.
        fence: the fencing token: any later claim has a higher one.
        shard_no: the shard's number.
        kind: what is to be done.
        queue: the queue of the hosts that can do it.
        part: which part of the store a scan takes.
        parts: how many parts there are.
        campaign: the campaign, as it was when the shard was claimed.
    """

    shard_id: UUID
    fence: int
    shard_no: int
    kind: ShardKind
    queue: str
    part: int
    parts: int
    campaign: Campaign


def add(
    connection: Connection,
    campaign_id: int,
    kind: ShardKind,
    *,
    total: int = 0,
    part: int = 0,
    parts: int = 1,
    queue: str = QUEUE,
) -> int:
    """Add a shard that waits to be offered; return its number."""
    return int(
        connection.execute(
            text(
                "INSERT INTO shard (campaign_id, kind, queue, state, total, part, parts)"
                " VALUES (:campaign, :kind, :queue, 'waiting', :total, :part, :parts)"
                " RETURNING shard_no"
            ),
            {
                "campaign": campaign_id,
                "kind": kind,
                "queue": queue,
                "total": total,
                "part": part,
                "parts": parts,
            },
        ).scalar_one()
    )


def offer(
    connection: Connection,
    campaign_id: int,
    window: int,
    claim_s: float,
    kinds: Sequence[ShardKind] = tuple(ShardKind),
) -> list[Offer]:
    """Offer waiting shards, so that at most `window` of each queue are offered or leased.

    The messages go out after the commit: one that is lost is an offer that lapses. A queue that
    nobody serves gets one at a time, so that its messages do not fill the broker meanwhile.
    """
    # Ids are random: shards with neighbouring names go out apart, and no prefix of a bucket gets
    # the requests of all workers at once. A probe tries another one each time: the first may hold
    # just the wrap that is barred.
    order = "random()" if window == 1 else "kind, id"
    rows = connection.execute(
        text(
            "WITH lane AS (SELECT queue, count(*) FILTER (WHERE state <> 'waiting') AS busy,"  # noqa: S608 - constants
            "   sum(lapses) >= 2 * :window AND NOT bool_or(state = 'leased') AS is_idle"
            "   FROM shard WHERE campaign_id = :campaign AND state <> 'done' GROUP BY queue),"
            " picked AS (SELECT next.id FROM lane, LATERAL (SELECT id FROM shard"
            "   WHERE campaign_id = :campaign AND queue = lane.queue AND state = 'waiting'"
            "   AND kind = ANY(:kinds)"
            # Nothing is written by the hosts of a queue whose canary is not back.
            "   AND (kind <> 'rewrap' OR NOT EXISTS (SELECT 1 FROM shard canary"
            "     WHERE canary.campaign_id = :campaign AND canary.queue = lane.queue"
            "     AND canary.kind = 'verify' AND canary.state <> 'done'))"
            "   AND (not_before IS NULL OR not_before <= clock_timestamp())"
            f"   ORDER BY {order}"
            "   LIMIT greatest(0, CASE WHEN is_idle THEN least(:window, 1) ELSE :window END - busy)"
            "   FOR UPDATE SKIP LOCKED) next)"
            " UPDATE shard SET state = 'offered',"
            "   until = clock_timestamp() + make_interval(secs => :claim_s)"
            " FROM picked WHERE shard.id = picked.id"
            " RETURNING shard.id, shard.kind, shard.queue, shard.shard_no"
        ),
        {"campaign": campaign_id, "window": window, "claim_s": claim_s, "kinds": list(kinds)},
    )
    return [
        Offer(row.id, ShardKind(row.kind), row.queue, campaign_id, row.shard_no) for row in rows
    ]


def take_back(connection: Connection) -> int:
    """Take back every offer and lease whose time is over; return how many."""
    return connection.execute(
        text(
            "UPDATE shard SET state = 'waiting', until = NULL, owner = NULL,"
            " attempt = attempt + (state = 'leased')::int,"
            " lapses = lapses + (state = 'offered')::int,"
            # Messages wait in the broker while no worker does: ever fewer are sent.
            " not_before = CASE WHEN state = 'offered'"
            "   THEN clock_timestamp() + make_interval(secs => least(lapses, :most_s))"
            "   ELSE not_before END"
            " WHERE id IN (SELECT id FROM shard"
            "   WHERE state IN ('offered', 'leased') AND until < clock_timestamp()"
            # A worker that froze inside its transaction holds its row: the tick goes round it.
            "   FOR UPDATE SKIP LOCKED)"
        ),
        {"most_s": _MOST_BETWEEN_OFFERS_S},
    ).rowcount


def withdraw_offers(connection: Connection, campaign_id: int) -> None:
    """Withdraw what nobody has claimed yet."""
    connection.execute(
        text(
            "UPDATE shard SET state = 'waiting', until = NULL"
            " WHERE campaign_id = :campaign AND state = 'offered'"
        ),
        {"campaign": campaign_id},
    )


def claim(
    connection: Connection,
    shard_id: UUID,
    kind: ShardKind,
    owner: str,
    lease_s: float,
    served: Collection[str] | None = None,
) -> Lease | None:
    """Claim a shard that is offered.

    Args:
        connection: the transaction.
        shard_id: the shard.
        kind: what is to be done.
        owner: who claims it.
        lease_s: length of the lease, in seconds.
        served: the queues whose wraps `owner` can open; None for all.

    Returns:
        The lease, or None where the message was late, repeated, forged or misdirected.
    """
    row = connection.execute(
        text(
            "WITH was AS (SELECT lapses FROM shard WHERE id = :id)"
            " UPDATE shard SET state = 'leased', fence = fence + 1, owner = :owner, lapses = 0,"
            " until = clock_timestamp() + make_interval(secs => :lease_s),"
            " started_at = coalesce(shard.started_at, clock_timestamp())"
            " FROM campaign, was WHERE campaign.id = campaign_id AND shard.id = :id"
            " AND shard.kind = :kind AND shard.state = 'offered'"
            " AND campaign.state = ANY(:working)"
            " AND (CAST(:served AS text[]) IS NULL OR shard.queue = ANY(:served))"
            " RETURNING shard.*, was.lapses AS lapsed"
        ),
        {
            "id": shard_id,
            "kind": kind,
            "owner": owner,
            "lease_s": lease_s,
            "working": list(WORKING),
            "served": None if served is None else list(served),
        },
    ).one_or_none()
    if row is None:
        return None
    if row.lapsed:
        serving.wake(connection, row.campaign_id, row.queue)
    campaign = campaigns.get(connection, row.campaign_id)
    assert campaign is not None  # noqa: S101 - a foreign key
    scan = row.part, row.parts
    return Lease(shard_id, row.fence, row.shard_no, kind, row.queue, *scan, campaign)


def renew(connection: Connection, lease: Lease, lease_s: float) -> bool:
    """Keep a lease for another `lease_s` seconds.

    Returns:
        Whether to go on; False where the campaign is to pause, stop or end.

    Raises:
        LeaseLostError: it was taken back.
    """
    _fenced(
        connection,
        lease,
        "until = clock_timestamp() + make_interval(secs => :lease_s)",
        {"lease_s": lease_s},
    )
    return campaigns.is_working(connection, lease.campaign.id)


def require(connection: Connection, lease: Lease) -> None:
    """See that a shard is this worker's yet, before rows that its successor may have written too.

    Raises:
        LeaseLostError: it was taken back.
    """
    if not connection.scalar(
        text("SELECT true FROM shard WHERE id = :id AND fence = :fence AND state = 'leased'"),
        {"id": lease.shard_id, "fence": lease.fence},
    ):
        raise _lost(lease)


def remaining(connection: Connection, lease: Lease) -> list[str]:
    """Return the ids of the shard's blobs that have no outcome yet."""
    decided = (
        " AND NOT EXISTS (SELECT 1 FROM outcome o"
        "   WHERE o.campaign_id = :campaign AND o.blob_id = b.blob_id)"
    )
    if lease.kind is ShardKind.VERIFY and lease.campaign.kind not in OPENING:
        decided = ""  # the sample of a campaign whose blobs have their outcomes already
    rows = connection.execute(
        text(
            "SELECT b.blob_id FROM (SELECT blob_id FROM inventory"  # noqa: S608 - constants
            "   WHERE campaign_id = :campaign AND shard_no = :no"
            "   UNION ALL SELECT blob_id FROM sample"
            "   WHERE campaign_id = :campaign AND shard_no = :no) b"
            f" WHERE true {decided} ORDER BY b.blob_id"
        ),
        {"campaign": lease.campaign.id, "no": lease.shard_no},
    )
    return [row.blob_id for row in rows]


def record(
    connection: Connection, lease: Lease, results: Sequence[Result], kms_requests: int
) -> None:
    """Record outcomes and counters in one transaction, behind the fence.

    Raises:
        LeaseLostError: the shard is not this worker's any more.
    """
    counted = Counter(result.outcome for result in results)
    sets = ", ".join(f"{o} = {o} + :{o}" for o in Outcome)
    _fenced(
        connection,
        lease,
        f"{sets}, kms_requests = kms_requests + :kms_requests,"
        " content_bytes = content_bytes + :content_bytes,"
        " attempt = CASE WHEN :results > 0 THEN 0 ELSE attempt END",
        {
            **{o.value: counted[o] for o in Outcome},
            "kms_requests": kms_requests,
            "content_bytes": sum(result.content_bytes for result in results),
            "results": len(results),
        },
    )
    connection.execute(
        text(
            "INSERT INTO outcome (campaign_id, shard_no, blob_id, outcome, reason_code, detail)"
            " SELECT :campaign, :no, u.* FROM unnest(CAST(:ids AS text[]),"
            " CAST(:outcomes AS text[]), CAST(:codes AS text[]), CAST(:details AS text[])) u"
        ),
        {
            "campaign": lease.campaign.id,
            "no": lease.shard_no,
            "ids": [result.blob_id for result in results],
            "outcomes": [result.outcome for result in results],
            "codes": [result.reason_code or None for result in results],
            "details": [result.detail or None for result in results],
        },
    )
    if results:
        blocking.unblock(connection, lease.campaign.id)


def count(connection: Connection, lease: Lease, counts: Mapping[str, int]) -> None:
    """Note what a sample came to, all in all: its blobs have their outcomes from elsewhere.

    Raises:
        LeaseLostError: the shard is not this worker's any more.
    """
    sets = ", ".join(f"{o} = :{o}" for o in Outcome)
    _fenced(connection, lease, sets, {o.value: counts.get(o, 0) for o in Outcome})


def finish(connection: Connection, lease: Lease, total: int | None = None) -> None:
    """Mark a shard done.

    Args:
        connection: the transaction.
        lease: the shard's lease.
        total: how many blobs it turned out to have, where that was not known before.

    Raises:
        LeaseLostError: the shard is not this worker's any more.
    """
    _fenced(
        connection,
        lease,
        "state = 'done', until = NULL, finished_at = clock_timestamp(),"
        " total = coalesce(CAST(:total AS int), total)",
        {"total": total},
    )
    blocking.unblock(connection, lease.campaign.id)


def hand_back(
    connection: Connection, lease: Lease, delay_s: float = 0.0, *, failed: bool = False
) -> None:
    """Give a shard back, to be offered again after `delay_s` seconds.

    Args:
        connection: the transaction.
        lease: the lease to give up.
        delay_s: how long to wait before it is offered again, in seconds.
        failed: whether this counts as one of the shard's attempts.

    Raises:
        LeaseLostError: the shard is not this worker's any more.
    """
    _fenced(
        connection,
        lease,
        "state = 'waiting', until = NULL, owner = NULL, attempt = attempt + :attempts,"
        " not_before = clock_timestamp() + make_interval(secs => :delay_s)",
        {"delay_s": delay_s, "attempts": int(failed)},
    )


def _fenced(
    connection: Connection, lease: Lease, sets: str, values: dict[str, int | float | None]
) -> None:
    changed = connection.execute(
        text(
            f"UPDATE shard SET {sets}"  # noqa: S608 - constants of this file
            " WHERE id = :id AND fence = :fence AND state = 'leased'"
        ),
        {"id": lease.shard_id, "fence": lease.fence, **values},
    )
    if changed.rowcount != 1:
        raise _lost(lease)


def _lost(lease: Lease) -> LeaseLostError:
    return LeaseLostError(f"shard {lease.shard_no} was taken back")
