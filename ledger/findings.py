"""What scans of the store found: the inventory, its census, and stragglers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, RowMapping, text

from keywrap.keys import KeyVersion
from keywrap.rewrapping import Outcome
from ledger import queues, shards
from ledger.queues import QueueOf
from ledger.shards import Lease, LeaseLostError
from ledger.states import ShardKind

UNCUT = 0
"""The shard number of blobs that are listed but handed to no shard."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a scan saw of one blob.

    Attributes:
        blob_id: the blob.
        key_version: the KEK version that wraps it; None where that cannot be told.
        previous: the KEK version that its `previous` wrap needs, if it has one.
        problem: why the key cannot be told, as a reason code.
        wrap_bytes: length of the wrap, where a key of the environment made it; None for others.
        generation: what names its content where that is not its own name; not recorded.
        leftovers: the generations of contents that its sidecar does not name, "" for the blob's
            own name; all of them where it cannot be read. Recorded where a campaign removes such.
        tag: a digest of the sidecar's version tag; None where the store's listing has none.
    """

    blob_id: str
    key_version: KeyVersion | None
    previous: KeyVersion | None = None
    problem: str | None = None
    wrap_bytes: int | None = None
    generation: str | None = None
    leftovers: tuple[str, ...] = ()
    tag: int | None = None


@dataclass(frozen=True, slots=True)
class CensusLine:
    """How many blobs a KEK version wraps, or are held back by a problem.

    Attributes:
        provider: the kind of provider, such as `env`; empty where the key cannot be told.
        key: URI of the KEK, without version.
        version: its version; empty where it has none.
        problem: why the key cannot be told, as a reason code; empty where it can.
        blobs: how many blobs there are.
        previous: how many blobs have a `previous` wrap under this version.
        wrap_bytes: how many wraps have each length in bytes, where that was recorded: under a key
            of the environment.
    """

    provider: str
    key: str
    version: str
    problem: str
    blobs: int
    previous: int
    wrap_bytes: dict[int, int] = field(default_factory=dict)


def add(connection: Connection, campaign_id: int, shard_no: int, found: Sequence[Finding]) -> None:
    """Insert findings into a campaign's inventory, in bulk."""
    ids = _key_version_ids(connection, found)
    connection.execute(
        text(
            "INSERT INTO inventory"
            " (campaign_id, shard_no, blob_id, key_version_id, previous_id, problem, wrap_bytes,"
            "  leftovers, tag)"
            " SELECT :campaign, :no, u.blob, u.version, u.previous, u.problem, u.size,"
            "  string_to_array(u.leftovers, ','), u.tag"
            " FROM unnest(CAST(:blobs AS text[]),"
            " CAST(:versions AS int[]), CAST(:previous AS int[]), CAST(:problems AS text[]),"
            " CAST(:sizes AS smallint[]), CAST(:leftovers AS text[]), CAST(:tags AS bigint[]))"
            " AS u(blob, version, previous, problem, size, leftovers, tag)"
        ),
        {
            "campaign": campaign_id,
            "no": shard_no,
            "blobs": [f.blob_id for f in found],
            "versions": [ids.get(f.key_version) for f in found],
            "previous": [ids.get(f.previous) for f in found],
            "problems": [f.problem for f in found],
            "sizes": [f.wrap_bytes for f in found],
            # Arrays of unequal lengths cannot be unnested; a generation has no comma.
            "leftovers": [_joined(f.leftovers) for f in found],
            "tags": [f.tag for f in found],
        },
    )


def _joined(leftovers: Sequence[str]) -> str | None:
    # "" alone would be an empty array: the blob's own name goes behind a comma.
    return ",".join(("", *leftovers)) if leftovers else None


