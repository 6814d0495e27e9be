"""KEK rotations that were asked for, so that one cut off is taken up and never minted twice."""

from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Connection, Row, text

from keywrap.keys import KeyVersion

_SEEN_WITHIN_MIN = 15
"""AWS KMS shows a change everywhere in seconds, sometimes minutes (developer guide, "Eventual
consistency"). What is not seen after so long was never begun: the request was lost on its way."""

_COLUMNS = (
    "id, key, from_version, to_version, campaign_id, begun_at, coalesce("
    "begun_at > clock_timestamp() - make_interval(mins => :mins), false) AS is_begun"
)


@dataclass(frozen=True, slots=True)
class Rotation:
    """A rotation of a KEK.

    Attributes:
        id: the rotation.
        base: the KEK version that was current when the KMS was asked, or before it ever is.
        new: the version that the KMS made for it; None until that is known.
        campaign_id: the campaign that moves the wraps; None until it is open.
        begun_at: when the KMS was asked last; None where it never was.
        is_begun: whether that is not long ago: the version may still come.
    """

    id: int
    base: KeyVersion
    new: KeyVersion | None
    campaign_id: int | None
    begun_at: datetime | None
    is_begun: bool


def begin(connection: Connection, current: KeyVersion) -> Rotation:
    """Return the open rotation of a KEK, or begin one from its current version.

    Its row is locked until the end of the transaction: nobody else rotates this KEK meanwhile.
    """
    # The KMS is asked under that lock, and one that rotates in its own time may take a minute.
    connection.execute(text("SET LOCAL idle_in_transaction_session_timeout = '10min'"))
    connection.execute(
        text(
            "INSERT INTO kek_rotation (key, from_version) VALUES (:key, :version)"
            " ON CONFLICT (key) WHERE finished_at IS NULL DO NOTHING"
        ),
        {"key": current.key, "version": current.version},
    )
    row = connection.execute(
        text(
            f"SELECT {_COLUMNS} FROM kek_rotation"  # noqa: S608 - constants
            " WHERE key = :key AND finished_at IS NULL FOR UPDATE"
        ),
        {"key": current.key, "mins": _SEEN_WITHIN_MIN},
    ).one()
    return _rotation(row)


def newest(connection: Connection, key: str) -> Rotation | None:
    """Return the rotation of a KEK that was asked for last, or None; locks nothing."""
    row = connection.execute(
        text(
            f"SELECT {_COLUMNS} FROM kek_rotation"  # noqa: S608 - constants
            " WHERE key = :key ORDER BY id DESC LIMIT 1"
        ),
        {"key": key, "mins": _SEEN_WITHIN_MIN},
    ).one_or_none()
    return _rotation(row) if row else None


def _rotation(row: Row[Any]) -> Rotation:
    return Rotation(
        row.id,
        KeyVersion(row.key, row.from_version),
        KeyVersion(row.key, row.to_version) if row.to_version else None,
        row.campaign_id,
        row.begun_at,
        row.is_begun,
    )


def ask(connection: Connection, rotation: Rotation, current: KeyVersion) -> Rotation:
    """Note that the KMS is about to be asked, and which version is current before it is.

    To be committed before the KMS is asked: whoever is cut off then finds that it may have begun.

    Returns:
        The rotation as it is now.
    """
    begun_at = connection.execute(
        text(
            "UPDATE kek_rotation SET from_version = :version, begun_at = clock_timestamp()"
            " WHERE id = :id RETURNING begun_at"
        ),
        {"id": rotation.id, "version": current.version},
    ).scalar_one()
    return replace(rotation, base=current, begun_at=begun_at, is_begun=True)


def forget(connection: Connection, rotation: Rotation) -> None:
    """Forget a rotation that the KMS refused: no version was made, and none comes of it."""
    connection.execute(text("DELETE FROM kek_rotation WHERE id = :id"), {"id": rotation.id})


def minted(connection: Connection, rotation: Rotation, new: KeyVersion) -> None:
    """Note the version that the KMS made."""
    connection.execute(
        text("UPDATE kek_rotation SET to_version = :version WHERE id = :id"),
        {"id": rotation.id, "version": new.version},
    )


def opened(connection: Connection, rotation: Rotation, campaign_id: int) -> None:
    """Note the campaign that moves the wraps."""
    connection.execute(
        text("UPDATE kek_rotation SET campaign_id = :campaign WHERE id = :id"),
        {"id": rotation.id, "campaign": campaign_id},
    )


def close_finished(connection: Connection) -> None:
    """Close the rotations whose campaign is over."""
    connection.execute(
        text(
            "UPDATE kek_rotation r SET finished_at = clock_timestamp() FROM campaign c"
            " WHERE r.finished_at IS NULL AND c.id = r.campaign_id"
            " AND c.state IN ('complete', 'complete_with_exceptions', 'cancelled')"
        )
    )
