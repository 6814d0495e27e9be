"""The audit trail's segments, and the chain of their digests.

Workers insert what they have closed, in the transaction that records the outcomes and without any
lock. The tick chains them later, one after another, so the chain's order is the tick's.
"""

from collections.abc import Iterator
from typing import Any

from sqlalchemy import Connection, Row, text

from keywrap.auditchain import Entry, Head, chained
from keywrap.segments import Segment, Source
from ledger.connection import Ledger

_LOCK = 0x7277_0004
"""Advisory lock: one transaction chains at a time, whoever else thinks it holds the tick."""

_AT_ONCE = 5000
PAGE = 1000
"""Entries that are read at once."""


def note(connection: Connection, segment: Segment) -> None:
    """Note a closed segment, in the transaction that records what its events led to."""
    connection.execute(
        text(
            "INSERT INTO audit_segment (name, campaign_id, shard_no, fence, owner, events, size,"
            " sha256, closed_at)"
            " VALUES (:name, :campaign, :shard, :fence, :owner, :events, :size, :sha256, :at)"
        ),
        {
            "name": segment.name,
            "campaign": segment.source.campaign_id,
            "shard": segment.source.shard_no,
            "fence": segment.source.fence,
            "owner": segment.source.owner,
            "events": segment.events,
            "size": segment.size,
            "sha256": segment.sha256,
            "at": segment.closed_at,
        },
    )


def chain_new(connection: Connection) -> int:
    """Chain segments that were noted since; return how many."""
    locked = connection.scalar(text("SELECT pg_try_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if not locked:
        return 0
    rows = connection.execute(
        text("SELECT * FROM audit_segment WHERE place IS NULL ORDER BY id LIMIT :most"),
        {"most": _AT_ONCE},
    ).all()
    if not rows:
        return 0
    new = list(chained(head(connection), [_segment(row) for row in rows]))
    connection.execute(
        text(
            "UPDATE audit_segment a SET place = u.place, previous = u.previous, hash = u.hash"
            " FROM unnest(CAST(:ids AS bigint[]), CAST(:places AS bigint[]),"
            " CAST(:previous AS bytea[]), CAST(:hashes AS bytea[])) u(id, place, previous, hash)"
            " WHERE a.id = u.id"
        ),
        {
            "ids": [row.id for row in rows],
            "places": [entry.place for entry in new],
            "previous": [entry.previous for entry in new],
            "hashes": [entry.hash for entry in new],
        },
    )
    return len(new)


def head(connection: Connection) -> Head:
    """Return where the chain ends now."""
    row = connection.execute(
        text(
            "SELECT place, hash FROM audit_segment WHERE place IS NOT NULL"
            " ORDER BY place DESC LIMIT 1"
        )
    ).one_or_none()
    return Head(row.place, bytes(row.hash)) if row else Head()


def goes_through(connection: Connection, known: Head) -> bool:
    """Whether the chain goes through a head that was signed earlier."""
    if known == Head():
        return True
    found = connection.scalar(
        text("SELECT hash FROM audit_segment WHERE place = :place"), {"place": known.entries}
    )
    return found is not None and bytes(found) == known.hash


def page(connection: Connection, after: int, campaign_id: int | None = None) -> list[Entry]:
    """Return entries of the chain in order, some at a time: an auditor reads files in between.

    Args:
        connection: the transaction.
        after: the place of the last entry of the page before; 0 for the first.
        campaign_id: only segments of this campaign; None: all.
    """
    rows = connection.execute(
        text(
            "SELECT * FROM audit_segment WHERE place > :after"
            " AND (CAST(:campaign AS int) IS NULL OR campaign_id = :campaign)"
            " ORDER BY place LIMIT :most"
        ),
        {"after": after, "campaign": campaign_id, "most": PAGE},
    )
    return [_entry(row) for row in rows]


def entries(ledger: Ledger, campaign_id: int | None = None) -> Iterator[Entry]:
    """Yield the chain in order, in a transaction for each page; see `page`."""
    after = 0
    while True:
        with ledger.begin() as connection:
            found = page(connection, after, campaign_id)
        if not found:
            return
        yield from found
        after = found[-1].place


def unchained(connection: Connection, campaign_id: int | None = None) -> list[Segment]:
    """Return the segments that no tick has chained yet, in the order that it will."""
    rows = connection.execute(
        text(
            "SELECT * FROM audit_segment WHERE place IS NULL"
            " AND (CAST(:campaign AS int) IS NULL OR campaign_id = :campaign) ORDER BY id"
        ),
        {"campaign": campaign_id},
    )
    return [_segment(row) for row in rows]


def _entry(row: Row[Any]) -> Entry:
    return Entry(row.place, _segment(row), bytes(row.previous), bytes(row.hash))


def _segment(row: Row[Any]) -> Segment:
    return Segment(
        name=row.name,
        source=Source(row.campaign_id, row.shard_no, row.fence, row.owner),
        events=row.events,
        size=row.size,
        sha256=bytes(row.sha256),
        closed_at=row.closed_at,
    )