def leftovers_of(
    connection: Connection, campaign_id: int, blob_ids: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Return the leftovers that a scan found of these blobs; see `Finding.leftovers`."""
    rows = connection.execute(
        text(
            "SELECT blob_id, leftovers[2:] AS found FROM inventory"
            " WHERE campaign_id = :campaign AND blob_id = ANY(:ids) AND leftovers IS NOT NULL"
        ),
        {"campaign": campaign_id, "ids": list(blob_ids)},
    )
    return {row.blob_id: tuple(row.found) for row in rows}


def _key_version_ids(
    connection: Connection, found: Sequence[Finding]
) -> dict[KeyVersion | None, int]:
    named = {v for f in found for v in (f.key_version, f.previous) if v is not None}
    if not named:
        return {}
    ordered = sorted(named, key=str)  # one order for all, so that two cannot deadlock
    values = {
        "providers": [v.provider for v in ordered],
        "keys": [v.key for v in ordered],
        "versions": [v.version for v in ordered],
    }
    unnested = "unnest(CAST(:keys AS text[]), CAST(:versions AS text[])) AS u(key, version)"
    select = text(
        f"SELECT k.id, k.key, k.version FROM key_version k JOIN {unnested}"  # noqa: S608
        " ON k.key = u.key AND k.version = u.version"
    )
    rows = connection.execute(select, values).all()
    if len(rows) < len(ordered):
        # Committed apart: a scan's transaction is long, and others would wait for the new rows.
        with connection.engine.begin() as apart:
            apart.execute(
                text(
                    "INSERT INTO key_version (provider, key, version)"
                    " SELECT * FROM unnest(CAST(:providers AS text[]), CAST(:keys AS text[]),"
                    " CAST(:versions AS text[])) ON CONFLICT DO NOTHING"
                ),
                values,
            )
        rows = connection.execute(select, values).all()
    return {KeyVersion(row.key, row.version): row.id for row in rows}


def note_stragglers(
    connection: Connection,
    campaign_id: int,
    found: Sequence[Finding],
    *,
    last_pass: bool,
    queue_of: QueueOf = queues.everyone,
    opened_with: Callable[[Finding], KeyVersion | None] = lambda finding: finding.key_version,
) -> list[Finding]:
    """Take up blobs that a fresh scan found still to move.

    A blob that is an exception already (quarantined, failed, conflict) stays one. Any other goes
    back to its shard, or into a new one where it has none, or where another queue's hosts open it
    by now; on the last pass it becomes a conflict instead, since writers keep bringing it back.

    Args:
        connection: the transaction.
        campaign_id: the campaign.
        found: what the scan found still to move.
        last_pass: whether it was the last scan.
        queue_of: names the queue of the hosts that can open the wraps of a KEK version.
        opened_with: the KEK version that opens what the campaign needs of a blob.

    Returns:
        Those that were taken up.
    """
    taken: list[str] = []
    for queue, group in queues.by_host([(f, opened_with(f)) for f in found], queue_of):
        taken += _take_up(connection, campaign_id, queue, group)
    if last_pass and taken:
        _give_to_writers(connection, campaign_id, taken)
    ids = set(taken)
    return [finding for finding in found if finding.blob_id in ids]


def _take_up(
    connection: Connection, campaign_id: int, queue: str, found: Sequence[Finding]
) -> list[str]:
    """Make blobs pending in a shard of this queue; return the ids of those that were not."""
    rows = connection.execute(
        text(
            "SELECT i.blob_id, s.queue, o.outcome FROM inventory i"
            " LEFT JOIN outcome o USING (campaign_id, blob_id)"
            " LEFT JOIN shard s ON s.campaign_id = i.campaign_id AND s.shard_no = i.shard_no"
            " WHERE i.campaign_id = :campaign AND i.blob_id = ANY(:ids)"
        ),
        {"campaign": campaign_id, "ids": [f.blob_id for f in found]},
    ).all()
    known = {row.blob_id for row in rows}
    exceptions = {Outcome.QUARANTINED, Outcome.FAILED, Outcome.CONFLICT}
    ended = [row for row in rows if row.outcome and row.outcome not in exceptions]
    back = [row.blob_id for row in ended if row.queue == queue]
    astray = {row.blob_id for row in ended if row.queue != queue}
    fresh = [f for f in found if f.blob_id not in known or f.blob_id in astray]
    if astray:
        _forget(connection, campaign_id, sorted(astray))
    if fresh:
        shard_no = shards.add(
            connection, campaign_id, ShardKind.REWRAP, total=len(fresh), queue=queue
        )
        add(connection, campaign_id, shard_no, fresh)
    if back:
        _reopen(connection, campaign_id, back)
    return [*back, *(f.blob_id for f in fresh)]


def _forget(connection: Connection, campaign_id: int, blob_ids: Sequence[str]) -> None:
    """Take blobs out of their shards, outcomes and all, so that they can be found anew."""
    fewer = ", ".join(f"{o} = {o} - coalesce((was.counts ->> '{o}')::int, 0)" for o in Outcome)
    connection.execute(
        text(
            "WITH unlisted AS (DELETE FROM inventory"  # noqa: S608 - constants of this file
            "   WHERE campaign_id = :campaign AND blob_id = ANY(:ids)"
            "   RETURNING shard_no, blob_id),"
            " undone AS (DELETE FROM outcome"
            "   WHERE campaign_id = :campaign AND blob_id = ANY(:ids)"
            "   RETURNING blob_id, outcome),"
            " counted AS (SELECT shard_no, outcome, count(*) AS n"
            "   FROM unlisted JOIN undone USING (blob_id) GROUP BY 1, 2),"
            " was AS (SELECT shard_no, sum(n)::int AS total, jsonb_object_agg(outcome, n) AS counts"
            "   FROM counted GROUP BY 1)"
            f" UPDATE shard SET {fewer}, total = shard.total - was.total"
            " FROM was WHERE shard.campaign_id = :campaign AND shard.shard_no = was.shard_no"
        ),
        {"campaign": campaign_id, "ids": list(blob_ids)},
    )


def reroute(connection: Connection, lease: Lease, queue: str, blob_ids: Sequence[str]) -> None:
    """Hand pending blobs of a shard over to a new shard of another queue.

    Each time counts as an attempt: hosts whose configurations send blobs to each other end that.

    Args:
        connection: the transaction.
        lease: the shard that they are in.
        queue: the queue of the hosts that can open them.
        blob_ids: the blobs; none has an outcome.

    Raises:
        LeaseLostError: the shard is not this worker's any more.
    """
    campaign = lease.campaign.id
    number = shards.add(connection, campaign, lease.kind, total=len(blob_ids), queue=queue)
    shrunk = connection.execute(
        text(
            "WITH old AS (UPDATE shard SET total = total - :blobs"
            "   WHERE id = :id AND fence = :fence AND state = 'leased' RETURNING attempt)"
            " UPDATE shard SET attempt = old.attempt + 1 FROM old WHERE shard_no = :new"
        ),
        {"blobs": len(blob_ids), "id": lease.shard_id, "fence": lease.fence, "new": number},
    )
    if shrunk.rowcount != 1:
        raise LeaseLostError(f"shard {lease.shard_no} was taken back")
    for table in ("inventory", "sample"):
        connection.execute(
            text(
                f"UPDATE {table} SET shard_no = :new"  # noqa: S608 - constants
                " WHERE campaign_id = :campaign AND shard_no = :old AND blob_id = ANY(:ids)"
            ),
            {"campaign": campaign, "old": lease.shard_no, "new": number, "ids": list(blob_ids)},
        )


def _reopen(connection: Connection, campaign_id: int, blob_ids: Sequence[str]) -> None:
    moved = ", ".join(f"{o} = {o} - coalesce((back.counts ->> '{o}')::int, 0)" for o in Outcome)
    connection.execute(
        text(
            "WITH undone AS (DELETE FROM outcome"  # noqa: S608 - constants of this file
            "   WHERE campaign_id = :campaign AND blob_id = ANY(:ids)"
            "   RETURNING shard_no, outcome),"
            " counted AS (SELECT shard_no, outcome, count(*) AS n FROM undone GROUP BY 1, 2),"
            " back AS (SELECT shard_no, jsonb_object_agg(outcome, n) AS counts"
            "   FROM counted GROUP BY 1)"
            f" UPDATE shard SET {moved}, state = 'waiting', attempt = 0, finished_at = NULL"
            " FROM back WHERE shard.campaign_id = :campaign AND shard.shard_no = back.shard_no"
        ),
        {"campaign": campaign_id, "ids": list(blob_ids)},
    )


def _give_to_writers(connection: Connection, campaign_id: int, blob_ids: Sequence[str]) -> None:
    connection.execute(
        text(
            "WITH given AS (INSERT INTO outcome"
            "   (campaign_id, shard_no, blob_id, outcome, reason_code, detail)"
            "   SELECT campaign_id, shard_no, blob_id, 'conflict', 'writer_brings_it_back',"
            "     'each fresh scan found it off the target again: a writer still uses another key'"
            "   FROM inventory WHERE campaign_id = :campaign AND blob_id = ANY(:ids)"
            "   RETURNING shard_no),"
            " counted AS (SELECT shard_no, count(*) AS n FROM given GROUP BY 1)"
            " UPDATE shard SET conflict = conflict + n, state = 'done',"
            "   finished_at = clock_timestamp() FROM counted"
            " WHERE shard.campaign_id = :campaign AND shard.shard_no = counted.shard_no"
        ),
        {"campaign": campaign_id, "ids": list(blob_ids)},
    )


def census(connection: Connection, campaign_id: int) -> list[CensusLine]:
    """Count a campaign's inventory by provider, key and version, the largest group first."""
    rows = connection.execute(
        text(
            "SELECT coalesce(k.provider, '') AS provider, coalesce(k.key, '') AS key,"
            " coalesce(k.version, '') AS version, coalesce(g.problem, '') AS problem,"
            " sum(g.live)::bigint AS blobs, sum(g.previous)::bigint AS previous,"
            " coalesce(jsonb_object_agg(g.size, g.live) FILTER (WHERE g.size IS NOT NULL), '{}')"
            "   AS wrap_bytes FROM ("
            "   SELECT key_version_id AS id, problem, wrap_bytes AS size, count(*) AS live,"
            "     0 AS previous FROM inventory WHERE campaign_id = :campaign GROUP BY 1, 2, 3"
            "   UNION ALL SELECT previous_id, NULL, NULL, 0, count(*) FROM inventory"
            "     WHERE campaign_id = :campaign AND previous_id IS NOT NULL GROUP BY 1) g"
            " LEFT JOIN key_version k ON k.id = g.id"
            " GROUP BY 1, 2, 3, 4 ORDER BY blobs DESC, 2, 3, 4"
        ),
        {"campaign": campaign_id},
    )
    return [_line(row) for row in rows.mappings()]


def _line(row: RowMapping) -> CensusLine:
    sizes = {int(size): blobs for size, blobs in row["wrap_bytes"].items()}
    return CensusLine(**{**row, "wrap_bytes": dict(sorted(sizes.items()))})


_FOUND = (
    "SELECT i.blob_id, k.key, k.version, i.problem, i.wrap_bytes, p.key AS previous_key,"
    " p.version AS previous_version, i.tag FROM inventory i"
    " LEFT JOIN key_version k ON k.id = i.key_version_id"
    " LEFT JOIN key_version p ON p.id = i.previous_id WHERE i.campaign_id = :campaign"
)


def listing(connection: Connection, campaign_id: int) -> Iterator[Finding]:
    """Yield a campaign's inventory in the order of blob ids, streamed."""
    rows = connection.execution_options(stream_results=True, yield_per=2000).execute(
        text(f"{_FOUND} ORDER BY i.blob_id"), {"campaign": campaign_id}
    )
    return map(_finding, rows)


def unchanged(
    connection: Connection, campaign_id: int, tags: Mapping[str, int]
) -> dict[str, Finding]:
    """Return what an earlier inventory found of blobs whose sidecar is the same by its tag.

    Args:
        connection: the transaction.
        campaign_id: the earlier inventory.
        tags: the digest of the tag that each blob's sidecar has now.
    """
    rows = connection.execute(
        text(f"{_FOUND} AND i.blob_id = ANY(:ids) AND i.problem IS NULL"),
        {"campaign": campaign_id, "ids": list(tags)},
    )
    return {row.blob_id: _finding(row) for row in rows if row.tag == tags[row.blob_id]}


def _finding(row: Row[Any]) -> Finding:
    return Finding(
        row.blob_id,
        KeyVersion(row.key, row.version) if row.key else None,
        KeyVersion(row.previous_key, row.previous_version) if row.previous_key else None,
        row.problem,
        row.wrap_bytes,
        tag=row.tag,
    )
