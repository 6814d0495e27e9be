"""What people ask for in Flower: a row each, written there and judged by a scheduler."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import (
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    Index,
    Integer,
    RowMapping,
    Table,
    Text,
    text,
)

from ledger.tables import metadata, moment, one_of

_MOST_WAITING = 100
_AT_ONCE = 20


class Action(StrEnum):
    """What can be asked for."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


class Verdict(StrEnum):
    """What became of it."""

    DONE = "done"
    REFUSED = "refused"


request = Table(
    "request",
    metadata,
    # Chosen by whoever asks, so that asking again changes nothing.
    Column("key", Text, primary_key=True),
    Column(
        "action", Text, CheckConstraint(one_of("action", Action), name="action"), nullable=False
    ),
    Column("campaign_id", Integer, index=True),  # null: a start that has opened none
    Column("details", Text, nullable=False, server_default=""),  # of a start, in JSON
    Column("requested_by", Text, nullable=False),
    moment(),
    Column("answered_at", DateTime(timezone=True)),
    Column("verdict", Text, CheckConstraint(one_of("verdict", Verdict), name="verdict")),
    Column("state", Text),  # of the campaign after it was done
    Column("reason_code", Text),  # why it was refused
    Column("reason", Text),
    Column("next_command", Text),
    CheckConstraint("(answered_at IS NULL) = (verdict IS NULL)", name="answer"),
    Index("request_waiting_idx", "created_at", postgresql_where=text("answered_at IS NULL")),
)


class KeyUsedError(Exception):
    """A request's key belongs to another request already; nothing was written."""


class TooManyRequestsError(Exception):
    """So many requests wait for a scheduler that no more are taken; nothing was written."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What somebody asked for, and the answer.

    Attributes:
        key: chosen by whoever asks; the same request has the same key.
        action: what is asked for.
        campaign_id: of which campaign; of a start, the one that it has opened.
        details: of a start, as `scheduler.starts` has it; empty for the others.
        requested_by: who asks.
        created_at: when it was asked; None: it is not in the ledger yet.
        answered_at: when it was judged; None: it waits.
        verdict: what became of it.
        state: the campaign's state then.
        reason_code: why it was refused, as a short stable code.
        reason: the same as a sentence.
        next_command: what to type next.
    """

    key: str
    action: Action
    campaign_id: int | None
    details: str
    requested_by: str
    created_at: datetime | None = None
    answered_at: datetime | None = None
    verdict: Verdict | None = None
    state: str | None = None
    reason_code: str | None = None
    reason: str | None = None
    next_command: str | None = None


def file(connection: Connection, asked: Asked) -> Asked:
    """Write a request down, once; return it as it stands there.

    Raises:
        KeyUsedError: another request has its key.
        TooManyRequestsError: too many wait.
    """
    known = get(connection, asked.key)
    if known is None:
        # Counted apart: starts that wait for a key service keep nobody from a pause or a cancel.
        waiting = connection.scalar(
            text(
                "SELECT count(*) FROM request WHERE answered_at IS NULL"
                " AND (action = 'start') = (:action = 'start')"
            ),
            {"action": asked.action},
        )
        if waiting and waiting >= _MOST_WAITING:
            raise TooManyRequestsError
        connection.execute(
            text(
                "INSERT INTO request (key, action, campaign_id, details, requested_by)"
                " VALUES (:key, :action, :campaign_id, :details, :requested_by)"
                " ON CONFLICT (key) DO NOTHING"
            ),
            {name: getattr(asked, name) for name in Asked.__slots__},
        )
        known = get(connection, asked.key)
        assert known is not None  # noqa: S101 - just now it was written
    if _wish(known) != _wish(asked):
        raise KeyUsedError
    return known


def _wish(asked: Asked) -> tuple[object, ...]:
    campaign = None if asked.action is Action.START else asked.campaign_id
    return asked.action, campaign, asked.details, asked.requested_by


def get(connection: Connection, key: str) -> Asked | None:
    """Return a request, or None where there is none of that key."""
    return next(iter(_select(connection, "WHERE key = :key", key=key)), None)


def waiting(connection: Connection, actions: Collection[Action]) -> list[Asked]:
    """Return requests that wait for an answer, the oldest first."""
    return _select(
        connection,
        "WHERE answered_at IS NULL AND action = ANY(:actions) ORDER BY created_at LIMIT :limit",
        actions=list(actions),
        limit=_AT_ONCE,
    )


def newest(connection: Connection, campaign_id: int | None, limit: int) -> list[Asked]:
    """Return requests, the newest first.

    Args:
        connection: the transaction.
        campaign_id: only those about this campaign; None: all.
        limit: the most to return.
    """
    return _select(
        connection,
        "WHERE CAST(:campaign AS int) IS NULL OR campaign_id = :campaign"
        " ORDER BY created_at DESC LIMIT :limit",
        campaign=campaign_id,
        limit=limit,
    )


def age_s(connection: Connection, asked: Asked) -> float:
    """Return for how long a request has waited, in seconds, by the database's clock."""
    age = connection.execute(
        text("SELECT extract(epoch FROM clock_timestamp() - CAST(:at AS timestamptz))"),
        {"at": asked.created_at},
    ).scalar_one()
    return float(age)


def done(connection: Connection, key: str, campaign_id: int, state: str) -> bool:
    """Answer that a request was done, in the transaction that does it.

    Returns:
        Whether it still waited: if not, that transaction is to be rolled back.
    """
    return _answer(
        connection,
        key,
        "verdict = 'done', campaign_id = :campaign, state = :state, next_command = :next",
        campaign=campaign_id,
        state=state,
        next=f"rewrap status {campaign_id} --watch",
    )


def refuse(
    connection: Connection, key: str, reason_code: str, reason: str, next_command: str
) -> bool:
    """Answer that a request was refused; return whether it still waited."""
    return _answer(
        connection,
        key,
        "verdict = 'refused', reason_code = :code, reason = :reason, next_command = :next",
        code=reason_code,
        reason=reason,
        next=next_command,
    )


def _answer(connection: Connection, key: str, sets: str, **values: object) -> bool:
    answered = connection.execute(
        text(
            f"UPDATE request SET answered_at = clock_timestamp(), {sets}"  # noqa: S608 - constants
            " WHERE key = :key AND answered_at IS NULL"
        ),
        {"key": key, **values},
    )
    return answered.rowcount == 1


def _select(connection: Connection, which: str, **values: object) -> list[Asked]:
    rows = connection.execute(
        text(f"SELECT {', '.join(Asked.__slots__)} FROM request {which}"),  # noqa: S608 - constants
        values,
    ).mappings()
    return [_asked(row) for row in rows]


def _asked(row: RowMapping) -> Asked:
    verdict = Verdict(row["verdict"]) if row["verdict"] else None
    return Asked(**{**row, "action": Action(row["action"]), "verdict": verdict})
