"""Backups: which parts of one were written and read back, and the digest of the list of them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sqlalchemy import Connection, text

from ledger import shards
from ledger.campaigns import Campaign
from ledger.states import ShardKind


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a backup, as it was written and read back.

    Attributes:
        name: its name in the place of backups.
        sha256: SHA-256 of its bytes (FIPS 180-4), in hexadecimal.
        bytes: its length in bytes.
        blobs: how many blobs' sidecars it holds.
        escrowed: of how many it holds the data key itself.
    """

    name: str
    sha256: str
    bytes: int
    blobs: int
    escrowed: int = 0


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that is whole.

    Attributes:
        campaign_id: the campaign that it was made for.
        serial: counts its lists of parts: one is written anew when stragglers are found.
        place: where it lies.
        manifest: the name of the list of its parts.
        sha256: SHA-256 of that list, in hexadecimal: it stands for the whole.
        blobs: how many blobs' sidecars it holds.
        recipients: whom it is encrypted to, separated by commas.
        verified_at: when it was opened with the offline identity and found whole.
        created_at: when it was first made.
    """

    campaign_id: int
    serial: int
    place: str
    manifest: str
    sha256: str
    blobs: int
    recipients: str
    verified_at: datetime | None
    created_at: datetime


def cut(connection: Connection, campaign: Campaign) -> int:
    """Add a shard of the backup for each shard whose wraps are still to be replaced.

    Returns:
        How many were added.
    """
    waiting = connection.execute(
        text(
            "SELECT shard_no, total, queue FROM shard WHERE campaign_id = :campaign"
            " AND kind = 'rewrap' AND state <> 'done' ORDER BY shard_no"
        ),
        {"campaign": campaign.id},
    ).all()
    for row in waiting:
        # Data keys are opened for an escrow only: else any host can copy what lies there.
        queue = {"queue": row.queue} if campaign.escrow else {}
        shards.add(
            connection,
            campaign.id,
            ShardKind.BACKUP,
            total=row.total,
            part=row.shard_no,
            **queue,
        )
    return len(waiting)


def list_parts_due(connection: Connection, campaign_id: int) -> bool:
    """Add the shard that lists the parts, unless there is one after every part.

    Returns:
        Whether it was added.
    """
    is_listed = connection.scalar(
        text(
            "SELECT coalesce(max(shard_no) FILTER (WHERE kind = 'manifest')"
            " > coalesce(max(shard_no) FILTER (WHERE kind = 'backup'), 0), false)"
            " FROM shard WHERE campaign_id = :campaign"
        ),
        {"campaign": campaign_id},
    )
    if is_listed:
        return False
    shards.add(connection, campaign_id, ShardKind.MANIFEST)
    return True


def blobs_of(connection: Connection, campaign_id: int, shard_no: int) -> list[str]:
    """Return the ids of a shard's blobs, in order, whatever became of them."""
    return list(
        connection.scalars(
            text(
                "SELECT blob_id FROM inventory WHERE campaign_id = :campaign AND shard_no = :no"
                " ORDER BY blob_id"
            ),
            {"campaign": campaign_id, "no": shard_no},
        )
    )


def note_part(connection: Connection, campaign_id: int, shard_no: int, part: Part) -> None:
    """Note a part that was written and read back; in the transaction that finishes its shard."""
    connection.execute(
        text(
            "INSERT INTO backup_part (campaign_id, shard_no, name, sha256, bytes, blobs, escrowed)"
            " VALUES (:campaign, :no, :name, :sha256, :bytes, :blobs, :escrowed)"
        ),
        {"campaign": campaign_id, "no": shard_no, **asdict(part)},
    )


def parts(connection: Connection, campaign_id: int) -> list[Part]:
    """Return the parts of a campaign's backup, in the order in which they were cut."""
    rows = connection.execute(
        text(
            "SELECT name, sha256, bytes, blobs, escrowed FROM backup_part"
            " WHERE campaign_id = :campaign ORDER BY shard_no"
        ),
        {"campaign": campaign_id},
    )
    return [Part(**row) for row in rows.mappings()]


def note_manifest(
    connection: Connection,
    campaign_id: int,
    *,
    place: str,
    manifest: str,
    sha256: str,
    blobs: int,
    recipients: Sequence[str],
) -> None:
    """Note the list of the parts, in the transaction that finishes its shard."""
    connection.execute(
        text(
            "INSERT INTO backup"
            " (campaign_id, serial, place, manifest, sha256, blobs, recipients)"
            " VALUES (:campaign, 1, :place, :manifest, :sha256, :blobs, :recipients)"
            " ON CONFLICT (campaign_id) DO UPDATE SET serial = backup.serial + 1,"
            " place = excluded.place, manifest = excluded.manifest, sha256 = excluded.sha256,"
            " blobs = excluded.blobs, recipients = excluded.recipients, verified_at = NULL"
        ),
        {
            "campaign": campaign_id,
            "place": place,
            "manifest": manifest,
            "sha256": sha256,
            "blobs": blobs,
            "recipients": ",".join(recipients),
        },
    )


def note_verified(connection: Connection, campaign_id: int, sha256: str) -> bool:
    """Note that a backup was opened and is whole; return whether it still is the one known."""
    noted = connection.execute(
        text(
            "UPDATE backup SET verified_at = clock_timestamp()"
            " WHERE campaign_id = :campaign AND sha256 = :sha256"
        ),
        {"campaign": campaign_id, "sha256": sha256},
    )
    return noted.rowcount == 1


def get(connection: Connection, campaign_id: int) -> Backup | None:
    """Return the backup of a campaign, or None where there is none that is whole."""
    found = _select(connection, "WHERE campaign_id = :campaign", campaign=campaign_id)
    return found[0] if found else None


def recent(connection: Connection, limit: int = 20) -> list[Backup]:
    """Return the newest backups, the newest first."""
    return _select(connection, "ORDER BY created_at DESC LIMIT :limit", limit=limit)


def _select(connection: Connection, which: str, **values: object) -> list[Backup]:
    rows = connection.execute(
        text(f"SELECT {', '.join(Backup.__slots__)} FROM backup {which}"),  # noqa: S608 - constants
        values,
    )
    return [Backup(**row) for row in rows.mappings()]
