"""What a certificate wants counted anew, from the rows and not from the counters."""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from ledger.progress import Decided


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
