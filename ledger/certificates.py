"""What a certificate wants counted anew, from the rows and not from the counters."""

from collections.abc import Collection, Iterator

from sqlalchemy import Connection, text

from keywrap.rewrapping import Outcome
from ledger.progress import Decided


def freeze(connection: Connection) -> None:
    """Let every statement of a transaction, of which this is the first, see the same moment."""
    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))


def still_opened_by(
    connection: Connection, campaign_id: int, keys: Collection[str], over: Collection[Outcome]
) -> dict[str, int]:
    """Count the blobs that keys wrapped when they were scanned, by key.

    Args:
        connection: the transaction.
        campaign_id: the campaign.
        keys: URIs of the keys.
        over: outcomes after which a key opens the blob no more.
    """
    rows = connection.execute(
        text(
            "SELECT k.key, count(*) AS n FROM inventory i JOIN key_version k"
            " ON k.id = i.key_version_id LEFT JOIN outcome o"
            " ON o.campaign_id = :campaign AND o.blob_id = i.blob_id AND o.outcome = ANY(:over)"
            " WHERE i.campaign_id = :campaign AND k.key = ANY(:keys) AND o.blob_id IS NULL"
            " GROUP BY 1 ORDER BY 1"
        ),
        {"campaign": campaign_id, "keys": list(keys), "over": list(over)},
    )
    return {row.key: row.n for row in rows}


def recount(connection: Connection, campaign_id: int) -> dict[str, int]:
    """Count a campaign's outcomes row by row."""
    rows = connection.execute(
        text("SELECT outcome, count(*) AS n FROM outcome WHERE campaign_id = :campaign GROUP BY 1"),
        {"campaign": campaign_id},
    )
    return {row.outcome: row.n for row in rows}


def inventoried(connection: Connection, campaign_id: int) -> int:
    """Count the blobs of a campaign's inventory row by row."""
    return int(
        connection.execute(
            text("SELECT count(*) FROM inventory WHERE campaign_id = :campaign"),
            {"campaign": campaign_id},
        ).scalar_one()
    )


def exceptions(connection: Connection, campaign_id: int) -> Iterator[Decided]:
    """Yield the blobs of a campaign that need a person or a retry, in the order of their ids."""
    rows = connection.execution_options(yield_per=2000).execute(
        text(
            "SELECT blob_id, outcome, coalesce(reason_code, '') AS reason_code,"
            " coalesce(detail, '') AS detail, '' AS key_id FROM outcome"
            " WHERE campaign_id = :campaign AND outcome IN ('quarantined', 'failed', 'conflict')"
            " ORDER BY blob_id"
        ),
        {"campaign": campaign_id},
    )
    for row in rows.mappings():
        yield Decided(**row)
