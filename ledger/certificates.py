"""What a certificate wants counted anew, from the rows and not from the counters."""

from collections.abc import Iterator

from sqlalchemy import Connection, text

from ledger.progress import Decided


def of_one_moment(connection: Connection) -> None:
    """Let all that a transaction reads be of one moment, and let it write nothing.

    Without it each statement sees what was committed before it: a `retry` in between would give a
    record that contradicts itself. It must be the transaction's first statement.
    """
    connection.execute(text("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"))


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


def still_wrapped(
    connection: Connection, campaign_id: int, keys: list[str], given_up: list[str]
) -> dict[str, int]:
    """Count a campaign's blobs by the KEKs that the scan found in their wraps, live or `previous`.

    Args:
        connection: the transaction.
        campaign_id: the campaign.
        keys: URIs of the KEKs, without version.
        given_up: outcomes after which a blob's content is under that KEK's data key no more.

    Returns:
        Blobs by URI; a KEK that was found nowhere is left out.
    """
    rows = connection.execute(
        text(
            "SELECT k.key, count(DISTINCT i.blob_id) AS n FROM inventory i"
            " JOIN key_version k ON k.id IN (i.key_version_id, i.previous_id)"
            " LEFT JOIN outcome o USING (campaign_id, blob_id)"
            " WHERE i.campaign_id = :campaign AND k.key = ANY(CAST(:keys AS text[]))"
            " AND (o.outcome IS NULL OR o.outcome <> ALL(CAST(:given_up AS text[])))"
            " GROUP BY 1 ORDER BY 1"
        ),
        {"campaign": campaign_id, "keys": keys, "given_up": given_up},
    )
    return {row.key: row.n for row in rows}


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
