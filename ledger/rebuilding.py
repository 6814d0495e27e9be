"""Writing into an empty ledger what a scan of the store tells of the campaigns that were lost.

A sidecar bears witness by the wrap that it keeps as `previous`: some campaign has replaced that one
by the live one. One campaign is made of all blobs with a live wrap under the same KEK version:
a migration of those whose `previous` is legacy, a rotation of the others.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from keywrap.keys import LEGACY_PROVIDERS, KeyVersion
from ledger import campaigns, shards
from ledger.campaigns import Request, RequestRefusedError
from ledger.states import MOVING, Kind, ShardKind

REBUILT = "ledger_rebuilt"
"""The reason code of the scan that a ledger was rebuilt from, and of the campaigns made of it."""

MOST = 100
"""So many campaigns are made at most, the largest first: whoever writes sidecars names versions."""

MAX_ID = 1_000_000_000
"""Numbers above it are no campaign's: a folder of a made-up name is not to use all of them up."""

_REASON = (
    "made from the wraps beside the live ones when the ledger was rebuilt: when it ran, who asked "
    "for it and how it ended is lost"
)


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A campaign that was made from what it has left in the store.

    Attributes:
        campaign_id: its new number.
        kind: migrate or rotate.
        target: the KEK version that its blobs are under.
        blobs: how many blobs it has rewrapped that nobody has sealed or written anew since.
    """

    campaign_id: int
    kind: Kind
    target: KeyVersion
    blobs: int


def require_nothing_to_lose(connection: Connection) -> None:
    """See that no campaign of this ledger has changed a blob; until the transaction ends none may.

    Raises:
        RequestRefusedError: one has, or may have.
    """
    campaigns.lock_requests(connection)
    found = connection.execute(
        text(
            "SELECT id, kind, reason_code FROM campaign WHERE kind = ANY(:kinds)"
            " ORDER BY id LIMIT 1"
        ),
        {"kinds": [*MOVING, Kind.BACKUP]},
    ).one_or_none()
    if found is None:
        return
    what = "was rebuilt already" if found.reason_code == REBUILT else "is not a lost one"
    raise RequestRefusedError(
        "ledger_not_empty",
        f"this ledger {what}: it has campaign {found.id} ({found.kind}); nothing was changed",
        "rewrap status",
    )


def number_after(connection: Connection, last_id: int) -> int:
    """Let no campaign get a number that a lost one had, whose backups and trail are still there.

    Args:
        connection: the transaction.
        last_id: the highest number that is known to be taken.

    Returns:
        The highest number that is taken now.
    """
    highest = int(
        connection.execute(
            text("SELECT greatest(coalesce(max(id), 0), :last) FROM campaign"), {"last": last_id}
        ).scalar_one()
    )
    sequence = text(
        "SELECT setval(pg_get_serial_sequence('campaign', 'id'), :last)"
        " WHERE :last > coalesce(pg_sequence_last_value("
        "   pg_get_serial_sequence('campaign', 'id')::regclass), 0)"
    )
    if highest:
        connection.execute(sequence, {"last": highest})
    return highest


def rebuild(
    connection: Connection, scan_id: int, listed: Collection[str], asked: Request
) -> list[Rebuilt]:
    """Make the campaigns that a scan of the whole store bears witness to.

    They are `cancelled`: that they ended well nothing tells, and no certificate is made of them.

    Args:
        connection: the transaction; all is made in it, or nothing.
        scan_id: the finished inventory campaign that was the scan.
        listed: URIs of the KEKs of the configuration, without version. What a sidecar names beside
            these becomes no campaign's target.
        asked: who asks, and for which store.

    Raises:
        RequestRefusedError: this ledger has changed blobs by now.
    """
    require_nothing_to_lose(connection)
    made = [
        _make(connection, scan_id, Kind(row.kind), KeyVersion(row.key, row.version), asked)
        for row in _groups(connection, scan_id, listed)
    ]
    connection.execute(
        text("UPDATE campaign SET reason_code = :code, reason = :reason WHERE id = :scan"),
        {
            "scan": scan_id,
            "code": REBUILT,
            "reason": "the ledger was lost, and rebuilt from this scan of the store",
        },
    )
    return made


_WITNESSES = (
    " FROM inventory i JOIN key_version live ON live.id = i.key_version_id"
    " JOIN key_version old ON old.id = i.previous_id"
    " WHERE i.campaign_id = :scan AND live.provider <> ALL(:legacy) AND i.problem IS NULL"
)
_KIND = "CASE WHEN old.provider = ANY(:legacy) THEN 'migrate' ELSE 'rotate' END"


def _groups(connection: Connection, scan_id: int, listed: Collection[str]) -> Sequence[Row[Any]]:
    return (
        connection.execute(
            text(
                f"SELECT {_KIND} AS kind, live.key, live.version"
                f"{_WITNESSES} AND live.key = ANY(:listed) GROUP BY 1, 2, 3"
                " ORDER BY count(*) DESC, 2, 3, 1 LIMIT :most"
            ),
            {
                "scan": scan_id,
                "legacy": sorted(LEGACY_PROVIDERS),
                "listed": sorted(listed),
                "most": MOST,
            },
        )
    ).all()


def _make(
    connection: Connection, scan_id: int, kind: Kind, target: KeyVersion, asked: Request
) -> Rebuilt:
    request = Request(kind, asked.requested_by, target=target, store=asked.store)
    campaign_id = campaigns.request(connection, request)
    connection.execute(
        text(
            "UPDATE campaign SET state = 'cancelled', reason_code = :code, reason = :reason,"
            " finished_at = clock_timestamp() WHERE id = :id"
        ),
        {"id": campaign_id, "code": REBUILT, "reason": _REASON},
    )
    number = shards.add(connection, campaign_id, ShardKind.REWRAP)
    blobs = _fill(connection, scan_id, campaign_id, number, (kind, target))
    return Rebuilt(campaign_id, kind, target, blobs)


def _fill(
    connection: Connection,
    scan_id: int,
    campaign_id: int,
    shard_no: int,
    group: tuple[Kind, KeyVersion],
) -> int:
    """Insert the blobs of a campaign as it found them, and their outcome; return how many."""
    kind, target = group
    filled = connection.execute(
        text(
            "WITH listed AS (INSERT INTO inventory (campaign_id, blob_id, shard_no, key_version_id)"  # noqa: S608 - constants
            f"   SELECT :campaign, i.blob_id, :no, i.previous_id{_WITNESSES}"
            f"   AND live.key = :key AND live.version = :version AND {_KIND} = :kind"
            "   RETURNING blob_id),"
            " decided AS (INSERT INTO outcome"
            "   (campaign_id, blob_id, shard_no, outcome, reason_code)"
            "   SELECT :campaign, blob_id, :no, 'rewrapped', :code FROM listed RETURNING 1)"
            " UPDATE shard SET state = 'done', total = n, rewrapped = n,"
            "   finished_at = clock_timestamp()"
            " FROM (SELECT count(*) AS n FROM decided) counted WHERE shard_no = :no RETURNING n"
        ),
        {
            "campaign": campaign_id,
            "no": shard_no,
            "scan": scan_id,
            "legacy": sorted(LEGACY_PROVIDERS),
            "key": target.key,
            "version": target.version,
            "kind": kind,
            "code": REBUILT,
        },
    )
    return int(filled.scalar_one())


def is_rebuilt(connection: Connection) -> bool:
    """Whether this ledger was rebuilt: it knows no backup that was made before."""
    return bool(
        connection.scalar(
            text("SELECT EXISTS (SELECT 1 FROM campaign WHERE reason_code = :code)"),
            {"code": REBUILT},
        )
    )
