"""Retirements of KEK versions: how far each is, and which versions nobody may move to any more."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import Connection, text

from keywrap.keys import KeyVersion
from ledger.states import OPEN, Kind


class Step(StrEnum):
    """Where a retirement stands; a comment says what is done by then."""

    CLOSED = "closed"  # no campaign moves to the version, and none may be opened
    STOPPED = "stopped"  # nothing wraps under it: applications obey another, the KMS refuses it
    SCANNED = "scanned"  # the store holds no wrap that needs it
    DISABLED = "disabled"  # the KMS opens nothing under it; reversible
    RESCANNED = "rescanned"  # whatever was on its way has come to rest, and the store is clean
    RETIRED = "retired"  # nothing used it while it soaked
    REFUSED = "refused"  # something needs it: it is enabled, and may be moved to again


ENDED = (Step.RETIRED, Step.REFUSED)


@dataclass(frozen=True, slots=True)
class Retirement:
    """A retirement of a KEK version, or of a whole KEK.

    Attributes:
        id: the retirement.
        version: the KEK version; without a version, the whole KEK.
        step: how far it is.
        closes: the versions before it that its service closes with it, as key ids.
        reason_code: why it was refused.
        reason: the same as a sentence.
        waited_s: seconds since the step was reached, by the database's clock.
        requested_by: who asked.
        created_at: when it was asked for.
        backup_wraps: wraps in backups that open with nothing afterwards; None: not counted yet.
        object_versions: old versions of sidecars likewise; None: not counted, or not to be seen.
    """

    id: int
    version: KeyVersion
    step: Step
    closes: tuple[str, ...]
    reason_code: str | None
    reason: str | None
    waited_s: float
    requested_by: str
    created_at: datetime
    backup_wraps: int | None = None
    object_versions: int | None = None


_COLUMNS = (
    "id, key, version, step, closes, reason_code, reason, requested_by, created_at,"
    " backup_wraps, object_versions,"
    " extract(epoch FROM clock_timestamp() - step_at)::float AS waited_s"
)


def begin(
    connection: Connection, version: KeyVersion, closes: Sequence[str], requested_by: str
) -> Retirement:
    """Return the open retirement of a KEK version, or begin one.

    From now on no campaign may be opened towards the version, nor any undo.
    """
    connection.execute(
        text(
            "INSERT INTO retirement (key, version, step, closes, requested_by)"
            " VALUES (:key, :version, 'closed', :closes, :by)"
            " ON CONFLICT (key, version) WHERE step NOT IN ('retired', 'refused') DO NOTHING"
        ),
        {**asdict(version), "closes": list(closes), "by": requested_by},
    )
    found = newest(connection, version)
    assert found is not None  # noqa: S101 - just now it was there
    return found


def newest(connection: Connection, version: KeyVersion) -> Retirement | None:
    """Return the newest retirement of a KEK version, or None; locks nothing."""
    which = "WHERE key = :key AND version = :version ORDER BY id DESC LIMIT 1"
    found = _select(connection, which, **asdict(version))
    return found[0] if found else None


def recent(connection: Connection, limit: int = 20) -> list[Retirement]:
    """Return the newest retirements, the newest first."""
    return _select(connection, "ORDER BY id DESC LIMIT :limit", limit=limit)


def reach(connection: Connection, retirement: Retirement, step: Step) -> bool:
    """Note that a step is done, from the one before; return whether it still stood there."""
    reached = connection.execute(
        text(
            "UPDATE retirement SET step = :step, step_at = clock_timestamp(),"
            " finished_at = CASE WHEN :step = 'retired' THEN clock_timestamp() END"
            " WHERE id = :id AND step = :from"
        ),
        {"id": retirement.id, "step": step, "from": retirement.step},
    )
    return reached.rowcount == 1


def note_left(
    connection: Connection,
    retirement: Retirement,
    *,
    backup_wraps: int,
    object_versions: int | None,
) -> None:
    """Note what a retirement leaves without a key."""
    connection.execute(
        text(
            "UPDATE retirement SET backup_wraps = :backups, object_versions = :versions"
            " WHERE id = :id"
        ),
        {"id": retirement.id, "backups": backup_wraps, "versions": object_versions},
    )


def refuse(connection: Connection, retirement: Retirement, reason_code: str, reason: str) -> None:
    """End a retirement: something needs the version."""
    connection.execute(
        text(
            "UPDATE retirement SET step = 'refused', step_at = clock_timestamp(),"
            " finished_at = clock_timestamp(), reason_code = :code, reason = :reason"
            " WHERE id = :id AND step NOT IN ('retired', 'refused')"
        ),
        {"id": retirement.id, "code": reason_code, "reason": reason},
    )


def is_barred(connection: Connection, version: KeyVersion) -> bool:
    """Whether a KEK version is retired or on its way there, so that nothing moves to it."""
    return bool(
        connection.scalar(
            text(
                "SELECT EXISTS (SELECT 1 FROM retirement WHERE key = :key"
                " AND version IN (:version, '') AND step <> 'refused')"
            ),
            asdict(version),
        )
    )


def any_open(connection: Connection) -> str | None:
    """Return a KEK version that is being retired just now, as a key id; None where none is."""
    row = connection.execute(
        text("SELECT key, version FROM retirement WHERE step NOT IN ('retired', 'refused') LIMIT 1")
    ).one_or_none()
    return str(KeyVersion(row.key, row.version)) if row else None


def in_the_way(connection: Connection, version: KeyVersion) -> list[int]:
    """Return the open campaigns that put wraps under a KEK version, or put old wraps back."""
    return list(
        connection.scalars(
            text(
                "SELECT id FROM campaign WHERE state = ANY(:open)"
                " AND (target = :target OR kind = :undo"
                "   OR :whole AND starts_with(target, :target || '?')) ORDER BY id"
            ),
            {
                "open": list(OPEN),
                "target": str(version),
                "undo": Kind.UNDO,
                "whole": not version.version,
            },
        )
    )


def backed_up(connection: Connection, version: KeyVersion) -> dict[int, int]:
    """Count the wraps under a KEK version in backups.

    Returns:
        The campaigns whose backups hold some, each with how many.
    """
    rows = connection.execute(
        text(
            "SELECT i.campaign_id, count(*) AS wraps FROM backup b"
            " JOIN inventory i USING (campaign_id)"
            " JOIN key_version k ON k.id = i.key_version_id OR k.id = i.previous_id"
            " WHERE k.key = :key AND :version IN (k.version, '') GROUP BY 1 ORDER BY 1"
        ),
        asdict(version),
    )
    return {row.campaign_id: row.wraps for row in rows}


def fresh_backup(
    connection: Connection, version: KeyVersion, store: str, within_days: int
) -> tuple[int | None, bool]:
    """Return a recent backup of the whole store in which nothing needs the version.

    Returns:
        The campaign that made it, and whether it was verified lately; a verified one, if there is
        one, otherwise the newest. No campaign, and not verified, where there is none.
    """
    row = connection.execute(
        text(
            "SELECT b.campaign_id,"
            " coalesce(b.verified_at > clock_timestamp() - make_interval(days => :days), false)"
            "   AS is_verified"
            " FROM backup b JOIN campaign c ON c.id = b.campaign_id"
            " WHERE c.kind = 'backup' AND c.prefix = '' AND c.store = :store"
            " AND b.created_at > clock_timestamp() - make_interval(days => :days)"
            " AND NOT EXISTS (SELECT 1 FROM inventory i JOIN key_version k"
            "   ON k.id = i.key_version_id OR k.id = i.previous_id"
            "   WHERE i.campaign_id = b.campaign_id AND k.key = :key"
            "   AND :version IN (k.version, ''))"
            " ORDER BY is_verified DESC, b.campaign_id DESC LIMIT 1"
        ),
        {"store": store, "days": within_days, **asdict(version)},
    ).one_or_none()
    return (row.campaign_id, row.is_verified) if row else (None, False)


def needing(
    connection: Connection, campaign_id: int, versions: Sequence[KeyVersion], limit: int = 5
) -> list[str]:
    """Return some blobs of a scan that need one of these KEK versions, or cannot be told."""
    return list(
        connection.scalars(
            text(
                "SELECT DISTINCT i.blob_id FROM inventory i"
                " LEFT JOIN key_version k ON k.id = i.key_version_id OR k.id = i.previous_id"
                " WHERE i.campaign_id = :campaign AND (i.problem IS NOT NULL"
                "   OR k.key || '?version=' || k.version = ANY(:versions)) ORDER BY 1 LIMIT :limit"
            ),
            {"campaign": campaign_id, "versions": [str(v) for v in versions], "limit": limit},
        )
    )


def _select(connection: Connection, which: str, **values: object) -> list[Retirement]:
    rows = connection.execute(
        text(f"SELECT {_COLUMNS} FROM retirement {which}"),  # noqa: S608 - constants
        values,
    ).mappings()
    return [_retirement(dict(row)) for row in rows]


def _retirement(row: dict[str, Any]) -> Retirement:
    version = KeyVersion(row.pop("key"), row.pop("version"))
    read = {"version": version, "step": Step(row["step"]), "closes": tuple(row["closes"])}
    return Retirement(**{**row, **read})
