"""Lists of blobs that an inventory is given, instead of a listing of the store."""

import zlib
from collections.abc import Iterable, Iterator
from itertools import islice
from uuid import UUID, uuid4

from sqlalchemy import text

from ledger import partitions
from ledger.connection import Connection, Ledger, waiting_briefly
from ledger.states import FINISHED

_SLOTS = 1024
"""A list is cut into as many slots by a digest of the ids; a part of the work takes some of them,
and no more than this are there (`workers.settings.Scheduler.scan_parts`)."""

_AT_ONCE = 10_000
_IDLE = "30min"
_LOCK_TIMEOUT = "100ms"
"""A tick waits no longer: the next one tries again."""


class BlobList:
    """A list that is being written, in one transaction: it is whole or not there.

    Args:
        connection: the transaction.
    """

    def __init__(self, connection: Connection) -> None:
        self.id = uuid4()
        self._connection = connection
        # Reading the next blobs may take a while. Nobody waits for what this transaction holds.
        connection.execute(text(f"SET LOCAL idle_in_transaction_session_timeout = '{_IDLE}'"))
        partitions.create(connection, "listed", self.id)

    def add(self, blob_ids: Iterable[str]) -> int:
        """Write blobs down, each once; return how many were new."""
        added, rest = 0, iter(blob_ids)
        while chunk := list(islice(rest, _AT_ONCE)):
            added += self._connection.execute(
                text(
                    f"INSERT INTO listed_{self.id.hex} (list_id, slot, blob_id)"  # noqa: S608
                    " SELECT :list, u.slot, u.blob FROM"
                    " unnest(CAST(:slots AS smallint[]), CAST(:blobs AS text[])) AS u(slot, blob)"
                    " ON CONFLICT DO NOTHING"
                ),
                {"list": self.id, "slots": [_slot(b) for b in chunk], "blobs": chunk},
            ).rowcount
        return added

    def close(self) -> None:
        """Make the list known to workers."""
        partitions.attach(self._connection, "listed", self.id)


def blobs(ledger: Ledger, list_id: UUID, part: int, parts: int) -> Iterator[str]:
    """Yield the blobs of a part of a list, a page at a time: no transaction waits for the caller.

    Args:
        ledger: the ledger.
        list_id: the list.
        part: which part, counted from 0.
        parts: how many parts there are.
    """
    for slot in range(part, _SLOTS, parts):
        after = ""
        while page := _page(ledger, list_id, slot, after):
            yield from page
            after = page[-1]


def _page(ledger: Ledger, list_id: UUID, slot: int, after: str) -> list[str]:
    with ledger.begin() as connection:
        rows = connection.execute(
            text(
                "SELECT blob_id FROM listed"
                " WHERE list_id = :list AND slot = :slot AND blob_id > :after"
                " ORDER BY blob_id LIMIT :most"
            ),
            {"list": list_id, "slot": slot, "after": after, "most": _AT_ONCE},
        )
        return [row.blob_id for row in rows]


def drop_finished(connection: Connection) -> None:
    """Drop the lists of inventories that are finished.

    Raises:
        LedgerBusyError: somebody reads them, as `pg_dump` does; all of them stay for now.
    """
    rows = connection.execute(
        text(
            "WITH over AS (SELECT id, list_id FROM campaign"
            "   WHERE list_id IS NOT NULL AND state = ANY(:finished) FOR UPDATE)"
            " UPDATE campaign SET list_id = NULL FROM over WHERE campaign.id = over.id"
            " RETURNING over.list_id"
        ),
        {"finished": list(FINISHED)},
    )
    with waiting_briefly(connection, _LOCK_TIMEOUT, "lists stay"):
        for row in rows.all():
            partitions.drop(connection, "listed", row.list_id)


def _slot(blob_id: str) -> int:
    return zlib.crc32(blob_id.encode("utf-8", "surrogatepass")) % _SLOTS
