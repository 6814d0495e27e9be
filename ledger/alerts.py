"""Alerts: what is wrong or has happened, and which webhook has been told.

A row is the memory: what is in it is not told again, whoever restarts, and two schedulers raise it
once. Messages are rows too, written in the same transaction; a sender takes one for a while, so
that one that dies loses none.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Row, text

RAISED, RESOLVED = "raised", "resolved"
_KEPT_DAYS = 90


@dataclass(frozen=True, slots=True)
class Condition:
    """Something that is wrong now, or has happened.

    Attributes:
        key: what it is about: the same key is the same alert.
        kind: of which kind.
        severity: `info`, `warning` or `critical`.
        text: a sentence.
        campaign_id: the campaign that it is about, if any.
        next_command: what to type next.
        lasting: whether it ends, and that is told; else it has just happened.
    """

    key: str
    kind: str
    severity: str
    text: str
    campaign_id: int | None = None
    next_command: str = ""
    lasting: bool = True


@dataclass(frozen=True, slots=True)
class Alert:
    """A condition as the ledger has it.

    Attributes:
        id: its number.
        condition: what it says.
        raised_at: when it was found first.
        resolved_at: when it had ended; None: it lasts, or it had no length.
    """

    id: int
    condition: Condition
    raised_at: datetime
    resolved_at: datetime | None

    @property
    def is_open(self) -> bool:
        """Whether it lasts yet."""
        return self.condition.lasting and self.resolved_at is None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One message to one webhook.

    Attributes:
        alert: what it is about.
        webhook: where to, by name.
        event: `raised` or `resolved`.
        attempts: how often it was tried, this time included.
        age_s: seconds since it was due first.
        ended_at: when it was delivered or given up; None: it waits.
        is_delivered: which of these.
        answer: what came back last.
    """

    alert: Alert
    webhook: str
    event: str
    attempts: int
    age_s: float
    ended_at: datetime | None = None
    is_delivered: bool = False
    answer: str = ""


Receivers = Callable[[Condition], Collection[str]]
"""Names the webhooks that are to be told of a condition."""

_COLUMNS = (
    "id, key, kind, severity, campaign_id, text, next_command, lasting, raised_at, resolved_at"
)


def settle(
    connection: Connection,
    found: Sequence[Condition],
    receivers: Receivers,
    quiet_s: float,
    unknown: Collection[str] = (),
) -> tuple[list[Alert], list[Alert]]:
    """Bring the alerts to what is so now, and write the messages that follow from it.

    Args:
        connection: the transaction.
        found: everything that is wrong now, or has happened.
        receivers: who is to be told.
        quiet_s: seconds for which a condition must not have been found to count as ended: one that
            comes and goes is told once.
        unknown: keys of conditions of which cannot be told whether they last: they are not ended.

    Returns:
        The alerts that were raised, and those that are resolved.
    """
    raised = [alert for one in found if (alert := _raise(connection, one))]
    for alert in raised:
        _queue(connection, alert, receivers(alert.condition))
    resolved = _resolve(connection, [*unknown, *(one.key for one in found)], quiet_s)
    connection.execute(
        text(
            "INSERT INTO alert_delivery (alert_id, webhook, event)"
            " SELECT alert_id, webhook, 'resolved' FROM alert_delivery"
            " WHERE alert_id = ANY(:ids) AND event = 'raised'"
        ),
        {"ids": [alert.id for alert in resolved]},
    )
    connection.execute(
        text(
            "DELETE FROM alert WHERE (resolved_at IS NOT NULL OR NOT lasting)"
            " AND seen_at < clock_timestamp() - make_interval(days => :days)"
        ),
        {"days": _KEPT_DAYS},
    )
    return raised, resolved


def _raise(connection: Connection, one: Condition) -> Alert | None:
    """Note a condition; return it where it is new."""
    values = {name: getattr(one, name) for name in Condition.__slots__}
    row = connection.execute(
        text(
            "INSERT INTO alert (key, kind, severity, campaign_id, text, next_command,"  # noqa: S608
            " lasting)"
            # Not by the conflict alone: each would take an id, every few seconds for each alert.
            " SELECT :key, :kind, :severity, CAST(:campaign_id AS integer), :text, :next_command,"
            " :lasting WHERE NOT EXISTS"
            " (SELECT FROM alert WHERE key = :key AND resolved_at IS NULL)"
            f" ON CONFLICT (key) WHERE resolved_at IS NULL DO NOTHING RETURNING {_COLUMNS}"
        ),
        values,
    ).one_or_none()
    if row is not None:
        return _alert(row)
    connection.execute(
        text(
            "UPDATE alert SET seen_at = clock_timestamp(), text = :text,"
            " next_command = :next_command WHERE key = :key AND lasting AND resolved_at IS NULL"
        ),
        values,
    )
    return None


