"""Schedules: campaigns that are opened again and again, and when each is due."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from ledger.states import FINISHED, Kind

KINDS = (Kind.INVENTORY, Kind.MIGRATE, Kind.ROTATE, Kind.VERIFY, Kind.BACKUP)
"""What can be scheduled: nothing that needs a person's look each time."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """A campaign that is opened again and again.

    Attributes:
        name: how people call it.
        kind: what its campaigns do.
        cron: when, as five fields of cron.
        zone: in which time zone, of the IANA database.
        created_by: who added it.
        prefix: only blobs whose id starts so.
        key: URI of the KEK to wrap under; None: the primary, whichever that is by then.
        prove: how new wraps are proved, as `--prove` has it; empty: the default.
        sample_size: how many blobs a verify campaign opens; None: all.
        escrow: whether backups hold the data keys themselves too.
        run_window: when its campaigns may run; empty: as the configuration says.
        paused: whether it opens none for now.
        next_at: when the next is due.
        last_at: when the last was opened.
        last_campaign: the last.
        missed: how many were due while none was opened, since the last.
        reason_code: why the last attempt opened none.
        reason: the same as a sentence.
    """

    name: str
    kind: Kind
    cron: str
    zone: str
    created_by: str
    prefix: str = ""
    key: str | None = None
    prove: str = ""
    sample_size: int | None = None
    escrow: bool = False
    run_window: str = ""
    paused: bool = False
    next_at: datetime | None = None
    last_at: datetime | None = None
    last_campaign: int | None = None
    missed: int = 0
    reason_code: str | None = None
    reason: str | None = None


def add(connection: Connection, new: Schedule) -> bool:
    """Add a schedule; return whether there was none of its name."""
    added = connection.execute(
        text(
            "INSERT INTO schedule (name, kind, cron, zone, created_by, prefix, key, prove,"
            " sample_size, escrow, run_window, next_at, try_at) VALUES (:name, :kind, :cron, :zone,"
            " :created_by, :prefix, :key, :prove, :sample_size, :escrow, :run_window, :next_at,"
            " :next_at) ON CONFLICT (name) DO NOTHING"
        ),
        {name: getattr(new, name) for name in Schedule.__slots__},
    )
    return added.rowcount == 1


def every(connection: Connection) -> list[Schedule]:
    """Return all schedules, the next one first."""
    return _select(connection, "ORDER BY paused, next_at, name")


def get(connection: Connection, name: str) -> Schedule | None:
    """Return a schedule, or None where there is none of that name."""
    return next(iter(_select(connection, "WHERE name = :name", name=name)), None)


def due(connection: Connection) -> list[Schedule]:
    """Return the schedules whose next campaign is to be opened now."""
    return _select(
        connection,
        "WHERE NOT paused AND next_at <= clock_timestamp() AND try_at <= clock_timestamp()"
        " ORDER BY next_at",
    )


def is_running(connection: Connection, schedule: Schedule) -> bool:
    """Whether the campaign that a schedule opened last is not finished."""
    return bool(
        connection.scalar(
            text("SELECT state <> ALL(:finished) FROM campaign WHERE id = :id"),
            {"id": schedule.last_campaign, "finished": list(FINISHED)},
        )
    )


def opened(
    connection: Connection, schedule: Schedule, campaign_id: int, next_at: datetime, missed: int
) -> bool:
    """Note that a schedule's campaign was opened; return whether it still was due.

    Args:
        connection: the transaction in which the campaign is opened.
        schedule: the schedule, as it was when it was due.
        campaign_id: the campaign.
        next_at: when the next is due.
        missed: how many were due before this one, and not opened.
    """
    return _moved(
        connection,
        schedule,
        "last_at = clock_timestamp(), last_campaign = :campaign, next_at = :next,"
        " try_at = :next, missed = :missed, reason_code = NULL, reason = NULL",
        campaign=campaign_id,
        next=next_at,
        missed=missed,
    )


def skipped(
    connection: Connection, schedule: Schedule, next_at: datetime, reason_code: str, reason: str
) -> bool:
    """Note that a campaign was not opened, and will not be; return whether it was due."""
    return _moved(
        connection,
        schedule,
        "next_at = :next, try_at = :next, missed = missed + 1, reason_code = :code,"
        " reason = :reason",
        next=next_at,
        code=reason_code,
        reason=reason,
    )


def failed(
    connection: Connection, schedule: Schedule, again_s: float, reason_code: str, reason: str
) -> None:
    """Note that a campaign could not be opened, and is tried again in some seconds."""
    _moved(
        connection,
        schedule,
        "try_at = clock_timestamp() + make_interval(secs => :again), reason_code = :code,"
        " reason = :reason",
        again=again_s,
        code=reason_code,
        reason=reason,
    )


def pause(connection: Connection, name: str) -> None:
    """Let a schedule open no campaign for now."""
    connection.execute(text("UPDATE schedule SET paused = true WHERE name = :name"), {"name": name})


def resume(connection: Connection, name: str, next_at: datetime) -> None:
    """Let a schedule open campaigns again, from a time on."""
    connection.execute(
        text(
            "UPDATE schedule SET paused = false, next_at = :next, try_at = :next, missed = 0,"
            " reason_code = NULL, reason = NULL WHERE name = :name"
        ),
        {"name": name, "next": next_at},
    )


def remove(connection: Connection, name: str) -> bool:
    """Remove a schedule; return whether there was one. Its campaigns stay."""
    removed = connection.execute(text("DELETE FROM schedule WHERE name = :name"), {"name": name})
    return removed.rowcount == 1


def _moved(connection: Connection, schedule: Schedule, sets: str, **values: object) -> bool:
    # Only where it is due for the same time still: another scheduler may have come first.
    moved = connection.execute(
        text(
            f"UPDATE schedule SET {sets}"  # noqa: S608 - constants
            " WHERE name = :name AND next_at = :due AND NOT paused"
        ),
        {"name": schedule.name, "due": schedule.next_at, **values},
    )
    return moved.rowcount == 1


def _select(connection: Connection, which: str, **values: object) -> list[Schedule]:
    rows = connection.execute(
        text(f"SELECT {', '.join(Schedule.__slots__)} FROM schedule {which}"),  # noqa: S608 - constants
        values,
    ).mappings()
    return [Schedule(**{**row, "kind": Kind(row["kind"])}) for row in rows]
