"""What to type next where a KEK version cannot be retired yet."""

from collections.abc import Collection

from keywrap.keys import KeyVersion
from ledger import history, retirements
from scheduler.desk import Desk


def strip(desk: Desk, closed: Collection[KeyVersion]) -> str:
    """Return what strips the wraps beside the new ones that need a KEK version.

    Args:
        desk: the operator's desk.
        closed: the version, and those that close with it.
    """
    store = desk.settings.keywrap.store.place
    with desk.ledger.begin() as connection:
        left = history.moved_from(connection, sorted(closed, key=str), store)
    if left is None:  # its lists were dropped, or the ledger was lost
        return "rewrap seal CAMPAIGN --wait (that of the campaign that left them)"
    return f"rewrap seal {left.id} --wait"


def back_up(desk: Desk, version: KeyVersion, within_days: int) -> str:
    """Return what makes a backup without a KEK version, and verifies it; empty: there is one.

    Args:
        desk: the operator's desk.
        version: the version.
        within_days: how old the backup, and the look at it, may be.
    """
    store = desk.settings.keywrap.store.place
    with desk.ledger.begin() as connection:
        found = retirements.fresh_backup(connection, version, store, within_days)
    if found is None:
        make = "rewrap backup create --wait, then: rewrap backup verify CAMPAIGN --identity FILE"
        return f"{make}, then: "
    campaign_id, is_verified = found
    return "" if is_verified else f"rewrap backup verify {campaign_id} --identity FILE, then: "