def _resolve(connection: Connection, keys: Sequence[str], quiet_s: float) -> list[Alert]:
    rows = connection.execute(
        text(
            "UPDATE alert SET resolved_at = clock_timestamp() WHERE lasting"  # noqa: S608
            " AND resolved_at IS NULL AND key <> ALL(CAST(:keys AS text[]))"
            " AND seen_at <= clock_timestamp() - make_interval(secs => :quiet)"
            f" RETURNING {_COLUMNS}"
        ),
        {"keys": list(keys), "quiet": quiet_s},
    )
    return [_alert(row) for row in rows]


def _queue(connection: Connection, alert: Alert, webhooks: Collection[str]) -> None:
    for webhook in webhooks:
        connection.execute(
            text(
                "INSERT INTO alert_delivery (alert_id, webhook, event)"
                " VALUES (:id, :webhook, 'raised')"
            ),
            {"id": alert.id, "webhook": webhook},
        )


def take(connection: Connection, webhook: str, hold_s: float) -> Delivery | None:
    """Take a message that is due, for some seconds: whoever dies over it does not lose it.

    The end of an alert is not told before its beginning.
    """
    row = connection.execute(
        text(
            "UPDATE alert_delivery d SET attempts = attempts + 1,"
            " next_at = clock_timestamp() + make_interval(secs => :hold) FROM ("
            "  SELECT alert_id, webhook, event FROM alert_delivery w WHERE webhook = :webhook"
            "  AND ended_at IS NULL AND next_at <= clock_timestamp()"
            "  AND (event = 'raised' OR NOT EXISTS (SELECT 1 FROM alert_delivery b"
            "   WHERE b.alert_id = w.alert_id AND b.webhook = w.webhook AND b.event = 'raised'"
            "   AND b.ended_at IS NULL))"
            "  ORDER BY alert_id, event LIMIT 1 FOR UPDATE SKIP LOCKED) due"
            " WHERE d.alert_id = due.alert_id AND d.webhook = due.webhook AND d.event = due.event"
            " RETURNING d.alert_id, d.webhook, d.event, d.attempts,"
            " extract(epoch FROM clock_timestamp() - d.created_at) AS age_s"
        ),
        {"webhook": webhook, "hold": hold_s},
    ).one_or_none()
    if row is None:
        return None
    alert = connection.execute(
        text(f"SELECT {_COLUMNS} FROM alert WHERE id = :id"),  # noqa: S608 - a constant
        {"id": row.alert_id},
    ).one()
    return Delivery(_alert(alert), row.webhook, row.event, row.attempts, float(row.age_s))


def end(connection: Connection, sent: Delivery, answer: str, *, is_delivered: bool) -> None:
    """Note that a message was delivered, or is given up."""
    _note(
        connection,
        sent,
        "ended_at = clock_timestamp(), is_delivered = :delivered, answer = :answer",
        delivered=is_delivered,
        answer=answer,
    )


def again(connection: Connection, sent: Delivery, answer: str, in_s: float) -> None:
    """Note that a message is to be sent again in some seconds."""
    _note(
        connection,
        sent,
        "next_at = clock_timestamp() + make_interval(secs => :in_s), answer = :answer",
        in_s=in_s,
        answer=answer,
    )


def _note(connection: Connection, sent: Delivery, sets: str, **values: object) -> None:
    connection.execute(
        text(
            f"UPDATE alert_delivery SET {sets} WHERE alert_id = :id"  # noqa: S608 - constants
            " AND webhook = :webhook AND event = :event AND ended_at IS NULL"
        ),
        {"id": sent.alert.id, "webhook": sent.webhook, "event": sent.event, **values},
    )


def listed(connection: Connection, recent: int = 20) -> list[Alert]:
    """Return the alerts that last, then some that do not any more, the newest first."""
    rows = connection.execute(
        text(
            f"(SELECT {_COLUMNS} FROM alert WHERE lasting AND resolved_at IS NULL"  # noqa: S608
            " ORDER BY id DESC)"
            f" UNION ALL (SELECT {_COLUMNS} FROM alert WHERE resolved_at IS NOT NULL OR NOT lasting"
            " ORDER BY coalesce(resolved_at, raised_at) DESC LIMIT :recent)"
        ),
        {"recent": recent},
    )
    return [_alert(row) for row in rows]


def deliveries(connection: Connection, shown: Sequence[Alert]) -> list[Delivery]:
    """Return the messages of some alerts."""
    of = {alert.id: alert for alert in shown}
    rows = connection.execute(
        text(
            "SELECT *, extract(epoch FROM clock_timestamp() - created_at) AS age_s"
            " FROM alert_delivery WHERE alert_id = ANY(:ids) ORDER BY webhook, event"
        ),
        {"ids": list(of)},
    )
    return [
        Delivery(
            of[row.alert_id],
            row.webhook,
            row.event,
            row.attempts,
            float(row.age_s),
            row.ended_at,
            row.is_delivered,
            row.answer,
        )
        for row in rows
    ]


def _alert(row: Row[tuple[object, ...]]) -> Alert:
    found = row._mapping  # noqa: SLF001 - its public name in SQLAlchemy
    condition = Condition(**{name: found[name] for name in Condition.__slots__})
    return Alert(found["id"], condition, found["raised_at"], found["resolved_at"])
