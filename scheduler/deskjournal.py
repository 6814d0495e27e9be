"""What a command of the desk does with keys goes into the audit trail as well."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from keywrap.journal import SegmentJournal
from keywrap.segments import Source
from ledger import audit
from ledger.connection import LedgerNotReadyError, LedgerUnavailableError
from scheduler.desk import Desk, DeskError, operator


@contextmanager
def noting(desk: Desk, campaign_id: int = 0) -> Iterator[SegmentJournal]:
    """Note what a command does with keys, in a segment of its own.

    The ledger is told at the end. A segment that it could not be told of is unclaimed.

    Args:
        desk: the settings and the ledger.
        campaign_id: the campaign that it has to do with; 0: none.

    Raises:
        AuditUnavailableError: it cannot be written; no key is used then.
    """
    source = Source(campaign_id, 0, os.getpid(), operator())
    journal = SegmentJournal(Path(desk.settings.audit.directory), source)
    try:
        yield journal
    finally:
        _close(desk, journal)


def _close(desk: Desk, journal: SegmentJournal) -> None:
    segment = journal.close()
    if segment is None:
        return
    try:
        with desk.ledger.begin() as connection:
            audit.note(connection, segment)
    except (DeskError, LedgerUnavailableError, LedgerNotReadyError) as error:
        click.echo(f"rewrap: audit segment {segment.name} is unclaimed: {error}", err=True)
